"""A figure as data: panels of points, which matplotlib draws for print and Vega-Lite in the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from repro.protocol import Protocol, protocol
from repro.verify.verdict import PAPER_DATASETS


@dataclass(frozen=True)
class Look:
    """Colour ('#rrggbb', of a colour-blind palette), matplotlib marker and line of a series.

    label: of a condition, with {size} and {t}. faint: its band is lighter, because such bands overlap.
    """

    color: str
    marker: str = "o"
    line: str = "-"
    label: str = ""
    faint: bool = False


LOOKS = {  # colours, lines and markers of the published panels
    "dense": Look("#7f7f7f", "", "-.", "dense"),
    "all_tstar": Look("#0173b2", "s", "--", "all data, t = {t} (t*)"),
    "all_tstar_half": Look("#de8f05", "D", "--", "all data, t = {t} (t*/2)"),
    "all_t0": Look("#c9b400", "v", "--", "all data, t = 0"),
    "random": Look("#029e73", "o", "-", "random {size:,}, t = {t}", faint=True),
    "easy": Look("#d55e00", "^", "-", "easiest {size:,}, t = {t}"),
    "hard": Look("#cc78bc", "X", "-", "hardest {size:,}, t = {t}"),
    "shuffled": Look("#555555", "P", ":", "IMP's masks shuffled, t = {t}"),
    "lmc": Look("#56b4e9", "<", "-", "lowest LMC score {size:,}, t = {t}"),
    "forgetting": Look("#ca9161", ">", "-", "least forgotten {size:,}, t = {t}"),
    "easy_balanced": Look("#8c510a", "d", "-", "easiest {size:,}, balanced, t = {t}"),
    "easy_unbalanced": Look("#8c510a", "d", "-", "easiest {size:,}, unbalanced, t = {t}"),
    "random_like_easy": Look("#56b4e9", "p", "-", "random {size:,}, easy's classes, t = {t}"),
}
DENSE = LOOKS["dense"].label
WORDS = {"easy": "easiest", "random": "random", "hard": "hardest"}
MARKERS = "osD^vPX<>*"
"""Of a series of sizes or steps, beside the colour."""
PANEL_TITLES = {
    "cifar10": "CIFAR-10 + ResNet-20",
    "cifar100": "CIFAR-100 + ResNet-32",
    "cinic10": "CINIC-10 + ResNet-56",
    "digits": "digits (8×8) + ResNet-14 of width 4",
    "cifar10@16": "CIFAR-10 (16×16) + ResNet-14 of width 8",
}
STD = "mean ± 1 std (ddof 0)"
NO_NUMBERS = "The paper has published no numbers for this panel."


@dataclass(frozen=True)
class Point:
    """One number: std (ddof 0) and n of the mean y where it is one; at: its place on the x axis in words.

    origin: the key of its artifact (`repro.report.sections.origins_of`), in the report its path. small: whether a
    larger point is the mean of it and others.
    """

    series: str
    x: float
    y: float
    at: str
    std: float | None = None
    n: int | None = None
    origin: tuple | str = ()
    small: bool = False


@dataclass(frozen=True)
class Axis:
    """kind: 'linear' or 'log2'; unit: of its values, in words; ticks: all that may stand there; label: a Vega
    expression of ``datum.value``."""

    title: str
    unit: str = ""
    kind: str = "linear"
    ticks: tuple[float, ...] = ()
    label: str = ""
    domain: tuple[float, float] | None = None


ACCURACY = Axis("test accuracy (%)", "%")


@dataclass(frozen=True)
class Panel:
    """Series of points on two axes. looks: of each series, in the order of the legend; rules: points that are drawn as
    horizontal lines; joined: whether the points of a series are joined by lines; whose: 'this run' or 'the paper'.

    table: the rows that the points are made from, as they stand in the figure's CSV.
    """

    title: str
    points: tuple[Point, ...]
    looks: dict[str, Look]
    x: Axis
    y: Axis
    rules: tuple[Point, ...] = ()
    joined: bool = True
    whose: str = "this run"
    table: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)

    @property
    def everything(self) -> tuple[Point, ...]:
        return (*self.points, *self.rules)

    @property
    def legend(self) -> dict[str, Look]:
        """The looks of the series it has."""
        there = {point.series for point in self.everything}
        return {name: look for name, look in self.looks.items() if name in there}

    @property
    def about(self) -> str:
        """What a point is, and of how many."""
        n = [point.n for point in self.everything if point.n]
        spread = STD if any(point.std is not None for point in self.points) else ""
        return ", ".join(filter(None, (spread, counts(n) if n else "")))


@dataclass(frozen=True)
class Pair:
    """A panel of own results and, beside it, the paper's; note: what a reader must know before comparing them."""

    title: str
    own: Panel
    paper: Panel | None = None
    note: str = NO_NUMBERS

    @property
    def panels(self) -> list[Panel]:
        return [panel for panel in (self.own, self.paper) if panel]

    @property
    def colors(self) -> set[str]:
        return {look.color for panel in self.panels for look in panel.looks.values()}


def alone(title: str, points: Iterable[Point], looks: dict[str, Look], x: Axis, y: Axis, **more) -> Pair:
    """A panel for which the paper has no numbers."""
    return Pair(title, Panel(title, tuple(points), looks, x, y, **more))


def beside(own: Panel, paper: Panel, p: Protocol, other: Protocol) -> Pair:
    """A panel of the protocol p and the paper's, of the protocol ``other``, which is left out where it has no points.

    Panels of the same data set get one y axis.
    """
    if not paper.everything:
        return Pair(own.title, own)
    if other.dataset != p.dataset:
        data_sets = f"{panel_title(other)} beside {panel_title(p)}"
        return Pair(own.title, own, paper, f"Another data set: {data_sets}. Compare shapes, not values.")
    if own.everything:
        own, paper = same_axis(own, paper)
    note = "" if p.full else f"The paper trained for the published schedule; this is {p.scale} scale."
    return Pair(own.title, own, paper, note)


def same_axis(own: Panel, paper: Panel) -> tuple[Panel, Panel]:
    """Both with one y axis."""
    ends = [end for p in (*own.everything, *paper.everything) if np.isfinite(p.y) for end in band(p, own.y)]
    axis = replace(own.y, domain=(min(ends), max(ends)))
    return replace(own, y=axis), replace(paper, y=axis)


def band(point: Point, axis: Axis) -> tuple[float, float]:
    """The ends of one standard deviation about a point. No axis shows more than 100 % of the images."""
    low, high = point.y - (point.std or 0), point.y + (point.std or 0)
    return low, min(high, 100) if axis.unit == "%" else high


def accuracy(series: str, x: float, row, at: str, origin: tuple = ()) -> Point:
    """The point of a row with the columns mean_acc, std_acc (fractions) and n."""
    return Point(series, x, 100 * row.mean_acc, at, 100 * row.std_acc, int(row.n), origin)


def log2(title: str, ticks: Iterable[float]) -> Axis:
    """A log2 axis whose ticks are the values that were run."""
    return Axis(title, kind="log2", ticks=tuple(sorted(set(ticks))), label="format(datum.value, ',')")


def paper_of(p: Protocol, having: Sequence[str] = PAPER_DATASETS) -> Protocol:
    """The paper's protocol to set beside: of the same data set, or of the first that has numbers."""
    return protocol(p.dataset if p.dataset in having else having[0], "paper")


def panel_title(p: Protocol) -> str:
    return PANEL_TITLES.get(p.dataset, p.dataset)


def counts(n: Iterable) -> str:
    """Numbers of replicates in words: 'n = 8', 'n = 3–4'; 'n = 0' of none."""
    n = sorted({int(k) for k in n if np.isfinite(k)})
    return f"n = {'–'.join(map(str, dict.fromkeys((n[0], n[-1]))))}" if n else "n = 0"


def series_looks(values: Iterable, colormap: str = "viridis") -> dict:
    """{value: look} of an ordered series, light to dark."""
    import matplotlib

    values = sorted(set(values))
    colors = matplotlib.colormaps[colormap](np.linspace(0.82, 0.05, max(2, len(values))))
    marked = zip(values, colors, MARKERS * len(values))
    return {value: Look(matplotlib.colors.to_hex(color), marker, faint=True) for value, color, marker in marked}


def tidy(tables: dict[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Everything plotted in one table: the rows of each kind of panel, named in the column ``panel``."""
    joined = {panel: pd.concat(parts) for panel, parts in tables.items() if len(parts)}
    parts = [table.assign(panel=panel) for panel, table in joined.items() if len(table)]
    if not parts:
        return pd.DataFrame({"panel": []})
    table = pd.concat(parts, ignore_index=True)
    return table[["panel", *table.columns.drop("panel")]]
