"""The graph of a network's forward pass, with the shape of each result, by `torch.fx`."""

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp


class Unsupported(Exception):
    """The network holds something that is no layer here; the message is a phrase that names it."""


class _Tracer(fx.Tracer):
    """Goes into modules down to PyTorch's own layers, and to what is made from one of them."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        containers = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
        return any(c.__module__.startswith("torch.nn.modules") and c not in containers for c in type(module).__mro__)


def trace(network: nn.Module, image_size: int, in_chans: int) -> fx.Graph:
    """The graph of a forward pass in training mode over square images; `shape` tells each result's.

    The network is left in training mode. Raises Unsupported for code that does not always do the same.
    """
    try:
        graph = _Tracer().trace(network.train())
    except Exception as error:  # whatever its forward does with a tensor that has no numbers
        raise Unsupported(f"a forward pass that depends on its images ({brief(error)})") from error
    parameter = next(network.parameters())
    images = torch.zeros(2, in_chans, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():  # in evaluation mode: the shapes alone are wanted, and running statistics must not move
        ShapeProp(fx.GraphModule(network.eval(), graph)).propagate(images)
    network.train()
    return graph


def shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's result, batch first."""
    return tuple(node.meta["tensor_meta"].shape)


def brief(error: Exception) -> str:
    """The beginning of a message, in one line."""
    return " ".join(str(error).split())[:120]
