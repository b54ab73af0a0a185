"""The files of a ticket, of whatever network: masks, weights and steps by the names of tensors alone."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from repro.data import torch_file
from repro.errors import UsageError
from repro.stages.tensor_files import checked, described, dicts_of, fitting, masked, stated, unwrapped, without_prefix


def stated_masks(path: str | Path) -> dict[str, Tensor]:
    """The masks in a file of ``torch.save`` or safetensors, bool by the name of the parameter; {} where it has none.

    They stand beside the weights (`repro.stages.tensor_files.stated`), or a dict's tensors are all of 0 and 1. Prefixes
    of wrappers that all names have are dropped.

    Raises UsageError for a file that cannot be read, and for values beside 0 and 1.
    """
    for _, tensors in dicts_of(torch_file.read(path)):
        tensors = unwrapped(tensors)
        alone = all(map(_is_binary, tensors.values())) and any(tensor.dim() > 1 for tensor in tensors.values())
        masks = stated(tensors) or (tensors if alone else {})
        if masks:
            if odd := next((name for name, mask in masks.items() if not _is_binary(mask)), None):
                raise UsageError(
                    f"{path} holds values beside 0 and 1 in the mask of {odd}: give 1 for weights that are kept, 0 for "
                    "pruned ones"
                )
            return {name: mask.bool() for name, mask in without_prefix(masks).items()}
    return {}


def weights_in(path: str | Path) -> dict[str, Tensor]:
    """The weights that pruning is about (of two and more dimensions, called weight) of the network in a file, pairs of
    torch.nn.utils.prune multiplied; without prefixes that all have. Raises UsageError where the file has none."""
    content = torch_file.read(path)
    found = [masked(unwrapped(tensors)) for _, tensors in dicts_of(content)]
    found = [{n: t for n, t in each.items() if t.dim() > 1 and n.split(".")[-1] == "weight"} for each in found]
    if not any(found):
        raise UsageError(f"{path} holds {described(content)}, no weights of a network: give a state dict")
    return without_prefix(max(found, key=len))


def parts_of(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors of these names, all other tensors of numbers) of the one network in a file that has the names.

    Weights of torch.nn.utils.prune are multiplied by their masks; open_lth's are as they stand in the file.

    Raises UsageError where no dict or several fit, and for a tensor of another shape or that is not finite.
    """
    content, whole, advice = torch_file.read(path), "the masked network", "give files of one network"
    prefix, given = fitting(path, content, {name: {name} for name in shapes}, whole, advice)
    named = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    for name, shape in shapes.items():
        if tuple(named[name].shape) != tuple(shape):
            raise UsageError(
                f"{path} has {name} of shape {tuple(named[name].shape)}, the mask {tuple(shape)}: {advice}"
            )
    wanted = {name: checked(path, name, named[name], tuple(shape), whole) for name, shape in shapes.items()}
    masks = {name for name in named if re.search(r"_mask$|(^|\.)mask_[^.]+$", name)}
    return wanted, {name: value for name, value in named.items() if name not in masks | shapes.keys()}


def step_in(path: str | Path) -> int | None:
    """The step that a training program wrote beside its tensors (``global_step``, as Lightning does); None without."""
    content = torch_file.read(path)
    step = content.get("global_step") if isinstance(content, dict) else None
    return int(step) if isinstance(step, int | np.integer) and not isinstance(step, bool) else None


def _is_binary(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == 1)).all())
