"""The recipe of an artifact as commands rely on it: fields that are there, each of its type."""

from collections.abc import Mapping
from pathlib import Path

from repro.errors import UsageError
from repro.store.lineage import Lineage

NUMBER = (int, float)
TYPES = {
    **dict.fromkeys(
        (
            "dataset",
            "data_sha256",
            "normalization",
            "network",
            "subset",
            "score",
            "noise_draw",
            "labels_sha256",
            "precision",
            "batch_norm",
            "mask",
            "weights",
            "form",
        ),
        str,
    ),
    **dict.fromkeys(
        ("steps", "batch_size", "t", "seed", "border", "size", "networks", "every", "batches", "level"), int
    ),
    **dict.fromkeys(("lr", "momentum", "weight_decay", "prune_fraction", "label_noise"), NUMBER),
    **dict.fromkeys(("nesterov", "drop_last", "augment", "balanced", "permute_scores", "grand"), bool),
    "milestones": [int],
    "alphas": [NUMBER],
}
"""Field -> its type; a list of a type holds any number of them. None is the same as no such field."""
LEAST = {"t": 0, "size": 1, "networks": 1, "batches": 1, "every": 1, "level": 0}


class Recipe(dict):
    """A recipe whose missing fields are told in a sentence: somebody else wrote it."""

    def __init__(self, recipe: Mapping, path: Path):
        super().__init__({field: value for field, value in recipe.items() if value is not None or field not in TYPES})
        self._path = path

    def __missing__(self, field: str):
        raise UsageError(
            f"the recipe of {self._path} has no {field}: give an artifact whose recipe is as repro wrote it"
        )


def require_types(path: Path, lineage: Lineage) -> None:
    """Raises UsageError for a field of another type than commands write, in the recipe or in one of the inputs'."""
    for field, value in lineage.recipe.items():
        if field not in TYPES or value is None:
            continue
        if not _fits(value, TYPES[field]) or (field in LEAST and value < LEAST[field]):
            of = "" if lineage.name == path.stem else f" of {lineage.name}"
            raise UsageError(
                f"the recipe of {path} has {field}{of} = {value!r}: give an artifact whose recipe is as repro wrote it"
            )
    for source in lineage.inputs.values():
        require_types(path, source)


def _fits(value, wanted) -> bool:
    if isinstance(wanted, list):
        return isinstance(value, list) and all(_fits(item, wanted[0]) for item in value)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
