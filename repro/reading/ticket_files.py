"""The files of a ticket, of whatever network: masks, weights and steps by the names of tensors alone."""

import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data import torch_file
from repro.errors import UsageError
from repro.reading.ticket_rule import BY_CHANCE
from repro.stages.tensor_files import checked, described, dicts_of, fitting, masked, stated, unwrapped, without_prefix


class TicketFiles:
    """The files of one ticket, by their roles.

    masks: bool by name; source: the role of the file that they are from; zeros: they are the zeros of its weights;
    flat: the masks as one; sizes: of its parts; left_out: how many of one dimension, all of ones, are none.
    """

    def __init__(self, files: Mapping[str, Path]):
        self.files = files
        contents = {role: torch_file.read(path) for role, path in files.items()}
        known = set().union(*map(names_of, contents.values()))
        self.stated = cache(lambda role: stated_masks(files[role], contents[role], known))
        self.source, self.zeros, found = self._mask(contents)
        large = {name: mask for name, mask in found.items() if mask.dim() > 1}
        biases = any(mask.dim() < 2 and not mask.all() for mask in found.values())  # they are pruned, too
        self.masks = found if biases or not large else large
        self.left_out = len(found) - len(self.masks)
        shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        self.parts = cache(lambda role: parts_of(files[role], contents[role], shapes))
        self.step_said = cache(lambda role: step_in(contents[role]))
        self.flat = flat(self.masks)
        self.sizes = {name: mask.numel() for name, mask in self.masks.items()}
        if not bool(self.flat.any()):
            raise UsageError(f"{files[self.source]} keeps no weight: give a mask with some ones")
        self._refuse_upside_down()

    def _mask(self, contents: Mapping[str, object]) -> tuple[str, bool, dict[str, Tensor]]:
        sources = [role for role in ("mask", "ticket", "trained") if role in self.files]
        if not sources:
            raise UsageError("no file tells a mask: give --mask, or --trained or --ticket, whose zeros are one")
        for role in sources:
            if masks := self.stated(role):
                return role, False, masks
        found = {}
        for role in sources[:1] if "mask" in sources else sources:
            weights = weights_in(self.files[role], contents[role])
            found[role] = {name: weight != 0 for name, weight in weights.items()}
        role = next((role for role, masks in found.items() if not flat(masks).all()), sources[0])
        return role, True, found[role]

    def _refuse_upside_down(self) -> None:
        for role in [] if self.zeros else [role for role in ("ticket", "trained") if role in self.files]:
            there = flat(self.parts(role)[0]) != 0
            if not there[self.flat].any() and (~there[~self.flat]).double().mean() < BY_CHANCE:
                why = f"{self.files[role]} is 0 where it has 1, and only there"
                raise UsageError(f"the mask of {self.files[self.source]} is upside down ({why}): give 1 for kept ones")

    @property
    def described(self) -> str:
        """What the mask is, in a line."""
        kept, count = int(self.flat.sum()), len(self.flat)
        share = f"{kept:,} of {count:,} weights in {len(self.masks)} tensors, {100 * kept / count:.4g} %"
        if self.left_out:
            share += f"; masks of ones for biases and batch norm ({self.left_out} tensors) are left out"
        path = self.files[self.source]
        return f"{path} has no mask, so it is what is not zero: {share}" if self.zeros else f"{path} keeps {share}"

    def own(self, role: str) -> dict[str, Tensor]:
        """The masks that stand in a file itself."""
        found = self.stated(role)
        return {
            name: found[name] for name, mask in self.masks.items() if name in found and found[name].shape == mask.shape
        }

    def weights(self, role: str) -> dict[str, Tensor]:
        """The masked tensors of a file, by name, times its own masks."""
        own = self.own(role)
        return {name: weight * own.get(name, True) for name, weight in self.parts(role)[0].items()}

    def vector(self, role: str) -> Tensor:
        """The same as one, float64 [P]."""
        return flat(self.weights(role)).double()

    def names(self, *roles: str) -> str:
        return " and ".join(str(self.files[role]) for role in roles)

    def same(self, role: str, other: str) -> bool:
        """Whether two files have the same weights where the mask keeps them."""
        a, b = self.weights(role), self.weights(other)
        return all(alike(a[name][mask], b[name][mask]) for name, mask in self.masks.items())

    def equal(self, role: str, other: str) -> bool:
        """Whether two files have the same weights, also where the mask prunes them."""
        return all(alike(*pair) for pair in zip(self.weights(role).values(), self.weights(other).values()))

    def shared(self, role: str, other: str) -> tuple[list[str], list[str]]:
        """The tensors of numbers beside the masked ones that two files have: (those that are equal, all others)."""
        a, b = self.parts(role)[1], self.parts(other)[1]
        both = [n for n in a if n in b and (a[n].is_floating_point() or b[n].is_floating_point())]
        return [n for n in both if alike(a[n], b[n])], [n for n in both if not alike(a[n], b[n])]


def names_of(content: object) -> set[str]:
    """The names of the tensors in what a file holds, without those of dicts whose tensors are all of 0 and 1."""
    dicts = [masked(unwrapped(tensors)) for _, tensors in dicts_of(content)]
    return {name for tensors in dicts if not _is_binary(tensors) for name in tensors}


def stated_masks(path: str | Path, content: object, known: Collection[str]) -> dict[str, Tensor]:
    """The masks in what a file holds, bool by the name of the parameter; {} where it has none.

    They stand beside the weights (`repro.stages.tensor_files.stated`), or a dict's tensors are all of 0 and 1. Prefixes
    of wrappers that all names have are dropped.

    Arguments:
        known: names of tensors in the files, with any prefix: a mask of another name (labels; what attention may see)
            is none, unless the file has no other tensors.

    Raises UsageError for values beside 0 and 1.
    """
    dicts = [unwrapped(tensors) for _, tensors in dicts_of(content)]
    alone = all(map(_is_binary, dicts))
    ends = {name[k:] for name in known for k in (0, *(dot.end() for dot in re.finditer(r"\.", name)))}
    for tensors in dicts:
        beside, whole = without_prefix(stated(tensors)), without_prefix(tensors) if _is_binary(tensors) else {}
        masks = {name: mask for name, mask in beside.items() if alone or name in ends}
        if not masks and (alone or whole.keys() <= ends) and any(mask.dim() > 1 for mask in whole.values()):
            masks = whole
        if odd := next((name for name, mask in masks.items() if not _is_binary({name: mask})), None):
            raise UsageError(
                f"{path} holds values beside 0 and 1 in the mask of {odd}: give 1 for weights that are kept, 0 for "
                "pruned ones"
            )
        if masks:
            return {name: mask.bool() for name, mask in masks.items()}
    return {}


def weights_in(path: str | Path, content: object) -> dict[str, Tensor]:
    """The weights that pruning is about (of two and more dimensions, called weight) of the network in a file, pairs of
    torch.nn.utils.prune multiplied; without prefixes that all have. Raises UsageError where the file has none."""
    found = [masked(unwrapped(tensors)) for _, tensors in dicts_of(content)]
    found = [{n: t for n, t in each.items() if t.dim() > 1 and n.split(".")[-1] == "weight"} for each in found]
    if not any(found):
        raise UsageError(f"{path} holds {described(content)}, no weights of a network: give a state dict")
    return without_prefix(max(found, key=len))


def parts_of(
    path: str | Path, content: object, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors of these names, all other tensors of numbers) of the one network in a file that has the names.

    Weights of torch.nn.utils.prune are multiplied by their masks; all others are as they stand in the file.

    Raises UsageError where no dict or several fit, and for a tensor of another shape or that is not finite.
    """
    whole, advice = "the masked network", "give files of one network"
    prefix, given = fitting(path, content, {name: {name} for name in shapes}, whole, advice)
    named = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    for name, shape in shapes.items():
        if tuple(named[name].shape) != tuple(shape):
            raise UsageError(
                f"{path} has {name} of shape {tuple(named[name].shape)}, the mask {tuple(shape)}: {advice}"
            )
    wanted = {name: checked(path, name, named[name], tuple(shape), whole) for name, shape in shapes.items()}
    masks = {name for name in named if re.search(r"_mask$|(^|\.)mask(_[^.]+)?$", name)}
    return wanted, {name: value for name, value in named.items() if name not in masks | shapes.keys()}


def step_in(content: object) -> int | None:
    """The step that a training program wrote beside its tensors (``global_step``, as Lightning does); None without."""
    step = content.get("global_step") if isinstance(content, dict) else None
    return int(step) if isinstance(step, int | np.integer) and not isinstance(step, bool) else None


def _is_binary(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(((tensor == 0) | (tensor == 1)).all()) for tensor in tensors.values())


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in the coarser of their types: a file may have been saved in half precision."""
    if not (a.is_floating_point() and b.is_floating_point()):
        return torch.equal(a.double(), b.double())
    coarser = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(a.to(coarser), b.to(coarser))
