"""Networks and masks in files of other programs, whatever dicts and names they are wrapped in."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repro.data import torch_file
from repro.errors import UsageError
from repro.nets import Layout
from repro.stages.tensor_files import checked, described, dicts_of, fitting, one_of, prefix_of, stated, unwrapped
from repro.store.files import open_regular


def load_checkpoint(path: str | Path, layout: Layout, network: str, module: nn.Module | None = None) -> Tensor:
    """The float32 vector [layout.size] of a network in a file of ``torch.save`` or safetensors; nothing in it is run.

    The one dict in the file is taken that has every name of the layout, after prefixes of wrappers are dropped
    (``module.``, ``_orig_mod.``, ``model.``, …). Pruned weights are multiplied by their masks (``weight_orig`` and
    ``weight_mask``; open_lth's ``mask_…``). Counters and other integers are left out.

    Arguments:
        network: its name, for messages.
        module: a network of that name, for its tied weights and for the buffers that state dicts lack.

    Raises UsageError, naming what was found, where no dict or several fit, or a tensor has another shape or is not
    finite.
    """
    content = torch_file.read(path)
    ties, unsaved = _ties(module), _unsaved(module)
    named = {entry.name: {entry.name, *ties.get(entry.name, ())} for entry in layout.entries}
    needed = {name: names for name, names in named.items() if name not in unsaved}
    prefix, given = fitting(path, content, needed, network)
    found, known = {}, {prefix + name for names in named.values() for name in names}
    for entry in layout.entries:
        there = [given[prefix + name] for name in sorted(named[entry.name]) if prefix + name in given]
        value = there[0] if there else unsaved[entry.name]
        if any(not torch.equal(value, other) for other in there[1:]):
            raise UsageError(
                f"{path} has different numbers under the tied names {' and '.join(sorted(named[entry.name]))}"
                ": give a checkpoint of one network"
            )
        found[entry.name] = checked(path, entry.name, value, entry.shape, network)
        mask = f"{prefix.removesuffix('model.')}mask_{entry.name.replace('.', '___')}"
        if mask in given:
            found[entry.name] = found[entry.name] * checked(path, mask, given[mask].float(), entry.shape, network)
            known.add(mask)
    for name, value in given.items():
        if name.startswith(prefix) and name not in known and value.is_floating_point():
            raise UsageError(f"{path} has a tensor {name} that {network} has not: give the --network it was made with")
    return torch.cat([found[entry.name].reshape(-1).float() for entry in layout.entries])


def read_mask(path: str | Path, layout: Layout) -> Tensor:
    """The mask of an NPY, PT or safetensors file, bool [layout.num_prunable].

    A .npy holds one entry for each prunable weight; the others a dict from every prunable tensor's name to its mask,
    with prefixes as `load_checkpoint` drops them, or a state dict that has a ``weight_mask`` beside each weight.

    Raises UsageError for a file that cannot be read, other names or shapes, values beside 0 and 1, or no weight left.
    """
    if Path(path).suffix == ".npy":
        try:
            with open_regular(path) as file:
                given = torch.from_numpy(np.load(file, allow_pickle=False))
        except UsageError:
            raise
        except Exception as error:  # what NumPy and torch raise
            raise UsageError(
                f"{path} cannot be read as a mask ({type(error).__name__}): give a .npy array or a .pt or "
                ".safetensors dict of tensors"
            ) from error
        parts, shapes = {"the mask": given}, {"the mask": (layout.num_prunable,)}
    else:
        shapes = {entry.name: entry.shape for entry in layout.prunable}
        parts = _mask_parts(path, torch_file.read(path), shapes)
    if odd := sorted(map(str, parts.keys() ^ shapes.keys())):
        what = "no mask of" if odd[0] in shapes else "a mask of something that is not prunable,"
        raise UsageError(f"{path} has {what} {odd[0]}: give one for each of the {len(shapes)} prunable tensors")
    for name, shape in shapes.items():
        if tuple(parts[name].shape) != shape:
            raise UsageError(
                f"{path}: {name} has shape {tuple(parts[name].shape)}, but {shape} is needed: "
                "give one entry for each prunable weight"
            )
    flat = torch.cat([parts[name].reshape(-1) for name in shapes])
    if not bool(((flat == 0) | (flat == 1)).all()):
        raise UsageError(f"{path} holds values beside 0 and 1: give 1 for weights that are kept, 0 for pruned ones")
    if not bool(flat.any()):
        raise UsageError(f"{path} keeps no weight: give a mask with some ones")
    return flat.bool()


def _mask_parts(path: str | Path, content: object, shapes: Mapping[str, tuple]) -> dict[str, Tensor]:
    """The masks in a file by the names of ``shapes``; by its own names where they are others."""
    dicts = list(dicts_of(content))
    if not dicts:
        raise UsageError(f"{path} holds {described(content)}: give a dict from names to mask tensors")
    fits = {}
    for key, tensors in dicts:
        for given in (tensors, unwrapped(tensors)):
            masks = stated(given) or given
            if key not in fits and (prefix := prefix_of(path, masks, {name: {name} for name in shapes})) is not None:
                fits[key] = {name.removeprefix(prefix): value for name, value in masks.items()}
    if not fits:
        return max((tensors for _, tensors in dicts), key=len)
    return fits[one_of(path, fits)]


def _ties(module: nn.Module | None) -> dict[str, set[str]]:
    """name -> all names of the same parameter or buffer, where it has several."""
    names: dict[int, list[str]] = {}
    if module is not None:
        for each in (module.named_parameters, module.named_buffers):
            for name, tensor in each(remove_duplicate=False):
                names.setdefault(id(tensor), []).append(name)
    return {name: set(group) for group in names.values() if len(group) > 1 for name in group}


def _unsaved(module: nn.Module | None) -> dict[str, Tensor]:
    """The buffers that no state dict has, as the network is constructed."""
    if module is None:
        return {}
    saved = module.state_dict().keys()
    return {name: tensor for name, tensor in module.named_buffers() if name not in saved}
