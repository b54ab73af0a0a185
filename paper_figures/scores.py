"""Scores of CIFAR-10 on randomised labels: how many of them are inside the subsets, and how reliable the scores are.

Not a figure of the paper: it shows what its Figure 4 rests on, that the easiest examples are "largely uncorrupted".
"""

import numpy as np
import pandas as pd

from paper_figures.shared.drawing import grid, legend_below, new_figure, no_runs, rows_of
from paper_figures.shared.panels import LOOKS, STD, WORDS, Axis, Look, Pair, Point, alone, counts, panel_title, tidy
from repro.plan import Chosen, Subset
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.pruned_runs import draw_of

TITLE = "Scores"
SCALES = ("scores",)  # elsewhere Figure 4 contains it
RELIABLE = 0.7  # half-ensemble correlation below which `repro score` warns


def needed(p: Protocol) -> list[Item]:
    """Subsets of the noise panels' size by scores on clean and on randomised labels; nothing is trained on them."""
    kinds = ("easy", "random", "hard")
    return [Chosen(p, Subset(kind, p.noise_size), noise) for noise in (0.0, *p.noise) for kind in kinds]


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """Wrong labels inside subsets, and the correlation of half-ensembles."""
    evidence = evidence.of(p.dataset)
    table = wrong_labels(evidence.subsets, p)
    points = []
    for row in table.itertuples():
        share, origin = 100 * row.noise, ("subset", p.dataset, row.condition, float(row.noise))
        at, numbers = f"{share:.3g} % of the labels randomised", (row.std_wrong_pct, int(row.n))
        points.append(Point(WORDS[row.condition], share, row.mean_wrong_pct, at, *numbers, origin))
    looks = {word: LOOKS[kind] for kind, word in WORDS.items()}
    ticks = tuple(sorted({float(np.round(point.x, 6)) for point in points}))
    axes = (Axis("labels randomised (%)", ticks=ticks), Axis("wrong labels (%)", "%"))
    shares = alone(f"wrong labels among {p.noise_size:,} images", points, looks, *axes, table=table)
    return [shares, half_ensembles(evidence.scores, p)]


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """A row per data set (wrong labels inside subsets, correlation of half-ensembles), and the table of what it shows.

    Panels of the table: 'wrong labels' and 'half-ensemble correlation'.
    """
    figure = new_figure((11, 4.6 * len(protocols)), TITLE, protocols, control)
    tables = {"wrong labels": [], "half-ensemble correlation": []}
    for row, p in zip(rows_of(figure, protocols), protocols):
        recipe, data_set = p.scoring, panel_title(p).partition(" +")[0]
        title = f"{data_set}, EL2N of {recipe.networks} × {recipe.network}, {recipe.training.steps:,} steps"
        row.suptitle(title, fontsize=10)
        shares, halves = panels(evidence, p)
        left, right = row.subplots(1, 2, width_ratios=(1.5, 1))
        _shares(left, shares)
        draw_half_ensembles(right, halves)
        tables["wrong labels"].append(shares.own.table)
        tables["half-ensemble correlation"].append(halves.own.table)
    return figure, tidy(tables)


def wrong_labels(subsets: pd.DataFrame, p: Protocol) -> pd.DataFrame:
    """Per noise and kind: mean and std (ddof 0) over n draws of the share (%) of labels that are wrong.

    Of the replicates that all have; those of one fold share the scores, and so one easy and one hard subset.
    """
    rows = own_labels(subsets[(subsets["size"] == p.noise_size) & (subsets["noise"] > 0)])
    rows = rows[rows["condition"].isin(WORDS)].drop_duplicates(["condition", "noise", "replicate"])
    rows = same_replicates(rows, ["condition", "noise"])
    rows = rows.assign(draw=[draw_of(row.condition, int(row.replicate), p) for row in rows.itertuples()])
    rows, found = rows.drop_duplicates(["condition", "noise", "draw"]), []
    for noise in sorted(set(rows["noise"])):
        for kind in WORDS:
            wrong = rows.loc[(rows["noise"] == noise) & (rows["condition"] == kind), "wrong_labels"].astype(float)
            row = {"dataset": p.dataset, "noise": noise, "condition": kind, "size": p.noise_size}
            row |= {"mean_wrong_pct": 100 * wrong.mean(), "std_wrong_pct": 100 * wrong.std(ddof=0), "n": len(wrong)}
            found += [row] if len(wrong) else []
    return pd.DataFrame(found)


def _shares(axes, pair: Pair) -> None:
    own, table = pair.own, pair.own.table
    axes.set_title(own.title, fontsize=10)
    if table.empty:
        return no_runs(axes)
    noises, width = sorted(set(table["noise"])), 0.26
    for i, (kind, word) in enumerate(WORDS.items()):
        rows = table[table["condition"] == kind]
        x = [noises.index(noise) + (i - 1) * width for noise in rows["noise"]]
        style = {"color": LOOKS[kind].color, "label": word, "error_kw": {"lw": 1}}
        bars = axes.bar(x, rows["mean_wrong_pct"], width, yerr=rows["std_wrong_pct"], **style)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_xticks(range(len(noises)), [f"{100 * noise:.3g} %" for noise in noises])
    axes.set(xlabel="labels randomised", ylabel=own.y.title, ylim=(0, 1.12 * table["mean_wrong_pct"].max()))
    grid(axes)
    legend_below(axes, f"{STD}, {counts(table['n'])} draws", 3)


def half_ensembles(scores: pd.DataFrame, p: Protocol) -> Pair:
    """Reliability of scores: rank correlations of half-ensembles by the share of randomised labels."""
    scores, points = own_labels(scores), []
    for row in scores.itertuples():
        at = f"{100 * row.noise:.3g} % of the labels randomised, fold {row.fold}"
        origin = ("scores", p.dataset, float(row.noise))
        points.append(Point("a fold", 100 * row.noise, row.half_correlation, at, None, 1, origin))
    ticks = tuple(sorted({point.x for point in points}))
    axes = (Axis("labels randomised (%)", ticks=ticks), Axis("Spearman rank correlation"))
    title, looks = f"{panel_title(p)}: EL2N of two half-ensembles", {"a fold": Look("#0173b2")}
    return alone(title, points, looks, *axes, joined=False, table=scores)


def draw_half_ensembles(axes, pair: Pair) -> None:
    """The points of each share beside each other, their mean, and the line below which scores are unreliable."""
    scores = pair.own.table
    axes.set_title("EL2N of two half-ensembles", fontsize=10)
    if scores.empty:
        return no_runs(axes)
    shares = sorted(set(scores["noise"]))
    for i, noise in enumerate(shares):
        values = np.sort(scores.loc[scores["noise"] == noise, "half_correlation"].to_numpy(float))
        x = i + np.linspace(-0.12, 0.12, len(values)) * (len(values) > 1)
        axes.plot(x, values, "o", color="#0173b2", ms=6, mec="white", label="a fold" if i == 0 else None)
        axes.plot((i - 0.2, i + 0.2), [values.mean()] * 2, color="black", lw=1.2, label="mean" if i == 0 else None)
    axes.axhline(RELIABLE, color="#7f7f7f", ls="-.", lw=1, label=f"{RELIABLE}: below, scores are unreliable")
    axes.set_xticks(range(len(shares)), [f"{100 * s:.3g} %" for s in shares])
    axes.set(xlim=(-0.6, len(shares) - 0.4), ylim=(min(0, scores["half_correlation"].min() - 0.05), 1.02))
    axes.set(xlabel="labels randomised", ylabel=pair.own.y.title)
    grid(axes)
    legend_below(axes, "", 3)
