"""Masks: global magnitude pruning by the published rule, and the controls that must do worse.

All functions work on the flat prunable weights of one network (`repro.nets.Layout`), bool masks with True = kept.
"""

import math

import numpy as np
import torch
from torch import Tensor

from repro.errors import RunError


def count_to_prune(remaining: int, fraction: float) -> int:
    """Weights removed from ``remaining`` in one level: ceil(fraction * remaining) + 1 (protocol section 3).

    The published code takes the k-th smallest magnitude, counted from zero, as the threshold and keeps what is
    strictly greater, so k+1 weights go. Raises RunError when nothing would be left.
    """
    count = math.ceil(fraction * remaining) + 1
    if count >= remaining:
        raise RunError(
            f"no weights would be left: {remaining} remain and one level removes {count}: ask for fewer --levels"
        )
    return count


def prune_by_magnitude(weights: Tensor, mask: Tensor, fraction: float = 0.2) -> Tensor:
    """The next mask: the smallest |w| among surviving weights of the whole network go (paper, Algorithm 1).

    Arguments:
        weights: [P] trained prunable weights; values where the mask is off do not matter.
        mask: bool [P], the current mask.

    Weights tied with the threshold go too, as published. Raises RunError for weights that are not finite.
    """
    survivors = weights[mask].abs()
    if not bool(torch.isfinite(survivors).all()):
        raise RunError("cannot prune by magnitude: the trained weights hold NaN or infinity: lower --lr")
    threshold = survivors.kthvalue(count_to_prune(survivors.numel(), fraction)).values  # kthvalue counts from one
    return mask & (weights.abs() > threshold)


def random_mask(mask: Tensor, rng: np.random.Generator) -> Tensor:
    """A mask that keeps as many weights as ``mask`` does, drawn uniformly over the whole network."""
    kept = rng.choice(len(mask), int(mask.sum()), replace=False)
    result = torch.zeros_like(mask)
    result[torch.from_numpy(kept).to(mask.device)] = True
    return result


def shuffle_within_layers(mask: Tensor, sizes: list[int], rng: np.random.Generator) -> Tensor:
    """The mask with each layer's entries permuted: the same density in every layer, other weights.

    Arguments:
        sizes: number of prunable weights of each layer, in order; they sum to len(mask).
    """
    layers = mask.cpu().split(sizes)
    return torch.cat([layer[torch.from_numpy(rng.permutation(len(layer)))] for layer in layers]).to(mask.device)
