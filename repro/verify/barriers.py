"""Claims on loss barriers (section 4, Figure 5): how each is decided, and the verdicts on own barriers.

The unit is the parent, the network at a rewind point. A parent's barrier is the mean over the pairs of its children,
and a claim compares conditions over the parents that all of them have. A barrier is that of dense children at
alpha = 1/2: per-example cross-entropy on the training images, with averaged batch norm statistics as published. With
recalibrated statistics every claim is judged again, and the note says so where its verdict flips. Pairs with a diverged
child are left out and counted. `barrier_decisions` has what own and published barriers share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from repro.protocol import Protocol
from repro.recipes.onset import CONNECTED, onset
from repro.verify import stats
from repro.verify.barrier_decisions import FULL, HALF, easy_nearer, modes_compared, random_alike, ranked
from repro.verify.claims import CLAIMS
from repro.verify.outcomes import Evidence, accuracies, label, levels_in_words, same_replicates
from repro.verify.stats import Advantage, Sample, decide, interval
from repro.verify.verdict import Lacking, Verdict

CONDITION = ["condition", "size", "t", "noise"]
_COMPARED = ["barrier", "pretrain", "final"]
_FEWEST_WITHIN = 4  # the note has a rank correlation among the conditions of one step if they are as many

Start = tuple[str, int, int]  # condition, subset size (0: all data) and step of a rewind point


@dataclass(frozen=True, eq=False)
class Barriers:
    """The barriers of one data set with one kind of batch norm statistics, and the evidence beside them."""

    evidence: Evidence
    protocol: Protocol
    mode: str = "averaged"

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The pairs of dense children that did not diverge: rows of `Evidence.barriers`."""
        rows = self.evidence.barriers
        return rows[(rows["level"] == 0) & ~rows["diverged"].astype(bool) & (rows["batch_norm"] == self.mode)]

    @property
    def about(self) -> dict:
        """What every verdict is told: its data set and the confidence of its interval."""
        return {"dataset": self.protocol.dataset, "confidence": self.protocol.confidence}

    @property
    def clean(self) -> pd.DataFrame:
        """The pairs without label noise."""
        return self.pairs[self.pairs["noise"] == 0]

    def sample(self, condition: str, column: str = "train_ce", scale: float = 1.0) -> Sample:
        """A column of the pairs of a condition, averaged within each parent. Subsets: of the compared size, at t*/2.

        Raises Lacking with fewer than two parents.
        """
        p, rows = self.protocol, self.clean[self.clean["condition"] == condition]
        name = label(condition)
        if condition not in (FULL, HALF):
            rows = rows[(rows["size"] == p.subset_size) & (rows["t"] == p.t_star // 2)]
            name = f"{condition} {p.subset_size} at t*/2"
        means = (scale * rows[column].astype(float)).groupby(rows["replicate"]).mean().dropna()
        if len(means) < 2:
            raise Lacking(f"fewer than two parents of {name}")
        return Sample.of({int(r): float(x) for r, x in means.items()})

    def samples(self, *conditions: str) -> dict[str, Sample]:
        """`sample` of all@t*/2, all@t* and these, over the parents that all of them have."""
        return stats.shared({condition: self.sample(condition) for condition in (HALF, FULL, *conditions)})


def verdicts(evidence: Evidence, protocol: Protocol) -> list[Verdict]:
    """Verdicts on claims 18 to 25 from the tables of one data set; 'missing' where two parents are lacking."""
    rows = evidence.barriers[evidence.barriers["level"] == 0]
    rows = rows[rows["batch_norm"] == "averaged"]
    lost, clean = int(rows["diverged"].astype(bool).sum()), rows[rows["noise"] == 0]
    averaged, recalibrated = (Barriers(evidence, protocol, mode) for mode in ("averaged", "recalibrated"))
    found = []
    for number, rule in RULES.items():
        if lacking := _lacking(clean, rule.starts(protocol)):
            found.append(CLAIMS[number].missing(protocol.dataset, lacking))
            continue
        verdict = _judged(number, rule, averaged)
        notes = [verdict.note]
        other = _judged(number, rule, recalibrated) if rule.again else None
        if other and "missing" not in (verdict.verdict, other.verdict):
            notes.append(f"with recalibrated batch norm {other.verdict}, {other.effect:+.2f}")
            if other.verdict != verdict.verdict:
                notes.append("the verdict flips with the batch norm statistics")
        if lost and rule.starts(protocol):
            notes.append(f"pairs left out because a child diverged: {lost}")
        found.append(replace(verdict, note="; ".join(filter(None, notes))))
    return found


def _judged(number: int, rule: Rule, barriers: Barriers) -> Verdict:
    try:
        return rule.judge(barriers)
    except Lacking as lacking:
        return CLAIMS[number].missing(barriers.protocol.dataset, str(lacking))


def _lacking(rows: pd.DataFrame, starts: Sequence[Start]) -> str:
    """Which rewind point has too few parents, '' if none has. A parent counts even where its children diverged."""
    for condition, size, t in starts:
        part = rows[(rows["condition"] == condition) & (rows["size"] == size) & (rows["t"] == t)]
        promised = max(2, int(part["promised"].max())) if "promised" in part and len(part) else 2
        if (n := part["replicate"].nunique()) < promised:
            return f"barriers of {_start_name(condition, size, t)}: {n} of {promised} parents"
    return ""


def _start_name(condition: str, size: int, t: int) -> str:
    return f"{label(condition)}{f' {size}' if size else ''} at step {t}"


def _more_is_lower(barriers: Barriers) -> Verdict:
    """Claim 18: both the mean barrier and the share of barriers below 0.5 nats have to follow."""
    loss, below = barriers.samples(), {c: barriers.sample(c, "share_below_half", 100) for c in (FULL, HALF)}
    parts = [
        ("barrier of all@t*/2 - all@t*", "nats", [(1.0, loss[HALF]), (-1.0, loss[FULL])]),
        ("share of barriers below 0.5, all@t* - all@t*/2", "pp", [(1.0, below[FULL]), (-1.0, below[HALF])]),
    ]
    found = [CLAIMS[18].contrasted(terms, text=text, unit=unit, **barriers.about) for text, unit, terms in parts]
    note = "; ".join(f"{v.statistic}: {interval(v)} {v.unit}" for v in found)
    worst = max(found, key=lambda v: stats.against(v)[0])  # by p, because nats and points have no order
    return replace(worst, verdict=stats.joint([v.verdict for v in found]), note=note)


def _modes(barriers: Barriers) -> Verdict:
    rows = barriers.evidence.histograms
    rows = rows[rows["batch_norm"] == barriers.mode]
    if rows.empty:
        raise Lacking("no histogram of barriers")
    totals = rows.groupby(["condition", "size", "t", "bin_lo"])["count"].sum()
    modes = {_start_name(*key): float(part.idxmax()[-1]) for key, part in totals.groupby(level=[0, 1, 2])}
    pair = same_replicates(rows[rows["condition"].isin((FULL, HALF))], ["condition"])
    if pair["condition"].nunique() < 2 or pair["replicate"].nunique() < 2:
        raise Lacking("fewer than two parents with histograms of all@t* and of all@t*/2")
    counts = pair.pivot_table(index=["condition", "replicate"], columns="bin_lo", values="count", aggfunc="sum")
    half, full = (counts.loc[c].to_numpy(np.int64) for c in (HALF, FULL))
    edges, confidence = counts.columns.to_numpy(float), barriers.protocol.confidence
    return modes_compared(barriers.protocol.dataset, modes, stats.mode_shift(half, full, edges, confidence=confidence))


def _paired(rows: pd.DataFrame, column: str, names: tuple[str, str], lacking: str) -> pd.DataFrame:
    """Means of a column of two kinds of subset, a column each, by size, step and replicate.

    Of the replicates that have both kinds at every size and step, because a mean over others is another quantity.
    Raises Lacking where a kind has no rows.
    """
    table = rows[rows["condition"].isin(names)].astype({column: float})
    table = table.groupby(["size", "t", "replicate", "condition"])[column].mean().unstack("condition")
    if not set(names) <= set(table.columns):
        raise Lacking(lacking)
    table = same_replicates(table.dropna().reset_index(), ["size", "t"]).astype({"size": int, "t": int})
    return table.set_index(["size", "t", "replicate"])


def _difference(means: pd.DataFrame, names: tuple[str, str]) -> list[tuple[float, Sample]]:
    return [(sign, Sample.of(dict(means[name]))) for sign, name in zip((1.0, -1.0), names)]


def _easy_below_random(barriers: Barriers) -> Verdict:
    names = ("random", "easy")
    table = _paired(barriers.clean, "train_ce", names, "no barriers of easy and of random subsets")
    means = table.groupby("replicate").mean()
    if len(means) < 2:
        raise Lacking("fewer than two parents with easy and random subsets of one size and step")
    each = (table["random"] - table["easy"]).groupby(["size", "t"]).mean()
    note = "per size and step: " + ", ".join(f"{size}@{t} {difference:+.2f}" for (size, t), difference in each.items())
    text = "barrier of random - easy"
    return CLAIMS[23].contrasted(_difference(means, names), text=text, note=note, unit="nats", **barriers.about)


def _lmc(barriers: Barriers) -> Verdict:
    """Claim 24: the accuracies of subsets by LMC score and by EL2N."""
    names, p, runs = ("easy", "lmc"), barriers.protocol, barriers.evidence.runs
    runs = runs[(runs["noise"] == 0) & runs["condition"].isin(names)]
    lacking = f"no runs of LMC-score and easy subsets over {levels_in_words(p.judging_levels)}"
    table = _paired(_finals(runs, p.judging_levels, p), "final", names, lacking)
    means = 100 * table.groupby("replicate").mean()
    promised = max(2, int(runs.loc[runs["condition"] == "lmc", "promised"].max())) if "promised" in runs else 2
    if len(means) < promised:
        raise Lacking(f"{len(means)} of {promised} replicates with LMC-score and easy subsets of one size")
    note = "sizes and steps: " + ", ".join(f"{size}@{t}" for size, t in table.groupby(["size", "t"]).size().index)
    return CLAIMS[24].contrasted(_difference(means, names), text="easy - LMC score", note=note, **barriers.about)


def _onset(barriers: Barriers) -> Verdict:
    sample, rows = barriers.sample(FULL, "train_error_max", 100), barriers.clean
    full, swept = rows[rows["condition"] == FULL], rows[rows["condition"].str.startswith("all")]
    loss, test = (full[column].astype(float).mean() for column in ("train_ce", "test_error_max"))
    note = f"cross-entropy barrier {loss:.2f} nats, test-error barrier {100 * test:.1f} pp"
    if swept["t"].nunique() > 1:
        first = onset(swept["t"], swept["train_error_max"].astype(float))
        steps = f"{int(swept['t'].min())} to {int(swept['t'].max())}"
        note += f"; onset over steps {steps}: {'none' if first is None else f't = {first}'}"
    text = "0-1 barrier of all@t*, training images, maximum along the line"
    return CLAIMS[25].contrasted([(1.0, sample)], text=text, margin=100 * CONNECTED, note=note, **barriers.about)


def _finals(runs: pd.DataFrame, levels: Sequence[int], p: Protocol) -> pd.DataFrame:
    """Mean accuracy over the levels per condition and replicate (columns: CONDITION, replicate, final, a fraction).

    A diverged run counts as chance from the level where it did; one that lacks a level is left out.
    """
    found, values, _ = accuracies(runs, [*CONDITION, "replicate"], levels, 1 / p.num_classes)
    return found.assign(final=values.mean(1)).dropna()


def _barriers_rank_better(barriers: Barriers) -> Verdict:
    p, evidence = barriers.protocol, barriers.evidence
    finals = _finals(evidence.runs, (p.barrier_level,), p)

    def parents(mode: str = "averaged", pretrain: str = "pretrain_acc", fresh: bool = False) -> pd.DataFrame:
        """A row per condition and parent: barrier, pretrain and final, of the parents that all conditions have."""
        rows = Barriers(evidence, p, mode).pairs
        rows = rows[(rows["t"] > 0) & (rows["fresh"].astype(bool) | (not fresh))]
        rows = rows.assign(barrier=rows["train_ce"].astype(float), pretrain=rows[pretrain].astype(float))
        means = rows.groupby([*CONDITION, "replicate"], as_index=False)[["barrier", "pretrain"]].mean()
        return same_replicates(means.dropna().merge(finals, on=[*CONDITION, "replicate"]), CONDITION)

    def compared(points: pd.DataFrame, groups=None) -> Advantage:
        return stats.advantage(*(points[c].to_numpy() for c in _COMPARED), groups, confidence=p.confidence)

    every = parents()
    points = every.groupby(CONDITION, as_index=False)[_COMPARED].mean()
    if len(points) < 3:
        few = f"{len(points)} of {stats.FEWEST_CONDITIONS} conditions with barriers and accuracies"
        raise Lacking(few if len(points) else f"no condition with barriers and accuracies at level {p.barrier_level}")
    main, single = compared(points), compared(every, every.groupby(CONDITION).ngroup().to_numpy())
    notes = [f"over {len(points)} conditions, each the mean of {every['replicate'].nunique()} parents"]
    notes.append(f"over single parents: {interval(single)}")
    words, recalibrated = {"as published": decide(main)}, "recalibrated batch norm for"
    for name, chosen in (
        ("fresh children only", parents(fresh=True)),
        (f"{recalibrated} pre-train accuracy", parents(pretrain="pretrain_acc_recalibrated")),
        (f"{recalibrated} barriers", parents("recalibrated")),
        (f"{recalibrated} both", parents("recalibrated", "pretrain_acc_recalibrated")),
    ):
        variant = chosen.groupby(CONDITION)[_COMPARED].mean()
        if len(variant) >= stats.FEWEST_CONDITIONS:
            found = compared(variant)
            words[name] = decide(found)
            notes.append(f"{name}: {interval(found)}")
    for t, part in points.groupby("t"):
        if len(part) >= _FEWEST_WITHIN:
            rho = [stats.spearman(part[c].to_numpy(), part["final"].to_numpy()) for c in ("barrier", "pretrain")]
            notes.append(f"within t = {int(t)} ({len(part)} conditions) {rho[0]:+.2f} and {rho[1]:+.2f}")
    if main.n >= stats.FEWEST_CONDITIONS and len(set(words.values())) > 1:
        notes.insert(0, "the verdict flips: " + ", ".join(f"{name} {word}" for name, word in words.items()))
    return ranked(p.dataset, main, "; ".join(notes))


def _all_data(*also: str) -> Callable[[Protocol], list[Start]]:
    return lambda p: [(FULL, 0, p.t_star), (HALF, 0, p.t_star // 2), *((c, p.subset_size, p.t_star // 2) for c in also)]


def _subsets(p: Protocol) -> list[Start]:
    return [(kind, size, t) for kind in ("random", "easy") for size in p.barrier_sizes for t in p.barrier_subsets]


def _every(p: Protocol) -> list[Start]:
    roles = {p.t_star // 2: HALF, p.t_star: FULL}
    return [(roles.get(t, "all_t"), 0, t) for t in p.barrier_all] + _subsets(p)


@dataclass(frozen=True)
class Rule:
    """How a claim is decided.

    starts: of a protocol, the rewind points without whose barriers the claim is missing. judge: gives the verdict, or
    raises Lacking. again: whether it is judged again with recalibrated batch norm.
    """

    starts: Callable[[Protocol], list[Start]]
    judge: Callable[[Barriers], Verdict]
    again: bool = True


RULES = {
    18: Rule(_all_data(), _more_is_lower),
    19: Rule(_all_data("random"), lambda found: random_alike(found.samples("random"), **found.about)),
    20: Rule(_all_data("easy"), lambda found: easy_nearer(found.samples("easy"), **found.about)),
    21: Rule(_all_data(), _modes),
    22: Rule(_every, _barriers_rank_better, again=False),  # it compares the batch norm statistics itself
    23: Rule(_subsets, _easy_below_random),
    24: Rule(lambda p: [], _lmc, again=False),  # it compares accuracies alone
    25: Rule(lambda p: [(FULL, 0, p.t_star)], _onset),
}
"""Claim -> how it is decided on own barriers."""
