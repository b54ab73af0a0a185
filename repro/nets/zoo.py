"""timm's networks and the published scoring networks; the CIFAR ResNets are registered with timm.

Importing this module registers ``cifar_resnet8`` … ``cifar_resnet110``, ``lowres_resnet18`` and ``lowres_resnet50``,
so that ``timm.create_model("cifar_resnet20", width=16)`` works.
"""

import timm
from timm.models import register_model
from torch import nn

from repro.errors import UsageError
from repro.nets.resnet import CifarResNet


def _register_cifar(depth: int) -> None:
    def build(pretrained: bool = False, width: int = 16, num_classes: int = 10, in_chans: int = 3, **_) -> CifarResNet:
        if pretrained:
            raise UsageError(f"cifar_resnet{depth} has no pretrained weights: create it with pretrained=False")
        return CifarResNet(depth, width=width, num_classes=num_classes, in_chans=in_chans)

    build.__name__ = f"cifar_resnet{depth}"
    build.__module__ = __name__
    globals()[build.__name__] = register_model(build)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    _register_cifar(_depth)


def _low_resolution(name: str, num_classes: int, in_chans: int) -> nn.Module:
    network = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_chans)
    network.conv1 = nn.Conv2d(in_chans, network.conv1.out_channels, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


@register_model
def lowres_resnet18(pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, **_) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max pooling: the published CIFAR-10 scoring network (protocol section 7)."""
    return _low_resolution("resnet18", num_classes, in_chans)


@register_model
def lowres_resnet50(pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, **_) -> nn.Module:
    """ResNet-50 with a 3x3 stem and no max pooling: the published CIFAR-100 scoring network (protocol section 7)."""
    return _low_resolution("resnet50", num_classes, in_chans)


def create(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """timm's network ``name`` without pretrained weights. Raises UsageError for a name timm does not know."""
    if not timm.is_model(name):
        raise UsageError(
            f"unknown network {name!r}: use cifar_resnet<6n+2>, cifar_resnet<6n+2>_w<width>, conv2, conv4, conv6, "
            "lenet300 (conv2_s8 for 8 x 8 images), cifar_vgg11, cifar_vgg16, lowres_resnet18, a "
            "name that timm.list_models() gives, or FILE.py:NAME"
        )
    network = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_chans)
    for module in network.modules():  # dropout would draw from the global generator: not addressed, not resumable
        for rate in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return network
