"""Masks: global magnitude pruning by the published rule, by other scores, and the controls that must do worse.

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


def weights_left(total: int, fraction: float, level: int) -> int:
    """How many of ``total`` weights `prune_by_magnitude` leaves at a level. Raises RunError as `count_to_prune`."""
    for _ in range(level):
        total -= count_to_prune(total, fraction)
    return total


def keep_highest(scores: Tensor, mask: Tensor, sizes: list[int], counts: list[int]) -> Tensor:
    """The mask of the highest scores among surviving weights: ``counts`` of each group. Of equal ones the first stay.

    Arguments:
        scores: [P]; values where the mask is off do not matter.
        mask: bool [P], the current mask.
        sizes: of the groups, in order; they sum to P: layers, or the whole network.
    """
    kept = torch.zeros_like(mask)
    for part, group, alive, count in zip(kept.split(sizes), scores.split(sizes), mask.split(sizes), counts):
        there = alive.nonzero().squeeze(1)
        part[there[group[there].argsort(descending=True, stable=True)[:count]]] = True
    return kept


def shared_out(count: int, shares: list[float]) -> list[int]:
    """``count`` in whole parts that are proportional to the shares, what is left going to the largest remainders."""
    exact = [count * share / sum(shares) for share in shares]
    parts = [math.floor(each) for each in exact]
    for place in sorted(range(len(exact)), key=lambda k: parts[k] - exact[k])[: count - sum(parts)]:
        parts[place] += 1
    return parts


def erk_counts(shapes: list[tuple[int, ...]], count: int, alive: list[int] | None = None) -> list[int]:
    """Weights left in each layer, ``count`` in all, by Erdős–Rényi-kernel densities (Evci et al. 2020, section 3).

    A layer's density is proportional to the sum of its shape over the product of it. Where that would be above 1 the
    layer is dense, and the others share what is left.

    Arguments:
        alive: weights that each layer has; it keeps no more. After a mask of these densities that moves one weight of
            a layer at most, by the rounding. None is all of a layer.
    """
    most, whole = alive or [math.prod(shape) for shape in shapes], set()
    while True:
        # size times density: the sum of the shape
        shares = {k: sum(shape) for k, shape in enumerate(shapes) if k not in whole}
        left = count - sum(most[k] for k in whole)
        full = {k for k, share in shares.items() if left * share > most[k] * sum(shares.values())}
        if not full:
            break
        whole |= full
    parts = dict(zip(shares, shared_out(left, list(shares.values()))))
    return [parts.get(k, size) for k, size in enumerate(most)]


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
