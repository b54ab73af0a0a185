"""Networks by name, and their initialisation."""

import math
import re
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from repro import usercode
from repro.errors import UsageError
from repro.nets import check
from repro.nets.layout import freeze, layout_of
from repro.nets.resnet import CifarResNet
from repro.usercode import is_path, pinned

_CIFAR_NAME = re.compile(r"cifar_resnet(\d+)(?:_w(\d+))?")
CLASSIC = re.compile(r"(lenet300|conv2|conv4|conv6)(?:_s(\d+))?|cifar_vgg(11|16)")
"""Networks of the lottery-ticket papers: LeNet-300-100, Conv-2, -4 and -6 (Frankle and Carbin 2019, Figure 2), and VGG
with batch norm for small images (Frankle et al. 2020, Table 1)."""
_SIDES = {"lenet300": 28, "conv2": 32, "conv4": 32, "conv6": 32}
"""Sides of the images they were made for; ``conv2_s8`` is for 8 x 8."""
_VGG = {
    "11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    "16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512),
}


def create(name: str, *, num_classes: int, in_chans: int, image_size: int | None = None) -> nn.Module:
    """The network called ``name``: ``cifar_resnet20``, ``cifar_resnet14_w4`` (width 4), ``lenet300``, ``conv2`` to
    ``conv6``, ``cifar_vgg16`` (`CLASSIC`), any name timm knows, or a user's own, ``net.py:NAME``
    (`repro.usercode`).

    Arguments:
        image_size: side of its images in pixels. Parameters that take no part in a training forward pass of such images
            have ``requires_grad`` False then, as those that the network's code has frozen: nothing trains, draws or
            prunes them. None leaves them as they are.

    Raises UsageError for an unknown name.
    """
    match = _CIFAR_NAME.fullmatch(name)
    if match:
        return CifarResNet(int(match[1]), width=int(match[2] or 16), num_classes=num_classes, in_chans=in_chans)
    shape = dict(num_classes=num_classes, in_chans=in_chans)
    if CLASSIC.fullmatch(name):
        return _classic(name, **shape)
    if is_path(name):
        network = _own_network(name, **shape)
    else:
        from repro.nets import zoo  # timm takes seconds to import: only networks that need it pay

        network = zoo.create(name, **shape)
    if image_size is not None:
        freeze(network, _unused(pinned(name), **shape, image_size=image_size))
    return network


def _classic(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """The network of a name that `CLASSIC` matches. Raises UsageError for images too small for its pools."""
    match = CLASSIC.fullmatch(name)
    if match[3]:
        return _vgg(_VGG[match[3]], num_classes, in_chans)
    side = int(match[2] or _SIDES[match[1]])
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


@cache
def _unused(name: str, *, num_classes: int, in_chans: int, image_size: int) -> tuple[str, ...]:
    """Parameters that take no part in a training forward pass; none where it fails: the trainer reports that."""
    with check.undisturbed():
        network = create(name, num_classes=num_classes, in_chans=in_chans)
        try:
            idle = check.idle_parameters(network, (in_chans, image_size, image_size))
        except Exception:  # a user's network may raise anything
            return ()
    return tuple(key for key, why in idle.items() if why == "unused")


def _own_network(network: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """The network that NAME, a function or a class, returns for ``num_classes`` and ``in_chans``, without dropout.

    Given [N, in_chans, H, W] it has to return logits [N, num_classes]; the first forward pass checks that.
    Raises UsageError for code that is missing or of another pin, that fails, or makes no module with weights to prune.
    """
    path, name, maker = usercode.attribute(network)
    asked = f"num_classes={num_classes}, in_chans={in_chans}"
    try:
        module = maker(num_classes=num_classes, in_chans=in_chans)
    except Exception as error:
        raise UsageError(
            f"{name} of {path} fails with {asked} ({usercode.reason(error, path)}): it has to take both "
            "and return a torch.nn.Module"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{name} of {path} returns {type(module).__name__}: it has to be a torch.nn.Module")
    _require_weights(module, name, path)
    for part in module.modules():  # it would draw from the global generator, which cannot be repeated
        if isinstance(part, _DropoutNd):
            part.p = 0.0
        for rate in ("drop_prob", "drop_rate"):
            if isinstance(getattr(part, rate, None), float):
                setattr(part, rate, 0.0)
    _check_first_output(module, name, path, num_classes)
    return module


def _require_weights(module: nn.Module, name: str, path: Path) -> None:
    check.require_parameters(module, f"{name} of {path}")
    try:
        count = layout_of(module).num_prunable
    except (RuntimeError, ValueError) as error:  # parameters without a shape: lazy modules
        raise UsageError(
            f"{name} of {path} has parameters that cannot be laid out ({usercode.reason(error, path)}): "
            "give every layer its size"
        ) from error
    if not count:
        raise UsageError(
            f"{name} of {path} has no weights to prune: it needs an nn.Conv2d or an nn.Linear that is trained"
        )


def _check_first_output(module: nn.Module, name: str, path: Path, num_classes: int) -> None:
    def first_output(_, given: tuple, logits) -> None:
        handle.remove()
        found, wanted = getattr(logits, "shape", type(logits).__name__), (len(given[0]), num_classes)
        if found != wanted:
            shown = f"shape {tuple(found)}" if isinstance(found, tuple) else found
            raise UsageError(
                f"{name} of {path} gives {shown} for {wanted[0]} image(s): it has to give logits of shape {wanted}"
            )

    handle = module.register_forward_hook(first_output)


def initialise(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Initialise in place as the published runs did (protocol section 2), from one generator, in module order.

    Kaiming normal (fan-in, gain of ReLU) for every convolution and linear weight, PyTorch's default for linear and
    convolution biases, batch-norm weight uniform in [0, 1), batch-norm bias 0. Parameters of other modules, and those
    with ``requires_grad`` False, keep the values they were created with.
    """
    for module in network.modules():
        weight, bias = (_trained(module, part) for part in ("weight", "bias"))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if weight is not None:
                nn.init.kaiming_normal_(weight, generator=generator)
            if bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            if weight is not None:
                nn.init.uniform_(weight, generator=generator)
            if bias is not None:
                nn.init.zeros_(bias)
    return network


def _trained(module: nn.Module, part: str) -> nn.Parameter | None:
    parameter = module._parameters.get(part)
    return parameter if parameter is not None and parameter.requires_grad else None
