"""Panels drawn by matplotlib, and the files of a figure. matplotlib takes a second to load, so functions load it."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paper_figures.shared.panels import Look, Pair, Panel, Point
from repro.protocol import Protocol
from repro.store.files import write_whole

GREY = "#888888"


def new_figure(size: tuple[float, float], title: str, protocols: Sequence[Protocol], control: str | None):
    """An empty matplotlib figure of a size in inches.

    The line above it says which figure it is, at which scale, and what a reader must know before believing it.
    """
    from matplotlib.figure import Figure

    figure, scale = Figure(figsize=size, layout="constrained"), protocols[0].scale
    note = title if scale == "own" else f"{title} at {scale} scale"
    note += f", control {control} (has to fail)" if control else ""
    note += ": a configuration chosen with other seeds, because rewinding helped there" if scale == "demo" else ""
    figure.suptitle(note, fontsize=8)
    return figure


def rows_of(figure, protocols: Sequence[Protocol], **options) -> list:
    """One row of panels per data set."""
    return list(figure.subfigures(len(protocols), 1, squeeze=False, **options)[:, 0])


def no_runs(axes, what: str = "no runs") -> None:
    """An empty panel that says so."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center", va="center", color=GREY)


def lines(
    axes,
    panel: Panel,
    alpha: float | Callable[[Look], float] = 0.0,
    *,
    order: Iterable[str] = (),
    label: Callable[[str], str] = str,
    **style,
) -> None:
    """Each series as a line, in the order of the legend or another, with a band of one standard deviation.

    alpha: opacity of the band, 0 for none. style: of the lines.
    """
    for name in order or panel.looks:
        look, points = panel.looks[name], [point for point in panel.points if point.series == name]
        if not points:
            continue
        x, y = (np.array([getattr(point, axis) for point in points], float) for axis in "xy")
        style = {"lw": 1.4} | style
        axes.plot(x, y, look.line, color=look.color, marker=look.marker, label=label(name), **style)
        if opacity := alpha(look) if callable(alpha) else alpha:
            std = np.array([point.std for point in points], float)
            axes.fill_between(x, y - std, y + std, color=look.color, alpha=opacity, lw=0)


def rules(axes, panel: Panel, points: Iterable[Point], lw: float = 1.2) -> None:
    """Points as horizontal lines."""
    for point in points:
        look = panel.looks[point.series]
        axes.axhline(point.y, color=look.color, linestyle=look.line, label=point.series, lw=lw)


def thin_lines(
    axes, pair: Pair, shown: Callable[[Point], bool] = lambda point: True, label: str = "thin: as published"
) -> None:
    """The published means of the own series, as thin lines of the same colours."""
    for name, look in pair.own.looks.items():
        found = [p for p in pair.paper.points if p.series == name and shown(p)] if pair.paper else []
        if found:
            axes.plot([p.x for p in found], [p.y for p in found], color=look.color, lw=0.7, label=label)
            label = None


def grid(axes, ticks: int = 8) -> None:
    """Light grid, and round numbers on the y axis."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(alpha=0.25, lw=0.5)


def accuracy_axis(axes, which: str = "y") -> None:
    """Ends an axis of accuracies (%) at 100, above which a band of one standard deviation may reach. Called when all is
    drawn: panels that share the axis share its end. which: 'x' or 'y'."""
    low, high = getattr(axes, f"get_{which}lim")()
    axes.set(**{f"{which}lim": (low, min(high, 100))})


def log2_axis(axes, panel: Panel, fontsize: float = 8) -> None:
    """A log2 x axis with the ticks of the panel."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(panel.x.ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    # close neighbours (2048 and 3200) and many values need slanted labels
    turned = len(panel.x.ticks) > 5
    place = {"rotation": 40 if turned else 0, "ha": "right" if turned else "center", "rotation_mode": "anchor"}
    axes.set_xticklabels([f"{value:,}" for value in panel.x.ticks], fontsize=fontsize, **place)
    axes.set_xlabel(panel.x.title)


def y_range(axes, low: float, high: float, means: Sequence[float], *, below_axis: bool = True) -> str:
    """Set the published range of the y axis. Returns a note on own means outside it, which must not vanish unseen.

    below_axis: write the note beneath the label of the x axis.
    """
    axes.set_ylim(low, high)
    outside = {"above": sum(mean > high for mean in means), "below": sum(mean < low for mean in means)}
    told = [f"{count} {side}" for side, count in outside.items() if count]
    note = f"means outside the axis: {', '.join(told)}" if told else ""
    if note and below_axis:
        axes.set_xlabel(f"{axes.get_xlabel()}\n({note})")
    return note


LEGEND = {"fontsize": 7, "title_fontsize": 7, "frameon": False}


def legend_below(axes, title: str, columns: int) -> None:
    """A legend that cannot lie on data: beneath the panel."""
    from matplotlib.transforms import offset_copy

    below = offset_copy(axes.transAxes, axes.get_figure(root=True), y=-36, units="points")  # ticks and axis label
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
    axes.legend(ncols=columns, title=title, columnspacing=1.2, handlelength=2.6, **place, **LEGEND)


def legend_of_row(row, panels: Iterable, title: str, columns: int) -> None:
    """One legend beneath a row of panels, each label once; none where nothing is drawn."""
    handles = {}
    for axes in panels:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1]))
    if handles:
        row.legend(handles.values(), handles, loc="outside lower center", ncols=columns, title=title, **LEGEND)


def save(figure, table: pd.DataFrame, stem: Path) -> list[Path]:
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
