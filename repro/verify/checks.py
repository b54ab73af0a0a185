"""Two checks beside the claims: do own curves agree with the paper's, and do runs that were spoiled on purpose fail?

Agreement is one test a figure, and a description level by level. The authors' own two code bases differ by 0.33 pp in
absolute accuracy, so the test compares differences to all@t*, d = x(condition) - x(all@t*), where x is the mean over
the judging levels. Absolute offsets are only reported. A control spoils runs such that their effect has to vanish or to
change its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used: `repro status` starts without them

from repro.errors import UsageError
from repro.protocol import Protocol
from repro.verify import published
from repro.verify.outcomes import ALL_DATA, SUBSETS, Outcomes, from_runs, label, levels_in_words
from repro.verify.stats import Estimate, Sample, agreement_z, contrast, largest_z, pooled_std

CONDITIONS = (*ALL_DATA[1:], *SUBSETS, "dense")
"""The six conditions that are compared with all_tstar."""


@dataclass(frozen=True)
class ConditionAgreement:
    """One condition. own, published: differences to all@t*, pp. z: of own against published. offset: own minus
    published accuracy, pp. allowed: by how much own may differ from published, pp."""

    condition: str
    own: float
    published: float
    z: float
    offset: float
    allowed: float


@dataclass(frozen=True)
class LevelAgreement:
    """Own accuracies at one level. points: how many conditions have one. share_within: those within m +- t s
    sqrt(1/n_published + 1/n) of the published mean m. bias, rms: mean and root mean square of own - published, pp."""

    level: int
    points: int
    share_within: float
    bias: float
    rms: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """verdict: 'agrees', 'disagrees', 'missing' (a condition lacks data) or 'no published curves'.

    largest_z: max |z| over the conditions; bound: what it may reach; s: pooled standard deviation (pp). unnoticed:
    pairs of conditions whose published curves lie so close that runs with the two exchanged would agree as well.
    """

    dataset: str
    verdict: str
    largest_z: float | None = None
    bound: float | None = None
    s: float | None = None
    conditions: tuple[ConditionAgreement, ...] = ()
    levels: tuple[LevelAgreement, ...] = ()
    unnoticed: tuple[tuple[str, str], ...] = ()
    note: str = ""

    @property
    def limits(self) -> tuple[str, ...]:
        """What the verdict does not exclude, as clauses; none without curves."""
        if not self.conditions:
            return ()
        ends = dict.fromkeys(f"{f(c.allowed for c in self.conditions):.2f}" for f in (min, max))
        pairs = ", ".join(f"{label(a)} with {label(b)}" for a, b in self.unnoticed)
        return (
            f"differences of up to {' to '.join(ends)} points are allowed",
            f"exchanges it could not have noticed: {pairs or 'none'}",
        )


def agreement(runs: pd.DataFrame, p: Protocol) -> Agreement:
    """Compare a runs table with the published curves of the protocol's data set and subset size.

    A perfect replication agrees about 95 % of the time, because max |z| is held against `stats.largest_z`. Own
    differences count as unpaired, which errs on the safe side: paired ones vary less.
    """
    dataset = p.dataset
    if dataset not in published.SIZES:
        return Agreement(dataset=dataset, verdict="no published curves")
    own = from_runs(runs, p)
    if not own.missing(("all_tstar", *CONDITIONS)):
        own = own.shared(("all_tstar", *CONDITIONS))
    curves = published.curves(dataset)
    paper = published.outcomes(dataset, size=p.subset_size, table=curves, levels=p.judging_levels)
    own_gap, paper_gap = (outcomes.missing(("all_tstar", *CONDITIONS)) for outcomes in (own, paper))
    if own_gap or paper_gap:
        return Agreement(dataset=dataset, verdict="missing", note=own_gap or f"published: {paper_gap}")
    pool = [own.samples[c] for c in ("all_tstar", *CONDITIONS)] + list(paper.samples.values())
    s = pooled_std([x.std for x in pool], [x.n for x in pool])
    bound = largest_z(len(CONDITIONS))
    rows = tuple(_condition(c, own, paper, s, bound) for c in CONDITIONS)
    largest = max(abs(row.z) for row in rows)
    both = sorted(set(own.by_level["all_tstar"]) & set(paper.by_level["all_tstar"]))
    return Agreement(
        dataset=dataset,
        verdict="agrees" if largest <= bound else "disagrees",
        largest_z=largest,
        bound=bound,
        s=float(s),
        conditions=rows,
        levels=tuple(_level(k, own, paper) for k in both),
        unnoticed=_unnoticed(rows),
    )


def _unnoticed(rows: Sequence[ConditionAgreement]) -> tuple[tuple[str, str], ...]:
    """The pairs of conditions that a perfect replication could exchange and still agree.

    Dense networks are level 0 of another condition, so no pair has them.
    """
    truth = {"all_tstar": 0.0} | {row.condition: row.published for row in rows}
    found = []
    for a, b in combinations([c for c in truth if c != "dense"], 2):
        names = {a: b, b: a}
        seen = {c: truth[names.get(c, c)] - truth[names.get("all_tstar", "all_tstar")] for c in truth}
        if all(abs(seen[row.condition] - row.published) <= row.allowed for row in rows):
            found.append((a, b))
    return tuple(found)


def _condition(condition: str, own: Outcomes, paper: Outcomes, s: float, bound: float) -> ConditionAgreement:
    differences, groups = [], []
    for outcomes in (own, paper):
        x, reference = outcomes.sample(condition), outcomes.sample("all_tstar")
        differences.append(x.mean - reference.mean)
        groups.append(2 / (1 / x.n + 1 / reference.n))  # the n of two equal groups with the same variance
    z = agreement_z(*differences, s, *groups)
    allowed = bound / agreement_z(1.0, 0.0, s, *groups)
    offset = own.sample(condition).mean - paper.sample(condition).mean
    return ConditionAgreement(condition, *differences, float(z), offset, float(allowed))


def _level(level: int, own: Outcomes, paper: Outcomes) -> LevelAgreement:
    pairs = [(own.level(c, level), paper.level(c, level)) for c in (*ALL_DATA, *SUBSETS)]
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None and a.n >= 2]
    pool = [x for pair in pairs for x in pair]
    s = pooled_std([x.std for x in pool], [x.n for x in pool])
    t = scipy.stats.t.ppf(0.975, sum(x.n - 1 for x in pool))
    error = np.array([a.mean - b.mean for a, b in pairs])
    within = abs(error) <= t * s * np.sqrt([1 / a.n + 1 / b.n for a, b in pairs])
    return LevelAgreement(
        level, len(pairs), float(within.mean()), float(error.mean()), float(np.sqrt((error**2).mean()))
    )


# Controls

CONTROLS = ("permute-scores", "swap-easy-hard", "shuffle-mask")
_SPARSEST = 3  # levels that a shuffled mask is compared over: the sparsest, because it hurts there first


@dataclass(frozen=True, kw_only=True)
class ControlVerdict:
    """verdict: 'passed', 'failed', 'inconclusive', 'missing' or 'uninformative' (`judge` says when).

    effect and its 95 % interval (low, high) are in pp; n is the number of replicates.
    """

    control: str
    dataset: str
    verdict: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


def control_verdict(runs: pd.DataFrame, control: str, p: Protocol) -> ControlVerdict:
    """Judge the runs of a control on the data set of a protocol, with intervals of 95 %.

    permute-scores: scores are permuted among the images, so easy - random has to vanish. It passes if the interval
    contains 0 or lies within half the gap all@t* - all@t*/2. swap-easy-hard: easy and hard are exchanged, so easy -
    hard has to be negative. shuffle-mask: IMP's mask is shuffled within each layer (condition "shuffled"), so shuffled
    - all_tstar has to be negative over the three sparsest levels that both have.
    Raises UsageError for an unknown control.
    """
    if control not in CONTROLS:
        raise UsageError(f"control (={control}) is unknown: choose {', '.join(CONTROLS)}")
    found = from_runs(runs, p)
    if control == "shuffle-mask":
        return _shuffled(found)
    permuted = control == "permute-scores"
    conditions = ("easy", "random", "all_tstar", "all_tstar_half") if permuted else ("easy", "hard")
    if reason := found.missing(conditions):
        return ControlVerdict(control=control, dataset=p.dataset, verdict="missing", note=reason)
    easy, other, *gap = (found.shared(conditions).sample(c) for c in conditions)
    estimate, note = contrast([(1.0, easy), (-1.0, other)]), f"easy - {conditions[1]}"
    if not permuted:
        return _judged(control, p.dataset, estimate, _negative(estimate), note)
    half_gap = (gap[0].mean - gap[1].mean) / 2
    note += f", half the gap is {half_gap:+.2f}"
    return _judged(control, p.dataset, estimate, _vanishing(estimate, half_gap), note)


def _shuffled(found: Outcomes) -> ControlVerdict:
    shuffled, imp, compared = _sparsest(found)
    names = [label(c) for c in ("shuffled", "all_tstar")]
    if not compared:
        note = f"no level that two replicates have of both {' and '.join(names)}"
        return ControlVerdict(control="shuffle-mask", dataset=found.dataset, verdict="missing", note=note)
    estimate = contrast([(1.0, shuffled), (-1.0, imp)])
    note = f"{' - '.join(names)} at {levels_in_words(compared)}"
    return _judged("shuffle-mask", found.dataset, estimate, _negative(estimate), note)


def _judged(control: str, dataset: str, estimate: Estimate, word: str, note: str) -> ControlVerdict:
    effect, low, high = (float(x) for x in (estimate.effect, estimate.low, estimate.high))
    about = dict(effect=effect, low=low, high=high, n=estimate.n, note=note)
    return ControlVerdict(control=control, dataset=dataset, verdict=word, **about)


def _vanishing(estimate: Estimate, half_gap: float) -> str:
    if not np.isfinite(estimate.high):
        return "inconclusive"
    inside = max(abs(estimate.low), abs(estimate.high)) < half_gap
    return "passed" if inside or estimate.low <= 0 <= estimate.high else "failed"


def _negative(estimate: Estimate) -> str:
    if estimate.high < 0:
        return "passed"
    return "failed" if estimate.low > 0 else "inconclusive"


def _sparsest(found: Outcomes) -> tuple[Sample | None, Sample | None, list[int]]:
    """(shuffled, all_tstar, levels): means over the sparsest levels of both, of the replicates that have them all.

    (None, None, []) where fewer than two replicates do.
    """
    tables = [found.by_level.get(c, {}) for c in ("shuffled", "all_tstar")]
    levels = sorted(set(tables[0]) & set(tables[1]))[-_SPARSEST:]
    replicates = set.intersection(*(set(t[k].values) for t in tables for k in levels)) if levels else set()
    if len(replicates) < 2:
        return None, None, []
    means = [Sample.of({r: float(np.mean([t[k].values[r] for k in levels])) for r in replicates}) for t in tables]
    return *means, levels
