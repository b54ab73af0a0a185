"""Figure 6: final accuracy against the number of learning-rate warm-up steps taken on a subset."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.shared.drawing import (
    STD,
    accuracy_axis,
    counts,
    grid,
    heading,
    log2_axis,
    no_runs,
    panel_title,
    rows_of,
    y_range,
)
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence
from repro.verify.published_points import warmup_curves

TITLE = "Figure 6"
KINDS = ("easy", "random", "hard")
TITLES = {"easy": "easiest", "random": "random", "hard": "hardest"}
Y_RANGES = {"easy": (87.1, 92.1), "random": (90.4, 92.0), "hard": (90.4, 92.0)}  # percent, as published
ALL, ROCKET, MARKERS = "#0173b2", ("#f4865e", "#ca1a50", "#601f52"), "o^D"


def summarise(warmup: pd.DataFrame) -> pd.DataFrame:
    """Per data set, kind, size and w: mean and std (ddof 0) of the n runs that did not diverge, and how many did."""
    keys, found = ["dataset", "kind", "size", "w"], []
    for key, rows in warmup.groupby(keys, sort=False):
        lost = rows["diverged"].astype(bool)
        acc = rows.loc[~lost, "acc"].astype(float)
        summary = {"mean_acc": acc.mean(), "std_acc": acc.std(ddof=0), "n": len(acc), "diverged": int(lost.sum())}
        found.append(dict(zip(keys, key)) | summary)
    return pd.DataFrame(found, columns=[*keys, "mean_acc", "std_acc", "n", "diverged"])


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, a row per data set that has a warm-up study and a panel per kind of subset, and its table."""
    table = summarise(evidence.warmup)
    studied = [p for p in protocols if p.warmup] or protocols[:1]
    figure = Figure(figsize=(12.5, 4.3 * len(studied)), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    for row, protocol in zip(rows_of(figure, studied), studied):
        row.suptitle(panel_title(protocol), fontsize=10)
        own = table[table["dataset"] == protocol.dataset].sort_values(["size", "w"])
        panels = row.subplots(1, len(KINDS))
        for panel, kind in zip(panels, KINDS):
            _panel(panel, own[own["kind"].isin((kind, "all"))], protocol, kind)
        panels[0].set_ylabel("test accuracy (%)")
        handles = {}
        for panel in panels:
            handles |= dict(zip(*panel.get_legend_handles_labels()[::-1]))
        if handles:
            title = f"examples in the warm-up; {STD} over the runs that did not diverge, {counts(own['n'])}"
            row.legend(
                handles.values(),
                handles,
                loc="outside lower center",
                ncols=7,
                fontsize=7,
                title_fontsize=7,
                frameon=False,
                title=title,
            )
    return figure, table[table["dataset"].isin([p.dataset for p in protocols])]


def _panel(panel: Axes, table: pd.DataFrame, protocol: Protocol, kind: str) -> None:
    panel.set_title(f"warm-up on {TITLES[kind]} examples", fontsize=9)
    if table.empty:
        return no_runs(panel)
    looks = sizes(table)
    for size, rows in sorted(table.groupby("size"), key=lambda group: group[0] or np.inf):
        color, marker = looks[size]
        rows = rows.sort_values("w")
        x, y, spread = (rows[c].to_numpy(float) for c in ("w", "mean_acc", "std_acc"))
        y, spread = 100 * y, 100 * spread
        label = f"{size:,}" if size else f"all {protocol.train_images:,}"
        panel.plot(x, y, color=color, marker=marker, ms=6, mec="white", mew=0.6, lw=1.4, label=label)
        panel.fill_between(x, y - spread, y + spread, color=color, alpha=0.2, lw=0)
    if protocol.full:
        _published(panel, protocol, kind, looks)
    accuracy_axis(panel)
    log2_axis(panel, table["w"], "warm-up steps")
    grid(panel)
    if protocol.full:
        y_range(panel, *Y_RANGES[kind], 100 * table["mean_acc"].to_numpy(float))
    _diverged(panel, table, looks)


def sizes(table: pd.DataFrame) -> dict[int, tuple[str, str]]:
    """{size: (colour, marker)}; all data (size 0) is blue."""
    subset = sorted(set(table["size"]) - {0})
    return {0: (ALL, "s")} | {s: (ROCKET[i % 3], MARKERS[i % 3]) for i, s in enumerate(subset)}


def _diverged(panel: Axes, table: pd.DataFrame, looks: dict) -> None:
    """Diverged runs are at chance, outside the axis: crosses along its lower edge, and their number."""
    gone = table[table["diverged"] > 0]
    if gone.empty:
        return
    low, high = panel.get_ylim()
    room = 0.05 * (1 + gone["size"].nunique())
    panel.set_ylim(low - room / (1 - room) * (high - low), high)
    for i, (size, rows) in enumerate(gone.groupby("size")):
        panel.plot(
            rows["w"],
            [0.05 * i + 0.03] * len(rows),
            "x",
            color=looks[size][0],
            ms=5,
            mew=1.4,
            transform=panel.get_xaxis_transform(),
            label="_diverged",
        )
    count, total = int(gone["diverged"].sum()), int((table["n"] + table["diverged"]).sum())
    panel.text(
        0.01,
        0.05 * gone["size"].nunique() + 0.01,
        f"× {count} of {total} runs diverged (left out)",
        transform=panel.transAxes,
        fontsize=7,
        va="bottom",
    )


def _published(panel: Axes, protocol: Protocol, kind: str, looks: dict) -> None:
    table, label = warmup_curves(), "thin: as published (read off a picture)"
    table = table[(table["panel"] == kind) & (protocol.dataset == "cifar10")]
    for size, rows in table.groupby("size"):
        if size in looks:
            rows = rows.sort_values("w")
            panel.plot(rows["w"], 100 * rows["mean"], color=looks[size][0], lw=0.7, label=label)
            label = None
