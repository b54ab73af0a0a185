"""Figure 5: barriers of the loss between children of a rewind point, and what final accuracy goes with."""

from dataclasses import replace

import numpy as np
import pandas as pd

from paper_figures.shared import cells
from paper_figures.shared.curves import Arm
from paper_figures.shared.drawing import GREY, LEGEND, accuracy_axis, grid, new_figure, no_runs, rows_of, y_range
from paper_figures.shared.panels import (
    LOOKS,
    MARKERS,
    Axis,
    Look,
    Pair,
    Panel,
    Point,
    beside,
    counts,
    panel_title,
    paper_of,
    tidy,
)
from repro.plan import Barrier
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify import published
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.stats import RESAMPLES, spearman

TITLE = "Figure 5"
SCALES = ("demo", "small", "cpu", "day", "paper")
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
NAMES = {kind: "all data" if kind == "all" else LOOKS[kind].label.split(" {")[0] for kind in KINDS}
X = {"pretrain_acc": "accuracy of the rewind point (%)", "barrier": "mean train loss barrier (nats)"}


def needed(p: Protocol) -> list[Item]:
    """Barriers of many initialisations, and the accuracy of the networks pruned from them."""
    runs = [cells.all_at(p, t) for t in p.barrier_all]
    kinds = ("random", "easy") if p.full else ("random", "easy", "hard")
    runs += [cells.subset(p, kind, m, t) for t in p.barrier_subsets for m in p.barrier_sizes for kind in kinds]
    if p.scale == "paper":
        runs += [cells.ranked_by(p, "lmc", size) for size in p.barrier_sizes]
    elif p.scale == "day":  # conditions whose pruned runs Figures 2 and 4 have: only their children are new
        shared = (("hard", p.subset_size), ("random", p.noise_size), ("easy", p.noise_size))
        runs += [cells.subset(p, kind, size) for kind, size in shared]
    else:
        runs += [cells.ranked_by(p, score, p.subset_size) for score in ("lmc", "forgetting")]
    return runs + [Barrier(cell) for cell in runs]


def initialisations(p: Protocol) -> list[Arm]:
    """The four whose per-example barriers are shown."""
    half, m = p.t_star // 2, p.subset_size
    all_data = [Arm("all_tstar_half", 0, half), Arm("all_tstar", 0, p.t_star)]
    return [*all_data, Arm("random", m, half), Arm("easy", m, half)]


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """Histograms of per-example barriers, and final accuracy against accuracy and barrier of the rewind point."""
    return [_histogram_panel(histograms(evidence, p), p), *_scatter_panels(parents(evidence, p), p)]


def _histogram_panel(tables: dict[Arm, pd.DataFrame], p: Protocol) -> Pair:
    axes = (Axis("per-example barrier of the train loss (nats)"), Axis("share of training examples (%)", "%"))
    own = [
        _bin(a.label, r.bin_lo, r.share_pct, r.n, a.barrier(p)) for a, rows in tables.items() for r in rows.itertuples()
    ]
    own_looks = {arm.label: LOOKS[arm.condition] for arm in tables}
    points, looks, other = [], {}, paper_of(p, ("cinic10",))
    for (kind, m, t), rows in published.histograms(other.dataset).groupby(["condition", "size", "t"]):
        condition = kind if m else "all_tstar_half" if 2 * t < other.t_star else "all_tstar"
        label = LOOKS[kind].label.format(size=m, t=t) if m else f"all data, t = {t:,}"
        looks[label] = LOOKS[condition]
        points += [_bin(label, row.bin_lo, 100 * row.count / rows["count"].sum(), 2) for row in rows.itertuples()]
    title = f"{panel_title(other)}, read off a picture"
    paper = Panel(title, tuple(points), looks, *axes, whose="the paper")
    return beside(
        Panel(f"{panel_title(p)}: barriers of single examples", tuple(own), own_looks, *axes), paper, p, other
    )


def _bin(label: str, low: float, share: float, n: int, origin: tuple = ()) -> Point:
    return Point(label, low + 0.25, share, f"{low:g} to {low + 0.5:g} nats", None, int(n), origin)


def _scatter_panels(points: pd.DataFrame, p: Protocol) -> list[Pair]:
    other, means, markers, found = paper_of(p, ("cinic10",)), by_condition(points), steps(points), []
    for x, title in X.items():
        scale, unit = (1, "nats") if x == "barrier" else (100, "%")
        axes = (Axis(title), Axis(f"test accuracy at level {p.barrier_level} (%)", "%"))
        own, looks, theirs = [], {}, []
        for row in (*means.itertuples(), *points.itertuples()):
            label, small = f"{NAMES[row.kind]}, t = {row.t:,}", hasattr(row, "replicate")
            looks[label] = Look(KINDS[row.kind], markers[int(row.t)])
            at = f"{scale * getattr(row, x):.3g} {unit}" + (f", {row.size:,} examples" if row.size else "")
            at += f", parent {row.replicate}" if small else ", mean over parents"
            origin = Arm(row.condition, row.size, row.t).barrier(p)
            place = (scale * getattr(row, x), 100 * row.final_acc)
            own.append(Point(label, *place, at, None, 1 if small else int(row.n), origin, small))
        for row in published.scatter(other.dataset).itertuples():
            at = f"{scale * getattr(row, x):.3g} {unit}, a parent"
            theirs.append(Point(NAMES[row.condition], scale * getattr(row, x), 100 * row.final, at, None, 1))
        title = f"{panel_title(p)}: final accuracy against {title.rpartition(' (')[0]}"
        mine = Panel(title, tuple(own), looks, *axes, joined=False)
        axes = (axes[0], replace(axes[1], title=f"test accuracy at level {other.barrier_level} (%)"))
        looks, title = (
            {NAMES[kind]: Look(color) for kind, color in KINDS.items()},
            f"{panel_title(other)}, read off a picture",
        )
        paper = Panel(title, tuple(theirs), looks, *axes, joined=False, whose="the paper")
        found.append(beside(mine, paper, p, other))
    return found


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
    means = {name: (name, "mean") for name in ("barrier", "pretrain_acc", "final_acc")}
    return points.groupby(keys, sort=False).agg(**means, n=("replicate", "count")).reset_index()


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


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, a row per data set (four histograms, two scatter plots), and the table of what it shows.

    Panels of the table: 'histogram', 'condition' (the points), 'parent' (the light points).
    """
    figure = new_figure((15, 4.7 * len(protocols) + 0.3), TITLE, protocols, control)
    tables = {"histogram": [], "condition": [], "parent": []}
    for row, p in zip(rows_of(figure, protocols), protocols):
        left, right = row.subfigures(1, 2, width_ratios=(1, 1.35))
        row.suptitle(panel_title(p), fontsize=10)
        bins, points = histograms(evidence, p), parents(evidence, p)
        means = by_condition(points)
        _histograms(left, bins, p)
        for axes, x in zip(right.subplots(1, 2, sharey=True), X):
            _scatter(axes, points, means, p, x)
        _legend(right, points, means, p)
        for name, found in zip(tables, (bins.values(), [means], [points])):
            tables[name] += found
    return figure, tidy(tables)


def _histograms(figure, tables: dict[Arm, pd.DataFrame], p: Protocol) -> None:
    places = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (arm, table) in zip(places.flat, tables.items()):
        axes.set_title(arm.label, fontsize=8)
        corner = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        if table.empty:
            axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", va="center", color=GREY)
            continue
        color = LOOKS[arm.condition].color
        axes.bar(table["bin_lo"], table["share_pct"], width=0.5, align="edge", color=color, alpha=0.75, lw=0)
        mean, n = table["mean"].iloc[0], int(table["n"].iloc[0])
        axes.axvline(mean, color="black", lw=1, ls="--")
        axes.text(0.97, 0.93, f"mean {mean:.2f} nats\nn = {n} parents", fontsize=8, **corner)
        bins = _published_bins(p, arm)
        if len(bins):
            share = 100 * bins["count"] / bins["count"].sum()
            axes.stairs(share, [*bins["bin_lo"], bins["bin_lo"].iloc[-1] + 0.5], color="black", lw=0.7)
            axes.text(0.97, 0.66, "line: as published", fontsize=7, **corner)
        axes.grid(alpha=0.25, lw=0.5)
    figure.supxlabel("per-example barrier of the train loss (nats)", fontsize=9)
    figure.supylabel("share of training examples (%)", fontsize=9)
    if shown := [table["share_pct"].max() for table in tables.values() if len(table)]:
        top = 1.05 * max(shown)
        places[0, 0].set(xlim=(-5, 10), ylim=(0, max(HIST_RANGE[1], top) if p.full else top))


def _published_bins(p: Protocol, arm: Arm) -> pd.DataFrame:
    table = published.histograms(p.dataset)
    same = table["condition"] == (arm.condition if arm.size else "all")
    return table[same & (table["size"] == arm.size) & (table["t"] == arm.t) & p.full]


def _scatter(axes, points: pd.DataFrame, means: pd.DataFrame, p: Protocol, x: str) -> None:
    axes.set(xlabel=X[x], ylabel=f"test accuracy at level {p.barrier_level} (%)" if x == "pretrain_acc" else "")
    if points.empty:
        return no_runs(axes)
    scale = 1 if x == "barrier" else 100
    if p.full:
        for kind, rows in published.scatter(p.dataset).groupby("condition"):
            axes.scatter(scale * rows[x], 100 * rows["final"], s=30, facecolors="none", edgecolors=KINDS[kind], lw=0.7)
    markers = steps(points)
    light = {"s": 12, "alpha": 0.3, "lw": 0}
    large = {"s": 48, "edgecolors": "white", "lw": 0.8, "zorder": 3}
    for table, style in ((points, light), (means, large)):
        for (kind, t), rows in table.groupby(["kind", "t"]):
            axes.scatter(scale * rows[x], 100 * rows["final_acc"], marker=markers[t], color=KINDS[kind], **style)
    rho, low, high = rank_correlation(means[x].to_numpy(float), means["final_acc"].to_numpy(float))
    interval = f"Spearman ρ = {rho:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
    axes.set_title(f"{interval}\nover {len(means)} conditions", fontsize=8)
    accuracy_axis(axes)
    if x == "pretrain_acc":
        accuracy_axis(axes, "x")
    if p.full and p.dataset in Y_RANGES:
        y_range(axes, *Y_RANGES[p.dataset], 100 * means["final_acc"].to_numpy(float))
    grid(axes)


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


def _legend(figure, points: pd.DataFrame, means: pd.DataFrame, p: Protocol) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if points.empty:
        return
    known = set(points["kind"])
    handles = [Patch(color=color, label=NAMES[kind]) for kind, color in KINDS.items() if kind in known]
    style = {"color": "#555555", "lw": 0}
    handles += [Line2D([], [], marker=marker, label=f"t = {t:,}", **style) for t, marker in steps(points).items()]
    hollow = "; hollow: as published (each a parent)" if p.full and p.dataset in Y_RANGES else ""
    title = f"large: mean over parents ({counts(means['n'])}), light: each parent{hollow}"
    place = {"loc": "outside lower center", "ncols": len(handles), "columnspacing": 1.2}
    figure.legend(handles=handles, title=title, **place, **LEGEND)
