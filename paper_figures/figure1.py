"""Figure 1: the three phases with this run's own numbers, and the loss along a real line between two children."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from paper_figures import figure2
from paper_figures.shared.curves import Arm, all_data, compared, panel_of, subsets
from paper_figures.shared.drawing import grid, legend_below, lines, new_figure, no_runs, rows_of
from paper_figures.shared.panels import LOOKS, STD, Axis, Look, Pair, Panel, Point, alone, counts, panel_title, tidy
from repro.plan import Barrier
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence, same_replicates

TITLE = "Figure 1"
SCALES = ("demo", "small", "cpu", "day", "paper")
LAYERS = (4, 6, 6, 3)  # of the little drawing of a network
INK = "#444444"
ALPHA = Axis("α: weights (1 − α) a + α b", ticks=(0, 0.25, 0.5, 0.75, 1))


def needed(p: Protocol) -> list[Item]:
    """Figure 2's runs, and the path between two children of all data."""
    runs = figure2.needed(p)
    return runs + [Barrier(cell) for cell in runs if cell.condition in ("all_tstar", "all_tstar_half")]


def arms(p: Protocol) -> list[Arm]:
    """The paper's two ways to a matching initialisation, and what they are compared with."""
    t0, half, top = all_data(p)
    return [top, half, subsets(p, p.subset_size, ["easy"])[0], t0]


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """Accuracy at level 0 and the sparsest level of the sweep, which the drawing quotes; loss and error on a line."""
    table = panel_of(evidence.runs, p, arms(p))
    quoted = table[table["level"].isin((0, p.sweep_levels[-1]))]
    chosen = [arm for arm in arms(p) if arm.t > 0]
    path = line_means(evidence.paths, p, chosen).sort_values("alpha")
    series = [(arm.label, LOOKS[arm.condition], arm.of(path), arm.barrier(p)) for arm in chosen]
    on_a_line = line_panels(f"{panel_title(p)}: train {{}} on the line between two children", series)
    return [compared(f"{panel_title(p)}: accuracy before and after pruning", quoted, p, arms(p)), *on_a_line]


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, a row per data set, and the table of its numbers (panels 'phases' and 'path')."""
    figure = new_figure((17, 4.3 * len(protocols) + 0.3), TITLE, protocols, control)
    tables = {"phases": [], "path": []}
    for row, p in zip(rows_of(figure, protocols), protocols):
        row.suptitle(panel_title(p), fontsize=10)
        left, right = row.subfigures(1, 2, width_ratios=(1.35, 1))
        phases, *paths = panels(evidence, p)
        _phases(left.subplots(), phases.own, p)
        for axes, pair in zip(right.subplots(1, 2), paths):
            _path(axes, pair)
        tables["phases"].append(phases.own.table)
        tables["path"].append(paths[0].own.table)
    return figure, tidy(tables)


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


def line_panels(title: str, series: Iterable[tuple[str, Look, pd.DataFrame, tuple]]) -> list[Pair]:
    """Train loss and train error against alpha, a panel each.

    title: with {} for the quantity. series: (name, look, rows of `line_means`, origin).
    """
    found, series = [], list(series)
    looks = {name: look for name, look, _, _ in series}
    table = pd.concat([rows for _, _, rows, _ in series]) if series else pd.DataFrame()
    for word, unit, scale in (("loss", "nats", 1), ("error", "%", 100)):
        points = [
            Point(name, row.alpha, scale * getattr(row, f"train_{word}"), f"α = {row.alpha:.2g}", None, row.n, origin)
            for name, _, rows, origin in series
            for row in rows.itertuples()
        ]
        found.append(alone(title.format(word), points, looks, ALPHA, Axis(f"train {word} ({unit})", unit), table=table))
    return found


def _path(axes, pair: Pair) -> None:
    """Loss or error along the line, the barrier marked where it is measured, at its middle."""
    own = pair.own
    axes.set_title(f"{own.y.title} on the line between two children", fontsize=9)
    if not own.points:
        return no_runs(axes)
    for i, (name, look) in enumerate(own.legend.items()):
        alpha, y = zip(*((point.x, point.y) for point in own.points if point.series == name))
        middle, ends = float(np.interp(0.5, alpha, y)), (y[0] + y[-1]) / 2
        told = f"{name}: barrier {middle - ends:.2g} {'nats' if own.y.unit == 'nats' else 'pp'}"
        lines(axes, own, order=[name], label=lambda _, told=told: told, ms=4)
        axes.plot((0, 1), (y[0], y[-1]), ":", color=look.color, lw=0.9, label="_ends")
        place = 0.5 + 0.015 * (i - 1)  # arrows of several curves must not hide one another
        arrow = {"arrowstyle": "<->", "color": look.color, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (place, middle), (place, ends), arrowprops=arrow)
    axes.axvline(0.5, color="#bbbbbb", lw=0.8, zorder=0)
    axes.set(xlabel=ALPHA.title, xticks=ALPHA.ticks)
    grid(axes, 6)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    legend_below(axes, f"arrows: barrier at α = ½; {counts(own.table['n'])} parents", 1)


def _phases(axes, quoted: Panel, p: Protocol) -> None:
    """The drawing, with the accuracies that it quotes."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    level = p.sweep_levels[-1]
    axes.set(xlim=(0, 3), ylim=(0, 1))
    axes.axis("off")
    left = quoted.table.loc[quoted.table["level"] == level, "weights_left_pct"].mean()
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
    box = {"boxstyle": "round,pad=0,rounding_size=0.04", "mutation_aspect": 1 / 3, "fc": "#f7f7f5", "ec": "#bbbbbb"}
    arrow = {"arrowstyle": "-|>", "color": INK}
    for i, (title, text) in enumerate(phases.items()):
        axes.add_patch(FancyBboxPatch((i + 0.03, 0.03), 0.86, 0.94, **box))
        axes.text(i + 0.46, 0.91, title, ha="center", va="center", fontsize=12, weight="bold", color=INK)
        axes.text(i + 0.46, 0.5, text, ha="center", va="top", fontsize=9, color=INK, linespacing=1.35)
    _results(axes, quoted, p, level)
    _network(axes, 0.20, 0.52, 1.0)
    for i, kept in enumerate((1.0, 0.4, 0.15)):
        _network(axes, 1.1 + 0.26 * i, 0.2, kept)
    _network(axes, 2.20, 0.52, 0.15)
    for i, word in enumerate(("w", "mask")):
        axes.add_patch(FancyArrowPatch((i + 0.9, 0.73), (i + 1.02, 0.73), mutation_scale=14, **arrow))
        axes.text(i + 0.96, 0.76, word, ha="center", va="bottom", fontsize=9, style="italic", color=INK)
    again = {"connectionstyle": "arc3,rad=-0.12", "mutation_scale": 12, "lw": 1}
    axes.add_patch(FancyArrowPatch((1.76, 0.61), (1.16, 0.61), **again, **arrow))


def _results(axes, quoted: Panel, p: Protocol, level: int) -> None:
    """Accuracies in the third box, in the colours of the curves."""
    found = {point.series: point for point in quoted.points if point.x == level}
    rows = [(arm.label, LOOKS[arm.condition].color, found.get(arm.label)) for arm in arms(p)]
    rows.append(("dense, all the weights", "#555555", quoted.rules[0] if quoted.rules else None))
    for i, (label, color, point) in enumerate(rows):
        number = f"{point.y:.1f} ± {point.std:.1f} %" if point else "no runs"
        y = 0.37 - 0.055 * i
        axes.text(2.07, y, label, ha="left", va="top", fontsize=9, color=color)
        axes.text(2.85, y, number, ha="right", va="top", fontsize=9, color=color)
    about = f"{STD}, {counts(quoted.table['n'])}"
    axes.text(2.46, 0.05, about, ha="center", va="bottom", fontsize=7, color=INK)


def _network(axes, x: float, width: float, kept: float) -> None:
    """A little layered network whose lower left corner is at x, with a share of its edges kept."""
    bottom, height = 0.63, 0.2
    columns = np.linspace(x, x + width, len(LAYERS))
    heights = [bottom + height * (np.arange(n) + 0.5) / n for n in LAYERS]
    for (x0, a), (x1, b) in zip(zip(columns, heights), zip(columns[1:], heights[1:])):
        edges = [(i, j) for i in a for j in b]
        chosen = np.random.default_rng(len(edges)).permutation(len(edges))[: max(2, round(kept * len(edges)))]
        for k in chosen:
            axes.plot((x0, x1), edges[k], color="#0173b2", lw=0.7 if kept < 1 else 0.45, zorder=2)
    for at, nodes in zip(columns, heights):
        style = {"color": "white", "mec": INK, "mew": 0.8, "ms": 4.5 * min(1, 0.4 + width)}
        axes.plot([at] * len(nodes), nodes, "o", zorder=3, **style)
