"""What prunable weights are ranked by, the lowest going first: scores by the definitions of the papers.

All functions take a network with its weights, the masked ones zero, and give scores by the names of its tensors. The
network is used up: gradients and batch-norm statistics are left in it. A batch is (images [B, C, H, W], labels int64
[B]).
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

Batches = Sequence[tuple[Tensor, Tensor]]

TEMPERATURE = 200.0
"""Of GraSP's softmax, as in its published code."""
ITERATIONS = 100
"""Of SynFlow (Tanaka et al. 2020, section 6)."""


def gradients(network: nn.Module, names: Iterable[str], batches: Batches) -> dict[str, Tensor]:
    """Gradients of the cross-entropy, its mean over the batches, with batch statistics in batch norm."""
    names = list(names)
    return dict(zip(names, _mean_gradients(network.train(), names, batches, 1.0)))


def snip(network: nn.Module, names: Iterable[str], batches: Batches) -> dict[str, Tensor]:
    """Connection sensitivity |w · dL/dw| (Lee et al. 2019, equation 4, without the sum that it is divided by)."""
    found = gradients(network, names, batches)
    return {name: (network.get_parameter(name).detach() * gradient).abs() for name, gradient in found.items()}


def grasp(network: nn.Module, names: Iterable[str], batches: Batches, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradient signal preservation w · Hg (Wang et al. 2020, equation 8).

    Their score is S(-w) = -w · Hg, and the weights with the highest go. H and g are of the cross-entropy at
    `TEMPERATURE`, each the mean over the batches.

    Arguments:
        masks: bool, by name, of the weights that the network has: training moves it along g of these alone.
    """
    names = list(names)
    weights = [network.get_parameter(name) for name in names]
    target = _mean_gradients(network.train(), names, batches, TEMPERATURE)
    target = [gradient * masks[name] for name, gradient in zip(names, target)]
    products = [torch.zeros_like(weight) for weight in weights]
    with sdpa_kernel(SDPBackend.MATH):  # the only attention that has a second derivative
        for batch in batches:
            found = _derivatives(_loss(network, batch, TEMPERATURE), weights, create_graph=True)
            along = sum((a * b).sum() for a, b in zip(found, target))
            for total, part in zip(products, _derivatives(along, weights)):
                total += part / len(batches)
    return {name: weight.detach() * product for name, weight, product in zip(names, weights, products)}


def synflow(network: nn.Module, names: Iterable[str], image: tuple[int, int, int]) -> dict[str, Tensor]:
    """Synaptic saliency w · dR/dw, where R is the sum of the logits of an image of ones by weights without their signs
    (Tanaka et al. 2020, equations 1 and 2), in float64.

    Batch norm is in evaluation mode, as in their code, and with a running mean of 0, as it has at initialisation: a
    mean of features says nothing about an image of ones. A layer that acts in training mode only has 0.

    Arguments:
        image: (channels, height, width).
    """
    network = network.double().eval()
    names = list(names)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
    weights = [network.get_parameter(name) for name in names]
    ones = torch.ones(1, *image, dtype=torch.float64, device=weights[0].device)
    found = _derivatives(network(ones).sum(), weights)
    return {name: weight.detach() * gradient for name, weight, gradient in zip(names, weights, found)}


def _mean_gradients(network: nn.Module, names: list[str], batches: Batches, temperature: float) -> list[Tensor]:
    weights = [network.get_parameter(name) for name in names]
    each = [_derivatives(_loss(network, batch, temperature), weights) for batch in batches]
    return [sum(parts) / len(batches) for parts in zip(*each)]


def _derivatives(of: Tensor, weights: list[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """The derivative of one number by each weight; zeros where it does not depend on them."""
    return torch.autograd.grad(of, weights, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _loss(network: nn.Module, batch: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    images, labels = batch
    return F.cross_entropy(network(images) / temperature, labels)
