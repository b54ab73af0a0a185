"""Masked SGD over the rows of a cohort, with the learning rates as a tensor, as a CUDA graph needs them."""

from collections.abc import Callable

import torch
from torch import Tensor

from repro.engines.block import Sgd


def masked_sgd(
    weights: Tensor, gradients: Tensor, momentum: Tensor, masks: Tensor | None, rates: Tensor, sgd: Sgd
) -> None:
    """One update in place. ``gradients`` is used up. The reference for `repro.engines.triton_update`.

    Pruned weights are set back to zero after the update, so neither momentum nor weight decay can revive them.

    Arguments:
        weights, gradients, momentum: floating [R, P], contiguous along P.
        masks: bool [R, m] with m <= P, for the first m weights of each row; None is dense.
        rates: [R] learning rates.
    """
    gradients.add_(weights, alpha=sgd.weight_decay)
    momentum.mul_(sgd.momentum).add_(gradients)
    change = gradients.add_(momentum, alpha=sgd.momentum) if sgd.nesterov else momentum
    weights.addcmul_(change, rates.neg().unsqueeze(1))
    if masks is not None:
        weights[:, : masks.shape[1]].mul_(masks)


def updates_for(device: torch.device, dtype: torch.dtype) -> list[Callable]:
    """The functions that do `masked_sgd` there, the fastest first; the last is the reference."""
    if device.type == "cuda" and dtype == torch.float32:
        try:
            from repro.engines.triton_update import triton_masked_sgd
        except ImportError:  # PyTorch for CUDA brings Triton along on Linux only
            return [masked_sgd]
        return [triton_masked_sgd, masked_sgd]
    return [masked_sgd]
