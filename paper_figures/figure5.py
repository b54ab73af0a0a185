"""Figure 5: barriers of the loss between children of a rewind point, and what final accuracy goes with."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures.shared.curves import Arm
from paper_figures.shared.drawing import (
    LOOKS,
    MARKERS,
    accuracy_axis,
    counts,
    grid,
    heading,
    no_runs,
    panel_title,
    rows_of,
    tidy,
    y_range,
)
from repro.protocol import Protocol
from repro.verify import published_points
from repro.verify.correlation import spearman
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.stats import RESAMPLES

TITLE = "Figure 5"
HIST_RANGE = (0, 100 * 600_000 / 1_080_000)  # percent of the examples: 0 to 600,000 of 1.08 million, as published
Y_RANGES = {"cinic10": (85.0, 86.4)}  # percent, of the scatter plots, as published
KINDS = {
    "all": "#0173b2",
    "random": "#029e73",
    "easy": "#d55e00",
    "hard": "#cc78bc",
    "lmc": "#56b4e9",
    "forgetting": "#ca9161",
}
X = {"pretrain_acc": "accuracy of the rewind point (%)", "barrier": "mean train loss barrier (nats)"}


def initialisations(protocol: Protocol) -> list[Arm]:
    """The four whose per-example barriers are shown."""
    half, size = protocol.t_star // 2, protocol.subset_size
    return [
        Arm("all_tstar_half", 0, half),
        Arm("all_tstar", 0, protocol.t_star),
        Arm("random", size, half),
        Arm("easy", size, half),
    ]


def parents(evidence: Evidence, protocol: Protocol) -> pd.DataFrame:
    """One row per rewind point: kind, size, t, replicate, n_pairs, and what Figure 5 relates.

    barrier: mean train loss barrier over the pairs of its dense children (nats, alpha = 1/2, batch norm averaged).
    pretrain_acc: test accuracy of the rewind point; final_acc: of its sparse network at level ``barrier_level``.
    Fractions. Of the replicates that every rewind point has. Initialisation itself (t = 0) is left out, as published.
    """
    keys = ["condition", "size", "t", "replicate"]
    barriers = own_labels(evidence.barriers)
    chosen = (barriers["dataset"] == protocol.dataset) & (barriers["batch_norm"] == "averaged") & (barriers["t"] > 0)
    chosen &= (barriers["level"] == 0) & (barriers["noise"] == 0) & (~barriers["diverged"].astype(bool))
    runs = own_labels(evidence.runs)
    runs = runs[
        (runs["dataset"] == protocol.dataset) & (runs["level"] == protocol.barrier_level) & (runs["noise"] == 0)
    ]
    means = (
        barriers[chosen]
        .groupby(keys, sort=False)
        .agg(barrier=("train_ce", "mean"), pretrain_acc=("pretrain_acc", "mean"), n_pairs=("train_ce", "count"))
    )
    found = means.reset_index().merge(runs[[*keys, "acc"]].rename(columns={"acc": "final_acc"}), on=keys)
    found = same_replicates(found, keys[:-1]).reset_index(drop=True)
    kinds = found["condition"].astype(str).str.replace(r"^all_.*", "all", regex=True)
    found.insert(0, "dataset", protocol.dataset)
    found.insert(1, "kind", kinds)
    return found


def by_condition(points: pd.DataFrame) -> pd.DataFrame:
    """Means over the parents of each condition; n: how many."""
    keys = ["dataset", "kind", "condition", "size", "t"]
    return (
        points.groupby(keys, sort=False)
        .agg(
            barrier=("barrier", "mean"),
            pretrain_acc=("pretrain_acc", "mean"),
            final_acc=("final_acc", "mean"),
            n=("replicate", "count"),
        )
        .reset_index()
    )


def histograms(evidence: Evidence, protocol: Protocol) -> dict[Arm, pd.DataFrame]:
    """Of each of `initialisations`: shares (%) of per-example barriers in bins of 0.5, their mean, and the number of
    parents, of those that all four have."""
    bins, pairs = (
        own_labels(table[table["dataset"] == protocol.dataset]) for table in (evidence.histograms, evidence.barriers)
    )
    pairs = pairs[(pairs["level"] == 0) & (~pairs["diverged"].astype(bool))]
    bins, pairs = (table[table["batch_norm"] == "averaged"] for table in (bins, pairs))
    keys, chosen = ["condition", "size", "t"], initialisations(protocol)
    shown = same_replicates(pd.concat([bins[:0], *(arm.of(bins) for arm in chosen)]), keys)
    pairs = pairs[pairs["replicate"].isin(set(shown["replicate"]))]
    return {arm: _histogram(arm.of(shown), arm.of(pairs)) for arm in chosen}


def _histogram(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        return rows
    n = rows["replicate"].nunique()
    sums = rows.groupby("bin_lo")["count"].sum()
    rows = rows.drop_duplicates("bin_lo").sort_values("bin_lo").drop(columns=["replicate", "labels"], errors="ignore")
    rows = rows.assign(count=sums.to_numpy())
    share = 100 * rows["count"].astype(float) / rows["count"].sum()
    # the outermost bins hold what is outside: the pairs' own means are exact
    mean = pairs["train_ce"].mean() if len(pairs) else (rows["bin_lo"] + 0.25) @ share / 100
    return rows.assign(share_pct=share, mean=float(mean), n=n)


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, a row per data set (four histograms, two scatter plots), and the table of what it shows.

    Panels of the table: 'histogram', 'condition' (the points), 'parent' (the light points).
    """
    figure = Figure(figsize=(15, 4.7 * len(protocols) + 0.3), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    tables = {"histogram": [], "condition": [], "parent": []}
    for row, protocol in zip(rows_of(figure, protocols), protocols):
        left, right = row.subfigures(1, 2, width_ratios=(1, 1.35))
        row.suptitle(panel_title(protocol), fontsize=10)
        tables["histogram"] += _histograms(left, evidence, protocol)
        points = parents(evidence, protocol)
        tables["parent"].append(points)
        tables["condition"].append(by_condition(points))
        for panel, x in zip(right.subplots(1, 2, sharey=True), X):
            _scatter(panel, points, tables["condition"][-1], protocol, x)
        _legend(right, points, protocol)
    return figure, tidy({name: pd.concat(parts) for name, parts in tables.items()})


def _histograms(figure, evidence: Evidence, protocol: Protocol) -> list[pd.DataFrame]:
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    tables = histograms(evidence, protocol)
    for panel, (arm, table) in zip(panels.flat, tables.items()):
        look = LOOKS[arm.condition]
        panel.set_title(arm.label, fontsize=8)
        if table.empty:
            panel.text(0.5, 0.5, "no runs", transform=panel.transAxes, ha="center", va="center", color="#888888")
            continue
        panel.bar(table["bin_lo"], table["share_pct"], width=0.5, align="edge", color=look.color, alpha=0.75, lw=0)
        mean, n = table["mean"].iloc[0], int(table["n"].iloc[0])
        panel.axvline(mean, color="black", lw=1, ls="--")
        panel.text(
            0.97,
            0.93,
            f"mean {mean:.2f} nats\nn = {n} parents",
            transform=panel.transAxes,
            ha="right",
            va="top",
            fontsize=8,
        )
        _published_histogram(panel, protocol, arm)
        panel.grid(alpha=0.25, lw=0.5)
    figure.supxlabel("per-example barrier of the train loss (nats)", fontsize=9)
    figure.supylabel("share of training examples (%)", fontsize=9)
    if any(len(table) for table in tables.values()):
        panels[0, 0].set_xlim(-5, 10)
        top = max(table["share_pct"].max() for table in tables.values() if len(table))
        panels[0, 0].set_ylim(0, max(HIST_RANGE[1], 1.05 * top) if protocol.full else 1.05 * top)
    return list(tables.values())


def _published_histogram(panel: Axes, protocol: Protocol, arm: Arm) -> None:
    table = published_points.histograms(protocol.dataset)
    kind = "all" if arm.size == 0 else arm.condition
    table = table[(table["condition"] == kind) & (table["size"] == arm.size) & (table["t"] == arm.t)]
    if protocol.full and len(table):
        share = 100 * table["count"] / table["count"].sum()
        panel.stairs(share, [*table["bin_lo"], table["bin_lo"].iloc[-1] + 0.5], color="black", lw=0.7)
        panel.text(0.97, 0.66, "line: as published", transform=panel.transAxes, ha="right", va="top", fontsize=7)


def _scatter(panel: Axes, points: pd.DataFrame, conditions: pd.DataFrame, protocol: Protocol, x: str) -> None:
    panel.set(xlabel=X[x], ylabel=f"test accuracy at level {protocol.barrier_level} (%)" if x == "pretrain_acc" else "")
    if points.empty:
        return no_runs(panel)
    scale = 1 if x == "barrier" else 100
    if protocol.full:
        _published_scatter(panel, protocol, x)
    markers = steps(points)
    for (kind, t), rows in points.groupby(["kind", "t"]):
        panel.scatter(
            scale * rows[x], 100 * rows["final_acc"], s=12, marker=markers[t], color=KINDS[kind], alpha=0.3, lw=0
        )
    for (kind, t), rows in conditions.groupby(["kind", "t"]):
        panel.scatter(
            scale * rows[x],
            100 * rows["final_acc"],
            s=48,
            marker=markers[t],
            color=KINDS[kind],
            edgecolors="white",
            lw=0.8,
            zorder=3,
        )
    rho, low, high = rank_correlation(conditions[x].to_numpy(float), conditions["final_acc"].to_numpy(float))
    interval = f"Spearman ρ = {rho:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
    panel.set_title(f"{interval}\nover {len(conditions)} conditions", fontsize=8)
    accuracy_axis(panel)
    if x == "pretrain_acc":
        accuracy_axis(panel, "x")
    if protocol.full and protocol.dataset in Y_RANGES:
        y_range(panel, *Y_RANGES[protocol.dataset], 100 * conditions["final_acc"].to_numpy(float))
    grid(panel)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rho over conditions, shape (n,), and its 95 % percentile interval (conditions resampled, fixed seed).

    NaN where it is undefined; resamples without any spread are left out.
    """
    n = len(x)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    resampled = spearman(x, y, drawn)
    resampled = resampled[~np.isnan(resampled)]
    low, high = np.quantile(resampled, (0.025, 0.975)) if len(resampled) else (np.nan, np.nan)
    return float(spearman(x, y)), float(low), float(high)


def steps(points: pd.DataFrame) -> dict[int, str]:
    """{t: marker}."""
    return {int(t): MARKERS[i % len(MARKERS)] for i, t in enumerate(sorted(set(points["t"])))}


def _published_scatter(panel: Axes, protocol: Protocol, x: str) -> None:
    """The published points, hollow."""
    scale = 1 if x == "barrier" else 100
    for kind, rows in published_points.scatter(protocol.dataset).groupby("condition"):
        panel.scatter(scale * rows[x], 100 * rows["final"], s=30, facecolors="none", edgecolors=KINDS[kind], lw=0.7)


def _legend(figure: SubFigure, points: pd.DataFrame, protocol: Protocol) -> None:
    if points.empty:
        return
    known = dict.fromkeys(points["kind"])
    handles = [
        Patch(color=color, label="all data" if kind == "all" else LOOKS[kind].label.split(" {")[0])
        for kind, color in KINDS.items()
        if kind in known
    ]
    handles += [
        Line2D([], [], color="#555555", lw=0, marker=marker, label=f"t = {t:,}") for t, marker in steps(points).items()
    ]
    hollow = "; hollow: as published (each a parent)" if protocol.full and protocol.dataset in Y_RANGES else ""
    n = counts(by_condition(points)["n"])
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        columnspacing=1.2,
        fontsize=7,
        title_fontsize=7,
        frameon=False,
        title=f"large: mean over parents ({n}), light: each parent{hollow}",
    )
