"""The numbers of an own figure, checked before anything is planned with them: ``replicates = -3`` is no finished study."""

import dataclasses
import math
from pathlib import Path

from repro.errors import UsageError
from repro.experiment import MOST, Protocol, Scoring, Warmup
from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, Subset, WarmupSweep
from repro.recipes.training import Training


def whole(low: int, high: float = math.inf):
    """A test for whole numbers in a range, and its words."""
    words = f"a whole number from {low}" + (f" to {high}" if high < math.inf else " on")
    return lambda value: type(value) is int and low <= value <= high, words


def several(test):
    fits, words = test
    return lambda value: isinstance(value, tuple) and all(map(fits, value)), f"a tuple, each {words}"


def maybe(test):
    fits, words = test
    return lambda value: value is None or fits(value), f"None, or {words}"


def a(kind: type):
    return lambda value: isinstance(value, kind), {str: "text"}.get(kind, f"a {kind.__name__}")


def ascending(test):
    fits, words = test
    return lambda value: fits(value) and bool(value) and list(value) == sorted(set(value)), f"{words}, ascending"


_SHARE = (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a share from 0 to 1")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_SIZE, _STEP, _FEW = whole(1), whole(0), whole(1, MOST)
_TESTS = {
    Protocol: {
        "network": a(str),
        "training": a(Training),
        "scoring": a(Scoring),
        "warmup": maybe(a(Warmup)),
        "second_look": maybe(_FEW),
        "judging_levels": ascending(several(whole(0, MOST))),
        "t_star": _STEP,
        "subset_size": _SIZE,
        "sizes": several(_SIZE),
        "levels": whole(0, MOST),
        "replicates": _FEW,
        "more_replicates": maybe(_FEW),
        "balanced": _FLAG,
        "sweep_levels": several(whole(0, MOST)),
        "noise": several(_SHARE),
        "noise_size": _SIZE,
        "barrier_level": whole(0, MOST),
        "barrier_all": several(_STEP),
        "barrier_subsets": several(_STEP),
        "barrier_sizes": several(_SIZE),
        "onset_steps": several(_STEP),
        "children": _FEW,
        "seed": whole(-(2**63), 2**63 - 1),
        "image_size": _SIZE,
        "in_chans": _SIZE,
        "num_classes": whole(2),
        "train_images": _SIZE,
        "test_images": _SIZE,
        "folds": _FEW,
        "prune_fraction": (lambda value: type(value) is float and 0 < value < 1, "a share between 0 and 1"),
        "normalization": (lambda value: value in ("dataset", "imagenet"), "'dataset' or 'imagenet'"),
    },
    Cell: {
        "protocol": a(Protocol),
        "t": _STEP,
        "subset": maybe(a(Subset)),
        "noise": _SHARE,
        "replicates": maybe(_FEW),
        "levels": maybe(whole(0, MOST)),
    },
    Chosen: {"protocol": a(Protocol), "subset": a(Subset), "noise": _SHARE, "replicates": maybe(_FEW)},
    Barrier: {"cell": a(Cell)},
    Branch: {"cell": a(Cell)},
    WarmupSweep: {"protocol": a(Protocol)},
    Gradients: {"protocol": a(Protocol), "subset": maybe(a(Subset)), "replicates": maybe(_FEW)},
    Subset: {
        "kind": (lambda value: value in ("easy", "hard", "random"), "'easy', 'hard' or 'random'"),
        "size": _SIZE,
        "like": maybe(a(Subset)),
        "balanced": maybe(_FLAG),
        "permuted": _FLAG,
    },
    Warmup: {
        "training": a(Training),
        "steps": several(_STEP),
        "sizes": several(_SIZE),
        "replicates": _FEW,
        "balanced_easy": _FLAG,
        "balanced_hard": _FLAG,
    },
    Training: {
        "steps": _SIZE,
        "batch_size": _SIZE,
        "milestones": several(_SIZE),
        "border": _STEP,
        "augment": _FLAG,
        "drop_last": _FLAG,
        "nesterov": _FLAG,
    },
    Scoring: {
        "network": a(str),
        "training": a(Training),
        "networks": _FEW,
        "batch_norm": (lambda value: value in ("batch", "running"), "'batch' or 'running'"),
    },
}


def require_values(found: Protocol | Scoring | Training | Warmup | Item, path: Path) -> None:
    """Raises UsageError that names the first field of a protocol or an item, or of what is in it, with a value that
    nothing can be made of."""
    for field, (fits, words) in _TESTS.get(type(found), {}).items():
        value = getattr(found, field)
        if not fits(value):
            raise UsageError(f"{path} has {field} (={value!r}): it must be {words}")
    if isinstance(found, Protocol) and found.second_look is not None and found.second_look <= found.replicates:
        raise UsageError(
            f"{path} has second_look (={found.second_look}): it must be above replicates "
            f"(={found.replicates}), of the first look"
        )
    for field in dataclasses.fields(found):
        part = getattr(found, field.name)
        if type(part) in _TESTS:
            require_values(part, path)
