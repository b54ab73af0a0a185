"""Networks by name, their initialisation, and the flat layout of their numbers."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from repro.nets import check, classic, own
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


def freeze(network: nn.Module, names: Iterable[str]) -> None:
    """Set ``requires_grad`` of the named parameters to False."""
    for name in names:
        network.get_parameter(name).requires_grad_(False)


@cache
def _unused(name: str, *, num_classes: int, in_chans: int, image_size: int) -> tuple[str, ...]:
    """Parameters that take no part in a training forward pass; none where that fails, which the trainer complains of."""
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
    """Where each number of a network stands in a flat vector: prunable weights, other parameters that are trained, idle
    ones, float buffers.

    Prunable is the weight of every convolution and linear layer, the head included; biases and batch norm are not
    (protocol section 3). Idle are parameters with ``requires_grad`` False, of any layer: `torch.optim.SGD` leaves them
    alone, and so do initialisation, training, weight decay and pruning.

    num_prunable, num_trained, num_parameters: how many numbers are up to the end of the first, second and third part.
    """

    entries: tuple[Entry, ...]
    num_prunable: int
    num_trained: int
    num_parameters: int
    size: int

    @property
    def prunable(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.offset < self.num_prunable)

    @property
    def parameters(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.offset < self.num_parameters)

    @property
    def idle(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.parameters if entry.offset >= self.num_trained)

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
    weights = {
        f"{name}.weight" if name else "weight"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    parameters = dict(network.named_parameters())  # tied weights appear once
    tensors = _float_tensors(network)
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    parts = (
        [name for name in trained if name in weights],
        [name for name in trained if name not in weights],
        [name for name, parameter in parameters.items() if not parameter.requires_grad],
        [name for name in tensors if name not in parameters],
    )
    entries, ends, offset = [], [], 0
    for part in parts:
        for name in part:
            entries.append(Entry(name, tuple(tensors[name].shape), offset))
            offset += tensors[name].numel()
        ends.append(offset)
    return Layout(tuple(entries), *ends)


def _float_tensors(network: nn.Module) -> dict[str, Tensor]:
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}
