"""Masked SGD over the flat buffers of a cohort, with the learning rates as a tensor, as a CUDA graph needs them."""

from collections.abc import Callable

import torch
from torch import Tensor


def masked_sgd(weights: Tensor, gradients: Tensor, momentum: Tensor, mask: Tensor, rates: Tensor, owner: Tensor, *,
               factor: float, weight_decay: float, nesterov: bool) -> None:  # fmt: skip
    """One update in place. ``gradients`` is used up. The reference for `repro.nets.fused_update`.

    Arguments:
        weights, gradients, momentum: floating [n].
        mask: 1 or 0 in the same type, [m] with m <= n, for the first m weights.
        rates: [R] learning rates; ``owner``: int32 [n], the replica that a weight belongs to.
        factor: SGD's momentum. Weight decay is coupled, dampening is 0 (protocol section 1).
    """
    change = direction(weights, gradients, momentum, factor=factor, weight_decay=weight_decay, nesterov=nesterov)
    weights.addcmul_(change, rates.neg().index_select(0, owner))
    weights[: len(mask)].mul_(mask)


def direction(weights: Tensor, gradients: Tensor, momentum: Tensor, *, factor: float, weight_decay: float,
              nesterov: bool) -> Tensor:  # fmt: skip
    """What SGD subtracts, times the learning rate. Updates ``momentum``, and uses ``gradients`` up."""
    gradients.add_(weights, alpha=weight_decay)
    momentum.mul_(factor).add_(gradients)
    return gradients.add_(momentum, alpha=factor) if nesterov else momentum


def updates_for(device: torch.device, dtype: torch.dtype) -> list[Callable]:
    """The functions that do `masked_sgd` there, the fastest first; the last is the reference."""
    if device.type == "cuda" and dtype == torch.float32:
        try:
            from repro.nets.fused_update import fused_masked_sgd
        except ImportError:  # PyTorch for CUDA brings Triton along on Linux only
            return [masked_sgd]
        return [fused_masked_sgd, masked_sgd]
    return [masked_sgd]
