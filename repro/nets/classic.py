"""Networks of the lottery-ticket papers: LeNet-300-100, Conv-2, -4 and -6 (Frankle and Carbin 2019, Figure 2), and VGG
with batch norm for small images (Frankle et al. 2020, Table 1)."""

import re

from torch import nn

from repro.errors import UsageError

NAME = re.compile(r"(lenet300|conv2|conv4|conv6)(?:_s(\d+))?|cifar_vgg(11|16)")
SIDES = {"lenet300": 28, "conv2": 32, "conv4": 32, "conv6": 32}
"""Sides of the images they were made for; ``conv2_s8`` is for 8 x 8."""
VGG = {
    "11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    "16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512),
}


def create(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """The network of a name that `NAME` matches. Raises UsageError for images too small for its pools."""
    match = NAME.fullmatch(name)
    if match[3]:
        return _vgg(VGG[match[3]], num_classes, in_chans)
    side = int(match[2] or SIDES[match[1]])
    if match[1] == "lenet300":
        widths = (in_chans * side * side, 300, 100)
        return nn.Sequential(nn.Flatten(), *_linear(widths), nn.Linear(widths[-1], num_classes))
    stages = int(match[1][-1]) // 2
    if side % 2**stages or not side:
        raise UsageError(f"{name} halves its images {stages} times: give a side that {2**stages} divides, not {side}")
    layers, channels = [], in_chans
    for width in (64, 128, 256)[:stages]:
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    widths = (channels * (side // 2**stages) ** 2, 256, 256)
    return nn.Sequential(*layers, nn.Flatten(), *_linear(widths), nn.Linear(widths[-1], num_classes))


def _linear(widths: tuple[int, ...]) -> list[nn.Module]:
    return [layer for i, o in zip(widths, widths[1:]) for layer in (nn.Linear(i, o), nn.ReLU())]


def _vgg(widths: tuple, num_classes: int, in_chans: int) -> nn.Module:
    layers, channels = [], in_chans
    for width in widths:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
