"""The words of commands, and the recipe fields that follow from them.

A command is told its scale. For a user's own protocol it is told every field that differs from the data set's protocol.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from repro.data.user_numbers import read_numbers, split_key
from repro.plan.items import Cell
from repro.protocol import OWN, Protocol, Scoring, protocol
from repro.recipes.artifacts import ADDED, DEFAULTS, training_fields
from repro.recipes.training import Training

TRAINING = (
    *("milestones", "steps", "batch_size", "lr", "weight_decay", "precision", "border", "augment", "drop_last"),
    *ADDED,
)
"""Fields of a `Training` that commands take as options."""
_OFF = {"drop_last": "--keep-last", "balanced": "--unbalanced"}


def words(verb: str, *arguments, **options) -> tuple[str, ...]:
    """A command, with its options in the order given: ``words("imp", "a.h5", levels=3)`` is imp a.h5 --levels 3.

    None leaves an option out, True and False are flags, a tuple stands behind one option with commas, and each value of
    a list stands behind an option of its own.
    """
    found = [verb, *map(str, arguments)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        if isinstance(value, bool):
            found.append(option if value else _OFF.get(name, f"--no-{option[2:]}"))
        elif isinstance(value, tuple):
            found += [option, ",".join(map(str, value))]
        elif value is not None:
            found += [word for each in (value if isinstance(value, list) else [value]) for word in (option, str(each))]
    return tuple(found)


def options_of(p: Protocol, replicates: int | None, training: Training, scoring: Scoring | None = None) -> dict:
    """Options of a command that trains or scores. replicates: None where all replicates share one result."""
    which = _own_options(p, training, scoring) if p.scale == OWN else {"scale": p.scale}
    return which | {"seed": p.seed, "replicates": replicates}


def label_options(cell: Cell) -> dict:
    """Options for other labels than the data set's own."""
    if cell.labels:
        return {"labels": cell.labels}
    return {"label_noise": f"{cell.noise:g}"} if cell.noise else {}


def label_fields(cell: Cell) -> dict:
    """Recipe fields of the labels. Labels of a file are compared in the artifact (`Step.mislabelled`)."""
    return {"label_noise": cell.noise} | ({} if cell.labels else {"labels_sha256": ""})


def recipe_of(p: Protocol, training: Training) -> dict:
    """Recipe fields of a protocol and of one of its trainings."""
    return dict(_recipe(p, training))


@lru_cache(maxsize=64)  # a plan has thousands of steps and few protocols
def _recipe(p: Protocol, training: Training) -> dict:
    said = {"dataset": p.dataset, "network": p.network, "normalization": p.normalization, "seed": p.seed}
    said["init"] = p.init
    said |= {name: DEFAULTS[name] for name in ADDED} | training_fields(training)
    if not training.augment:  # then no image is cropped
        del said["border"]
    return said


def _own_options(p: Protocol, training: Training, scoring: Scoring | None) -> dict:
    """Options for the fields in which a user's protocol differs from the data set's. scoring: of the score command."""
    base = protocol(p.dataset)
    ours, usual = (scoring, base.scoring) if scoring else (p, base)
    names = ("networks", "batch_norm", "network") if scoring else ("network",)
    warming = not scoring and p.warmup and training is p.warmup.training and base.warmup
    plain = base.warmup.training if warming else usual.training
    pairs = [(name, getattr(ours, name), getattr(usual, name)) for name in names]
    pairs.append(("init", p.init, base.init))
    pairs += [(name, getattr(training, name), getattr(plain, name)) for name in TRAINING]
    idle = {"border": not training.augment, "milestones": training.schedule != "step"}
    return {name: here for name, here, there in pairs if here != there and not idle.get(name)}


def sha256_of_scores(path: str, p: Protocol) -> str:
    """The checksum of a user's scores in select's recipe. Raises UsageError for a file that select refuses."""
    return hashlib.sha256(_per_image(path, "score", p).astype("<f8")).hexdigest()


def given_labels(path: str, p: Protocol) -> np.ndarray:
    """A user's labels, float64 [N], NaN for images that the file leaves out. Raises UsageError as `read_numbers`."""
    return _per_image(path, "label", p)


def _per_image(path: str, name: str, p: Protocol) -> np.ndarray:
    try:
        found = split_key(path)[0].stat()
        state = found.st_ino, found.st_size, found.st_mtime_ns
    except OSError:
        state = None  # `read_numbers` says what is wrong
    return _read_once(path, name, p.all_images, p.train_images if p.folds == 1 else None, state)


@lru_cache(maxsize=16)
def _read_once(path: str, name: str, size: int, train: int | None, state: tuple | None) -> np.ndarray:
    """`read_numbers`, once for each state of the file, because every step of a figure asks for it."""
    found = read_numbers(Path(path), name, size=size, train=None if train is None else np.arange(train))
    found.flags.writeable = False
    return found
