"""Whether a mask prunes the k + 1 smallest weights of a trained network, and what it prunes instead.

Weights are float64 [P], masks bool [P] with True = kept, as in `repro.train.prune`.
"""

from collections.abc import Collection, Mapping

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
    sizes: Mapping[str, int],
    others: Mapping[str, Tensor],
) -> tuple[bool | None, str]:
    """(whether the smallest weights go, the numbers); None where that cannot be told.

    Arguments:
        weights: of the trained network of the level before.
        before: the mask of that level; ``stated`` by its file, or else what is not zero there.
        fraction: share of the level's weights that is pruned.
        sizes: of the tensors, by name; they sum to P. Some may have been left out of pruning: all of these are kept.
        others: weights of other files that may have been taken instead, by the file's name.
    """
    if by_rule(weights, weights != 0, ~kept, fraction):
        return False, "the mask is upside down, 1 for pruned weights: the smallest are kept"
    back = int((kept & ~before).sum())
    if not stated:  # a zero that is kept was not pruned before; few zeros may be small weights that were rounded
        before = before | kept
    cut = before & ~kept
    smaller = weights.abs() < (weights[cut].abs().max() if cut.any() else 0)
    parts = zip(sizes, kept.split([*sizes.values()]), smaller.split([*sizes.values()]))
    dense = {name: bool(below.any()) for name, there, below in parts if there.all()}
    small = [name for name, below in dense.items() if below]  # had it been pruned, it would have lost some
    few = not stated and float((~before).double().mean()) < BY_CHANCE
    if not (stated and back):
        for names in ([], small, list(dense)):
            for left in (before | True, before) if few else (before,):
                if by_rule(weights, left & without(names, sizes), kept, fraction):
                    return True, counted(left & without(names, sizes), kept, fraction) + but(names)
    left = before & without(small, sizes)
    try:
        told = counted(left, kept, fraction) + but(small)
    except RunError as error:
        return False, str(error)
    smallest = _smallest(weights, left, cut)
    in_half = not stated and bool((weights == 0).any()) and torch.equal(weights, weights.half().double())
    if in_half and smallest and int(cut.sum()) <= fraction * int(left.sum()):  # some that went may be 0 here
        return None, f"{told}; in half precision small weights are 0, as pruned ones: give the masks of that level"
    if back > (0 if stated else BY_CHANCE * int(kept.sum())):
        return False, f"{back:,} weights are kept that were pruned in --previous"
    if not cut.any():
        return False, f"{told}; its zeros are those of the mask, of the same level"
    if smallest:
        return (
            False,
            f"{told}; they are the smallest of {'the others' if small else 'the whole network'}, in another number",
        )
    return False, f"{told}; {_instead(weights, left, cut, fraction, [*sizes.values()], others)}"


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
    """How many weights go, and how many should. Raises RunError where too few are left."""
    number, left = int((before & ~kept).sum()), int(before.sum())
    rule = f"ceil({fraction:g} × {left:,}) + 1 = {count_to_prune(left, fraction):,}"
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


def without(names: Collection[str], sizes: Mapping[str, int]) -> Tensor:
    """Where the weights of all other tensors are, bool [P]."""
    return torch.cat([torch.full((size,), name not in names) for name, size in sizes.items()])


def but(names: list[str]) -> str:
    """What is said of tensors that are left out."""
    return f", in all tensors but {listed(names)}, where nothing is pruned" if names else ""


def listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
