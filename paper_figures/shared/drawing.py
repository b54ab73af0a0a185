"""What every figure shares: how conditions look (colours, lines, markers of the published panels), headings, files."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files: no display is needed or touched

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from repro.protocol import Protocol
from repro.store.files import write_whole


@dataclass(frozen=True)
class Look:
    """Colour (a colour-blind palette), line and marker of one condition, and its label with {size} and {t}."""

    label: str
    color: str
    line: str
    marker: str | None = None


LOOKS = {
    "dense": Look("dense", "#7f7f7f", "-."),
    "all_tstar": Look("all data, t = {t} (t*)", "#0173b2", "--", "s"),
    "all_tstar_half": Look("all data, t = {t} (t*/2)", "#de8f05", "--", "D"),
    "all_t0": Look("all data, t = 0", "#c9b400", "--", "v"),
    "random": Look("random {size:,}, t = {t}", "#029e73", "-", "o"),
    "easy": Look("easiest {size:,}, t = {t}", "#d55e00", "-", "^"),
    "hard": Look("hardest {size:,}, t = {t}", "#cc78bc", "-", "X"),
    "shuffled": Look("IMP's masks shuffled, t = {t}", "#555555", ":", "P"),
    "lmc": Look("lowest LMC score {size:,}, t = {t}", "#56b4e9", "-", "<"),
    "forgetting": Look("least forgotten {size:,}, t = {t}", "#ca9161", "-", ">"),
    "easy_balanced": Look("easiest {size:,}, balanced, t = {t}", "#8c510a", "-", "d"),
    "easy_unbalanced": Look("easiest {size:,}, unbalanced, t = {t}", "#8c510a", "-", "d"),
    "random_like_easy": Look("random {size:,}, easy's classes, t = {t}", "#56b4e9", "-", "p"),
}
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


def panel_title(protocol: Protocol) -> str:
    return PANEL_TITLES.get(protocol.dataset, protocol.dataset)


def heading(title: str, protocols: Sequence[Protocol], control: str | None) -> str:
    """The line above a figure: which one, at which scale, and what a reader must know before believing it."""
    scale = protocols[0].scale
    note = f"{title} at {scale} scale" + (f", control {control} (has to fail)" if control else "")
    return note + (
        ": a configuration chosen with other seeds, because rewinding helped there" if scale == "demo" else ""
    )


def no_runs(panel: Axes, what: str = "no runs") -> None:
    """An empty panel that says so."""
    panel.set(xticks=[], yticks=[])
    panel.text(0.5, 0.5, what, transform=panel.transAxes, ha="center", va="center", color="#888888")


def grid(panel: Axes, ticks: int = 8) -> None:
    """Light grid, and round numbers on the y axis."""
    panel.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    panel.grid(alpha=0.25, lw=0.5)


def accuracy_axis(panel: Axes, which: str = "y") -> None:
    """Ends an axis of accuracies (%) at 100, above which a band of one standard deviation may reach. Called when all is
    drawn: panels that share the axis share its end. which: 'x' or 'y'."""
    low, high = getattr(panel, f"get_{which}lim")()
    panel.set(**{f"{which}lim": (low, min(high, 100))})


def log2_axis(panel: Axes, values: Iterable[int], label: str, fontsize: float = 8) -> None:
    """A log2 x axis whose ticks are the values that were run."""
    values = sorted(set(values))
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(values))
    panel.xaxis.set_minor_locator(NullLocator())
    # close neighbours (2048 and 3200) and many values need slanted labels
    turned = len(values) > 5
    panel.set_xticklabels(
        [f"{v:,}" for v in values],
        fontsize=fontsize,
        rotation=40 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor",
    )
    panel.set_xlabel(label)


def y_range(panel: Axes, low: float, high: float, means: np.ndarray, *, below_axis: bool = True) -> str:
    """Set the published range of the y axis. Returns a note on own means outside it, which must not vanish unseen.

    below_axis: write the note beneath the label of the x axis.
    """
    panel.set_ylim(low, high)
    outside = {"above": (means > high).sum(), "below": (means < low).sum()}
    found = [f"{count} {side}" for side, count in outside.items() if count]
    note = f"means outside the axis: {', '.join(found)}" if found else ""
    if note and below_axis:
        panel.set_xlabel(f"{panel.get_xlabel()}\n({note})")
    return note


def series(values: Iterable, colormap: str = "viridis") -> dict:
    """{value: (colour, marker)} for an ordered series, light to dark."""
    values = sorted(set(values))
    colors = matplotlib.colormaps[colormap](np.linspace(0.82, 0.05, max(2, len(values))))
    return {v: (matplotlib.colors.to_hex(colors[i]), MARKERS[i % len(MARKERS)]) for i, v in enumerate(values)}


def rows_of(figure: Figure, protocols: Sequence[Protocol], **options) -> list[SubFigure]:
    """One row of panels per data set."""
    return list(figure.subfigures(len(protocols), 1, squeeze=False, **options)[:, 0])


def counts(n: Iterable) -> str:
    """Numbers of replicates in words: 'n = 8', 'n = 3–4'; 'n = 0' of none."""
    n = sorted({int(k) for k in n if np.isfinite(k)})
    return f"n = {'–'.join(map(str, dict.fromkeys((n[0], n[-1]))))}" if n else "n = 0"


def tidy(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Everything plotted in one table: the rows of each kind of panel, named in the column ``panel``."""
    parts = [table.assign(panel=panel) for panel, table in tables.items() if len(table)]
    if not parts:
        return pd.DataFrame({"panel": []})
    table = pd.concat(parts, ignore_index=True)
    return table[["panel", *table.columns.drop("panel")]]


def save(figure: Figure, table: pd.DataFrame, stem: Path) -> list[Path]:
    """Write ``stem``.pdf, .png and .csv (what was plotted). Raises RunError when that cannot be written."""
    pdf, png = io.BytesIO(), io.BytesIO()
    # without dates in the files, the same runs give the same bytes
    figure.savefig(pdf, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
    figure.savefig(png, format="png", bbox_inches="tight", dpi=200, metadata={"Software": None})
    contents = {
        "pdf": pdf.getvalue(),
        "png": png.getvalue(),
        "csv": table.to_csv(index=False, float_format="%.6g").encode(),
    }
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_whole(path, [content])
    return paths
