"""Scores of CIFAR-10 on randomised labels: how many of them are inside the subsets, and how reliable the scores are.

Not a figure of the paper: it shows what its Figure 4 rests on, that the easiest examples are "largely uncorrupted".
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.appendix import half_ensembles
from paper_figures.shared.curves import legend_below
from paper_figures.shared.drawing import LOOKS, PANEL_TITLES, STD, counts, grid, heading, no_runs, rows_of, tidy
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.subsets import draw_of

TITLE = "Scores"
KINDS = {"easy": "easiest", "random": "random", "hard": "hardest"}


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """A row per data set (wrong labels inside subsets, correlation of half-ensembles), and the table of what it shows.

    Panels of the table: 'wrong labels' and 'half-ensemble correlation'.
    """
    figure = Figure(figsize=(11, 4.6 * len(protocols)), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    tables = {"wrong labels": [], "half-ensemble correlation": []}
    for row, protocol in zip(rows_of(figure, protocols), protocols):
        own, recipe = evidence.of(protocol.dataset), protocol.scoring
        data_set = PANEL_TITLES.get(protocol.dataset, protocol.dataset).partition(" +")[0]
        row.suptitle(
            f"{data_set}, EL2N of {recipe.networks} × {recipe.network}, {recipe.training.steps:,} steps", fontsize=10
        )
        left, right = row.subplots(1, 2, width_ratios=(1.5, 1))
        shares = wrong_labels(own.subsets, protocol)
        _shares(left, shares, protocol)
        scores = own_labels(own.scores)
        half_ensembles(right, scores)
        tables["wrong labels"].append(shares)
        tables["half-ensemble correlation"].append(scores)
    return figure, tidy({name: pd.concat(parts) for name, parts in tables.items()})


def wrong_labels(subsets: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Per noise and kind: mean and std (ddof 0) over n draws of the share (%) of labels that are wrong.

    Of the replicates that all have; those of one fold share the scores, and so one easy and one hard subset.
    """
    rows = own_labels(subsets[(subsets["size"] == protocol.noise_size) & (subsets["noise"] > 0)])
    rows = rows[rows["condition"].isin(KINDS)].drop_duplicates(["condition", "noise", "replicate"])
    rows = same_replicates(rows, ["condition", "noise"])
    draws = [draw_of(row.condition, int(row.replicate), protocol) for row in rows.itertuples()]
    rows = rows.assign(draw=draws).drop_duplicates(["condition", "noise", "draw"])
    found = [
        {
            "dataset": protocol.dataset,
            "noise": noise,
            "condition": kind,
            "size": protocol.noise_size,
            "mean_wrong_pct": 100 * part["wrong_labels"].astype(float).mean(),
            "std_wrong_pct": 100 * part["wrong_labels"].astype(float).std(ddof=0),
            "n": len(part),
        }
        for noise in sorted(set(rows["noise"]))
        for kind in KINDS
        if len(part := rows[(rows["noise"] == noise) & (rows["condition"] == kind)])
    ]
    return pd.DataFrame(found)


def _shares(panel: Axes, table: pd.DataFrame, protocol: Protocol) -> None:
    panel.set_title(f"wrong labels among {protocol.noise_size:,} images", fontsize=10)
    if table.empty:
        return no_runs(panel)
    noises, width = sorted(set(table["noise"])), 0.26
    for i, (kind, word) in enumerate(KINDS.items()):
        rows = table[table["condition"] == kind]
        x = [noises.index(noise) + (i - 1) * width for noise in rows["noise"]]
        bars = panel.bar(
            x,
            rows["mean_wrong_pct"],
            width,
            yerr=rows["std_wrong_pct"],
            color=LOOKS[kind].color,
            label=word,
            error_kw={"lw": 1},
        )
        panel.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    panel.set_xticks(range(len(noises)), [f"{100 * noise:.3g} %" for noise in noises])
    panel.set(xlabel="labels randomised", ylabel="wrong labels (%)", ylim=(0, 1.12 * table["mean_wrong_pct"].max()))
    grid(panel)
    legend_below(panel, f"{STD}, {counts(table['n'])} draws", 3)
