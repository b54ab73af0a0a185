"""Whether a mask prunes the k + 1 smallest weights of a trained network, and what it prunes instead.

Weights are float64 [P], masks bool [P] with True = kept, as in `repro.train.prune`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from repro.errors import RunError
from repro.train.prune import count_to_prune, prune_by_magnitude

BY_CHANCE = 0.01
"""Share of weights that may happen to be 0, as small ones are in half precision; no level prunes so few."""


def verdict(
    weights: Tensor,
    kept: Tensor,
    before: Tensor,
    *,
    stated: bool,
    fraction: float,
    scopes: Mapping[str, Tensor],
    sizes: list[int],
    others: Mapping[str, Tensor],
) -> tuple[bool | None, str]:
    """(whether the smallest weights go, the numbers); None where that cannot be told.

    Arguments:
        weights: of the trained network of the level before.
        before: the mask of that level; ``stated`` by its file, or else what is not zero there.
        fraction: share of the level's weights that is pruned.
        scopes: bool [P], the tensors that are pruned at all, by what is said of them.
        sizes: of the tensors; they sum to P.
        others: weights of other files that may have been taken instead, by the file's name.
    """
    if by_rule(weights, weights != 0, ~kept, fraction):
        return False, "the mask is upside down, 1 for pruned weights: the smallest are kept"
    back = int((kept & ~before).sum())
    if not stated:  # a zero that is kept was not pruned before; few zeros may be small weights that were rounded
        before = before | kept
    few = not stated and float((~before).double().mean()) < BY_CHANCE
    if not (stated and back):
        for said, scope in scopes.items():
            for left in (before | True, before) if few else (before,):
                if by_rule(weights, left & scope, kept, fraction):
                    return True, counted(left & scope, kept, fraction) + said
    said, scope = list(scopes.items())[-1]
    left, cut = before & scope, before & scope & ~kept
    told = counted(left, kept, fraction) + said
    smallest = _smallest(weights, left, cut)
    in_half = not stated and bool((weights == 0).any()) and torch.equal(weights, weights.half().double())
    if in_half and smallest and int(cut.sum()) <= fraction * int(left.sum()):
        return None, f"{told}; in half precision small weights are 0, as pruned ones: give the masks of that level"
    if back > (0 if stated else BY_CHANCE * int(kept.sum())):
        return False, f"{back:,} weights are kept that were pruned in --previous"
    if not cut.any():
        return False, f"{told}; its zeros are those of the mask, of the same level"
    if smallest:
        return False, f"{told}; they are the smallest of the whole network, in another number"
    return False, f"{told}; {_instead(weights, left, cut, fraction, sizes, others)}"


def by_rule(weights: Tensor, before: Tensor, kept: Tensor, fraction: float) -> bool:
    """Whether the smallest go, as many as the published rule or torch.nn.utils.prune takes; ties may go either way."""
    cut = before & ~kept
    number, left = int(cut.sum()), int(before.sum())
    try:
        rule = count_to_prune(left, fraction)
    except RunError:
        return False
    if number and number in (rule, round(fraction * left)):
        return _smallest(weights, before, cut)
    return number > rule and torch.equal(prune_by_magnitude(weights, before, fraction), kept & before)


def counted(before: Tensor, kept: Tensor, fraction: float) -> str:
    """How many weights go, and how many should."""
    number, left = int((before & ~kept).sum()), int(before.sum())
    try:
        rule = f"ceil({fraction:g} × {left:,}) + 1 = {count_to_prune(left, fraction):,}"
    except RunError as error:
        return str(error)
    if number == round(fraction * left):
        rule = f"round({fraction:g} × {left:,}), as torch.nn.utils.prune counts; {rule}"
    return f"{number:,} of {left:,} are pruned, {rule}"


def _instead(
    weights: Tensor, before: Tensor, cut: Tensor, fraction: float, sizes: list[int], others: Mapping[str, Tensor]
) -> str:
    """What was pruned, where it was not the smallest of the network."""
    layers = list(zip(*(each.split(sizes) for each in (weights, before, cut))))
    share = int(cut.sum()) / int(before.sum())
    alike = all(abs(int(gone.sum()) - share * int(left.sum())) <= 2 for _, left, gone in layers)  # rounded, and + 1
    if alike and all(_smallest(*layer) for layer in layers):
        return "they are the smallest of each tensor: it was pruned layer by layer, not globally"
    for name, other in others.items():
        if other[cut].any() and _smallest(other, before, cut):  # those of a ticket are 0 because they were pruned
            return f"they are the smallest of {name}, not of --previous, the trained network"
    largest = prune_by_magnitude(weights, before, fraction)
    return f"{int((cut & largest).sum()):,} of them are not among the smallest"


def _smallest(weights: Tensor, before: Tensor, cut: Tensor) -> bool:
    """Whether no weight that is kept is smaller than one that is cut."""
    gone, kept = weights[cut].abs(), weights[before & ~cut].abs()
    return not len(gone) or not len(kept) or bool(gone.max() <= kept.min())
