"""The numbers of an own figure, checked before anything is planned with them: ``replicates = -3`` is no finished study."""

import dataclasses
import math
from pathlib import Path

from repro.errors import UsageError
from repro.plan.declare import Cell, Gradients, Item, Subset
from repro.protocol import Protocol, Scoring, Warmup

MOST = 1000  # replicates, levels and networks, as on the command line


def whole(low: int, high: float = math.inf):
    """A test for whole numbers in a range, and its words."""
    words = f"a whole number from {low}" + (f" to {high}" if high < math.inf else " on")
    return lambda value: type(value) is int and low <= value <= high, words


def several(test):
    fits, words = test
    return lambda value: isinstance(value, (tuple, list)) and all(map(fits, value)), f"a tuple, each {words}"


def maybe(test):
    fits, words = test
    return lambda value: value is None or fits(value), f"None, or {words}"


_SHARE = (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a share from 0 to 1")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_SIZE, _STEP, _FEW = whole(1), whole(0), whole(1, MOST)
_TESTS = {
    Protocol: {
        "t_star": _STEP, "subset_size": _SIZE, "sizes": several(_SIZE), "levels": whole(0, MOST), "replicates": _FEW,
        "more_replicates": maybe(_FEW), "second_look": maybe(_FEW), "balanced": _FLAG, "sweep_levels": several(whole(0, MOST)),
        "noise": several(_SHARE), "noise_size": _SIZE, "barrier_level": whole(0, MOST), "barrier_all": several(_STEP),
        "barrier_subsets": several(_STEP), "barrier_sizes": several(_SIZE), "onset_steps": several(_STEP),
        "children": _FEW, "seed": whole(-(2**63), 2**63 - 1), "image_size": _SIZE, "in_chans": _SIZE,
        "num_classes": whole(2), "train_images": _SIZE, "test_images": _SIZE, "folds": _FEW,
        "prune_fraction": (lambda value: type(value) is float and 0 < value < 1, "a share between 0 and 1"),
        "normalization": (lambda value: value in ("dataset", "imagenet"), "'dataset' or 'imagenet'"),
    },
    Cell: {"t": _STEP, "noise": _SHARE, "replicates": maybe(_FEW), "levels": maybe(whole(0, MOST))},
    Subset: {
        "kind": (lambda value: value in ("easy", "hard", "random"), "'easy', 'hard' or 'random'"), "size": _SIZE,
        "balanced": maybe(_FLAG), "permuted": _FLAG,
    },
    Warmup: {"steps": several(_STEP), "sizes": several(_SIZE), "replicates": _FEW},
    Scoring: {"networks": _FEW, "batch_norm": (lambda value: value in ("batch", "running"), "'batch' or 'running'")},
    Gradients: {"steps": _STEP, "every": _SIZE},
}  # fmt: skip


def require_values(found: Protocol | Scoring | Warmup | Item, path: Path) -> None:
    """Raises UsageError that names the first field of a protocol or an item, or of what is in it, with a value that
    nothing can be made of."""
    for field, (fits, words) in _TESTS.get(type(found), {}).items():
        value = getattr(found, field)
        if not fits(value):
            raise UsageError(f"{path} has {field} (={value!r}): it must be {words}")
    if isinstance(found, Protocol) and found.second_look is not None and found.second_look <= found.replicates:
        raise UsageError(f"{path} has second_look (={found.second_look}): it must be above replicates "
                         f"(={found.replicates}), of the first look")  # fmt: skip
    for field in dataclasses.fields(found):
        part = getattr(found, field.name)
        if isinstance(part, (Cell, Subset, Scoring, Warmup)):
            require_values(part, path)
