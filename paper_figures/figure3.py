"""Figure 3: accuracy at three sparsities against the size of the subset that networks were pre-trained on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.shared.curves import SUBSETS, all_data, baseline, lost, panel_of, reference, subsets
from paper_figures.shared.drawing import (
    LOOKS,
    STD,
    accuracy_axis,
    counts,
    grid,
    heading,
    log2_axis,
    no_runs,
    panel_title,
    rows_of,
    tidy,
    y_range,
)
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 3"
Y_RANGES = {"cifar10": (85, 92), "cifar100": (56, 69)}  # percent, as published; CINIC-10's are unknown


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, a row per data set and a column per level, and the table of what it shows.

    Columns of the table: panel ('sizes', 'baselines', 'dense') and those of `curves.summarise`.
    """
    figure = Figure(figsize=(12.5, 3.9 * len(protocols) + 0.3), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    parts = {"sizes": [], "baselines": [], "dense": []}
    for row, protocol in zip(rows_of(figure, protocols), protocols):
        row.suptitle(panel_title(protocol), fontsize=10)
        table = sizes(evidence.runs, protocol)
        swept, levels, dense = _rows(table, protocol)
        panels = row.subplots(1, len(protocol.sweep_levels), sharey=protocol.scale != "paper", squeeze=False)[0]
        for panel, level in zip(panels, protocol.sweep_levels):
            _panel(
                panel,
                swept[swept["level"] == level],
                levels[levels["level"] == level],
                protocol,
                level,
                baseline(table, protocol),
            )
        for panel in panels:
            accuracy_axis(panel)
        panels[0].set_ylabel("test accuracy (%)")
        if len(swept):
            lines = dict(zip(*panels[0].get_legend_handles_labels()[::-1]))
            half, n = protocol.t_star // 2, pd.concat([swept, levels])
            bars = "means" if protocol.scale == "paper" else f"error bars: {STD}"
            row.legend(
                lines.values(),
                lines,
                loc="outside lower center",
                ncols=8,
                fontsize=7,
                title_fontsize=7,
                frameon=False,
                title=f"subsets at t = {half} (t*/2); {bars}, {counts(n['n'])}{lost(n)}",
            )
        for name, rows in zip(parts, (swept, levels, dense)):
            parts[name].append(rows)
    return figure, tidy({name: pd.concat(rows) for name, rows in parts.items()})


def sizes(runs: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """`curves.panel_of` of every size at the levels of the sweep, and of dense networks."""
    own = runs[runs["dataset"] == protocol.dataset]
    known = sorted(set(own.loc[own["condition"].isin(SUBSETS), "size"]))
    arms = [*(arm for size in known for arm in subsets(protocol, size)), *all_data(protocol)]
    return panel_of(own, protocol, arms, protocol.sweep_levels)


def _rows(table: pd.DataFrame, protocol: Protocol) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of `sizes`, at the levels of the sweep: subsets by size, all data; and dense networks."""
    shown = table[table["level"].isin(protocol.sweep_levels)]
    top = all_data(protocol)[-1].of(table)
    return shown[shown["size"] > 0], shown[shown["size"] == 0], top[top["level"] == 0]


def _panel(
    panel: Axes, swept: pd.DataFrame, levels: pd.DataFrame, protocol: Protocol, level: int, dense: float | None
) -> None:
    left = pd.concat([swept, levels])["weights_left_pct"].mean()
    share = f"{left:.3g} % of the weights (level {level})" if np.isfinite(left) else f"level {level}"
    panel.set_title(share, fontsize=9)
    if swept.empty and levels.empty:
        return no_runs(panel)
    paper = protocol.scale == "paper"
    if dense is not None:
        look = LOOKS["dense"]
        panel.axhline(dense, color=look.color, linestyle=look.line, lw=1.2, label=look.label)
    for arm in reversed(all_data(protocol)):
        look, rows = LOOKS[arm.condition], arm.of(levels)
        if len(rows):
            panel.axhline(
                100 * rows["mean_acc"].iloc[0], color=look.color, linestyle=look.line, lw=1.2, label=arm.label
            )
    for i, condition in enumerate(SUBSETS):
        rows = swept[swept["condition"] == condition].sort_values("size")
        if rows.empty:
            continue
        look = LOOKS[condition]
        # a little beside each other, or the error bars would hide one another
        x = rows["size"].to_numpy(float) * (1 if paper else 2 ** (0.05 * (i - 1)))
        y, spread = (100 * rows[c].to_numpy(float) for c in ("mean_acc", "std_acc"))
        if not paper:
            panel.errorbar(x, y, spread, fmt="none", ecolor=look.color, alpha=0.35, lw=1)
        panel.plot(x, y, look.line, color=look.color, marker=look.marker, ms=5, lw=1.4, label=WORDS[condition])
    if paper:
        _published(panel, protocol, level)
    if len(swept):
        log2_axis(panel, swept["size"], "examples in the subset")
    grid(panel, 7)
    if paper and protocol.dataset in Y_RANGES:
        means = pd.concat([swept, levels])["mean_acc"].to_numpy(float)
        y_range(panel, *Y_RANGES[protocol.dataset], 100 * means)


WORDS = {"random": "random", "easy": "easiest", "hard": "hardest"}


def _published(panel: Axes, protocol: Protocol, level: int) -> None:
    """The published means as thin lines of the same colours."""
    label = "thin: as published"
    for condition in SUBSETS:
        points = _published_sizes(protocol, condition, level)
        if points:
            panel.plot(*zip(*points), color=LOOKS[condition].color, lw=0.7, label=label)
            label = None
    for arm in all_data(protocol):
        rows = reference(protocol.dataset, arm)
        mean = 100 * rows.loc[rows["level"] == level, "mean"]
        if len(mean):
            panel.axhline(mean.iloc[0], color=LOOKS[arm.condition].color, lw=0.7)


def _published_sizes(protocol: Protocol, condition: str, level: int) -> Sequence[tuple[int, float]]:
    found = []
    for size in protocol.sizes:
        rows = reference(protocol.dataset, subsets(protocol, size, [condition])[0])
        found += [(size, 100 * mean) for mean in rows.loc[rows["level"] == level, "mean"]]
    return found
