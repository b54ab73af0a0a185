"""Figure 5: barriers of the loss between children of a rewind point, and what final accuracy goes with."""

import numpy as np
import pandas as pd

from paper_figures.shared import cells
from paper_figures.shared import panels as chart
from paper_figures.shared.curves import Arm
from paper_figures.shared.drawing import GREY, LEGEND, accuracy_axis, grid, new_figure, no_runs, rows_of, y_range
from paper_figures.shared.panels import LOOKS, Axis, Look, Pair, Panel, Point, panel_title
from repro.plan import Barrier
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify import published
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.stats import RESAMPLES, spearman

TITLE = "Figure 5"
SCALES = ("demo", "small", "cpu", "day", "paper")
WIDTH = 0.5  # of a bin, nats
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
    """Histograms of per-example barriers, and final accuracy against accuracy and barrier of the rewind point.

    Their tables are those of `histograms`, and of `parents`.
    """
    return [_histogram_panel(histograms(evidence, p), p), *_scatter_panels(parents(evidence, p), p)]


def _histogram_panel(table: pd.DataFrame, p: Protocol) -> Pair:
    axes = (Axis("per-example barrier of the train loss (nats)"), Axis("share of training examples (%)", "%"))
    arms, other = initialisations(p), chart.paper_of(p, ("cinic10",))
    own = [
        _bin(arm.label, r.bin_lo, r.share_pct, r.n, arm.barrier(p)) for arm in arms for r in arm.of(table).itertuples()
    ]
    points, looks = [], {}
    for (kind, m, t), rows in published.histograms(other.dataset).groupby(["condition", "size", "t"]):
        condition = kind if m else "all_tstar_half" if 2 * t < other.t_star else "all_tstar"
        label = LOOKS[kind].label.format(size=m, t=t) if m else f"all data, t = {t:,}"
        looks[label] = LOOKS[condition]
        points += [_bin(label, row.bin_lo, 100 * row.count / rows["count"].sum(), 2) for row in rows.itertuples()]
    paper = Panel(f"{panel_title(other)}, read off a picture", tuple(points), looks, *axes, whose="the paper")
    looks, title = {arm.label: LOOKS[arm.condition] for arm in arms}, f"{panel_title(p)}: barriers of single examples"
    return chart.beside(Panel(title, tuple(own), looks, *axes, table=table), paper, p, other)


def _bin(label: str, low: float, share: float, n: int, origin: tuple = ()) -> Point:
    return Point(label, low + WIDTH / 2, share, f"{low:g} to {low + WIDTH:g} nats", None, int(n), origin)


def _scatter_panels(table: pd.DataFrame, p: Protocol) -> list[Pair]:
    other, markers, found = chart.paper_of(p, ("cinic10",)), steps(table), []
    for x, title in X.items():
        scale, unit = (1, "nats") if x == "barrier" else (100, "%")
        axes = [(Axis(title), Axis(f"test accuracy at level {each.barrier_level} (%)", "%")) for each in (p, other)]
        own, looks, theirs = [], {}, []
        for row in (*by_condition(table).itertuples(), *table.itertuples()):
            label, small = _series(row.kind, row.t), hasattr(row, "replicate")
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
        mine = Panel(title, tuple(own), looks, *axes[0], joined=False, table=table)
        looks, title = {NAMES[kind]: Look(c) for kind, c in KINDS.items()}, f"{panel_title(other)}, read off a picture"
        paper = Panel(title, tuple(theirs), looks, *axes[1], joined=False, whose="the paper")
        found.append(chart.beside(mine, paper, p, other))
    return found


def _series(kind: str, t: int) -> str:
    return f"{NAMES[kind]}, t = {t:,}"


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


def histograms(evidence: Evidence, protocol: Protocol) -> pd.DataFrame:
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
    return pd.concat([_histogram(arm.of(shown), arm.of(pairs)) for arm in chosen])


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

    Panels of the table: 'histogram', 'condition' (the large points), 'parent' (the light ones).
    """
    figure = new_figure((15, 4.7 * len(protocols) + 0.3), TITLE, protocols, control)
    tables = {"histogram": [], "condition": [], "parent": []}
    for row, p in zip(rows_of(figure, protocols), protocols):
        left, right = row.subfigures(1, 2, width_ratios=(1, 1.35))
        row.suptitle(panel_title(p), fontsize=10)
        bins, *scatters = panels(evidence, p)
        _histograms(left, bins, p)
        for axes, pair, x in zip(right.subplots(1, 2, sharey=True), scatters, X):
            _scatter(axes, pair, p, x)
        _legend(right, scatters[0], p)
        points = scatters[0].own.table
        for name, found in zip(tables, (bins.own.table, by_condition(points), points)):
            tables[name].append(found)
    return figure, chart.tidy(tables)


def _as_published(pair: Pair, p: Protocol) -> Panel | None:
    """The paper's panel, where it is of the same data set and schedule."""
    return pair.paper if p.full and chart.paper_of(p, ("cinic10",)).dataset == p.dataset else None


def _histograms(figure, pair: Pair, p: Protocol) -> None:
    own, paper = pair.own, _as_published(pair, p)
    places = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, arm in zip(places.flat, initialisations(p)):
        axes.set_title(arm.label, fontsize=8)
        bins, rows = [point for point in own.points if point.series == arm.label], arm.of(own.table)
        if not bins:
            axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", va="center", color=GREY)
            continue
        corner = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        style = {"color": own.looks[arm.label].color, "alpha": 0.75, "lw": 0}
        axes.bar([point.x - WIDTH / 2 for point in bins], [point.y for point in bins], WIDTH, align="edge", **style)
        mean, n = rows["mean"].iloc[0], bins[0].n
        axes.axvline(mean, color="black", lw=1, ls="--")
        axes.text(0.97, 0.93, f"mean {mean:.2f} nats\nn = {n} parents", fontsize=8, **corner)
        name = arm.label.partition(" (")[0]  # the paper's step has no role
        if line := [point for point in paper.points if point.series == name] if paper else []:
            edges = [point.x - WIDTH / 2 for point in line]
            axes.stairs([point.y for point in line], [*edges, edges[-1] + WIDTH], color="black", lw=0.7)
            axes.text(0.97, 0.66, "line: as published", fontsize=7, **corner)
        axes.grid(alpha=0.25, lw=0.5)
    figure.supxlabel(own.x.title, fontsize=9)
    figure.supylabel(own.y.title, fontsize=9)
    if own.points:
        top = 1.05 * max(point.y for point in own.points)
        places[0, 0].set(xlim=(-5, 10), ylim=(0, max(HIST_RANGE[1], top) if p.full else top))


def _scatter(axes, pair: Pair, p: Protocol, x: str) -> None:
    own, paper = pair.own, _as_published(pair, p)
    axes.set(xlabel=own.x.title, ylabel=own.y.title if x == "pretrain_acc" else "")
    if not own.points:
        return no_runs(axes)
    for name in sorted({point.series for point in paper.points}) if paper else ():
        hollow = {"s": 30, "facecolors": "none", "edgecolors": paper.looks[name].color, "lw": 0.7}
        axes.scatter(*_places(paper, name), **hollow)
    series = [_series(*each) for each in sorted(set(zip(own.table["kind"], own.table["t"])))]
    light = {"s": 12, "alpha": 0.3, "lw": 0}
    large = {"s": 48, "edgecolors": "white", "lw": 0.8, "zorder": 3}
    for small, style in ((True, light), (False, large)):
        for name in series:
            look = own.looks[name]
            axes.scatter(*_places(own, name, small), marker=look.marker, color=look.color, **style)
    means = np.array([(point.x, point.y) for point in own.points if not point.small]).T
    rho, low, high = rank_correlation(*means)
    interval = f"Spearman ρ = {rho:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
    axes.set_title(f"{interval}\nover {means.shape[1]} conditions", fontsize=8)
    accuracy_axis(axes)
    if x == "pretrain_acc":
        accuracy_axis(axes, "x")
    if p.full and p.dataset in Y_RANGES:
        y_range(axes, *Y_RANGES[p.dataset], means[1])
    grid(axes)


def _places(panel: Panel, series: str, small: bool = False) -> tuple[list[float], list[float]]:
    points = [point for point in panel.points if point.series == series and point.small == small]
    return [point.x for point in points], [point.y for point in points]


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
    return {int(t): chart.MARKERS[i % len(chart.MARKERS)] for i, t in enumerate(sorted(set(points["t"])))}


def _legend(figure, pair: Pair, p: Protocol) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    table = pair.own.table
    if table.empty:
        return
    handles = [Patch(color=color, label=NAMES[kind]) for kind, color in KINDS.items() if kind in set(table["kind"])]
    style = {"color": "#555555", "lw": 0}
    handles += [Line2D([], [], marker=marker, label=f"t = {t:,}", **style) for t, marker in steps(table).items()]
    hollow = "; hollow: as published (each a parent)" if p.full and p.dataset in Y_RANGES else ""
    n = chart.counts(point.n for point in pair.own.points if not point.small)
    title = f"large: mean over parents ({n}), light: each parent{hollow}"
    place = {"loc": "outside lower center", "ncols": len(handles), "columnspacing": 1.2}
    figure.legend(handles=handles, title=title, **place, **LEGEND)
