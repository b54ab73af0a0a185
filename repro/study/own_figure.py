"""A figure of the user's own: a Python file that says on what, what it needs, how it is drawn and what is judged.

PROTOCOL: a `Protocol`, made with `repro.protocol.own` (or PROTOCOLS, several). Optional, each by default Figure 2's:
needed(protocol): items of `repro.plan`; draw(evidence, protocols): (matplotlib figure, table); CLAIMS: names of the
paper's figures whose claims are judged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from repro import usercode
from repro.errors import RunError, UsageError
from repro.plan.items import Item
from repro.plan.options import require_options
from repro.protocol import OWN, SCALES, Protocol
from repro.study.own_values import require_values


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
        for item in items:
            require_values(item, self.path)
        if not items:
            raise UsageError(f"needed() of {self.path} gives nothing for {p.dataset}: return at least one Cell")
        return items

    def draw(self, evidence, protocols: list[Protocol]):
        """(matplotlib figure, table of what it shows). Raises RunError where the file's function fails."""
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
    """The figure that a user's file defines. Raises UsageError for a file that cannot be run or lacks something."""
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
    # whatever they were made from, what is trained by them are no runs of the paper
    own = tuple(replace(p, scale=OWN) for p in protocols)
    for p in own:
        require_values(p, path)
        require_options(p, path)
    return OwnFigure(path, own, claims, found.get("needed", figure2.needed), found.get("draw", _as_figure2))


def _as_figure2(evidence, protocols: list[Protocol]):
    import paper_figures

    return paper_figures.draw("figure2", evidence, protocols)
