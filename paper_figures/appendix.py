"""Appendix: every subset size, other scores, composition, the path, gradient agreement, and the spread of scores."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from paper_figures import figure3
from paper_figures.figure1 import line_means, line_panels
from paper_figures.figure2 import Y_RANGES
from paper_figures.scores import draw_half_ensembles, half_ensembles
from paper_figures.shared import cells
from paper_figures.shared import panels as chart
from paper_figures.shared.curves import Arm, all_data, compared, draw_curves, panel_of, pick, subsets
from paper_figures.shared.drawing import accuracy_axis, grid, legend_below, lines, new_figure, no_runs, thin_lines
from paper_figures.shared.panels import LOOKS, Axis, Look, Pair, Panel, Point, panel_title
from repro.plan import Barrier, Cell, Chosen, Gradients, Subset
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.recipes.onset import CONNECTED, onset
from repro.verify.outcomes import Evidence, own_labels, same_replicates
from repro.verify.published import rebuttal_curves

TITLE = "Appendix"
SCALES = ("demo", "small", "cpu", "paper")
SCORES = ("lmc", "forgetting")
COMPOSITION = ("easy_balanced", "easy_unbalanced", "random_like_easy")
ROW, ABSENT = 4.7, 0.45  # heights in inches

Tables = dict[str, pd.DataFrame]


def needed(p: Protocol) -> list[Item]:
    """Every subset size, other scores, the composition of easy, the onset of linear mode connectivity, gradients."""
    half, few, size = p.t_star // 2, p.more_replicates, p.subset_size
    easy, other = Subset("easy", size), Subset("easy", size, balanced=not p.balanced)
    unbalanced = other if p.balanced else easy
    steps = [Cell("all_t", p, t, replicates=few, levels=0) for t in p.onset_steps]
    return [
        *figure3.needed(p),
        *(cells.ranked_by(p, score, size) for score in SCORES),
        *(Chosen(p, Subset("hard", p.noise_size), noise, few) for noise in p.noise),
        Cell("easy_unbalanced" if p.balanced else "easy_balanced", p, half, other, replicates=few),
        Cell("random_like_easy", p, half, Subset("random", size, like=unbalanced), replicates=few),
        *steps,
        *(Barrier(cell) for cell in (*(cells.all_at(p, t) for t in p.barrier_all), *steps)),
        Gradients(p, replicates=few),
        Gradients(p, easy, replicates=few),
    ]


@dataclass(frozen=True)
class Topic:
    """A row of panels. tables: what it shows, by its name in the CSV; panels: of those tables; paint: draws them."""

    title: str
    tables: Callable[[Evidence, Protocol], Tables]
    panels: Callable[[Tables, Protocol], list[Pair]]
    paint: Callable[[object, Tables, Protocol], None]


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """Those of all topics."""
    evidence = evidence.of(p.dataset)
    return [pair for topic in TOPICS for pair in topic.panels(topic.tables(evidence, p), p)]


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """All panels of the appendix, per data set one row for each topic, and the table of what they show.

    A topic without runs shrinks to a line that says so. The column ``panel`` of the table names the topic.
    """
    chosen = [(p, topic, topic.tables(evidence.of(p.dataset), p)) for p in protocols for topic in TOPICS]
    heights = [ROW if any(map(len, found.values())) else ABSENT for _, _, found in chosen]
    figure = new_figure((16, sum(heights) + 0.3), TITLE, protocols, control)
    rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    together: dict[str, list[pd.DataFrame]] = {}
    for row, height, (p, topic, found) in zip(rows, heights, chosen):
        title = f"{panel_title(p)}: {topic.title}"
        if height == ABSENT:
            row.text(0.5, 0.5, f"{title}: no runs", ha="center", va="center", color="#888888", fontsize=9)
            continue
        row.suptitle(title, fontsize=11)
        topic.paint(row, found, p)
        for name, table in found.items():
            together.setdefault(name, []).append(table)
    return figure, chart.tidy(together)


def _sizes(evidence: Evidence, p: Protocol) -> Tables:
    runs = evidence.runs
    known = sorted(set(runs.loc[runs["condition"].isin(chart.WORDS), "size"]))
    arms = [arm for size in known for arm in subsets(p, size)]
    return {"sizes": _beside(runs, p, arms, all_data(p))}


def _beside(runs: pd.DataFrame, p: Protocol, arms: list[Arm], others: list[Arm]) -> pd.DataFrame:
    """What a panel of these arms shows, beside others: nothing where it has no runs of its own."""
    table = panel_of(runs, p, [*arms, *others])
    return table if len(pick(table, arms)) else table[:0]


def _size_panels(tables: Tables, p: Protocol) -> list[Pair]:
    def arms(p: Protocol, sizes, kind: str) -> list[Arm]:
        return [*all_data(p), *(arm for size in sizes for arm in subsets(p, size, [kind]))]

    table, found = tables["sizes"], []
    for kind, word in chart.WORDS.items():
        title = f"{panel_title(p)}: every subset size, {word} examples"
        own = arms(p, sorted(set(table["size"]) - {0}), kind)
        published = lambda other, kind=kind: arms(other, other.sizes, kind)  # noqa: E731
        found.append(compared(title, table, p, own, published, by_size=True))
    return found


def _paint_sizes(row, tables: Tables, p: Protocol) -> None:
    for axes, pair, word in zip(row.subplots(1, 3), _size_panels(tables, p), chart.WORDS.values()):
        draw_curves(axes, pair, p, title=f"{word} examples", limits=Y_RANGES.get(p.dataset))


def _scores(evidence: Evidence, p: Protocol) -> Tables:
    around = subsets(p, p.subset_size, ("easy", "random")) + all_data(p)[1:]
    found = {}
    for name, conditions in {"other scores": SCORES, "composition": COMPOSITION}.items():
        found[name] = _beside(evidence.runs, p, subsets(p, p.subset_size, conditions), around)
    return found | {"half-ensemble correlation": own_labels(evidence.scores)}


COMPARED = {
    "other scores": ("other scores than EL2N", ("random", "easy", *SCORES)),
    "composition": ("easiness or choice of classes", ("random", "random_like_easy", "easy", *COMPOSITION[:2])),
}


def _score_panels(tables: Tables, p: Protocol, *, published: bool = False) -> list[Pair]:
    """published: beside the arms that the paper has."""

    def arms(p: Protocol, conditions) -> list[Arm]:
        return [*all_data(p)[1:], *subsets(p, p.subset_size, conditions)]

    found = []
    for name, (topic, conditions) in COMPARED.items():
        theirs = lambda other, conditions=conditions: arms(other, conditions) if published else ()  # noqa: E731
        found.append(compared(f"{panel_title(p)}: {topic}", tables[name], p, arms(p, conditions), theirs))
    return [*found, half_ensembles(tables["half-ensemble correlation"], p)]


def _paint_scores(row, tables: Tables, p: Protocol) -> None:
    *curves, halves = _score_panels(tables, p, published=True)
    *left, right = row.subplots(1, 3)
    for axes, pair, (topic, _) in zip(left, curves, COMPARED.values()):
        draw_curves(axes, pair, p, title=topic, limits=Y_RANGES.get(p.dataset), columns=2)
    draw_half_ensembles(right, halves)


def _path(evidence: Evidence, p: Protocol) -> Tables:
    pairs = own_labels(evidence.barriers)
    dense = pairs["condition"].astype(str).str.startswith("all_") & (pairs["batch_norm"] == "averaged")
    dense &= (pairs["level"] == 0) & (~pairs["diverged"].astype(bool))
    conditions = evidence.paths.loc[evidence.paths["condition"].astype(str).str.startswith("all_"), ["condition", "t"]]
    arms = [Arm(str(row.condition), 0, int(row.t)) for row in conditions.drop_duplicates().itertuples()]
    return {
        "path": line_means(evidence.paths, p, arms).sort_values(["t", "alpha"]),
        "barrier by t": _by_step(pairs[dense]),
    }


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


def _path_panels(tables: Tables, p: Protocol) -> list[Pair]:
    paths, steps, points = tables["path"], tables["barrier by t"], []
    looks = chart.series_looks({*paths["t"], *steps["t"]})
    groups = paths.groupby(["t", "condition"])
    series = [(f"t = {t:,}", looks[t], rows, Arm(condition, 0, t).barrier(p)) for (t, condition), rows in groups]
    for split in ("train", "test"):
        for row in steps.itertuples():
            y, std = (100 * getattr(row, f"{split}_error_max{suffix}") for suffix in ("", "_std"))
            origin = Arm(row.condition, 0, row.t).barrier(p)
            points.append(Point(f"{split} error", row.t, y, f"t = {row.t:,}", std, int(row.n), origin))
    title, looks = panel_title(p), {"train error": Look("#0173b2", "s"), "test error": Look("#d55e00", "^")}
    steps_axis = chart.log2("rewind step t", (pt.x for pt in points if pt.x > 0))
    axes = (steps_axis, Axis("largest 0–1 barrier on the line (%)", "%"))
    onset = chart.alone(f"{title}: onset of linear mode connectivity", points, looks, *axes, table=steps)
    return [*line_panels(f"{title}: train {{}} on the line between two children, by rewind step", series), onset]


def _paint_path(row, tables: Tables, p: Protocol) -> None:
    *paths, last = _path_panels(tables, p)
    *places, right = row.subplots(1, 3)
    for axes, pair in zip(places, paths):
        own = pair.own
        axes.set_title(f"{own.y.title.partition(' (')[0]} on the line between two children", fontsize=10)
        if not own.points:
            no_runs(axes)
            continue
        lines(axes, own, ms=4, lw=1.3)
        axes.set(xlabel="α", ylabel=own.y.title, xticks=own.x.ticks)
        grid(axes)
        legend_below(axes, f"all data; mean over {chart.counts(own.table['n'])} parents", 6)
    _onset(right, last.own)


def _onset(axes, own: Panel) -> None:
    """Error barrier against rewind step, with the 2 % line below which children count as connected."""
    axes.set_title("onset of linear mode connectivity", fontsize=10)
    if not own.points:
        return no_runs(axes)
    place = {t: i for i, t in enumerate(own.table["t"])}  # t = 0 has no place on a log axis
    lines(axes, replace(own, points=tuple(replace(pt, x=place[pt.x]) for pt in own.points)), 0.15, ms=5)
    first = {split: onset(own.table["t"], own.table[f"{split}_error_max"]) for split in ("train", "test")}
    ends = ", ".join(f"{split}: {'after the last step' if t is None else f't = {t:,}'}" for split, t in first.items())
    axes.axhline(100 * CONNECTED, color="#7f7f7f", ls="-.", lw=1.2, label=f"{100 * CONNECTED:.3g} %: counts as none")
    axes.set_xticks([*place.values()], [f"{t:,}" for t in place])
    axes.set(xlabel=own.x.title, ylabel=own.y.title)
    grid(axes)
    legend_below(axes, f"{chart.STD}, {chart.counts(own.table['n'])}; onset {ends}", 3)


def _gradients(evidence: Evidence, p: Protocol) -> Tables:
    table, found = same_replicates(evidence.gradients, ["trained_on", "step"]), []
    for (trained_on, step), rows in table.groupby(["trained_on", "step"], sort=True):
        row = {"dataset": p.dataset, "trained_on": trained_on, "step": step, "n": len(rows)}
        for column in ("cosine", "acc"):
            values = rows[column].astype(float)
            row |= {f"mean_{column}": values.mean(), f"std_{column}": values.std(ddof=0)}
        found.append(row)
    return {"gradients": pd.DataFrame(found)}


MEASURED = {  # column: words, unit, scale, published quantity
    "cosine": ("cosine of mini-batch gradients with their mean", "", 1, "grad_cosine_similarity_to_mean(16 batches)"),
    "acc": ("test accuracy (%)", "%", 100, "test_acc"),
}


def _gradient_panels(tables: Tables, p: Protocol) -> list[Pair]:
    table, published, found = tables["gradients"], rebuttal_curves(), []
    kinds = {"all": ("all data", "all"), "easy": ("easiest", "easy_2048")}
    looks = {"all data": LOOKS["all_tstar"], "easiest": LOOKS["easy"]}
    for column, (word, unit, scale, quantity) in MEASURED.items():
        own, theirs = [], []
        for kind, (name, curve) in kinds.items():
            rows = table[table["trained_on"] == kind].dropna(subset=[f"mean_{column}"]) if len(table) else table
            for row in rows.itertuples():
                y, std = (scale * getattr(row, f"{what}_{column}") for what in ("mean", "std"))
                origin = ("gradients", p.dataset, kind)
                own.append(Point(name, row.step, y, f"step {row.step:,}", std, int(row.n), origin))
            rows = published[(published["quantity"] == quantity) & (published["trained_on"] == curve)]
            for row in rows.sort_values("step").itertuples():
                n, at = int(row.n_replicates), f"step {row.step:,}"
                theirs.append(Point(name, row.step, scale * row.value, at, None, n))
        axes = (Axis("training step"), Axis(word, unit))
        title = f"{panel_title(p)}: {word.removesuffix(' (%)')} in the first steps"
        paper = Panel("CIFAR-100 + ResNet-50", tuple(theirs), looks, *axes, whose="the paper")
        note = "Another data set or network: the paper has this of ResNet-50 on CIFAR-100."
        found.append(Pair(title, Panel(title, tuple(own), looks, *axes, table=table), paper, note))
    return found


def _paint_gradients(row, tables: Tables, p: Protocol) -> None:
    for axes, pair in zip(row.subplots(1, 2), _gradient_panels(tables, p)):
        size = f"easiest {p.subset_size:,}"
        lines(axes, pair.own, 0.15, label=lambda name: size if name == "easiest" else name, ms=4)
        if p.scale == "paper" and p.dataset == "cifar100":
            thin_lines(axes, pair, label="thin: as published (ResNet-50)")
        axes.set(xlabel=pair.own.x.title, ylabel=pair.own.y.title)
        if pair.own.y.unit == "%":
            accuracy_axis(axes)
        grid(axes)
        legend_below(axes, f"{chart.STD}, {chart.counts(pair.own.table['n'])}", 4)


TOPICS = (
    Topic("every subset size", _sizes, _size_panels, _paint_sizes),
    Topic("other scores, composition, spread of scores", _scores, _score_panels, _paint_scores),
    Topic("linear mode connectivity", _path, _path_panels, _paint_path),
    Topic("gradient agreement", _gradients, _gradient_panels, _paint_gradients),
)
