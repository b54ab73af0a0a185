"""Networks by name, their initialisation, and the flat layout of their numbers."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.nets import classic, own
from repro.nets.resnet import CifarResNet
from repro.usercode import is_path

_CIFAR_NAME = re.compile(r"cifar_resnet(\d+)(?:_w(\d+))?")


def create(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """The network called ``name``: ``cifar_resnet20``, ``cifar_resnet14_w4`` (width 4), ``lenet300``, ``conv2`` to
    ``conv6``, ``cifar_vgg16`` (`repro.nets.classic`), any name timm knows, or a user's own, ``net.py:NAME``
    (`repro.nets.own`).

    Raises UsageError for an unknown name.
    """
    if is_path(name):
        return own.create(name, num_classes=num_classes, in_chans=in_chans)
    match = _CIFAR_NAME.fullmatch(name)
    if match:
        return CifarResNet(int(match[1]), width=int(match[2] or 16), num_classes=num_classes, in_chans=in_chans)
    if classic.NAME.fullmatch(name):
        return classic.create(name, num_classes=num_classes, in_chans=in_chans)
    from repro.nets import zoo  # timm takes seconds to import: only networks that need it pay

    return zoo.create(name, num_classes=num_classes, in_chans=in_chans)


def initialise(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Initialise in place as the published runs did (protocol section 2), from one generator, in module order.

    Kaiming normal (fan-in, gain of ReLU) for every convolution and linear weight, PyTorch's default for linear and
    convolution biases, batch-norm weight uniform in [0, 1), batch-norm bias 0. Parameters of other modules keep the
    values they were created with.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    return network


@dataclass(frozen=True)
class Entry:
    """One tensor of a network: its ``shape``, and its ``offset`` in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Where each number of a network stands in a flat vector [prunable | other parameters | float buffers].

    Prunable is the weight of every convolution and linear layer, the head included; biases and batch norm are not
    (protocol section 3).
    """

    entries: tuple[Entry, ...]
    num_prunable: int
    num_parameters: int
    size: int

    @property
    def prunable(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.offset < self.num_prunable)

    @property
    def parameters(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.offset < self.num_parameters)

    @property
    def buffers(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.offset >= self.num_parameters)

    def flatten(self, network: nn.Module) -> Tensor:
        """The network's numbers as one new vector [size]."""
        tensors = _float_tensors(network)
        return torch.cat([tensors[entry.name].detach().reshape(-1) for entry in self.entries])

    def state_dict(self, vector: Tensor) -> dict[str, Tensor]:
        """The vector [size] as named tensors (views), for ``load_state_dict(..., strict=False)``."""
        return {e.name: vector[e.offset : e.offset + e.size].view(e.shape) for e in self.entries}


def layout_of(network: nn.Module) -> Layout:
    """The layout of a network."""
    prunable = [
        f"{name}.weight" if name else "weight"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    parameters = [name for name, _ in network.named_parameters()]
    tensors = _float_tensors(network)
    prunable = [name for name in parameters if name in set(prunable)]  # tied weights appear once
    others = [name for name in parameters if name not in set(prunable)]
    buffers = [name for name in tensors if name not in set(parameters)]
    entries, offset = [], 0
    for name in [*prunable, *others, *buffers]:
        entries.append(Entry(name, tuple(tensors[name].shape), offset))
        offset += tensors[name].numel()
    count = sum(tensors[name].numel() for name in prunable)
    return Layout(tuple(entries), count, sum(p.numel() for p in network.parameters()), offset)


def _float_tensors(network: nn.Module) -> dict[str, Tensor]:
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}
