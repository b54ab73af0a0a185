"""A figure of the user's own: a Python file that says which runs it needs, how it is drawn and which claims are judged.

It defines PROTOCOL, a `Protocol` made with `repro.protocol.own` (or PROTOCOLS, several of them). The rest is Figure 2's
where the file leaves it out: needed(protocol) gives items of `repro.plan`; draw(evidence, protocols) gives a matplotlib
figure and a table; CLAIMS names the paper's figures whose claims are judged. Every value is checked before anything is
planned with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from repro import usercode
from repro.errors import RunError, UsageError
from repro.experiment import MOST, OWN, Protocol, Scoring, Warmup
from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, Subset, WarmupSweep
from repro.plan.options import TRAINING
from repro.protocol import SCALES, protocol
from repro.recipes.pruning import Pruning
from repro.recipes.training import Training


@dataclass(frozen=True)
class OwnFigure:
    """What the file at ``path`` defines. The figure has the name of the file, without its ending."""

    path: Path
    protocols: tuple[Protocol, ...]
    claims: tuple[str, ...]
    _needed: Callable
    _draw: Callable

    @property
    def name(self) -> str:
        return self.path.stem

    def needed(self, p: Protocol) -> list[Item]:
        """Its items on one data set, each once. Raises UsageError where needed() fails or gives something else."""
        try:
            items = list(dict.fromkeys(self._needed(p)))
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"needed() of {self.path} fails ({usercode.reason(error, self.path)}): mend it") from error
        if odd := [item for item in items if not isinstance(item, Item)]:
            raise UsageError(f"needed() of {self.path} gives {odd[0]!r}: it has to give items of repro.plan, as Cell")
        for item in items:
            require_values(item, self.path)
        if not items:
            raise UsageError(f"needed() of {self.path} gives nothing for {p.dataset}: return at least one Cell")
        return items

    def draw(self, evidence, protocols: list[Protocol]):
        """(matplotlib figure, table of what it shows). Raises RunError where draw() fails or gives something else."""
        import matplotlib
        from matplotlib.figure import Figure
        from pandas import DataFrame

        matplotlib.use("Agg")  # a figure is a file: no display is needed or touched

        try:
            drawn = self._draw(evidence, protocols)
        except Exception as error:
            raise RunError(f"draw() of {self.path} fails ({usercode.reason(error, self.path)}): mend it") from error
        if not (isinstance(drawn, tuple) and [*map(type, drawn)] == [Figure, DataFrame]):
            raise RunError(f"draw() of {self.path} gives {drawn!r}: return a matplotlib Figure and a pandas DataFrame")
        return drawn


def is_own(name: str) -> bool:
    """Whether a figure is named by a user's file."""
    return name.endswith(".py")


def read(name: str) -> OwnFigure:
    """The figure that a user's file defines. Raises UsageError for a file that cannot be run or lacks a part."""
    import paper_figures
    from paper_figures import figure2

    path = Path(name)
    if path.stem in (*paper_figures.NAMES, *SCALES, "all"):
        raise UsageError(f"{path} has the name of a figure or scale of the paper: call the file otherwise")
    found = vars(usercode.run(path))
    protocols = found["PROTOCOLS"] if "PROTOCOLS" in found else [found.get("PROTOCOL")]
    if not protocols or not all(isinstance(p, Protocol) for p in protocols):
        raise UsageError(f"{path} defines no PROTOCOL: write PROTOCOL = repro.protocol.own(DATASET, …)")
    if len({p.dataset for p in protocols}) < len(protocols):
        raise UsageError(f"{path} has two protocols of one data set: give each data set one")
    claims = tuple(found.get("CLAIMS", ("figure2",)))
    if unknown := [claim for claim in claims if claim not in paper_figures.NAMES]:
        raise UsageError(f"CLAIMS of {path} has {unknown[0]!r}: choose among {', '.join(paper_figures.NAMES)}")
    # runs of these protocols are none of the paper's, even if the file took a protocol of the paper as it is
    own = tuple(replace(p, scale=OWN) for p in protocols)
    for p in own:
        require_values(p, path)
        require_options(p, path)
    return OwnFigure(path, own, claims, found.get("needed", figure2.needed), found.get("draw", _as_figure2))


def _as_figure2(evidence, protocols: list[Protocol]):
    import paper_figures

    return paper_figures.draw("figure2", evidence, protocols)


def require_options(p: Protocol, path: Path) -> None:
    """Raises UsageError for a field that differs from the data set's protocol and that no command has an option for."""
    base = protocol(p.dataset)
    fixed = {"normalization": (p.normalization, base.normalization)}
    pairs = [("", p.training, base.training), ("scoring ", p.scoring.training, base.scoring.training)]
    if p.warmup:
        pairs.append(("warm-up ", p.warmup.training, (base.warmup or base).training))
    for of, ours, usual in pairs:
        swept = {"warmup_steps"} if of == "warm-up " else set()  # the study's own
        for name in {field.name for field in fields(Training)} - set(TRAINING) | swept:
            fixed[of + name] = (getattr(ours, name), getattr(usual, name))
    for name, (ours, usual) in sorted(fixed.items()):
        if ours != usual:
            raise UsageError(f"{path} asks for {name} {ours} on {p.dataset}, which is always {usual}: leave it out")


def whole(low: int, high: float = math.inf):
    """(test of a value, its words for a message): whole numbers in a range. The functions below give other tests."""
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


def one_of(*texts: str):
    *most, last = map(repr, texts)
    return lambda value: value in texts, f"{', '.join(most)} or {last}"


def _by_field(*rows: tuple[tuple, str]) -> dict[str, tuple]:
    """{field: test} from rows of a test and the names of the fields that it is for."""
    return {field: test for test, fields in rows for field in fields.split()}


_SHARE = (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a share from 0 to 1")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_SIZE, _STEP, _FEW, _LEVEL = whole(1), whole(0), whole(1, MOST), whole(0, MOST)
_TESTS = {
    Protocol: _by_field(
        (a(str), "network"),
        (a(Training), "training"),
        (a(Scoring), "scoring"),
        (maybe(a(Warmup)), "warmup"),
        (maybe(_FEW), "second_look more_replicates"),
        (ascending(several(_LEVEL)), "judging_levels"),
        (_STEP, "t_star"),
        (_SIZE, "subset_size noise_size image_size in_chans train_images test_images"),
        (several(_SIZE), "sizes barrier_sizes"),
        (_LEVEL, "levels barrier_level"),
        (several(_LEVEL), "sweep_levels"),
        (_FEW, "replicates children folds"),
        (_FLAG, "balanced"),
        (several(_SHARE), "noise"),
        (several(_STEP), "barrier_all barrier_subsets onset_steps"),
        (whole(-(2**63), 2**63 - 1), "seed"),
        (whole(2), "num_classes"),
        ((lambda value: type(value) is float and 0 < value < 1, "a share between 0 and 1"), "prune_fraction"),
        (one_of("dataset", "imagenet"), "normalization"),
        (one_of("paper", "network"), "init"),
    ),
    Cell: _by_field(
        (a(Protocol), "protocol"),
        (_STEP, "t"),
        (maybe(a(Subset)), "subset"),
        (_SHARE, "noise"),
        (maybe(_FEW), "replicates"),
        (maybe(_LEVEL), "levels"),
        (a(Pruning), "pruning"),
    ),
    Pruning: _by_field((maybe(_FEW), "batches"), (maybe(_SIZE), "finetune_steps"), (several(a(str)), "keep_dense")),
    Chosen: _by_field((a(Protocol), "protocol"), (a(Subset), "subset"), (_SHARE, "noise"), (maybe(_FEW), "replicates")),
    Barrier: {"cell": a(Cell)},
    Branch: {"cell": a(Cell)},
    WarmupSweep: {"protocol": a(Protocol)},
    Gradients: _by_field((a(Protocol), "protocol"), (maybe(a(Subset)), "subset"), (maybe(_FEW), "replicates")),
    Subset: _by_field(
        (one_of("easy", "hard", "random"), "kind"),
        (_SIZE, "size"),
        (maybe(a(Subset)), "like"),
        (maybe(_FLAG), "balanced"),
        (_FLAG, "permuted"),
    ),
    Warmup: _by_field(
        (a(Training), "training"),
        (several(_STEP), "steps"),
        (several(_SIZE), "sizes"),
        (_FEW, "replicates"),
        (_FLAG, "balanced_easy balanced_hard"),
    ),
    Training: _by_field(
        (_SIZE, "steps batch_size"),
        (several(_SIZE), "milestones"),
        (_STEP, "border warmup_steps"),
        (_FLAG, "augment drop_last nesterov"),
    ),
    Scoring: _by_field(
        (a(str), "network"), (a(Training), "training"), (_FEW, "networks"), (one_of("batch", "running"), "batch_norm")
    ),
}


def require_values(found: Protocol | Scoring | Training | Warmup | Pruning | Item, path: Path) -> None:
    """Raises UsageError that names the first field, of a protocol or an item or of one of its parts, with a value that
    cannot be used."""
    for field, (fits, words) in _TESTS.get(type(found), {}).items():
        value = getattr(found, field)
        if not fits(value):
            raise UsageError(f"{path} has {field} (={value!r}): it must be {words}")
    if isinstance(found, Protocol) and found.second_look is not None and found.second_look <= found.replicates:
        raise UsageError(
            f"{path} has second_look (={found.second_look}): it must be above replicates "
            f"(={found.replicates}), of the first look"
        )
    for field in fields(found):
        part = getattr(found, field.name)
        if type(part) in _TESTS:
            require_values(part, path)
