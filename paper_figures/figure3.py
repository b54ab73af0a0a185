"""Figure 3: accuracy at three sparsities against the size of the subset that networks were pre-trained on."""

from dataclasses import replace

import numpy as np
import pandas as pd

from paper_figures import figure2
from paper_figures.shared import cells, drawing
from paper_figures.shared import panels as chart
from paper_figures.shared.curves import SUBSETS, all_data, dense, lost, panel_of, reference, subsets
from paper_figures.shared.panels import LOOKS, Pair, Panel, panel_title
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 3"
SCALES = ("demo", "small", "cpu", "paper")
Y_RANGES = {"cifar10": (85, 92), "cifar100": (56, 69)}  # percent, as published; CINIC-10's are unknown


def needed(p: Protocol) -> list[Item]:
    """Figure 2's runs, and subsets of every size."""
    return figure2.needed(p) + [cells.subset(p, kind, size) for size in p.sizes for kind in SUBSETS]


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """A panel per level of the sweep: accuracy against the size of the subset, all data as lines."""
    table, other, found = sizes(evidence.runs, p), chart.paper_of(p), []
    own = {arm: arm.of(table) for arm in _arms(p, sorted(set(table["size"]) - {0}))}
    theirs = {arm: reference(other, arm) for arm in _arms(other, other.sizes)}
    for place, level in enumerate(p.sweep_levels):
        shown = other.sweep_levels[place] if place < len(other.sweep_levels) else level
        paper = replace(_panel(other, theirs, shown, own=False), whose="the paper")
        found.append(chart.beside(_panel(p, own, level), paper, p, other))
    return found


def _arms(p: Protocol, known) -> list:
    return [*all_data(p), *(arm for kind in SUBSETS for size in known for arm in subsets(p, size, [kind]))]


def _panel(p: Protocol, rows: dict, level: int, *, own: bool = True) -> Panel:
    looks = {chart.WORDS[kind]: LOOKS[kind] for kind in SUBSETS}
    looks |= {arm.label: LOOKS[arm.condition] for arm in reversed(all_data(p))} | {chart.DENSE: LOOKS["dense"]}
    points, flat, first = [], [], ()
    for arm, found in rows.items():
        for row in found[found["level"] == level].itertuples():
            name = chart.WORDS[arm.condition] if arm.size else arm.label
            at = f"{arm.size:,} examples" if arm.size else "all the data"
            point = chart.accuracy(name, arm.size, row, at, arm.runs(p) if own else ())
            (points if arm.size else flat).append(point)
        first = dense(p, found, own=own) if arm.condition == "all_tstar" else first
    x = chart.log2("examples in the subset", (point.x for point in points))
    table = pd.concat(rows.values())
    title, table = f"{panel_title(p)}, level {level}", table[table["level"] == level]
    return Panel(title, tuple(points), looks, x, chart.ACCURACY, (*first, *flat), table=table)


def sizes(runs: pd.DataFrame, p: Protocol) -> pd.DataFrame:
    """`panel_of` every size at the levels of the sweep, and of dense networks."""
    runs = runs[runs["dataset"] == p.dataset]
    known = sorted(set(runs.loc[runs["condition"].isin(SUBSETS), "size"]))
    arms = [*(arm for size in known for arm in subsets(p, size)), *all_data(p)]
    return panel_of(runs, p, arms, p.sweep_levels)


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, a row per data set and a column per level, and the table of what it shows.

    Columns of the table: panel ('sizes', 'baselines', 'dense') and those of `curves.summarise`.
    """
    figure = drawing.new_figure((12.5, 3.9 * len(protocols) + 0.3), TITLE, protocols, control)
    parts = {"sizes": [], "baselines": [], "dense": []}
    for row, p in zip(drawing.rows_of(figure, protocols), protocols):
        row.suptitle(panel_title(p), fontsize=10)
        pairs, paper = panels(evidence, p), p.scale == "paper"
        places = row.subplots(1, len(pairs), sharey=not paper, squeeze=False)[0]
        for axes, pair, level in zip(places, pairs, p.sweep_levels):
            _draw(axes, pair, p, level)
        for axes in places:
            drawing.accuracy_axis(axes)
        places[0].set_ylabel(chart.ACCURACY.title)
        if any(pair.own.points for pair in pairs):
            tables, bars = [pair.own.table for pair in pairs], "means" if paper else f"error bars: {chart.STD}"
            n = f"{chart.counts(n for table in tables for n in table['n'])}{lost(tables)}"
            drawing.legend_of_row(row, places[:1], f"subsets at t = {p.t_star // 2} (t*/2); {bars}, {n}", 8)
        table = sizes(evidence.runs, p)
        shown, top = table[table["level"].isin(p.sweep_levels)], all_data(p)[-1].of(table)
        parts["sizes"].append(shown[shown["size"] > 0])
        parts["baselines"].append(shown[shown["size"] == 0])
        parts["dense"].append(top[top["level"] == 0])
    return figure, chart.tidy(parts)


def _draw(axes, pair: Pair, p: Protocol, level: int) -> None:
    own, paper = pair.own, p.scale == "paper"
    left = own.table["weights_left_pct"].mean()
    title = f"{left:.3g} % of the weights (level {level})" if np.isfinite(left) else f"level {level}"
    axes.set_title(title, fontsize=9)
    flat = [point for point in own.rules if point.series != chart.DENSE]
    if not own.points and not flat:
        return drawing.no_runs(axes)
    drawing.rules(axes, own, [point for point in own.rules if point.series == chart.DENSE] + flat[::-1])
    for i, kind in enumerate(SUBSETS):
        name = chart.WORDS[kind]
        shift = 1 if paper else 2 ** (0.05 * (i - 1))  # or the error bars would hide one another
        shown = replace(own, points=tuple(replace(point, x=point.x * shift) for point in own.points))
        bars = [point for point in shown.points if point.series == name]
        if bars and not paper:
            x, y, std = zip(*((point.x, point.y, point.std) for point in bars))
            axes.errorbar(x, y, std, fmt="none", ecolor=own.looks[name].color, alpha=0.35, lw=1)
        drawing.lines(axes, shown, order=[name], ms=5)
    if paper:
        drawing.thin_lines(axes, pair, lambda point: point.x in p.sizes)
        for point in pair.paper.rules if pair.paper else ():
            if point.series in own.looks and point.series != chart.DENSE:
                axes.axhline(point.y, color=own.looks[point.series].color, lw=0.7)
    if own.points:
        drawing.log2_axis(axes, own)
    drawing.grid(axes, 7)
    if paper and p.dataset in Y_RANGES:
        drawing.y_range(axes, *Y_RANGES[p.dataset], [point.y for point in (*own.points, *flat)])
