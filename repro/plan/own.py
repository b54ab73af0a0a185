"""A figure of the user's own: a Python file that says on what, what it needs, how it is drawn and what is judged.

PROTOCOL: a `Protocol`, made with `repro.protocol.own` (or PROTOCOLS, several). Optional, each by default Figure 2's:
needed(protocol): items of `repro.plan`; draw(evidence, protocols): (matplotlib figure, table); CLAIMS: names of the
paper's figures whose claims are judged.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from repro import usercode
from repro.data.files import read_numbers
from repro.errors import RunError, UsageError
from repro.plan.declare import Item
from repro.protocol import OWN, SCALES, Protocol, Scoring, protocol
from repro.train.schedule import Training

_FLAGS = {"augment": ("--augment", "--no-augment"), "drop_last": ("--drop-last", "--keep-last")}
_VALUES = ("steps", "batch_size", "lr", "weight_decay", "precision")


@dataclass(frozen=True)
class OwnFigure:
    """What the file at ``path`` defines; ``name``, its stem, is the figure's."""

    path: Path
    protocols: tuple[Protocol, ...]
    claims: tuple[str, ...]
    _needed: Callable
    _draw: Callable

    @property
    def name(self) -> str:
        return self.path.stem

    def needed(self, p: Protocol) -> list[Item]:
        """Its items on one data set, each once. Raises UsageError where the file's function fails or gives others."""
        try:
            items = list(dict.fromkeys(self._needed(p)))
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"needed() of {self.path} fails ({usercode.reason(error, self.path)}): mend it") from error
        if odd := [item for item in items if not isinstance(item, Item)]:
            raise UsageError(f"needed() of {self.path} gives {odd[0]!r}: it has to give items of repro.plan, as Cell")
        if not items:
            raise UsageError(f"needed() of {self.path} gives nothing for {p.dataset}: return at least one Cell")
        return items

    def draw(self, evidence, protocols: list[Protocol]):
        """(matplotlib figure, table of what it shows). Raises RunError where the file's function fails."""
        from matplotlib.figure import Figure
        from pandas import DataFrame

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
    """The figure that a user's file defines. Raises UsageError for a file that cannot be run or lacks something."""
    import paper_figures
    from paper_figures.cells import figure2

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
    # whatever they were made from, what is trained by them are no runs of the paper
    own = tuple(replace(p, scale=OWN) for p in protocols)
    for p in own:
        _require_options(p, path)
    return OwnFigure(path, own, claims, found.get("needed", figure2), found.get("draw", _as_figure2))


def _as_figure2(evidence, protocols: list[Protocol]):
    import paper_figures

    return paper_figures.figure("figure2").draw(evidence, protocols)


def own_options(p: Protocol, training: Training | None, scoring: Scoring | None) -> tuple[str, ...]:
    """Options of a command (that trains, or that scores) for what differs from the data set's own protocol."""
    base = protocol(p.dataset)
    if training is None:
        return ()
    words: list[str] = []
    network, usual, plain = p.network, base.network, base.training
    if scoring:
        network, usual, plain = scoring.network, base.scoring.network, base.scoring.training
        if scoring.networks != base.scoring.networks:
            words += ["--networks", str(scoring.networks)]
        if scoring.batch_norm != base.scoring.batch_norm:
            words += ["--batch-norm", scoring.batch_norm]
    elif p.warmup and training is p.warmup.training and base.warmup:
        plain = base.warmup.training
    if network != usual:
        words += ["--network", network]
    if training.milestones != plain.milestones:
        words += ["--milestones", ",".join(map(str, training.milestones))]
    for name in _VALUES:
        if (value := getattr(training, name)) != getattr(plain, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name, (on, off) in _FLAGS.items():
        if (value := getattr(training, name)) != getattr(plain, name):
            words.append(on if value else off)
    return tuple(words)


def _require_options(p: Protocol, path: Path) -> None:
    """Raises UsageError for what no option of a command says."""
    base = protocol(p.dataset)
    fixed = {"normalization": (p.normalization, base.normalization)}
    pairs = [("", p.training, base.training), ("scoring ", p.scoring.training, base.scoring.training)]
    if p.warmup:
        pairs.append(("warm-up ", p.warmup.training, (base.warmup or base).training))
    for of, ours, usual in pairs:
        for name in {field.name for field in fields(Training)} - {*_VALUES, *_FLAGS, "milestones"}:
            fixed[of + name] = (getattr(ours, name), getattr(usual, name))
    for name, (ours, usual) in sorted(fixed.items()):
        if ours != usual:
            raise UsageError(f"{path} asks for {name} {ours} on {p.dataset}, which is always {usual}: leave it out")


def sha256_of_scores(path: str, p: Protocol) -> str:
    """What select's recipe says of a user's scores. Raises UsageError for a file that it would not take."""
    train = np.arange(p.train_images) if p.folds == 1 else None
    scores = read_numbers(Path(path), "score", size=p.all_images, train=train)
    return hashlib.sha256(scores.astype("<f8")).hexdigest()
