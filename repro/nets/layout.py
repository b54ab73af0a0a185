"""Where each number of a network stands in a flat vector."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


def freeze(network: nn.Module, names: Iterable[str]) -> None:
    """Set ``requires_grad`` of the named parameters to False."""
    for name in names:
        network.get_parameter(name).requires_grad_(False)
