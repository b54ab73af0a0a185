"""Networks and masks in files of other programs, whatever dicts and names they are wrapped in.

Training programs keep a state dict among other things; wrappers put their names in front of its names; pruning keeps
weights and masks apart. Where several things fit, the file is refused with the names that were found.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repro.data import torch_file
from repro.errors import UsageError
from repro.nets import Layout
from repro.store.files import open_regular

PREFERRED = ("state_dict", "model", "model_state_dict", "net", "network")  # before an average or a copy beside it
DEPTH = 2  # dicts within the file's dict
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_USUAL = re.compile(r"(?:(?:model|net|network|module|backbone|encoder)\.)*")
"""The prefix that is taken where several fit."""


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
    prefix, given = _fitting(path, content, needed, network)
    found, known = {}, {prefix + name for names in named.values() for name in names}
    for entry in layout.entries:
        there = [given[prefix + name] for name in sorted(named[entry.name]) if prefix + name in given]
        value = there[0] if there else unsaved[entry.name]
        if any(not torch.equal(value, other) for other in there[1:]):
            raise UsageError(
                f"{path} has different numbers under the tied names {' and '.join(sorted(named[entry.name]))}"
                ": give a checkpoint of one network"
            )
        found[entry.name] = _checked(path, entry.name, value, entry.shape, network)
        mask = f"{prefix.removesuffix('model.')}mask_{entry.name.replace('.', '___')}"
        if mask in given:
            found[entry.name] = found[entry.name] * _checked(path, mask, given[mask].float(), entry.shape, network)
            known.add(mask)
    for name, value in given.items():
        if name.startswith(prefix) and name not in known and value.is_floating_point():
            raise UsageError(f"{path} has a tensor {name} that {network} has not: give the --network it was made with")
    return torch.cat([found[entry.name].reshape(-1).float() for entry in layout.entries])


def _fitting(
    path: str | Path,
    content: object,
    needed: Mapping[str, set[str]],
    network: str,
    advice: str = "give the --network it was made with",
) -> tuple[str, dict[str, Tensor]]:
    """(prefix, tensors) of the one dict in a file that has the needed names. Raises UsageError where there is none."""
    fits = {}
    for key, tensors in _dicts(content):
        for given in (_masked(tensors), _masked(_unwrapped(tensors))):
            if key not in fits and (prefix := _prefix(path, given, needed)) is not None:
                fits[key] = prefix, given
    if not fits:
        raise UsageError(_lacking(path, content, needed, network, advice))
    return fits[_one_of(path, fits)]


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
    dicts = list(_dicts(content))
    if not dicts:
        raise UsageError(f"{path} holds {_described(content)}: give a dict from names to mask tensors")
    fits = {}
    for key, tensors in dicts:
        for given in (tensors, _unwrapped(tensors)):
            masks = _stated(given) or given
            if key not in fits and (prefix := _prefix(path, masks, {name: {name} for name in shapes})) is not None:
                fits[key] = {name.removeprefix(prefix): value for name, value in masks.items()}
    if not fits:
        return max((tensors for _, tensors in dicts), key=len)
    return fits[_one_of(path, fits)]


def _stated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks that stand beside weights: torch.nn.utils.prune's NAME_mask, open_lth's mask_NAME."""
    masks = {name.removesuffix("_mask"): value for name, value in tensors.items() if name.endswith("_mask")}
    return masks | {
        re.sub(r"mask_(?=[^.]+$)", "", name).replace("___", "."): value
        for name, value in tensors.items()
        if re.search(r"(^|\.)mask_[^.]+$", name)
    }


# --- networks that no layout is known of ------------------------------------------------------------------------------


def stated_masks(path: str | Path) -> dict[str, Tensor]:
    """The masks in a file of ``torch.save`` or safetensors, bool by the name of the parameter; {} where it has none.

    They stand beside the weights (`load_checkpoint`), or the file's tensors are all of 0 and 1. Prefixes of wrappers
    that all names have are dropped.

    Raises UsageError for a file that cannot be read, and for values beside 0 and 1.
    """
    for _, tensors in _dicts(torch_file.read(path)):
        tensors = _unwrapped(tensors)
        masks = _stated(tensors) or (tensors if all(map(_is_binary, tensors.values())) else {})
        if masks:
            if odd := next((name for name, mask in masks.items() if not _is_binary(mask)), None):
                raise UsageError(
                    f"{path} holds values beside 0 and 1 in the mask of {odd}: give 1 for weights that are kept, 0 for "
                    "pruned ones"
                )
            return {name: mask.bool() for name, mask in _without_prefix(masks).items()}
    return {}


def weights_in(path: str | Path) -> dict[str, Tensor]:
    """The weights that pruning is about (of two and more dimensions, called weight) of the network in a file, pairs of
    torch.nn.utils.prune multiplied; without prefixes that all have. Raises UsageError where the file has none."""
    content = torch_file.read(path)
    found = [_masked(_unwrapped(tensors)) for _, tensors in _dicts(content)]
    found = [{n: t for n, t in each.items() if t.dim() > 1 and n.split(".")[-1] == "weight"} for each in found]
    if not any(found):
        raise UsageError(f"{path} holds {_described(content)}, no weights of a network: give a state dict")
    return _without_prefix(max(found, key=len))


def parts_of(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors of these names, all other tensors of numbers) of the network in a file, as `load_checkpoint` finds it.

    Weights of torch.nn.utils.prune are multiplied by their masks; open_lth's are as they stand in the file.

    Raises UsageError where no dict or several fit, and for a tensor of another shape or that is not finite.
    """
    content, whole, advice = torch_file.read(path), "the masked network", "give files of one network"
    prefix, given = _fitting(path, content, {name: {name} for name in shapes}, whole, advice)
    named = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    for name, shape in shapes.items():
        if tuple(named[name].shape) != tuple(shape):
            raise UsageError(
                f"{path} has {name} of shape {tuple(named[name].shape)}, the mask {tuple(shape)}: {advice}"
            )
    wanted = {name: _checked(path, name, named[name], tuple(shape), whole) for name, shape in shapes.items()}
    masks = {name for name in named if re.search(r"_mask$|(^|\.)mask_[^.]+$", name)}
    return wanted, {name: value for name, value in named.items() if name not in masks | shapes.keys()}


def step_in(path: str | Path) -> int | None:
    """The step that a training program wrote beside its tensors (``global_step``, as Lightning does); None without."""
    content = torch_file.read(path)
    step = content.get("global_step") if isinstance(content, dict) else None
    return int(step) if isinstance(step, int | np.integer) and not isinstance(step, bool) else None


def _is_binary(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == 1)).all())


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under names without the usual prefix that all of them have."""
    prefix = min((_USUAL.match(name)[0] for name in tensors), key=len)
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


# --- what is in a file ------------------------------------------------------------------------------------------------


def _dicts(content: object, key: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(key, tensors by name) of every dict in a file that holds tensors, the outer ones first."""
    if not isinstance(content, dict):
        return
    tensors = {str(name): tensor for name, value in content.items() if (tensor := _tensor(value)) is not None}
    if tensors:
        yield key, tensors
    for name, value in content.items() if depth else ():
        yield from _dicts(value, f"{key}.{name}" if key else str(name), depth - 1)


def _tensor(value: object) -> Tensor | None:
    """A tensor or an array of numbers as a plain tensor; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized or value.is_nested:
        return None
    return value.detach().to_dense() if value.layout is not torch.strided else value.detach()


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their names without those of wrappers; as they are where two would have one name."""
    short = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    return short if len(short) == len(tensors) else tensors


def _masked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With torch.nn.utils.prune's pairs, NAME_orig and NAME_mask, multiplied to NAME."""
    found = dict(tensors)
    for name in tensors:
        base = name.removesuffix("_orig")
        if base != name and f"{base}_mask" in tensors and base not in tensors:
            found[base] = found.pop(name) * found.pop(f"{base}_mask")
    return found


def _prefix(path: str | Path, tensors: Mapping[str, Tensor], needed: Mapping[str, set[str]]) -> str | None:
    """What stands before each of the needed names (each under one of its aliases); None where not all are there.

    Raises UsageError where that is so for several prefixes, and not for one usual one alone.
    """
    first = next(iter(needed.values()))
    prefixes = {key.removesuffix(name) for name in first for key in tensors if key == name or key.endswith(f".{name}")}
    fits = sorted(p for p in prefixes if all(any(p + name in tensors for name in names) for names in needed.values()))
    usual = [prefix for prefix in fits if _USUAL.fullmatch(prefix)]
    chosen = "" if "" in fits else usual[0] if len(usual) == 1 else fits[0] if fits else None
    if len(fits) > 1 and chosen != "" and len(usual) != 1:
        raise UsageError(
            f"{path} holds several networks ({', '.join(fits)}): save the one that is meant, by "
            "torch.save(model.state_dict(), PATH)"
        )
    return chosen


def _one_of(path: str | Path, fits: Mapping[str, object]) -> str:
    """The key of the dict that is taken where several fit."""
    keys = list(fits)
    for key in ("", *PREFERRED, *keys[: len(keys) == 1]):
        if key in fits:
            return key
    raise UsageError(
        f"{path} holds several that fit ({', '.join(keys)}): save the one that is meant, by "
        "torch.save(model.state_dict(), PATH)"
    )


def _lacking(path: str | Path, content: object, needed: Mapping[str, set[str]], network: str, advice: str) -> str:
    """Why no dict of a file fits."""
    dicts = list(_dicts(content))
    if not dicts or max(len(tensors) for _, tensors in dicts) < 2:
        return (
            f"{path} holds no state dict (a dict of tensors), but {_described(content)}: write "
            "torch.save(model.state_dict(), PATH)"
        )
    key, tensors = max(dicts, key=lambda each: len(each[1]))
    given = _masked(_unwrapped(tensors))
    plain = {_USUAL.sub("", name, count=1) for name in given} | given.keys()
    missing = next((name for name, names in needed.items() if not names & plain), next(iter(needed)))
    where = f" under {key}" if key else ""
    return (
        f"{path} has no tensor {missing} of {network} among the {len(tensors)} that it has{where} "
        f"({_listed(tensors)}): {advice}"
    )


def _described(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict of {_listed(content)}" if content else "an empty dict"
    kind = type(content)
    return f"a whole {kind.__name__}" if issubclass(kind, torch_file.Foreign) else f"a {kind.__name__}"


def _listed(names: Mapping) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:4] + ["…"] * (len(shown) > 4))


# --- what the network adds --------------------------------------------------------------------------------------------


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


def _checked(path: str | Path, name: str, value: Tensor, shape: tuple[int, ...], network: str) -> Tensor:
    if tuple(value.shape) != shape:
        raise UsageError(
            f"{path} has {name} of shape {tuple(value.shape)}, {network} on this data set of shape "
            f"{shape}: give the --network and --dataset it was made with"
        )
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise UsageError(f"{path} has {name} as {kind}: give a checkpoint of real floating-point numbers")
    if not value.isfinite().all():
        raise UsageError(f"{path} holds NaN or infinity in {name}: give a checkpoint that did not diverge")
    return value
