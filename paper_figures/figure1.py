"""Figure 1: the three phases with this run's own numbers, and the loss along a real line between two children."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from paper_figures.shared.curves import Arm, all_data, legend_below, panel_of, subsets
from paper_figures.shared.drawing import LOOKS, STD, counts, grid, heading, no_runs, panel_title, rows_of, tidy
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence, same_replicates

TITLE = "Figure 1"
LAYERS = (4, 6, 6, 3)  # of the little drawing of a network
INK = "#444444"


def arms(protocol: Protocol) -> list[Arm]:
    """The paper's two ways to a matching initialisation, and what they are compared with."""
    t0, half, top = all_data(protocol)
    return [top, half, subsets(protocol, protocol.subset_size, ["easy"])[0], t0]


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, a row per data set, and the table of its numbers (panels 'phases' and 'path')."""
    figure = Figure(figsize=(17, 4.3 * len(protocols) + 0.3), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    tables = {"phases": [], "path": []}
    for row, protocol in zip(rows_of(figure, protocols), protocols):
        row.suptitle(panel_title(protocol), fontsize=10)
        left, right = row.subfigures(1, 2, width_ratios=(1.35, 1))
        tables["phases"].append(_phases(left.subplots(), panel_of(evidence.runs, protocol, arms(protocol)), protocol))
        paths = line_means(evidence.paths, protocol, [arm for arm in arms(protocol) if arm.t > 0])
        tables["path"].append(_paths(right, paths, protocol))
    return figure, tidy({name: pd.concat(parts) for name, parts in tables.items()})


def line_means(paths: pd.DataFrame, protocol: Protocol, chosen: Sequence[Arm]) -> pd.DataFrame:
    """Means along the line, batch norm averaged, over the n parents that all of these arms have; a row per arm and
    alpha."""
    rows = paths[(paths["dataset"] == protocol.dataset) & (paths["batch_norm"] == "averaged")]
    keys = ["dataset", "condition", "size", "t"]
    rows = same_replicates(pd.concat([rows[:0], *(arm.of(rows) for arm in chosen)]), keys)
    columns, place = ["train_loss", "train_error", "test_loss", "test_error"], [*keys, "batch_norm", "alpha"]
    groups = rows.astype(dict.fromkeys(columns, float)).groupby(place, sort=False)
    means = groups[columns].mean().assign(n=groups["replicate"].nunique()).reset_index()
    rest = rows.drop(columns=[*columns, "replicate", "labels"], errors="ignore").drop_duplicates(place)
    return rest.merge(means, on=place)


def _paths(figure, paths: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Train loss and error along the line, the barrier marked where it is measured, at its middle."""
    panels = figure.subplots(1, 2)
    shown = []
    chosen = [arm for arm in arms(protocol) if arm.t > 0]
    for panel, column, word, unit in zip(panels, ("train_loss", "train_error"), ("loss", "error"), ("nats", "%")):
        panel.set_title(f"train {word} ({unit}) on the line between two children", fontsize=9)
        if not any(len(_path(paths, arm)) for arm in chosen):
            no_runs(panel)
            continue
        scale = 1 if column == "train_loss" else 100
        for arm in chosen:
            rows = _path(paths, arm)
            if len(rows):
                shown += [rows] if column == "train_loss" else []
                beside = 0.015 * (len(panel.lines) / 2 - 1)  # arrows of several curves must not hide one another
                _line(panel, arm, rows["alpha"].to_numpy(float), scale * rows[column].to_numpy(float), unit, beside)
        panel.axvline(0.5, color="#bbbbbb", lw=0.8, zorder=0)
        panel.set(xlabel="α: weights (1 − α) a + α b", xticks=(0, 0.25, 0.5, 0.75, 1))
        grid(panel, 6)
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
        legend_below(panel, f"arrows: barrier at α = ½; {counts(_n(paths, chosen))} parents", 1)
    return pd.concat(shown) if shown else paths[:0]  # in the order of the arms


def _n(paths: pd.DataFrame, chosen: list[Arm]) -> list[int]:
    return [n for arm in chosen for n in _path(paths, arm)["n"]]


def _path(paths: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    same = (paths["condition"] == arm.condition) & (paths["size"] == arm.size) & (paths["t"] == arm.t)
    return paths[same].sort_values("alpha")


def _line(panel: Axes, arm: Arm, alpha: np.ndarray, y: np.ndarray, unit: str, beside: float) -> None:
    look = LOOKS[arm.condition]
    middle, ends = float(np.interp(0.5, alpha, y)), (y[0] + y[-1]) / 2
    panel.plot(
        alpha,
        y,
        look.line,
        color=look.color,
        marker=look.marker,
        ms=4,
        lw=1.4,
        label=f"{arm.label}: barrier {middle - ends:.2g} {'nats' if unit == 'nats' else 'pp'}",
    )
    panel.plot((0, 1), y[[0, -1]], ":", color=look.color, lw=0.9, label="_ends")
    arrow = {"arrowstyle": "<->", "color": look.color, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", (0.5 + beside, middle), (0.5 + beside, ends), arrowprops=arrow)


def _phases(panel: Axes, table: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """The drawing. Returns accuracies at level 0 and at the sparsest level of the sweep, which it quotes."""
    level, p = protocol.sweep_levels[-1], protocol
    quoted = pd.concat([arm.of(table) for arm in arms(p)])
    quoted = quoted[quoted["level"].isin((0, level))]
    panel.set(xlim=(0, 3), ylim=(0, 1))
    panel.axis("off")
    left = quoted.loc[quoted["level"] == level, "weights_left_pct"].mean()
    left = left if np.isfinite(left) else 100 * (1 - p.prune_fraction) ** level
    half, steps = p.t_star // 2, p.training.steps
    phases = {
        "1  Pre-training": (
            f"random initialisation → rewind point w\n\nall {p.train_images:,} images\n"
            f"for t = {p.t_star:,} steps (t*)\n\nor only the {p.subset_size:,} easiest\nfor t = {half:,} steps (t*/2)"
        ),
        "2  Mask search": (
            f"train w for {steps:,} − t steps\nprune {100 * p.prune_fraction:.3g} % of the weights left\n"
            f"back to w: repeat for {level} levels\n\nweights left: 100 % → {left:.3g} %\n"
            f"{(level + 1) * (steps - p.t_star):,} steps in all at t*"
        ),
        "3  Sparse training": f"w with the mask, {steps:,} − t steps\ntest accuracy, {left:.3g} % of the weights:",
    }
    for i, (title, text) in enumerate(phases.items()):
        panel.add_patch(
            FancyBboxPatch(
                (i + 0.03, 0.03),
                0.86,
                0.94,
                boxstyle="round,pad=0,rounding_size=0.04",
                mutation_aspect=1 / 3,
                fc="#f7f7f5",
                ec="#bbbbbb",
            )
        )
        panel.text(i + 0.46, 0.91, title, ha="center", va="center", fontsize=12, weight="bold", color=INK)
        panel.text(i + 0.46, 0.5, text, ha="center", va="top", fontsize=9, color=INK, linespacing=1.35)
    _results(panel, quoted, p, level)
    _network(panel, 0.20, 0.52, 1.0)
    for i, kept in enumerate((1.0, 0.4, 0.15)):
        _network(panel, 1.1 + 0.26 * i, 0.2, kept)
    _network(panel, 2.20, 0.52, 0.15)
    for i, word in enumerate(("w", "mask")):
        panel.add_patch(
            FancyArrowPatch((i + 0.9, 0.73), (i + 1.02, 0.73), arrowstyle="-|>", mutation_scale=14, color=INK)
        )
        panel.text(i + 0.96, 0.76, word, ha="center", va="bottom", fontsize=9, style="italic", color=INK)
    panel.add_patch(
        FancyArrowPatch(
            (1.76, 0.61),
            (1.16, 0.61),
            connectionstyle="arc3,rad=-0.12",
            arrowstyle="-|>",
            mutation_scale=12,
            color=INK,
            lw=1,
        )
    )
    return quoted


def _results(panel: Axes, quoted: pd.DataFrame, protocol: Protocol, level: int) -> None:
    """Accuracies in the third box, in the colours of the curves."""
    chosen = [(LOOKS[arm.condition].color, arm.label, arm, level) for arm in arms(protocol)]
    dense = ("#555555", "dense, all the weights", all_data(protocol)[-1], 0)
    for i, (color, label, arm, at) in enumerate((*chosen, dense)):
        rows = arm.of(quoted)
        rows = rows[rows["level"] == at]
        number = "no runs"
        if len(rows):
            number = f"{100 * rows['mean_acc'].iloc[0]:.1f} ± {100 * rows['std_acc'].iloc[0]:.1f} %"
        y = 0.37 - 0.055 * i
        panel.text(2.07, y, label, ha="left", va="top", fontsize=9, color=color)
        panel.text(2.85, y, number, ha="right", va="top", fontsize=9, color=color)
    panel.text(2.46, 0.05, f"{STD}, {counts(quoted['n'])}", ha="center", va="bottom", fontsize=7, color=INK)


def _network(panel: Axes, x: float, width: float, kept: float) -> None:
    """A little layered network whose lower left corner is at x, with a share of its edges kept."""
    bottom, height = 0.63, 0.2
    columns = np.linspace(x, x + width, len(LAYERS))
    heights = [bottom + height * (np.arange(n) + 0.5) / n for n in LAYERS]
    for (x0, a), (x1, b) in zip(zip(columns, heights), zip(columns[1:], heights[1:])):
        edges = [(i, j) for i in a for j in b]
        chosen = np.random.default_rng(len(edges)).permutation(len(edges))[: max(2, round(kept * len(edges)))]
        for k in chosen:
            panel.plot((x0, x1), edges[k], color="#0173b2", lw=0.7 if kept < 1 else 0.45, zorder=2)
    for at, nodes in zip(columns, heights):
        panel.plot(
            [at] * len(nodes), nodes, "o", color="white", mec=INK, mew=0.8, ms=4.5 * min(1, 0.4 + width), zorder=3
        )
