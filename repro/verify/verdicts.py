"""Claims and outcomes to verdicts: the same judgement for own runs (paired) and for published summaries (Welch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.verify import published
from repro.verify.claims import CLAIMS, PRIMARY_HYPOTHESES, Claim, Part
from repro.verify.outcomes import Outcomes, from_runs, label
from repro.verify.stats import (
    Estimate,
    Sample,
    contrast,
    decide,
    holm,
    lower_bound,
    paired_values,
    retained_fraction,
    within_replicates,
)

SCALES = ("demo", "small", "paper")
NO_GAP = "no gap to recover"


@dataclass(frozen=True)
class LevelEffect:
    """The deciding contrast at one pruning level, in pp: shown, never tested."""

    level: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the data say about a claim: verdict is 'reproduced', 'contradicted', 'inconclusive' or 'missing'.

    effect, its interval (low, high), median (over replicates; None for summaries) and margin in pp; p two-sided, of
    "the effect equals the margin"; p_holm adjusted over the primary hypotheses (None elsewhere); n replicates.
    Of a claim with several parts these are the least favourable part's, and the note gives all. promised: the figure
    should have had the data. All numbers are None when the verdict is 'missing'; p is None without a gap to recover.
    """

    claim: int
    dataset: str
    verdict: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    median: float | None = None
    margin: float = 0.0
    n: int | None = None
    p: float | None = None
    p_holm: float | None = None
    statistic: str = ""
    note: str = ""
    primary: bool = False
    promised: bool = True
    levels: tuple[LevelEffect, ...] = ()


def evaluate(
    runs: pd.DataFrame,
    *,
    figure: str = "figure2",
    dataset: str,
    scale: str,
    chance: float,
    size: int | None = None,
    replicates: int = 2,
    confidence: float = 0.95,
) -> list[Verdict]:
    """Verdict on every claim from a runs table (see `outcomes.COLUMNS`).

    figure: claims of other figures are judged if their runs are there, and may be missing. scale: at 'paper' the
    subset size is the paper's. size: the subset size compared (default: the paper's where the runs have it, else the
    only one). replicates: how many were promised of each condition; fewer make the verdict 'missing'. confidence: of
    the intervals; 0.975 at both looks if a second look was declared. Raises UsageError for a table that cannot be read.
    """
    check_scale(scale)
    found = from_runs(runs, dataset, chance=chance, replicates=replicates, size=paper_size(runs, dataset, scale, size))
    return _judge_all(found, figure=figure, confidence=confidence)


def from_published(dataset: str, *, size: int | None = None, table: pd.DataFrame | None = None) -> list[Verdict]:
    """What the paper's own numbers support, by the same claims; no claim is promised.

    Only means and standard deviations of 4 replicates are published, so the tests are unpaired.
    """
    return _judge_all(published.outcomes(dataset, size=size, table=table), figure="", confidence=0.95)


def check_scale(scale: str) -> None:
    if scale not in SCALES:
        raise UsageError(f"scale (={scale}) is unknown: choose {', '.join(SCALES)}")


def paper_size(runs: pd.DataFrame, dataset: str, scale: str, size: int | None) -> int | None:
    """The size to compare: the one asked for, else the paper's at its scale or where the runs have it, else None."""
    size_of_paper = published.SIZES.get(dataset)
    at_hand = set(runs.loc[runs["dataset"] == dataset, "size"]) if {"dataset", "size"} <= {*runs.columns} else set()
    return size_of_paper if size is None and (scale == "paper" or size_of_paper in at_hand) else size


def _judge_all(outcomes: Outcomes, *, figure: str, confidence: float) -> list[Verdict]:
    verdicts = [
        replace(_judge(claim, outcomes, confidence), promised=claim.figure == figure) for claim in CLAIMS.values()
    ]
    primary = [i for i, v in enumerate(verdicts) if v.primary and v.p is not None]
    for i, p in zip(primary, holm([verdicts[i].p for i in primary], PRIMARY_HYPOTHESES)):
        verdicts[i] = replace(verdicts[i], p_holm=float(p))
    return verdicts


def _judge(claim: Claim, outcomes: Outcomes, confidence: float) -> Verdict:
    identity = dict(claim=claim.number, dataset=outcomes.dataset, primary=claim.primary)
    reason = outcomes.missing(claim.conditions)
    if reason:
        return Verdict(**identity, verdict="missing", note=reason)
    estimates = [contrast(_terms(part, outcomes), margin=part.margin, confidence=confidence) for part in claim.parts]
    words = [decide(estimate, part.margin) for estimate, part in zip(estimates, claim.parts)]
    verdict = next((word for word in ("contradicted", "inconclusive") if word in words), "reproduced")
    notes = []
    if len(claim.parts) > 1:
        notes.append("; ".join(f"{part.text} {_interval(e)}" for part, e in zip(claim.parts, estimates)))
    if claim.fraction:
        gap, note = _fraction(claim.fraction, outcomes, confidence)
        notes.append(note)
        if not gap > 0:
            verdict = "inconclusive"
            notes.insert(0, NO_GAP)
    notes.append(_failures(claim, outcomes))
    side = "high" if verdict == "contradicted" else "low"
    worst = min(range(len(words)), key=lambda i: getattr(estimates[i], side) - claim.parts[i].margin)
    part, estimate = claim.parts[worst], estimates[worst]
    values = within_replicates(_terms(part, outcomes))
    return Verdict(
        **identity,
        verdict=verdict,
        effect=float(estimate.effect),
        low=float(estimate.low),
        high=float(estimate.high),
        median=None if values is None else float(np.median(values)),
        margin=part.margin,
        n=estimate.n,
        p=None if NO_GAP in notes else float(estimate.p),
        statistic=f"{part.text}, {estimate.method}",
        note="; ".join(filter(None, notes)),
        levels=_levels(part, outcomes, confidence),
    )


def _terms(part: Part, outcomes: Outcomes) -> list[tuple[float, Sample]]:
    return [(weight, outcomes.sample(condition)) for condition, weight in part.weights]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.effect:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"


def _fraction(conditions: tuple[str, str, str], outcomes: Outcomes, confidence: float) -> tuple[float, str]:
    """One-sided lower bound of the gap (the assay check), and the note on the fraction of it that is kept."""
    subset, full, base = (outcomes.sample(condition) for condition in conditions)
    bound = float(lower_bound(contrast([(1.0, full), (-1.0, base)])))
    gap = f"gap {label(conditions[1])} - {label(conditions[2])} {full.mean - base.mean:+.2f} (lower bound {bound:+.2f})"
    if not bound > 0:
        return bound, gap
    values = paired_values([subset, full, base])
    if values is None:
        return bound, f"F = {(subset.mean - base.mean) / (full.mean - base.mean):.2f}, {gap}"
    fraction, low, high = retained_fraction(*values, confidence=confidence)
    return bound, f"F = {fraction:.2f} [{low:.2f}, {high:.2f}], {gap}"


def _failures(claim: Claim, outcomes: Outcomes) -> str:
    conditions = {"all_tstar" if c == "dense" else outcomes.key(c) for c in claim.conditions}
    counts = [outcomes.failures.get(c, (0, 0)) for c in sorted(conditions)]
    diverged, collapsed = (sum(column) for column in zip(*counts))
    return f"runs diverged: {diverged}, collapsed to chance: {collapsed}" if diverged or collapsed else ""


def _levels(part: Part, outcomes: Outcomes, confidence: float) -> tuple[LevelEffect, ...]:
    effects = []
    for level in range(1, 1 + max((k for table in outcomes.by_level.values() for k in table), default=0)):
        samples = [(weight, outcomes.level(condition, level)) for condition, weight in part.weights]
        if all(sample is not None and sample.n >= 2 for _, sample in samples):
            e = contrast(samples, confidence=confidence)
            effects.append(LevelEffect(level, float(e.effect), float(e.low), float(e.high)))
    return tuple(effects)


def across_datasets(verdicts: Sequence[Verdict]) -> dict[int, str]:
    """Per claim, the verdict on "all data sets": reproduced if it is on each that the paper claims it for."""
    rank = ("missing", "contradicted", "inconclusive", "reproduced")
    words = {n: [v.verdict for v in verdicts if v.claim == n and v.dataset in c.datasets] for n, c in CLAIMS.items()}
    return {number: min(found, key=rank.index, default="missing") for number, found in words.items()}
