"""Controls: runs that were spoiled on purpose, where the effect has to vanish or turn. They test the instrument."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.protocol import JUDGED
from repro.verify.outcomes import Outcomes, from_runs, label, levels_in_words
from repro.verify.stats import Estimate, Sample, contrast

CONTROLS = ("permute-scores", "swap-easy-hard", "shuffle-mask")
_SPARSEST = 3  # levels at the sparse end over which a shuffled mask is compared: it hurts there first


@dataclass(frozen=True, kw_only=True)
class ControlVerdict:
    """verdict: 'passed', 'failed', 'inconclusive', 'missing' or 'uninformative' (see `judge`).

    effect and its 95 % interval (low, high) in pp.
    """

    control: str
    dataset: str
    verdict: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


def control_verdict(
    runs: pd.DataFrame,
    control: str,
    *,
    dataset: str,
    chance: float,
    size: int | None = None,
    levels: tuple[int, ...] = JUDGED,
) -> ControlVerdict:
    """Judge the runs of a control.

    permute-scores: scores permuted among the images; easy - random has to vanish. Passed if its interval contains 0 or
    lies within half the gap all@t* - all@t*/2. swap-easy-hard: easy and hard exchanged; easy - hard has to be negative.
    shuffle-mask: IMP's mask shuffled within each layer (condition "shuffled"); shuffled - all_tstar, over the three
    sparsest levels that both have, has to be negative.
    """
    if control not in CONTROLS:
        raise UsageError(f"control (={control}) is unknown: choose {', '.join(CONTROLS)}")
    found = from_runs(runs, dataset, chance=chance, size=size, levels=levels)
    identity = dict(control=control, dataset=dataset)
    if control == "shuffle-mask":
        shuffled, imp, compared = _sparsest(found)
        names = [label(c) for c in ("shuffled", "all_tstar")]
        if not compared:
            note = f"no level that two replicates have of both {' and '.join(names)}"
            return ControlVerdict(**identity, verdict="missing", note=note)
        estimate = contrast([(1.0, shuffled), (-1.0, imp)])
        word, note = _negative(estimate), f"{' - '.join(names)} at {levels_in_words(compared)}"
    else:
        permuted = control == "permute-scores"
        reason = found.missing(("easy", "random", "all_tstar", "all_tstar_half") if permuted else ("easy", "hard"))
        if reason:
            return ControlVerdict(**identity, verdict="missing", note=reason)
        found = found.shared(("easy", "random", "all_tstar", "all_tstar_half") if permuted else ("easy", "hard"))
        other = "random" if permuted else "hard"
        estimate = contrast([(1.0, found.sample("easy")), (-1.0, found.sample(other))])
        word, note = _negative(estimate), f"easy - {other}"
        if permuted:
            half_gap = (found.sample("all_tstar").mean - found.sample("all_tstar_half").mean) / 2
            word, note = _vanishing(estimate, half_gap), f"{note}, half the gap is {half_gap:+.2f}"
    return ControlVerdict(
        **identity,
        verdict=word,
        effect=float(estimate.effect),
        low=float(estimate.low),
        high=float(estimate.high),
        n=estimate.n,
        note=note,
    )


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
    """Shuffled and all_tstar over the sparsest levels which the same two replicates or more have of both."""
    tables = [found.by_level.get(c, {}) for c in ("shuffled", "all_tstar")]
    levels = sorted(set(tables[0]) & set(tables[1]))[-_SPARSEST:]
    replicates = set.intersection(*(set(t[k].values) for t in tables for k in levels)) if levels else set()
    if len(replicates) < 2:
        return None, None, []
    means = [Sample.of({r: sum(t[k].values[r] for k in levels) / len(levels) for r in replicates}) for t in tables]
    return *means, levels
