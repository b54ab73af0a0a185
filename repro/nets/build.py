"""Networks by name, and their initialisation."""

import math
import re
from functools import cache

import torch
from torch import nn

from repro.nets import check, classic, own
from repro.nets.layout import freeze
from repro.nets.resnet import CifarResNet
from repro.usercode import is_path, pinned

_CIFAR_NAME = re.compile(r"cifar_resnet(\d+)(?:_w(\d+))?")


def create(name: str, *, num_classes: int, in_chans: int, image_size: int | None = None) -> nn.Module:
    """The network called ``name``: ``cifar_resnet20``, ``cifar_resnet14_w4`` (width 4), ``lenet300``, ``conv2`` to
    ``conv6``, ``cifar_vgg16`` (`repro.nets.classic`), any name timm knows, or a user's own, ``net.py:NAME``
    (`repro.nets.own`).

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
    if classic.NAME.fullmatch(name):
        return classic.create(name, **shape)
    if is_path(name):
        network = own.create(name, **shape)
    else:
        from repro.nets import zoo  # timm takes seconds to import: only networks that need it pay

        network = zoo.create(name, **shape)
    if image_size is not None:
        freeze(network, _unused(pinned(name), **shape, image_size=image_size))
    return network


@cache
def _unused(name: str, *, num_classes: int, in_chans: int, image_size: int) -> tuple[str, ...]:
    """Parameters that take no part in a training forward pass; none where that fails: the trainer says why."""
    with check.undisturbed():
        network = create(name, num_classes=num_classes, in_chans=in_chans)
        try:
            idle = check.idle_parameters(network, (in_chans, image_size, image_size))
        except Exception:  # of other people's code
            return ()
    return tuple(key for key, why in idle.items() if why == "unused")


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
