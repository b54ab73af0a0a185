"""Panels of accuracy against sparsity, which Figures 1, 2 and 4 and the appendix share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from paper_figures.shared import drawing
from paper_figures.shared import panels as chart
from paper_figures.shared.panels import LOOKS, Axis, Pair, Panel, panel_title
from repro.errors import UsageError
from repro.protocol import Protocol
from repro.verify import published
from repro.verify.outcomes import own_labels, same_replicates

KEYS = ["dataset", "condition", "size", "t", "noise", "level"]
SUBSETS = ("random", "easy", "hard")


@dataclass(frozen=True)
class Arm:
    """One curve: the runs of a condition at one subset size (0: all data), rewind step and share of random labels, or
    with the labels of a user's file."""

    condition: str
    size: int
    t: int
    noise: float = 0.0
    labels: str = ""

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Its rows of a table of runs, or of their summary."""
        if "labels" in table:
            table = table[table["labels"].fillna("") == self.labels]
        same = (table["condition"] == self.condition) & (table["size"] == self.size) & (table["t"] == self.t)
        return table[same & np.isclose(table["noise"].astype(float), self.noise)] if "noise" in table else table[same]

    @property
    def label(self) -> str:
        return LOOKS[self.condition].label.format(size=self.size, t=self.t)

    def runs(self, p: Protocol) -> tuple:
        """The origin of its pruned runs; ``barrier`` that of its barriers."""
        return ("runs", p.dataset, self.condition, self.size, self.t, self.noise, self.labels)

    def barrier(self, p: Protocol) -> tuple:
        return ("barrier", p.dataset, self.condition, self.size, self.t)


def all_data(protocol: Protocol, noise: float = 0.0) -> list[Arm]:
    """Rewound to 0, t*/2 and t*. Nothing is pre-trained at t = 0, so its labels are clean (protocol section 9)."""
    t = protocol.t_star
    return [Arm("all_t0", 0, 0), Arm("all_tstar_half", 0, t // 2, noise), Arm("all_tstar", 0, t, noise)]


def subsets(protocol: Protocol, size: int, conditions: Sequence[str] = SUBSETS, noise: float = 0.0) -> list[Arm]:
    """Subsets of a size, rewound to t*/2."""
    return [Arm(condition, size, protocol.t_star // 2, noise) for condition in conditions]


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """What is plotted: per data set, condition and level, mean and std (ddof 0, as published) over n replicates.

    A diverged run counts as chance, as in the verdicts; ``diverged`` says how many there are. Where runs have a user's
    labels, a column says which.
    """
    if runs.empty:
        return pd.DataFrame(columns=[*KEYS, "weights_left_pct", "mean_acc", "std_acc", "n", "diverged"])
    found = runs.groupby(_keys(runs), sort=False).agg(
        weights_left_pct=("density", lambda d: 100 * d.astype(float).mean()),
        mean_acc=("acc", "mean"),
        std_acc=("acc", lambda a: a.std(ddof=0)),
        n=("acc", "count"),
        diverged=("diverged", lambda d: int(d.astype(bool).sum())),
    )
    return found.reset_index()


def _keys(runs: pd.DataFrame) -> list[str]:
    return [*KEYS, "labels"] if len(own_labels(runs)) < len(runs) else KEYS


def panel_of(
    runs: pd.DataFrame, protocol: Protocol, arms: Sequence[Arm], levels: Sequence[int] | None = None
) -> pd.DataFrame:
    """What a panel of these arms shows: `summarise` of the replicates that all of them have, in the order of the arms.

    levels: those shown, beside level 0 of all@t*, the dense networks; None is all up to the protocol's.
    """
    runs = runs[(runs["dataset"] == protocol.dataset) & (runs["level"] <= protocol.levels)]
    rows = pd.concat([runs[:0], *(arm.of(runs).sort_values("level", kind="stable") for arm in dict.fromkeys(arms))])
    if levels is not None:
        rows = rows[rows["level"].isin(levels) | ((rows["level"] == 0) & (rows["condition"] == "all_tstar"))]
    return summarise(same_replicates(rows, _keys(rows)))


def pick(table: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """The rows of these arms in a summary, in their order."""
    return pd.concat([arm.of(table) for arm in arms]) if len(table) else table


def reference(p: Protocol, arm: Arm) -> pd.DataFrame:
    """The published curve of an arm, empty where there is none: level, mean_acc, std_acc, n, weights_left_pct."""
    try:
        curves = published.curves(p.dataset, noise=arm.noise)
    except UsageError:
        return pd.DataFrame({"level": [], "mean_acc": [], "std_acc": [], "n": [], "weights_left_pct": []})
    curves = curves[(curves["condition"] == arm.condition) & (curves["size"] == arm.size) & (curves["t"] == arm.t)]
    curves = curves[curves["level"] <= p.levels].sort_values("level").astype({"level": int})
    left = 100 * (1 - p.prune_fraction) ** curves["level"]
    return curves.rename(columns={"mean": "mean_acc", "std": "std_acc"}).assign(weights_left_pct=left)


def dense(p: Protocol, rows: pd.DataFrame, noise: float = 0.0, *, own: bool = True) -> tuple:
    """The point of dense networks: level 0 of all@t* (protocol section 3), among its rows."""
    origin = Arm("all_tstar", 0, p.t_star, noise).runs(p) if own else ()
    first = rows[rows["level"] == 0].itertuples()
    return tuple(chart.accuracy(chart.DENSE, 0, row, "all the weights", origin) for row in first)


def compared(
    title: str,
    table: pd.DataFrame,
    p: Protocol,
    arms: Sequence[Arm],
    published: Callable[[Protocol], Sequence[Arm]] = lambda other: (),
    *,
    by_size: bool = False,
) -> Pair:
    """Accuracy against pruning level beside the paper's.

    table: `panel_of`. published: the arms of one of the paper's protocols. by_size: subsets look as their size says.
    """
    other = chart.paper_of(p)
    own = _panel(title, p, {arm: arm.of(table) for arm in arms}, by_size)
    theirs = {arm: reference(other, arm) for arm in published(other)}
    return chart.beside(own, _panel(panel_title(other), other, theirs, by_size, whose="the paper"), p, other)


def _panel(title: str, p: Protocol, rows: dict[Arm, pd.DataFrame], by_size: bool, whose: str = "this run") -> Panel:
    own = whose == "this run"
    sizes = chart.series_looks({arm.size for arm in rows} - {0}, "magma") if by_size else {}
    looks = {chart.DENSE: LOOKS["dense"]} | {arm.label: sizes.get(arm.size, LOOKS[arm.condition]) for arm in rows}
    points, rules = [], ()
    for arm, found in rows.items():
        for row in found.itertuples():
            at = f"level {row.level}, {row.weights_left_pct:.3g} % of the weights"
            points.append(chart.accuracy(arm.label, row.level, row, at, arm.runs(p) if own else ()))
        if arm.condition == "all_tstar":
            rules = dense(p, found, arm.noise, own=own)
    x = Axis("weights remaining (%)", label=f"format(100 * pow({1 - p.prune_fraction:g}, datum.value), '.3~g')")
    table = pd.concat(rows.values()) if rows else pd.DataFrame()
    return Panel(title, tuple(points), looks, x, chart.ACCURACY, rules, whose=whose, table=table)


def draw_curves(
    axes, pair: Pair, p: Protocol, *, title: str = "", limits: tuple[float, float] | None = None, columns: int = 3
) -> None:
    """Accuracy (%) against pruning level with bands of one standard deviation, and the legend beneath.

    limits: of the y axis (%) at the published schedule, whose means are thin lines.
    """
    own, table = pair.own, pair.own.table
    axes.set_title(title or own.title, fontsize=10)
    if not own.points:
        return drawing.no_runs(axes)
    drawing.rules(axes, own, own.rules, lw=1.4)
    alpha, faint = (0.2, 0.1) if p.full else (0.1, 0.06)  # folds widen the demo's bands: they overlap
    drawing.lines(axes, own, lambda look: faint if look.faint else alpha, ms=4)
    if p.full:
        drawing.thin_lines(axes, pair, lambda point: point.x <= p.levels)
    left = table.groupby("level")["weights_left_pct"].mean()
    ticks = left.index[:: 2 if len(left) > 6 else 1]
    axes.set_xticks(ticks, [f"{left[k]:.3g}" for k in ticks])
    axes.set(xlabel=own.x.title, ylabel=own.y.title, xlim=(-0.3, left.index.max() + 0.3))
    drawing.accuracy_axis(axes)
    drawing.grid(axes)
    note = ""
    if p.full and limits:
        note = drawing.y_range(axes, *limits, [point.y for point in own.points], below_axis=False)
    drawing.legend_below(axes, f"{chart.STD}, {chart.counts(table['n'])}{lost([table])}{note and '; ' + note}", columns)


def lost(tables: Iterable[pd.DataFrame]) -> str:
    """A clause on diverged runs, of summaries; empty if there are none."""
    count = sum(int(table["diverged"].sum()) for table in tables)
    return f", {count} diverged (counted as chance)" if count else ""
