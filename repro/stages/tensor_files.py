"""Dicts of tensors in files of other programs, whatever they are wrapped in, and the names in them.

Training programs keep a state dict among other things; wrappers put their names in front of its names; pruning keeps
weights and masks apart. Where several things fit, the file is refused with the names that were found.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data import torch_file
from repro.errors import UsageError

PREFERRED = ("state_dict", "model", "model_state_dict", "net", "network")  # before an average or a copy beside it
DEPTH = 2  # dicts within the file's dict
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_USUAL = re.compile(r"(?:(?:model|net|network|module|backbone|encoder)\.)*")
"""The prefix that is taken where several fit."""


def dicts_of(content: object, key: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(key, tensors by name) of every dict in a file that holds tensors, the outer ones first."""
    if not isinstance(content, dict):
        return
    tensors = {str(name): tensor for name, value in content.items() if (tensor := _tensor(value)) is not None}
    if tensors:
        yield key, tensors
    for name, value in content.items() if depth else ():
        yield from dicts_of(value, f"{key}.{name}" if key else str(name), depth - 1)


def _tensor(value: object) -> Tensor | None:
    """A tensor or an array of numbers as a plain tensor; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized or value.is_nested:
        return None
    return value.detach().to_dense() if value.layout is not torch.strided else value.detach()


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their names without those of wrappers; as they are where two would have one name."""
    short = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    return short if len(short) == len(tensors) else tensors


def masked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With torch.nn.utils.prune's pairs, NAME_orig and NAME_mask, multiplied to NAME."""
    found = dict(tensors)
    for name in tensors:
        base = name.removesuffix("_orig")
        if base != name and f"{base}_mask" in tensors and base not in tensors:
            found[base] = found.pop(name) * found.pop(f"{base}_mask")
    return found


def stated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks that stand beside weights: torch.nn.utils.prune's NAME_mask, open_lth's mask_NAME, a layer's mask."""
    masks = {name.removesuffix("_mask"): value for name, value in tensors.items() if name.endswith("_mask")}
    masks |= {
        re.sub(r"mask$", "weight", name): value for name, value in tensors.items() if re.search(r"(^|\.)mask$", name)
    }
    return masks | {
        re.sub(r"mask_(?=[^.]+$)", "", name).replace("___", "."): value
        for name, value in tensors.items()
        if re.search(r"(^|\.)mask_[^.]+$", name)
    }


def prefix_of(path: str | Path, tensors: Mapping[str, Tensor], needed: Mapping[str, set[str]]) -> str | None:
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


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under names without the usual prefix that all of them have."""
    prefix = min((_USUAL.match(name)[0] for name in tensors), key=len, default="")
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def fitting(
    path: str | Path,
    content: object,
    needed: Mapping[str, set[str]],
    network: str,
    advice: str = "give the --network it was made with",
) -> tuple[str, dict[str, Tensor]]:
    """(prefix, tensors) of the one dict in a file that has the needed names. Raises UsageError where there is none."""
    fits = {}
    for key, tensors in dicts_of(content):
        for given in (masked(tensors), masked(unwrapped(tensors))):
            if key not in fits and (prefix := prefix_of(path, given, needed)) is not None:
                fits[key] = prefix, given
    if not fits:
        raise UsageError(lacking(path, content, needed, network, advice))
    return fits[one_of(path, fits)]


def one_of(path: str | Path, fits: Mapping[str, object]) -> str:
    """The key of the dict that is taken where several fit."""
    keys = list(fits)
    for key in ("", *PREFERRED, *keys[: len(keys) == 1]):
        if key in fits:
            return key
    raise UsageError(
        f"{path} holds several that fit ({', '.join(keys)}): save the one that is meant, by "
        "torch.save(model.state_dict(), PATH)"
    )


def lacking(path: str | Path, content: object, needed: Mapping[str, set[str]], network: str, advice: str) -> str:
    """Why no dict of a file fits."""
    dicts = list(dicts_of(content))
    if not dicts or max(len(tensors) for _, tensors in dicts) < 2:
        return (
            f"{path} holds no state dict (a dict of tensors), but {described(content)}: write "
            "torch.save(model.state_dict(), PATH)"
        )
    key, tensors = max(dicts, key=lambda each: len(each[1]))
    given = masked(unwrapped(tensors))
    plain = {_USUAL.sub("", name, count=1) for name in given} | given.keys()
    missing = next((name for name, names in needed.items() if not names & plain), next(iter(needed)))
    where = f" under {key}" if key else ""
    return (
        f"{path} has no tensor {missing} of {network} among the {len(tensors)} that it has{where} "
        f"({listed(tensors)}): {advice}"
    )


def checked(path: str | Path, name: str, value: Tensor, shape: tuple[int, ...], network: str) -> Tensor:
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


def described(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict of {listed(content)}" if content else "an empty dict"
    kind = type(content)
    return f"a whole {kind.__name__}" if issubclass(kind, torch_file.Foreign) else f"a {kind.__name__}"


def listed(names: Mapping) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:4] + ["…"] * (len(shown) > 4))
