"""Charts of everything else: lines between networks, barriers, warm-up, gradients, scores."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from paper_figures import appendix, figure1, figure5, figure6
from paper_figures.scores import KINDS, wrong_labels
from paper_figures.shared import drawing
from paper_figures.shared.curves import Arm
from repro.protocol import Protocol
from repro.report.accuracy import NO_NUMBERS, look_of, pair, paper_of
from repro.report.charts import Axis, Look, Pair, Panel, Point
from repro.report.origins import Origins
from repro.verify import published_points
from repro.verify.outcomes import Evidence, own_labels

ALPHA = Axis("α: weights (1 − α) a + α b", ticks=(0, 0.25, 0.5, 0.75, 1))
LINE = {
    "train_loss": ("train loss", Axis("train loss (nats)", "nats"), 1),
    "train_error": ("train error", Axis("train error (%)", "%"), 100),
}


def alone(title: str, points: Sequence[Point], looks: dict[str, Look], x: Axis, y: Axis, **options) -> Pair:
    """A panel beside which the paper has no numbers."""
    return Pair(title, Panel(title, tuple(points), looks, x, y, **options), None, NO_NUMBERS)


def _line(word: str, rows: pd.DataFrame, column: str, scale: float, artifact: str) -> list[Point]:
    return [
        Point(word, row.alpha, scale * getattr(row, column), f"α = {row.alpha:.2g}", None, int(row.n), artifact)
        for row in rows.sort_values("alpha").itertuples()
    ]


def paths(evidence: Evidence, p: Protocol, origins: Origins, arms: Sequence[Arm]) -> list[Pair]:
    """Loss and error on the line between two children."""
    table, pairs = figure1.line_means(evidence.paths, p, arms), []
    for column, (word, axis, scale) in LINE.items():
        points = []
        for arm in arms:
            rows = table[(table["condition"] == arm.condition) & (table["size"] == arm.size) & (table["t"] == arm.t)]
            artifact = origins.barrier(p.dataset, arm.condition, arm.size, arm.t)
            points += _line(arm.label, rows, column, scale, artifact)
        looks = {arm.label: look_of(arm.condition) for arm in arms}
        pairs.append(
            alone(f"{drawing.panel_title(p)}: {word} on the line between two children", points, looks, ALPHA, axis)
        )
    return pairs


def figure_1(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    return paths(evidence, p, origins, [arm for arm in figure1.arms(p) if arm.t > 0])


def figure_5(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    """Histograms of per-example barriers, and final accuracy against accuracy and barrier of the rewind point."""
    return [_histograms(evidence, p, origins), *(_scatter(evidence, p, origins, x) for x in figure5.X)]


def _histograms(evidence: Evidence, p: Protocol, origins: Origins) -> Pair:
    axes = (Axis("per-example barrier of the train loss (nats)"), Axis("share of training examples (%)", "%"))
    points, other = [], paper_of(p, ("cinic10",))
    for arm, table in figure5.histograms(evidence, p).items():
        artifact = origins.barrier(p.dataset, arm.condition, arm.size, arm.t)
        points += [_bin(arm.label, row.bin_lo, row.share_pct, int(row.n), artifact) for row in table.itertuples()]
    title = f"{drawing.panel_title(p)}: barriers of single examples"
    own = Panel(title, tuple(points), {a.label: look_of(a.condition) for a in figure5.initialisations(p)}, *axes)
    published, looks = [], {}
    for (kind, size, t), rows in published_points.histograms(other.dataset).groupby(["condition", "size", "t"]):
        condition = kind if size else "all_tstar_half" if 2 * t < other.t_star else "all_tstar"
        label = drawing.LOOKS[kind].label.format(size=size, t=t) if size else f"all data, t = {t:,}"
        looks[label] = look_of(condition)
        published += [
            _bin(label, row.bin_lo, 100 * row.count / rows["count"].sum(), 2, "the paper") for row in rows.itertuples()
        ]
    paper = Panel(
        f"{drawing.panel_title(other)}, read off a picture", tuple(published), looks, *axes, whose="the paper"
    )
    return pair(title, own, paper, p, other)


def _bin(label: str, low: float, share: float, n: int, artifact: str) -> Point:
    return Point(label, low + 0.25, share, f"{low:g} to {low + 0.5:g} nats", None, n, artifact)


def _scatter(evidence: Evidence, p: Protocol, origins: Origins, x: str) -> Pair:
    other = paper_of(p, ("cinic10",))
    scale, unit = (1, "nats") if x == "barrier" else (100, "%")
    axes = (Axis(figure5.X[x]), Axis(f"test accuracy at level {p.barrier_level} (%)", "%"))
    parents = figure5.parents(evidence, p)
    conditions = figure5.by_condition(parents)
    markers = figure5.steps(parents)
    points, looks = [], {}
    for rows, small in ((conditions, False), (parents, True)):
        for row in rows.itertuples():
            label = (
                f"{'all data' if row.kind == 'all' else drawing.LOOKS[row.kind].label.split(' {')[0]}, t = {row.t:,}"
            )
            looks[label] = Look(figure5.KINDS[row.kind], markers[int(row.t)])
            at = f"{scale * getattr(row, x):.3g} {unit}" + (f", {row.size:,} examples" if row.size else "")
            at += f", parent {row.replicate}" if small else ", mean over parents"
            n = 1 if small else int(row.n)
            points.append(
                Point(
                    label,
                    scale * getattr(row, x),
                    100 * row.final_acc,
                    at,
                    None,
                    n,
                    origins.barrier(p.dataset, row.condition, row.size, row.t),
                    small,
                )
            )
    title = f"{drawing.panel_title(p)}: final accuracy against {figure5.X[x].rpartition(' (')[0]}"
    own = Panel(title, tuple(points), looks, *axes, joined=False)
    published = [
        Point(
            "all data" if row.condition == "all" else drawing.LOOKS[row.condition].label.split(" {")[0],
            scale * getattr(row, x),
            100 * row.final,
            f"{scale * getattr(row, x):.3g} {unit}, a parent",
            None,
            1,
            "the paper",
        )
        for row in published_points.scatter(other.dataset).itertuples()
    ]
    known = {
        "all data" if kind == "all" else drawing.LOOKS[kind].label.split(" {")[0]: Look(color)
        for kind, color in figure5.KINDS.items()
    }
    axes = (axes[0], replace(axes[1], title=f"test accuracy at level {other.barrier_level} (%)"))
    paper = Panel(
        f"{drawing.panel_title(other)}, read off a picture",
        tuple(published),
        known,
        *axes,
        joined=False,
        whose="the paper",
    )
    return pair(title, own, paper, p, other)


def figure_6(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    """Final accuracy against the steps of warm-up, a pair per kind of subset."""
    table, other, pairs = figure6.summarise(evidence.warmup), paper_of(p, ("cifar10",)), []
    published = published_points.warmup_curves()
    for kind in figure6.KINDS:
        own = table[table["kind"].isin((kind, "all"))]
        looks = figure6.sizes(own)
        points = [
            _warm(row, row.mean_acc, row.std_acc, p, origins.other("warmup", p.dataset))
            for row in own.dropna(subset="mean_acc").sort_values(["size", "w"]).itertuples()
        ]
        title = f"{drawing.panel_title(p)}: warm-up on {figure6.TITLES[kind]} examples"
        mine = Panel(title, tuple(points), _sized(looks, p), _steps(own), Axis("test accuracy (%)", "%"))
        rows = published[published["panel"] == kind]
        points = [_warm(row, row.mean, row.std, other, "the paper") for row in rows.itertuples()]
        paper = Panel(
            f"{drawing.panel_title(other)}, read off a picture",
            tuple(points),
            _sized(figure6.sizes(rows), other),
            _steps(rows),
            mine.y,
            whose="the paper",
        )
        pairs.append(pair(title, mine, paper, p, other))
    return pairs


def _warm(row, mean: float, std: float, p: Protocol, artifact: str) -> Point:
    return Point(_size(row.size, p), row.w, 100 * mean, f"{row.w:,} steps of warm-up", 100 * std, int(row.n), artifact)


def _size(size: int, p: Protocol) -> str:
    return f"{size:,} images" if size else f"all {p.train_images:,} images"


def _sized(looks: dict, p: Protocol) -> dict[str, Look]:
    return {_size(size, p): Look(*look) for size, look in looks.items()}


def _steps(rows: pd.DataFrame) -> Axis:
    ticks = tuple(sorted(set(rows["w"]))) if len(rows) else ()
    return Axis("warm-up steps", kind="log2", ticks=ticks, label="format(datum.value, ',')")


def appendix_rest(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    """Spread of scores, linear mode connectivity, gradient agreement."""
    return [
        half_ensembles(evidence.scores, p, origins),
        *_connectivity(evidence, p, origins),
        *_gradients(evidence, p, origins),
    ]


def half_ensembles(scores: pd.DataFrame, p: Protocol, origins: Origins) -> Pair:
    scores = own_labels(scores)
    points = [
        Point(
            "a fold",
            100 * row.noise,
            row.half_correlation,
            f"{100 * row.noise:.3g} % of the labels randomised, fold {row.fold}",
            None,
            1,
            origins.other("scores", p.dataset, float(row.noise)),
        )
        for row in scores.itertuples()
    ]
    ticks = tuple(sorted({point.x for point in points}))
    return alone(
        f"{drawing.panel_title(p)}: EL2N of two half-ensembles",
        points,
        {"a fold": Look("#0173b2")},
        Axis("labels randomised (%)", ticks=ticks),
        Axis("Spearman rank correlation"),
        joined=False,
    )


def _connectivity(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    found = appendix.TOPICS["path"].tables(evidence, p)
    table, steps, pairs = found["path"], found["barrier by t"], []
    series = drawing.series({*table["t"], *steps["t"]}, "viridis")
    for column, (word, axis, scale) in LINE.items():
        points = []
        for (condition, t), rows in table.groupby(["condition", "t"]):
            points += _line(f"t = {t:,}", rows, column, scale, origins.barrier(p.dataset, condition, 0, t))
        points.sort(key=lambda point: int(point.series.removeprefix("t = ").replace(",", "")))
        looks = {f"t = {t:,}": Look(*look) for t, look in series.items()}
        title = f"{drawing.panel_title(p)}: {word} on the line between two children, by rewind step"
        pairs.append(alone(title, points, looks, ALPHA, axis))
    looks = {"train error": Look("#0173b2", "s"), "test error": Look("#d55e00", "^")}
    points = [
        Point(
            f"{split} error",
            row.t,
            100 * getattr(row, f"{split}_error_max"),
            f"t = {row.t:,}",
            100 * getattr(row, f"{split}_error_max_std"),
            int(row.n),
            origins.barrier(p.dataset, row.condition, 0, row.t),
        )
        for split in ("train", "test")
        for row in steps.itertuples()
        if row.t > 0
    ]
    axis = Axis(
        "rewind step t",
        kind="log2",
        ticks=tuple(sorted({point.x for point in points})),
        label="format(datum.value, ',')",
    )
    return [
        *pairs,
        alone(
            f"{drawing.panel_title(p)}: onset of linear mode connectivity",
            points,
            looks,
            axis,
            Axis("largest 0–1 barrier on the line (%)", "%"),
        ),
    ]


def _gradients(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    table, pairs = appendix.TOPICS["gradients"].tables(evidence, p)["gradients"], []
    published = published_points.rebuttal_curves()
    kinds = {"all": ("all data", "all_tstar", "all"), "easy": ("easiest", "easy", "easy_2048")}
    looks = {label: look_of(condition) for label, condition, _ in kinds.values()}
    topics = {
        "cosine": (
            "cosine of mini-batch gradients with their mean",
            "",
            1,
            "grad_cosine_similarity_to_mean(16 batches)",
        ),
        "acc": ("test accuracy (%)", "%", 100, "test_acc"),
    }
    for column, (word, unit, scale, quantity) in topics.items():
        points, theirs = [], []
        for kind, (label, _, name) in kinds.items():
            rows = table[table["trained_on"] == kind].dropna(subset=[f"mean_{column}"]) if len(table) else table
            points += [
                Point(
                    label,
                    row.step,
                    scale * getattr(row, f"mean_{column}"),
                    f"step {row.step:,}",
                    scale * getattr(row, f"std_{column}"),
                    int(row.n),
                    origins.other("gradients", p.dataset, kind),
                )
                for row in rows.itertuples()
            ]
            rows = published[(published["quantity"] == quantity) & (published["trained_on"] == name)]
            theirs += [
                Point(
                    label, row.step, scale * row.value, f"step {row.step:,}", None, int(row.n_replicates), "the paper"
                )
                for row in rows.sort_values("step").itertuples()
            ]
        title = f"{drawing.panel_title(p)}: {word.removesuffix(' (%)')} in the first steps"
        own = Panel(title, tuple(points), looks, Axis("training step"), Axis(word, unit))
        paper = Panel("CIFAR-100 + ResNet-50", tuple(theirs), looks, own.x, own.y, whose="the paper")
        pairs.append(
            Pair(title, own, paper, "Another data set or network: the paper has this of ResNet-50 on CIFAR-100.")
        )
    return pairs


def scores(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    """The figure `scores`: wrong labels inside subsets, and how reliable the scores are."""
    points = [
        Point(
            KINDS[row.condition],
            100 * row.noise,
            row.mean_wrong_pct,
            f"{100 * row.noise:.3g} % of the labels randomised",
            row.std_wrong_pct,
            int(row.n),
            origins.other("subset", p.dataset, row.condition, float(row.noise)),
        )
        for row in wrong_labels(evidence.subsets, p).itertuples()
    ]
    looks = {word: look_of(kind) for kind, word in KINDS.items()}
    ticks = tuple(sorted({float(np.round(point.x, 6)) for point in points}))
    shares = alone(
        f"wrong labels among {p.noise_size:,} images",
        points,
        looks,
        Axis("labels randomised (%)", ticks=ticks),
        Axis("wrong labels (%)", "%"),
    )
    return [shares, half_ensembles(evidence.scores, p, origins)]
