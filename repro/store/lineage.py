"""What an artifact is made of: kind, recipe and inputs; the identity that follows from them; the types of fields."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from repro.errors import UsageError

ABSENT = "not set"


def plain(value, where: str):
    """``value`` in JSON's own types. Raises UsageError for NaN and infinity, TypeError for what JSON cannot hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} (={value}) is not a finite number: give it a finite value")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} (={value!r}) is neither a number, a text, a list nor a mapping by names")


def canonical(value) -> str:
    """A value as JSON text: sorted keys, no spaces, and 1.0 written as 1, so that equal values are equal text."""

    def exact(item):
        if isinstance(item, float) and item.is_integer():
            return int(item)
        if isinstance(item, list):
            return [exact(part) for part in item]
        return {key: exact(part) for key, part in item.items()} if isinstance(item, dict) else item

    return json.dumps(exact(plain(value, "value")), sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Lineage:
    """What one artifact is made of. It holds the lineages of its inputs, so that a file explains itself.

    Arguments:
        kind: the command that makes it ('score', 'subset', 'pretrain', 'imp' …).
        recipe: option -> value, flat. The number of replicates and levels is no part of it: a run grows.
        inputs: role -> the lineage of an artifact that is read (or the artifact itself).
        defaults: option -> the value at which it is left out of the identity, so that a new option renames nothing.
        name: a label for people; no part of the identity.
    """

    kind: str
    recipe: Mapping
    inputs: Mapping[str, "Lineage"] = field(default_factory=dict)
    defaults: Mapping = field(default_factory=dict)
    name: str = ""

    def __post_init__(self):
        recipe = plain(self.recipe, f"{self.kind} recipe")
        known = {option: value for option, value in self.defaults.items() if option in recipe}
        inputs = {role: getattr(source, "lineage", source) for role, source in (self.inputs or {}).items()}
        for name, value in (("recipe", recipe), ("defaults", plain(known, "defaults")), ("inputs", inputs)):
            object.__setattr__(self, name, value)

    @cached_property
    def identity(self) -> str:
        """sha256, in hex, of the canonical JSON of kind, recipe less options at their default, and inputs' identity."""
        asked = {
            option: value
            for option, value in self.recipe.items()
            if option not in self.defaults or canonical(value) != canonical(self.defaults[option])
        }
        inputs = {role: source.identity for role, source in self.inputs.items()}
        text = canonical({"kind": self.kind, "recipe": asked, "inputs": inputs})
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict:
        """All of it in JSON types; `from_json` gives it back."""
        inputs = {role: source.to_json() for role, source in self.inputs.items()}
        own = {"kind": self.kind, "name": self.name, "identity": self.identity}
        return {**own, "recipe": self.recipe, "defaults": self.defaults, "inputs": inputs}

    @classmethod
    def from_json(cls, record: Mapping) -> "Lineage":
        """Inverse of `to_json`. The identity is computed again. Raises KeyError when a part is missing."""
        inputs = {role: cls.from_json(source) for role, source in record["inputs"].items()}
        return cls(record["kind"], record["recipe"], inputs, record["defaults"], record["name"])


def identity(kind: str, recipe: Mapping, inputs: Mapping, defaults: Mapping) -> str:
    """The identity of an artifact that need not exist yet; see `Lineage`."""
    return Lineage(kind, recipe, inputs, defaults).identity


def differences(there: Lineage, here: Lineage, prefix: str = "") -> list[tuple[str, object, object]]:
    """(field, value there, value here) wherever two lineages differ, those of their inputs included.

    An option that one side does not know counts as at its default there.
    """
    found = [] if there.kind == here.kind else [(prefix + "kind", there.kind, here.kind)]
    for option in sorted(there.recipe.keys() | here.recipe.keys()):
        a = there.recipe.get(option, here.defaults.get(option, ABSENT))
        b = here.recipe.get(option, there.defaults.get(option, ABSENT))
        if canonical(a) != canonical(b):
            found.append((prefix + option, a, b))
    for role in sorted(there.inputs.keys() | here.inputs.keys()):
        a, b = there.inputs.get(role), here.inputs.get(role)
        if a is None or b is None:
            found.append((prefix + role, a.name if a else ABSENT, b.name if b else ABSENT))
        elif a.identity != b.identity:
            found += differences(a, b, f"{prefix}{role}.")
    return found


def require_same(path, there: Lineage, here: Lineage) -> None:
    """Raises UsageError that names the fields in which the artifact at ``path`` differs from the one asked for."""
    found = differences(there, here)
    if found:
        texts = [f"{name} is {a} there and {b} here" for name, a, b in found[:6]]
        more = f", and {len(found) - 6} more fields differ" if len(found) > 6 else ""
        raise UsageError(
            f"{path} was made with another recipe: {', '.join(texts)}{more}; "
            "choose another --out or pass --force to start anew"
        )


NUMBER = (int, float)
_TEXTS = "dataset data_sha256 normalization network subset score noise_draw labels_sha256 precision batch_norm mask"
TYPES = {
    **dict.fromkeys(f"{_TEXTS} weights form schedule init init_sha256 pruning prune_at rewind".split(), str),
    **dict.fromkeys("steps batch_size t seed border size networks every batches level".split(), int),
    **dict.fromkeys("warmup_steps finetune_steps".split(), int),
    **dict.fromkeys("lr momentum weight_decay prune_fraction label_noise label_smoothing".split(), NUMBER),
    **dict.fromkeys("nesterov drop_last augment balanced permute_scores grand".split(), bool),
    "milestones": [int],
    "alphas": [NUMBER],
    "keep_dense": [str],
}
"""Field of a recipe -> its type; a list of a type holds any number of them. None counts as a missing field."""
_AS_WRITTEN = "give an artifact whose recipe is as repro wrote it"
LEAST = {"t": 0, "size": 1, "networks": 1, "batches": 1, "every": 1, "level": 0}


class Recipe(dict):
    """A recipe as commands rely on it. Raises UsageError for a missing field: another program may have written it."""

    def __init__(self, recipe: Mapping, path: Path):
        super().__init__({name: value for name, value in recipe.items() if value is not None or name not in TYPES})
        self._path = path

    def __missing__(self, name: str):
        raise UsageError(
            f"the recipe of {self._path} has no {name}: give an artifact whose recipe is as repro wrote it"
        )


def require_types(path: Path, lineage: Lineage) -> None:
    """Raises UsageError for a field of another type than commands write, in the recipe or in one of the inputs'."""
    for name, value in lineage.recipe.items():
        if name not in TYPES or value is None:
            continue
        if not _fits(value, TYPES[name]) or value < LEAST.get(name, value):
            of = "" if lineage.name == path.stem else f" of {lineage.name}"
            raise UsageError(f"the recipe of {path} has {name}{of} = {value!r}: {_AS_WRITTEN}")
    for source in lineage.inputs.values():
        require_types(path, source)


def _fits(value, wanted) -> bool:
    if isinstance(wanted, list):
        return isinstance(value, list) and all(_fits(item, wanted[0]) for item in value)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
