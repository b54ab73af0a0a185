"""Charts of pruned accuracy: Figures 1 (what its drawing quotes), 2, 3, 4 and those of the appendix."""

from collections.abc import Callable, Sequence

import pandas as pd

from paper_figures import appendix, figure2, figure3, figure4
from paper_figures.appendix import COMPOSITION, KINDS, SCORES
from paper_figures.shared import curves, drawing
from paper_figures.shared.curves import Arm
from repro.protocol import Protocol, protocol
from repro.report.charts import Axis, Look, Pair, Panel, Point, same_axis
from repro.report.origins import Origins
from repro.verify.claim import PAPER_DATASETS
from repro.verify.outcomes import Evidence

ACCURACY = Axis("test accuracy (%)", "%")
NO_NUMBERS = "The paper has published no numbers for this panel."


def paper_of(p: Protocol, having: Sequence[str] = PAPER_DATASETS) -> Protocol:
    """The paper's protocol to set beside: of the same data set, or of the first that has numbers."""
    return protocol(p.dataset if p.dataset in having else having[0], "paper")


def note(p: Protocol, other: Protocol, paper: Panel | None) -> str:
    """What a reader must know before comparing a panel with the paper's."""
    if paper is None:
        return NO_NUMBERS
    if other.dataset != p.dataset:
        return f"Another data set: {drawing.panel_title(other)} beside {drawing.panel_title(p)}. Compare shapes, not values."
    return "" if p.full else f"The paper trained for the published schedule; this is {p.scale} scale."


def pair(title: str, own: Panel, paper: Panel, p: Protocol, other: Protocol) -> Pair:
    """Both panels; the paper's, of the protocol ``other``, is left out where it has no points."""
    found = paper if paper.everything else None
    if found and other.dataset == p.dataset and own.everything:
        own, found = same_axis(own, found)
    return Pair(title, own, found, note(p, other, found))


def look_of(condition: str) -> Look:
    known = drawing.LOOKS[condition]
    return Look(known.color, known.marker or "o", known.line)


def level_axis(p: Protocol) -> Axis:
    return Axis("weights remaining (%)", label=f"format(100 * pow({1 - p.prune_fraction:g}, datum.value), '.3~g')")


def curve_pair(
    title: str,
    table: pd.DataFrame,
    p: Protocol,
    arms: Sequence[Arm],
    origins: Origins,
    *,
    published: Callable[[Protocol], Sequence[Arm]],
    looks: dict[Arm, Look] | None = None,
    looks_published: dict[Arm, Look] | None = None,
) -> Pair:
    """Accuracy against pruning level. table: `curves.panel_of`; published: the arms of a protocol of the paper."""
    dense = Look(drawing.LOOKS["dense"].color, "", drawing.LOOKS["dense"].line)
    points, known = [], {drawing.LOOKS["dense"].label: dense}
    for arm in arms:
        known[arm.label] = (looks or {}).get(arm) or look_of(arm.condition)
        for row in arm.of(table).itertuples():
            artifact = origins.run(p.dataset, arm.condition, arm.size, arm.t, arm.noise, arm.labels)
            points.append(
                Point(
                    arm.label,
                    row.level,
                    100 * row.mean_acc,
                    f"level {row.level}, {row.weights_left_pct:.3g} % of the weights",
                    100 * row.std_acc,
                    int(row.n),
                    artifact,
                )
            )
    own = Panel(title, tuple(points), known, level_axis(p), ACCURACY, _dense(table, p, arms, origins))
    other = paper_of(p)
    points, known, rules = [], {drawing.LOOKS["dense"].label: dense}, ()
    for arm in published(other):
        known[arm.label] = (looks_published or {}).get(arm) or look_of(arm.condition)
        rows = curves.reference(other.dataset, arm)
        for row in rows[rows["level"] <= other.levels].itertuples():
            at = f"level {row.level:.0f}, {100 * (1 - other.prune_fraction) ** row.level:.3g} % of the weights"
            points.append(_published(arm.label, row.level, row, at))
            if row.level == 0 and arm.condition == "all_tstar":
                rules = (_published(drawing.LOOKS["dense"].label, 0, row, "all the weights"),)
    paper = Panel(
        drawing.panel_title(other), tuple(points), known, level_axis(other), ACCURACY, rules, whose="the paper"
    )
    return pair(title, own, paper, p, other)


def _published(label: str, x: float, row, at: str) -> Point:
    return Point(label, x, 100 * row.mean, at, 100 * row.std, int(row.n), "the paper")


def _dense(table: pd.DataFrame, p: Protocol, arms: Sequence[Arm], origins: Origins) -> tuple[Point, ...]:
    arm = Arm("all_tstar", 0, p.t_star, max(a.noise for a in arms))
    rows = arm.of(table)
    rows = rows[rows["level"] == 0]
    artifact = origins.run(p.dataset, arm.condition, 0, arm.t, arm.noise)
    return tuple(
        Point(
            drawing.LOOKS["dense"].label,
            0,
            100 * row.mean_acc,
            "all the weights",
            100 * row.std_acc,
            int(row.n),
            artifact,
        )
        for row in rows.itertuples()
    )


def phases(runs: pd.DataFrame, p: Protocol, arms: Sequence[Arm], origins: Origins) -> Pair:
    """Figure 1 quotes accuracies before pruning and at the sparsest level of the sweep."""
    table = curves.panel_of(runs, p, arms)
    quoted = table[table["level"].isin((0, p.sweep_levels[-1]))]
    return curve_pair(
        f"{drawing.panel_title(p)}: accuracy before and after pruning",
        quoted,
        p,
        arms,
        origins,
        published=lambda other: (),
    )


def figure_2(runs: pd.DataFrame, p: Protocol, control: str | None, origins: Origins) -> list[Pair]:
    arms = figure2.arms(p, control)
    table = curves.panel_of(runs, p, arms)
    return [curve_pair(drawing.panel_title(p), table, p, arms, origins, published=figure2.arms)]


def figure_4(runs: pd.DataFrame, p: Protocol, origins: Origins) -> list[Pair]:
    pairs = []
    for noise in p.noise:
        title, arms = f"{drawing.panel_title(p)}, {100 * noise:.3g} % of labels randomised", figure4.arms(p, noise)
        pairs.append(
            curve_pair(
                title,
                curves.panel_of(runs, p, arms),
                p,
                arms,
                origins,
                published=lambda other, noise=noise: figure4.arms(other, noise),
            )
        )
    return pairs


def figure_3(runs: pd.DataFrame, p: Protocol, origins: Origins) -> list[Pair]:
    """A pair per level: accuracy against the size of the subset, all data as lines."""
    table = figure3.sizes(runs, p)
    other = paper_of(p)
    pairs = []
    for place, level in enumerate(p.sweep_levels):
        title = f"{drawing.panel_title(p)}, level {level}"
        points, rules = _sizes(table, p, level, origins)
        own = Panel(title, points, _size_looks(p), _size_axis(points), ACCURACY, rules)
        shown = other.sweep_levels[place] if place < len(other.sweep_levels) else level
        points, rules = _published_sizes(other, shown)
        paper = Panel(
            f"{drawing.panel_title(other)}, level {shown}",
            points,
            _size_looks(other),
            _size_axis(points),
            ACCURACY,
            rules,
            whose="the paper",
        )
        pairs.append(pair(title, own, paper, p, other))
    return pairs


def _size_looks(p: Protocol) -> dict[str, Look]:
    looks = {figure3.WORDS[kind]: look_of(kind) for kind in curves.SUBSETS}
    looks |= {arm.label: look_of(arm.condition) for arm in reversed(curves.all_data(p))}
    return looks | {drawing.LOOKS["dense"].label: look_of("dense")}


def _size_axis(points: Sequence[Point]) -> Axis:
    return Axis(
        "examples in the subset",
        kind="log2",
        ticks=tuple(sorted({p.x for p in points})),
        label="format(datum.value, ',')",
    )


def _sizes(table: pd.DataFrame, p: Protocol, level: int, origins: Origins) -> tuple[tuple[Point, ...], tuple]:
    points, rules = [], list(_dense(table, p, curves.all_data(p), origins))
    sizes = sorted(set(table.loc[table["condition"].isin(curves.SUBSETS), "size"]))
    arms = [
        *curves.all_data(p),
        *(arm for kind in curves.SUBSETS for size in sizes for arm in curves.subsets(p, size, [kind])),
    ]
    for arm in arms:
        rows = arm.of(table)
        artifact = origins.run(p.dataset, arm.condition, arm.size, arm.t, arm.noise, arm.labels)
        for row in rows[rows["level"] == level].itertuples():
            name, at = (
                (figure3.WORDS[arm.condition], f"{arm.size:,} examples") if arm.size else (arm.label, "all the data")
            )
            found = Point(name, arm.size, 100 * row.mean_acc, at, 100 * row.std_acc, int(row.n), artifact)
            (points if arm.size else rules).append(found)
    return tuple(points), tuple(rules)


def _published_sizes(other: Protocol, level: int) -> tuple[tuple[Point, ...], tuple]:
    points, rules = [], []
    for arm in curves.all_data(other):
        rows = curves.reference(other.dataset, arm)
        rules += [_published(arm.label, 0, row, "all the data") for row in rows[rows["level"] == level].itertuples()]
        if arm.condition == "all_tstar":
            dense = rows[rows["level"] == 0].itertuples()
            rules += [_published(drawing.LOOKS["dense"].label, 0, row, "all the weights") for row in dense]
    for kind in curves.SUBSETS:
        for size in other.sizes:
            rows = curves.reference(other.dataset, curves.subsets(other, size, [kind])[0])
            points += [
                _published(figure3.WORDS[kind], size, row, f"{size:,} examples")
                for row in rows[rows["level"] == level].itertuples()
            ]
    return tuple(points), tuple(rules)


def appendix_sizes(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    """Every subset size, a pair per kind of subset."""
    table = appendix.TOPICS["sizes"].tables(evidence, p)["sizes"]
    pairs = []
    for kind, word in KINDS.items():
        arms, looks = _by_size(p, sorted(set(table["size"]) - {0}), kind)
        _, published = _by_size(paper_of(p), paper_of(p).sizes, kind)
        pairs.append(
            curve_pair(
                f"{drawing.panel_title(p)}: every subset size, {word} examples",
                table,
                p,
                arms,
                origins,
                looks=looks,
                looks_published=published,
                published=lambda other, kind=kind: _by_size(other, other.sizes, kind)[0],
            )
        )
    return pairs


def _by_size(p: Protocol, sizes: Sequence[int], kind: str) -> tuple[list[Arm], dict[Arm, Look]]:
    arms = [curves.subsets(p, size, [kind])[0] for size in sizes]
    colors = drawing.series(sizes, "magma") if len(sizes) else {}
    return [*curves.all_data(p), *arms], {arm: Look(*colors[arm.size]) for arm in arms}


def appendix_scores(evidence: Evidence, p: Protocol, origins: Origins) -> list[Pair]:
    """Other scores than EL2N, and what the composition of easy subsets does."""
    topics = {
        "other scores": ("other scores than EL2N", ("random", "easy", *SCORES)),
        "composition": ("easiness or choice of classes", ("random", "random_like_easy", "easy", *COMPOSITION[:2])),
    }
    tables = appendix.TOPICS["scores"].tables(evidence, p)
    return [
        curve_pair(
            f"{drawing.panel_title(p)}: {topic}",
            tables[name],
            p,
            [*curves.all_data(p)[1:], *curves.subsets(p, p.subset_size, conditions)],
            origins,
            published=lambda other: (),
        )
        for name, (topic, conditions) in topics.items()
    ]
