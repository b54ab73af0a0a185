"""What commands have to be told, of an own protocol what differs from the data set's; and what recipes then say."""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from repro.data.user_numbers import read_numbers, split_key
from repro.plan.items import Cell
from repro.protocol import OWN, Protocol, Scoring, protocol
from repro.recipes.artifacts import training_fields
from repro.recipes.training import Training

TRAINING = ("milestones", "steps", "batch_size", "lr", "weight_decay", "precision", "border", "augment", "drop_last")
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
    """Options of a command that trains or scores, for so many replicates; None: one result is for all of them."""
    which = _own_options(p, training, scoring) if p.scale == OWN else {"scale": p.scale}
    return which | {"seed": p.seed, "replicates": replicates}


def label_options(cell: Cell) -> dict:
    """Options for other labels than the data set's own."""
    if cell.labels:
        return {"labels": cell.labels}
    return {"label_noise": f"{cell.noise:g}"} if cell.noise else {}


def label_fields(cell: Cell) -> dict:
    """What recipes say of the labels; a file's are looked at in the artifact (`Step.mislabelled`)."""
    return {"label_noise": cell.noise} | ({} if cell.labels else {"labels_sha256": ""})


def recipe_of(p: Protocol, training: Training) -> dict:
    """What recipes say of the protocol and of a training."""
    return dict(_recipe(p, training))


@lru_cache(maxsize=64)  # thousands of steps are of a few protocols
def _recipe(p: Protocol, training: Training) -> dict:
    said = {"dataset": p.dataset, "network": p.network, "normalization": p.normalization, "seed": p.seed}
    said |= training_fields(training)
    if not training.augment:  # nothing is cropped
        del said["border"]
    return said


def _own_options(p: Protocol, training: Training, scoring: Scoring | None) -> dict:
    """Options of a command (that trains, or that scores) for what differs from the data set's own protocol."""
    base = protocol(p.dataset)
    ours, usual = (scoring, base.scoring) if scoring else (p, base)
    names = ("networks", "batch_norm", "network") if scoring else ("network",)
    warming = not scoring and p.warmup and training is p.warmup.training and base.warmup
    plain = base.warmup.training if warming else usual.training
    pairs = [(name, getattr(ours, name), getattr(usual, name)) for name in names]
    pairs += [(name, getattr(training, name), getattr(plain, name)) for name in TRAINING]
    return {name: here for name, here, there in pairs if here != there and (name != "border" or training.augment)}


def sha256_of_scores(path: str, p: Protocol) -> str:
    """What select's recipe says of a user's scores. Raises UsageError for a file that it would not take."""
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
    """`read_numbers`, once for each state of the file: every step of a figure asks for it."""
    found = read_numbers(Path(path), name, size=size, train=None if train is None else np.arange(train))
    found.flags.writeable = False
    return found
