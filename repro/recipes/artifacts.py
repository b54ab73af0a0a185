"""What artifacts are made of, without PyTorch: names of pieces, fields of recipes, bytes of arrays.

Stages write by these names and fields, and the plan, status and notebooks read by them. docs/artifact-format.md lists
them all.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import asdict
from functools import cache
from itertools import product

from repro.recipes.training import Training

DEFAULTS = {
    "balanced": False,
    "permute_scores": False,
    "pruning": "magnitude",
    "prune_fraction": 0.2,
    "prune_at": "trained",
    "keep_dense": [],
    "rewind": "weights",
    "precision": "fp32",
    "nesterov": False,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "drop_last": True,
    "augment": True,
    "score": "el2n",
    "label_noise": 0.0,
    "noise_draw": "shared",
    "labels_sha256": "",
    "grand": False,
    "border": 4,
    "schedule": "step",
    "warmup_steps": 0,
    "label_smoothing": 0.0,
    "init": "paper",
    "init_sha256": "",
}
"""Fields left out of an identity while they have these values, so that an option added later renames nothing."""
ADDED = ("schedule", "warmup_steps", "label_smoothing")
"""Fields that recipes have only where they are not at their default: artifacts were made before there were such."""


def piece_name(**numbers: int) -> str:
    """The name of a piece, or the start of one: ``piece_name(replicate=0, level=3)`` is 'replicate_0/level_3'."""
    return "/".join(f"{name}_{number}" for name, number in numbers.items())


def array_name(array: str, **numbers: int) -> str:
    """Where an array of a piece stands: ``array_name("mask", replicate=0, level=3)`` is 'replicate_0/level_3/mask'."""
    return f"{piece_name(**numbers)}/{array}"


def started_from(recipe: dict, level: int) -> str:
    """Where a replicate of an imp artifact keeps what a level started from, before its mask: the rewind point, unless
    its weights went on."""
    if level and recipe.get("rewind", DEFAULTS["rewind"]) != "weights":
        return array_name("weights", level=level - 1)
    return "level_0/rewind_weights"


def piece_names(**ranges: Iterable[int]) -> frozenset[str]:
    """The pieces of every combination: ``piece_names(replicate=range(4), level=range(2))`` are eight."""
    return _pieces(tuple((name, tuple(numbers)) for name, numbers in ranges.items()))


@cache  # thousands of steps of a plan have the same few sets
def _pieces(ranges: tuple[tuple[str, tuple[int, ...]], ...]) -> frozenset[str]:
    names = [name for name, _ in ranges]
    return frozenset(piece_name(**dict(zip(names, each))) for each in product(*(numbers for _, numbers in ranges)))


def warmed_up(subset: str, w: int, replicate: int) -> str:
    """The piece of a network of the warm-up study: 'easy256/w20/replicate_0'."""
    return f"{subset}/w{w}/{piece_name(replicate=replicate)}"


def on_line(parent: str, a: int, b: int) -> str:
    """The line between two children of a parent, without the kind of batch norm: 'replicate_0/pair_0_1'."""
    return f"{parent}/pair_{a}_{b}"


@cache
def number(name: str, of: str) -> int | None:
    """A number in the name of a piece: ``number("level", "replicate_0/level_3")`` is 3; None where there is none."""
    found = re.search(rf"(?:^|/){name}_(\d+)(?:/|$)", of)
    return int(found[1]) if found else None


def training_fields(training: Training) -> dict:
    """The recipe fields of a `Training`, flat and in JSON types; `ADDED` ones at their default are left out."""
    fields = {**asdict(training), "milestones": list(training.milestones)}
    return {name: value for name, value in fields.items() if name not in ADDED or value != DEFAULTS[name]}


def training_of(recipe: dict) -> Training:
    """The `Training` that `training_fields` put into a recipe."""
    fields = {name: recipe.get(name, DEFAULTS.get(name)) for name in Training.__dataclass_fields__}
    return Training(**{**fields, "milestones": tuple(fields["milestones"])})


def array_bytes(verb: str, pieces: Collection[str], recipe: dict, protocol, prunable: int, numbers: int) -> int:
    """Bytes of the arrays of a complete artifact before compression, without tables and HDF5's own structures.

    Folds are taken to be of equal size.

    Arguments:
        verb: the command that makes it.
        pieces: all pieces of its table.
        protocol: its `repro.experiment.Protocol`.
        prunable, numbers: how many prunable weights its network has, and how many weights and batch-norm statistics.
    """
    train, tests = protocol.train_images, -(-protocol.test_images // 8)  # a bit for each test image
    weights, points = 4 * numbers, len(recipe.get("alphas", ()))
    trained = -(-prunable // 8) + weights + tests + 2 * train  # mask, weights, test bits, margins in half precision
    line = 4 * protocol.all_images + -(-train // 8) + tests  # losses, and a bit for each image
    each, of_replicate, once = {  # bytes for each piece, for each replicate or fold, and once
        "score": (12 * train, 20 * train + 8, 0),  # three scores of each network and their means; int64 indices
        "select": (8 * (recipe.get("size", 0) + protocol.num_classes), 0, 0),
        "pretrain": (weights, 0, 0),
        "imp": (trained, weights, 0),
        "branch": (trained, weights, 0),
        "barrier": (points * line, protocol.children * (weights + 8), 8 * points),
        "warmup": (tests, 0, 0),
        "gradients": (8 * recipe.get("batches", 0), weights, 0),
    }[verb]
    noisy = verb in ("score", "select", "pretrain") and recipe.get("label_noise")  # then the labels are kept, too
    labels = 8 * protocol.all_images if noisy else 0
    return len(pieces) * each + len({name.split("/")[0] for name in pieces}) * of_replicate + once + labels
