"""Figure 6: final accuracy against the number of learning-rate warm-up steps taken on a subset."""

import numpy as np
import pandas as pd

from paper_figures.shared import drawing
from paper_figures.shared import panels as chart
from paper_figures.shared.panels import Look, Pair, Panel, panel_title
from repro.plan import WarmupSweep
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence
from repro.verify.published import warmup_curves

TITLE = "Figure 6"
SCALES = ("demo", "small", "cpu", "day", "paper")
KINDS = tuple(chart.WORDS)
Y_RANGES = {"easy": (87.1, 92.1), "random": (90.4, 92.0), "hard": (90.4, 92.0)}  # percent, as published
ALL, ROCKET, MARKERS = "#0173b2", ("#f4865e", "#ca1a50", "#601f52"), "o^D"


def needed(p: Protocol) -> list[Item]:
    """Learning-rate warm-up."""
    return [WarmupSweep(p)] if p.warmup else []


def summarise(warmup: pd.DataFrame) -> pd.DataFrame:
    """Per data set, kind, size and w: mean and std (ddof 0) of the n runs that did not diverge, and how many did."""
    keys, found = ["dataset", "kind", "size", "w"], []
    for key, rows in warmup.groupby(keys, sort=False):
        lost = rows["diverged"].astype(bool)
        acc = rows.loc[~lost, "acc"].astype(float)
        summary = {"mean_acc": acc.mean(), "std_acc": acc.std(ddof=0), "n": len(acc), "diverged": int(lost.sum())}
        found.append(dict(zip(keys, key)) | summary)
    return pd.DataFrame(found, columns=[*keys, "mean_acc", "std_acc", "n", "diverged"])


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """A panel per kind of subset, each beside all data."""
    table, other, found = summarise(evidence.warmup), chart.paper_of(p, ("cifar10",)), []
    table = table[table["dataset"] == p.dataset].sort_values(["size", "w"])
    published = warmup_curves().rename(columns={"mean": "mean_acc", "std": "std_acc"})
    for kind in KINDS:
        title, origin = f"{panel_title(p)}: warm-up on {chart.WORDS[kind]} examples", ("warmup", p.dataset)
        own = _panel(title, table[table["kind"].isin((kind, "all"))], p, origin=origin)
        title = f"{panel_title(other)}, read off a picture"
        paper = _panel(title, published[published["panel"] == kind], other, whose="the paper")
        found.append(chart.beside(own, paper, p, other))
    return found


def _panel(title: str, rows: pd.DataFrame, p: Protocol, origin: tuple = (), **more) -> Panel:
    """Rows without a mean, all of whose runs diverged, are points that interrupt their line."""
    names = {0: f"all {p.train_images:,} images"} | {m: f"{m:,} images" for m in sorted(set(rows["size"]) - {0})}
    looks = {0: Look(ALL, "s")} | {m: Look(ROCKET[i % 3], MARKERS[i % 3]) for i, m in enumerate([*names][1:])}
    at = "{:,} steps of warm-up".format
    points = (chart.accuracy(names[row.size], row.w, row, at(row.w), origin) for row in rows.itertuples())
    looks = {names[size]: look for size, look in looks.items()}
    axes = (chart.log2("warm-up steps", rows["w"]), chart.ACCURACY)
    return Panel(title, tuple(points), looks, *axes, table=rows, **more)


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, a row per data set that has a warm-up study and a panel per kind of subset, and its table."""
    table = summarise(evidence.warmup)
    studied = [p for p in protocols if p.warmup] or protocols[:1]
    figure = drawing.new_figure((12.5, 4.3 * len(studied)), TITLE, protocols, control)
    for row, p in zip(drawing.rows_of(figure, studied), studied):
        row.suptitle(panel_title(p), fontsize=10)
        places = row.subplots(1, len(KINDS))
        for axes, pair, kind in zip(places, panels(evidence, p), KINDS):
            _draw(axes, pair, p, kind)
        places[0].set_ylabel(chart.ACCURACY.title)
        n = chart.counts(table.loc[table["dataset"] == p.dataset, "n"])
        title = f"examples in the warm-up; {chart.STD} over the runs that did not diverge, {n}"
        drawing.legend_of_row(row, places, title, 7)
    return figure, table[table["dataset"].isin([p.dataset for p in protocols])]


def _draw(axes, pair: Pair, p: Protocol, kind: str) -> None:
    own, table = pair.own, pair.own.table
    axes.set_title(f"warm-up on {chart.WORDS[kind]} examples", fontsize=9)
    if not own.points:
        return drawing.no_runs(axes)
    everything, *subsets = own.looks  # all data last: its line lies on top
    style = {"ms": 6, "mec": "white", "mew": 0.6, "label": lambda name: name.removesuffix(" images")}
    drawing.lines(axes, own, 0.2, order=[*subsets, everything], **style)
    if p.full:
        drawing.thin_lines(axes, pair, lambda point: p.dataset == "cifar10", "thin: as published (read off a picture)")
    drawing.accuracy_axis(axes)
    drawing.log2_axis(axes, own)
    drawing.grid(axes)
    if p.full:
        drawing.y_range(axes, *Y_RANGES[kind], 100 * table["mean_acc"].to_numpy(float))
    _diverged(axes, table, {size: own.looks[name] for size, name in zip(sorted({0, *table["size"]}), own.looks)})


def _diverged(axes, table: pd.DataFrame, looks: dict) -> None:
    """Diverged runs are at chance, outside the axis: crosses along its lower edge, and their number."""
    gone = table[table["diverged"] > 0]
    if gone.empty:
        return
    low, high = axes.get_ylim()
    room = 0.05 * (1 + gone["size"].nunique())
    axes.set_ylim(low - room / (1 - room) * (high - low), high)
    style = {"ms": 5, "mew": 1.4, "transform": axes.get_xaxis_transform(), "label": "_diverged"}
    for i, (size, rows) in enumerate(gone.groupby("size")):
        axes.plot(rows["w"], np.full(len(rows), 0.05 * i + 0.03), "x", color=looks[size].color, **style)
    count, total = int(gone["diverged"].sum()), int((table["n"] + table["diverged"]).sum())
    note = f"× {count} of {total} runs diverged (left out)"
    axes.text(0.01, 0.05 * gone["size"].nunique() + 0.01, note, transform=axes.transAxes, fontsize=7, va="bottom")
