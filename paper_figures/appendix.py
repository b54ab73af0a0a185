"""Appendix: every subset size, other scores, composition, the path, gradient agreement, and the spread of scores."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from paper_figures.figure1 import line_means
from paper_figures.figure2 import Y_RANGES
from paper_figures.shared.curves import Arm, all_data, curve_panel, legend_below, panel_of, pick, subsets
from paper_figures.shared.drawing import (
    LOOKS,
    STD,
    accuracy_axis,
    counts,
    grid,
    heading,
    no_runs,
    panel_title,
    series,
    tidy,
)
from repro.protocol import Protocol
from repro.recipes.onset import CONNECTED, onset
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.published_points import rebuttal_curves

TITLE = "Appendix"
SCORES = ("lmc", "forgetting")
COMPOSITION = ("easy_balanced", "easy_unbalanced", "random_like_easy")
KINDS = {"easy": "easiest", "random": "random", "hard": "hardest"}
RELIABLE = 0.7  # half-ensemble correlation below which `repro score` warns
ROW, ABSENT = 4.7, 0.45  # heights in inches

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Topic:
    """A row of panels. tables: what it shows, by kind of panel; paint: draws that into the row."""

    title: str
    tables: Callable[[Evidence, Protocol], Tables]
    paint: Callable[[SubFigure, Tables, Protocol], None]


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """All panels of the appendix, per data set one row for each topic, and the table of what they show.

    A topic without runs shrinks to a line that says so. The column ``panel`` of the table names the topic.
    """
    chosen = [(p, topic, topic.tables(evidence.of(p.dataset), p)) for p in protocols for topic in TOPICS.values()]
    heights = [ROW if any(map(len, found.values())) else ABSENT for _, _, found in chosen]
    figure = Figure(figsize=(16, sum(heights) + 0.3), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    together: dict[str, list[pd.DataFrame]] = {}
    for row, height, (protocol, topic, found) in zip(rows, heights, chosen):
        title = f"{panel_title(protocol)}: {topic.title}"
        if height == ABSENT:
            row.text(0.5, 0.5, f"{title}: no runs", ha="center", va="center", color="#888888", fontsize=9)
            continue
        row.suptitle(title, fontsize=11)
        topic.paint(row, found, protocol)
        for name, table in found.items():
            together.setdefault(name, []).append(table)
    return figure, tidy({name: pd.concat(parts) for name, parts in together.items()})


def _sizes(evidence: Evidence, protocol: Protocol) -> Tables:
    runs = evidence.runs
    known = sorted(set(runs.loc[runs["condition"].isin(KINDS), "size"]))
    arms = [arm for size in known for arm in subsets(protocol, size)]
    return {"sizes": _beside(runs, protocol, arms, all_data(protocol))}


def _beside(runs: pd.DataFrame, protocol: Protocol, arms: list[Arm], others: list[Arm]) -> pd.DataFrame:
    """What a panel of these arms shows, beside others: nothing where it has no runs of its own."""
    table = panel_of(runs, protocol, [*arms, *others])
    return table if len(pick(table, arms)) else table[:0]


def _paint_sizes(row: SubFigure, tables: Tables, protocol: Protocol) -> None:
    table = tables["sizes"]
    looks = series(table.loc[table["size"] > 0, "size"], "magma")
    for panel, (kind, word) in zip(row.subplots(1, 3), KINDS.items()):
        arms = {subsets(protocol, size, [kind])[0]: look for size, look in looks.items()}
        curve_panel(
            panel,
            table,
            protocol,
            [*all_data(protocol), *arms],
            title=f"{word} examples",
            colors=arms,
            published_range=Y_RANGES.get(protocol.dataset),
        )


def _scores(evidence: Evidence, protocol: Protocol) -> Tables:
    size = protocol.subset_size
    around = subsets(protocol, size, ("easy", "random")) + all_data(protocol)[1:]
    found = {}
    for name, conditions in {"other scores": SCORES, "composition": COMPOSITION}.items():
        found[name] = _beside(evidence.runs, protocol, subsets(protocol, size, conditions), around)
    return found | {"half-ensemble correlation": own_labels(evidence.scores)}


def _paint_scores(row: SubFigure, tables: Tables, protocol: Protocol) -> None:
    size, panels = protocol.subset_size, row.subplots(1, 3)
    half, top = all_data(protocol)[1:]
    y_range = Y_RANGES.get(protocol.dataset)
    arms = [half, top, *subsets(protocol, size, ("random", "easy", *SCORES))]
    curve_panel(
        panels[0],
        tables["other scores"],
        protocol,
        arms,
        title="other scores than EL2N",
        columns=2,
        published_range=y_range,
    )
    arms = [half, top, *subsets(protocol, size, ("random", "random_like_easy", "easy", *COMPOSITION[:2]))]
    curve_panel(
        panels[1],
        tables["composition"],
        protocol,
        arms,
        title="easiness or choice of classes",
        columns=2,
        published_range=y_range,
    )
    half_ensembles(panels[2], tables["half-ensemble correlation"])


def half_ensembles(panel: Axes, scores: pd.DataFrame) -> None:
    """Reliability of scores: rank correlations of half-ensembles by the share of randomised labels."""
    panel.set_title("EL2N of two half-ensembles", fontsize=10)
    if scores.empty:
        return no_runs(panel)
    shares = sorted(set(scores["noise"]))
    for i, noise in enumerate(shares):
        values = np.sort(scores.loc[scores["noise"] == noise, "half_correlation"].to_numpy(float))
        panel.plot(
            i + np.linspace(-0.12, 0.12, len(values)) * (len(values) > 1),
            values,
            "o",
            color="#0173b2",
            ms=6,
            mec="white",
            label="a fold" if i == 0 else None,
        )
        panel.plot((i - 0.2, i + 0.2), [values.mean()] * 2, color="black", lw=1.2, label="mean" if i == 0 else None)
    panel.axhline(RELIABLE, color="#7f7f7f", ls="-.", lw=1, label=f"{RELIABLE}: below, scores are unreliable")
    panel.set_xticks(range(len(shares)), [f"{100 * s:.3g} %" for s in shares])
    panel.set(xlim=(-0.6, len(shares) - 0.4), ylim=(min(0, scores["half_correlation"].min() - 0.05), 1.02))
    panel.set(xlabel="labels randomised", ylabel="Spearman rank correlation")
    grid(panel)
    legend_below(panel, "", 3)


def _path(evidence: Evidence, protocol: Protocol) -> Tables:
    pairs = own_labels(evidence.barriers)
    dense = pairs["condition"].astype(str).str.startswith("all_") & (pairs["batch_norm"] == "averaged")
    dense &= (pairs["level"] == 0) & (~pairs["diverged"].astype(bool))
    conditions = evidence.paths.loc[evidence.paths["condition"].astype(str).str.startswith("all_"), ["condition", "t"]]
    arms = [Arm(str(row.condition), 0, int(row.t)) for row in conditions.drop_duplicates().itertuples()]
    lines = line_means(evidence.paths, protocol, arms)
    return {"path": lines.sort_values(["t", "alpha"]), "barrier by t": _by_step(pairs[dense])}


def _by_step(pairs: pd.DataFrame) -> pd.DataFrame:
    """Per rewind step: mean and std (ddof 0), over the parents that every step has, of the largest 0-1 barriers on the
    line, and of the loss's."""
    columns = ["train_error_max", "test_error_max", "train_ce_max"]
    keys = ["dataset", "condition", "t"]
    if pairs.empty:
        return pd.DataFrame(columns=[*keys, *columns, *(f"{c}_std" for c in columns), "n"])
    parents = pairs.astype(dict.fromkeys(columns, float)).groupby([*keys, "replicate"])[columns].mean().reset_index()
    groups = same_replicates(parents, keys).groupby(keys)
    found = groups[columns].mean().join(groups[columns].std(ddof=0).add_suffix("_std"))
    return found.assign(n=groups["replicate"].nunique()).reset_index().sort_values("t")


def _paint_path(row: SubFigure, tables: Tables, protocol: Protocol) -> None:
    panels, paths, steps = row.subplots(1, 3), tables["path"], tables["barrier by t"]
    looks = series({*paths["t"], *steps["t"]}, "viridis")
    for panel, column, word in zip(panels, ("train_loss", "train_error"), ("loss (nats)", "error (%)")):
        panel.set_title("train " + word.split(" (")[0] + " on the line between two children", fontsize=10)
        if paths.empty:
            no_runs(panel)
            continue
        for t, rows in paths.groupby("t"):
            y = rows[column].to_numpy(float) * (1 if column == "train_loss" else 100)
            color, marker = looks[t]
            panel.plot(rows["alpha"].to_numpy(float), y, color=color, marker=marker, ms=4, lw=1.3, label=f"t = {t:,}")
        panel.set(xlabel="α", ylabel=f"train {word}", xticks=(0, 0.25, 0.5, 0.75, 1))
        grid(panel)
        legend_below(panel, f"all data; mean over {counts(paths['n'])} parents", 6)
    _onset(panels[2], steps)


def _onset(panel: Axes, steps: pd.DataFrame) -> None:
    """Error barrier against rewind step, with the 2 % line below which children count as connected."""
    panel.set_title("onset of linear mode connectivity", fontsize=10)
    if steps.empty:
        return no_runs(panel)
    ends = []
    for split, color, marker in (("train", "#0173b2", "s"), ("test", "#d55e00", "^")):
        column = f"{split}_error_max"
        y, spread = 100 * steps[column].to_numpy(float), 100 * steps[f"{column}_std"].to_numpy(float)
        place = np.arange(len(steps))  # t = 0 has no place on a log axis
        panel.plot(place, y, color=color, marker=marker, ms=5, lw=1.4, label=f"{split} error")
        panel.fill_between(place, y - spread, y + spread, color=color, alpha=0.15, lw=0)
        first = onset(steps["t"], steps[column])
        ends.append(f"{split}: {'after the last step' if first is None else f't = {first:,}'}")
    panel.axhline(100 * CONNECTED, color="#7f7f7f", ls="-.", lw=1.2, label=f"{100 * CONNECTED:.3g} %: counts as none")
    panel.set_xticks(place, [f"{t:,}" for t in steps["t"]])
    panel.set(xlabel="rewind step t", ylabel="largest 0–1 barrier on the line (%)")
    grid(panel)
    legend_below(panel, f"{STD}, {counts(steps['n'])}; onset {', '.join(ends)}", 3)


def _gradients(evidence: Evidence, protocol: Protocol) -> Tables:
    table, found = same_replicates(evidence.gradients, ["trained_on", "step"]), []
    for (trained_on, step), rows in table.groupby(["trained_on", "step"], sort=True):
        row = {"dataset": protocol.dataset, "trained_on": trained_on, "step": step, "n": len(rows)}
        for column in ("cosine", "acc"):
            values = rows[column].astype(float)
            row |= {f"mean_{column}": values.mean(), f"std_{column}": values.std(ddof=0)}
        found.append(row)
    return {"gradients": pd.DataFrame(found)}


def _paint_gradients(row: SubFigure, tables: Tables, protocol: Protocol) -> None:
    table = tables["gradients"]
    words = {"cosine": ("cosine of mini-batch gradients with their mean", 1), "acc": ("test accuracy (%)", 100)}
    quantities = {"cosine": "grad_cosine_similarity_to_mean(16 batches)", "acc": "test_acc"}
    for panel, (column, (word, scale)) in zip(row.subplots(1, 2), words.items()):
        for trained_on, condition in (("all", "all_tstar"), ("easy", "easy")):
            rows, look = table[table["trained_on"] == trained_on].dropna(subset=[f"mean_{column}"]), LOOKS[condition]
            if rows.empty:
                continue
            x, y, spread = (rows[c].to_numpy(float) for c in ("step", f"mean_{column}", f"std_{column}"))
            label = "all data" if trained_on == "all" else f"easiest {protocol.subset_size:,}"
            panel.plot(x, scale * y, look.line, color=look.color, marker=look.marker, ms=4, lw=1.4, label=label)
            panel.fill_between(x, scale * (y - spread), scale * (y + spread), color=look.color, alpha=0.15, lw=0)
        if protocol.scale == "paper" and protocol.dataset == "cifar100":
            _rebuttal(panel, quantities[column], scale)
        panel.set(xlabel="training step", ylabel=word)
        if column == "acc":
            accuracy_axis(panel)
        grid(panel)
        legend_below(panel, f"{STD}, {counts(table['n'])}", 4)


def _rebuttal(panel: Axes, quantity: str, scale: float) -> None:
    curves, label = rebuttal_curves(), "thin: as published (ResNet-50)"
    curves = curves[curves["quantity"] == quantity]
    for trained_on, condition in (("all", "all_tstar"), ("easy_2048", "easy")):
        rows = curves[curves["trained_on"] == trained_on].sort_values("step")
        panel.plot(rows["step"], scale * rows["value"], color=LOOKS[condition].color, lw=0.7, label=label)
        label = None


TOPICS = {
    "sizes": Topic("every subset size", _sizes, _paint_sizes),
    "scores": Topic("other scores, composition, spread of scores", _scores, _paint_scores),
    "path": Topic("linear mode connectivity", _path, _paint_path),
    "gradients": Topic("gradient agreement", _gradients, _paint_gradients),
}
"""By id; what readers see is the title."""
