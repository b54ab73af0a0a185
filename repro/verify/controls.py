"""Controls: runs that were spoiled on purpose. Their effect has to vanish or change sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.protocol import Protocol
from repro.verify.outcomes import Outcomes, from_runs, label, levels_in_words
from repro.verify.stats import Estimate, Sample, contrast

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
    means = [Sample.of({r: sum(t[k].values[r] for k in levels) / len(levels) for r in replicates}) for t in tables]
    return *means, levels
