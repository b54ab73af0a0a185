"""Panels of accuracy against sparsity, which Figures 2 and 4 and the appendix share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from paper_figures.shared.drawing import LOOKS, STD, accuracy_axis, counts, grid, no_runs, y_range
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
    found = [arm.of(runs).sort_values("level", kind="stable") for arm in dict.fromkeys(arms)]
    rows = pd.concat([runs[:0], *found])
    if levels is not None:
        rows = rows[rows["level"].isin(levels) | ((rows["level"] == 0) & (rows["condition"] == "all_tstar"))]
    return summarise(same_replicates(rows, _keys(rows)))


def pick(table: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """The rows of these arms in a summary, in their order."""
    return pd.concat([arm.of(table) for arm in arms]) if len(table) else table


def baseline(table: pd.DataFrame, protocol: Protocol, noise: float = 0.0) -> float | None:
    """Mean accuracy (%) of dense networks in a panel's summary: level 0 of all@t* (protocol section 3)."""
    rows = Arm("all_tstar", 0, protocol.t_star, noise).of(table)
    rows = rows[rows["level"] == 0]
    return 100 * float(rows["mean_acc"].iloc[0]) if len(rows) else None


def curve_panel(
    panel: Axes,
    table: pd.DataFrame,
    protocol: Protocol,
    arms: Sequence[Arm],
    *,
    title: str,
    published_range: tuple[float, float] | None = None,
    colors: dict[Arm, tuple[str, str]] | None = None,
    columns: int = 3,
) -> None:
    """Accuracy (%) against pruning level with bands of one standard deviation, and the legend beneath.

    table: `panel_of`. published_range: of the y axis (%) at the published schedule, whose means are thin lines.
    colors: (colour, marker) of arms that do not look as `LOOKS` says, such as a series of sizes.
    """
    colors = colors or {}
    shown = pick(table, arms)
    panel.set_title(title, fontsize=10)
    if shown.empty:
        return no_runs(panel)
    dense = baseline(table, protocol, max(arm.noise for arm in arms))
    if dense is not None:
        look = LOOKS["dense"]
        panel.axhline(dense, color=look.color, linestyle=look.line, label=look.label, lw=1.4)
    paper = protocol.full
    band, faint = (0.2, 0.1) if paper else (0.1, 0.06)  # folds widen the demo's bands: they overlap
    for arm in arms:
        rows = arm.of(shown)
        if rows.empty:
            continue
        look = LOOKS[arm.condition]
        color, marker = colors.get(arm, (look.color, look.marker))
        x, y, spread = (rows[c].to_numpy(float) for c in ("level", "mean_acc", "std_acc"))
        y, spread = 100 * y, 100 * spread
        panel.plot(x, y, look.line, color=color, marker=marker, ms=4, lw=1.4, label=arm.label)
        alpha = faint if arm.condition == "random" or arm in colors else band
        panel.fill_between(x, y - spread, y + spread, color=color, alpha=alpha, lw=0)
    if paper:
        _published(panel, protocol, arms, colors)
    _axes(panel, table, shown)
    note = ""
    if paper and published_range:
        note = y_range(panel, *published_range, 100 * shown["mean_acc"].to_numpy(float), below_axis=False)
    legend_below(panel, f"{STD}, {counts(shown['n'])}{lost(shown)}{note and '; ' + note}", columns)


def lost(table: pd.DataFrame) -> str:
    """A clause on diverged runs, of a summary; empty if there are none."""
    count = int(table["diverged"].sum())
    return f", {count} diverged (counted as chance)" if count else ""


def legend_below(panel: Axes, title: str, columns: int) -> None:
    """A legend that cannot lie on data: beneath the panel."""
    below = offset_copy(panel.transAxes, panel.get_figure(root=True), y=-36, units="points")  # ticks and axis label
    panel.legend(
        fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
        ncols=columns,
        title=title,
        title_fontsize=7,
        frameon=False,
        columnspacing=1.2,
        handlelength=2.6,
    )


def _axes(panel: Axes, own: pd.DataFrame, shown: pd.DataFrame) -> None:
    left = own.groupby("level")["weights_left_pct"].mean()
    left = left[left.index <= shown["level"].max()]
    ticks = left.index[:: 2 if len(left) > 6 else 1]
    panel.set_xticks(ticks, [f"{left[k]:.3g}" for k in ticks])
    panel.set(xlabel="weights remaining (%)", ylabel="test accuracy (%)")
    panel.set_xlim(-0.3, left.index.max() + 0.3)
    accuracy_axis(panel)
    grid(panel)


def _published(panel: Axes, protocol: Protocol, arms: Sequence[Arm], colors: dict) -> None:
    """The published means as thin lines of the same colours."""
    label = "thin: as published"
    for arm in arms:
        rows = reference(protocol.dataset, arm)
        rows = rows[rows["level"] <= protocol.levels]
        if len(rows):
            color = colors.get(arm, (LOOKS[arm.condition].color,))[0]
            panel.plot(rows["level"], 100 * rows["mean"].to_numpy(float), color=color, lw=0.7, label=label)
            label = None


def reference(dataset: str, arm: Arm) -> pd.DataFrame:
    """The published curve of an arm (columns level, mean, std, n), empty where there is none."""
    try:
        curves = published.curves(dataset, noise=arm.noise)
    except UsageError:
        return pd.DataFrame({"level": [], "mean": [], "std": [], "n": []})
    curves = curves[(curves["condition"] == arm.condition) & (curves["size"] == arm.size) & (curves["t"] == arm.t)]
    return curves.sort_values("level")
