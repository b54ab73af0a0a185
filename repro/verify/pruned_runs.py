"""Claims and outcomes to verdicts: the same judgement for own runs (paired) and for published summaries (Welch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.protocol import FULL, JUDGED, OWN, SCALES
from repro.verify import barriers, published, warmup
from repro.verify.claims import CLAIMS, PRIMARY_HYPOTHESES, RUN_CLAIMS, Claim, Part
from repro.verify.outcomes import SUBSETS, Outcomes, from_runs, label, noise_panel, sized
from repro.verify.stats import (
    Estimate,
    Sample,
    against,
    contrast,
    decide,
    holm,
    joint,
    lower_bound,
    paired_values,
    retained_fraction,
    within_replicates,
)
from repro.verify.subsets import passes
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, NO_GAP, NOT_BY_ARITHMETIC, LevelEffect, Verdict


def evaluate(
    runs: pd.DataFrame,
    *,
    figures: Sequence[str] = ("figure2",),
    dataset: str,
    scale: str,
    chance: float,
    size: int | None = None,
    noise: Sequence[float] = (),
    noise_size: int | None = None,
    smallest: int | None = None,
    levels: tuple[int, ...] = JUDGED,
    balanced: bool = False,
    replicates: int = 2,
    confidence: float = 0.95,
) -> list[Verdict]:
    """Verdict on every claim about pruned runs (see `outcomes.from_runs` for the table and the remaining arguments).

    figures: claims of other figures are judged if their runs are there, and may be missing; so are claims on noise
    panels that are not in `noise`. scale: at 'paper' and 'day' the subset size is the paper's. size: the subset size compared
    (default: the paper's where the runs have it, else the only one). confidence: of the intervals; 0.975 at both looks
    if a second look was declared. Raises UsageError for a table that cannot be read.
    """
    check_scale(scale)
    size = paper_size(runs, dataset, scale, size)
    given = dict(
        chance=chance, replicates=replicates, noise_size=noise_size, smallest=smallest, levels=levels, balanced=balanced
    )
    planned = {"", *map(noise_panel, noise)}
    return with_holm(
        [
            replace(v, promised=CLAIMS[v.claim].figure in figures and v.panel in planned)
            for v in _judge_runs(from_runs(runs, dataset, size=size, **given), confidence)
        ]
    )


def from_published(
    dataset: str, *, size: int | None = None, noise_size: int = published.NOISE_SIZE, table: pd.DataFrame | None = None
) -> list[Verdict]:
    """What the paper's own numbers support, by the same claims; no claim is promised.

    Of curves only means and standard deviations of 4 replicates are published, so the tests are unpaired. size,
    noise_size, table: see `published.outcomes`; without them a claim about subsets has its word at every size too.
    Claims nothing was published about are missing.
    """
    found = _judge_runs(published.outcomes(dataset, size=size, noise_size=noise_size, table=table), 0.95)
    if size is None and table is None and noise_size == published.NOISE_SIZE:
        words = _words_by_size(dataset)
        found = [replace(v, sizes=words.get((v.claim, v.panel), ())) for v in found]
    found += _published_elsewhere(dataset)
    found += [
        Verdict(claim=number, dataset=dataset, verdict="missing", note="the paper has published no numbers")
        for number in CLAIMS.keys() - {v.claim for v in found}
    ]
    return with_holm([replace(v, promised=False) for v in sorted(found, key=lambda v: v.claim)])


@cache
def _published_elsewhere(dataset: str) -> tuple[Verdict, ...]:
    """Claims on other tables than that of pruned runs."""
    return passes(dataset), *barriers.from_published(dataset), *warmup.from_published(dataset)


@cache
def _words_by_size(dataset: str) -> dict[tuple[int, str], tuple[tuple[int, str], ...]]:
    """{(claim, panel): ((size, verdict), ...)} of the published curves, for claims that depend on the subset size."""
    found = {}
    for size, outcomes in published.outcomes_by_size(dataset).items():
        for claim in RUN_CLAIMS:
            for panel in claim.panels:
                parts = [part for part in claim.parts if part.panel == panel]
                conditions = {c for part in parts for c in part.conditions}
                if any(sized(c) for c in conditions) and not outcomes.missing(conditions):
                    word = _word(*_decided(parts, outcomes, 0.95)[1:])
                    found.setdefault((claim.number, panel), []).append((size, word))
    return {key: tuple(words) for key, words in found.items()}


def check_scale(scale: str) -> None:
    if scale not in (*SCALES, OWN):
        raise UsageError(f"scale (={scale}) is unknown: choose {', '.join(SCALES)}")


def paper_size(runs: pd.DataFrame, dataset: str, scale: str, size: int | None) -> int | None:
    """The size to compare: the one asked for, else the paper's at its scale or where the runs have it, else None."""
    size_of_paper = published.SIZES.get(dataset)
    at_hand = set(runs.loc[runs["dataset"] == dataset, "size"]) if {"dataset", "size"} <= {*runs.columns} else set()
    return size_of_paper if size is None and (scale in FULL or size_of_paper in at_hand) else size


def with_holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of one data set with p adjusted over the six primary hypotheses; those not tested count as p = 1."""
    adjusted = [replace(v, p_holm=None) for v in verdicts]
    primary = [i for i, v in enumerate(adjusted) if v.primary and v.p is not None]
    for i, p in zip(primary, holm([adjusted[i].p for i in primary], PRIMARY_HYPOTHESES)):
        adjusted[i] = replace(adjusted[i], p_holm=float(p))
    return adjusted


def _judge_runs(outcomes: Outcomes, confidence: float) -> list[Verdict]:
    return [_judge(claim, panel, outcomes, confidence) for claim in RUN_CLAIMS for panel in claim.panels]


def _judge(claim: Claim, panel: str, outcomes: Outcomes, confidence: float) -> Verdict:
    parts = [part for part in claim.parts if part.panel == panel]
    conditions = [c for part in parts for c in part.conditions]
    identity = dict(claim=claim.number, dataset=outcomes.dataset, panel=panel, primary=claim.is_primary(panel))
    reason = outcomes.missing(conditions)
    if reason:
        return Verdict(**identity, verdict="missing", note=reason)
    most = max(outcomes.sample(c).n for c in conditions)
    outcomes = outcomes.shared(conditions)
    estimates, words, gaps = _decided(parts, outcomes, confidence)
    verdict = _word(words, gaps)
    described = [p for p in claim.described if p.panel == panel and not outcomes.missing(p.conditions)]
    notes = []
    if len(parts) > 1:
        notes.append("; ".join(f"{part.text} {_interval(e)}, {w}" for part, e, w in zip(parts, estimates, words)))
    for other in described:
        e = contrast(_terms(other, outcomes), margin=other.margin, confidence=confidence)
        side = "above" if e.low > other.margin else "below" if e.high < other.margin else "not told from"
        notes.append(f"not tested: {other.text} {_interval(e)}, {side} {other.margin:g}")
    notes += [note for _, note in gaps]
    if not all(gap > 0 for gap, _ in gaps):
        notes.insert(0, NO_GAP)
    if (n := outcomes.sample(conditions[0]).n) < most and outcomes.sample(conditions[0]).values:
        notes.append(f"over the {n} replicates that all of its conditions have, of up to {most}")
    if any("~" in c and c.partition("~")[0] in SUBSETS for c in conditions):
        unknown = ", as the paper does not print Figure 4's" if outcomes.dataset in published.SIZES else ""
        notes.append(f"subsets of {outcomes.noise_size}, fixed beforehand{unknown}")
    notes.append(_failures(conditions, outcomes))
    worst = max(range(len(parts)), key=lambda i: against(estimates[i], parts[i].margin))
    part, estimate = parts[worst], estimates[worst]
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
        note="; ".join(filter(None, dict.fromkeys(notes))),
        levels=_levels(part, outcomes, confidence),
        judged=outcomes.levels,
        confidence=confidence,
    )


def _decided(
    parts: Sequence[Part], outcomes: Outcomes, confidence: float
) -> tuple[list[Estimate], list[str], list[tuple[float, str]]]:
    """Of each part the estimate and its word, and the gaps (see `_fraction`) of those that need one."""
    estimates = [contrast(_terms(part, outcomes), margin=part.margin, confidence=confidence) for part in parts]
    words = [decide(estimate, part.margin) for estimate, part in zip(estimates, parts)]
    return estimates, words, [_fraction(part.fraction, outcomes, confidence) for part in parts if part.fraction]


def _word(words: Sequence[str], gaps: Sequence[tuple[float, str]]) -> str:
    """A claim's word: all its parts have to hold, and without a gap nothing is decided."""
    if not all(gap > 0 for gap, _ in gaps):
        return "inconclusive"
    return joint(words)


def _terms(part: Part, outcomes: Outcomes) -> list[tuple[float, Sample]]:
    return [(weight, outcomes.sample(condition)) for condition, weight in part.weights]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.effect:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"


def _fraction(conditions: tuple[str, str, str], outcomes: Outcomes, confidence: float) -> tuple[float, str]:
    """One-sided lower bound of the gap (the assay check), and the note on the fraction of it that is kept."""
    subset, full, base = (outcomes.sample(condition) for condition in conditions)
    bound = float(lower_bound(contrast([(1.0, full), (-1.0, base)], confidence=confidence)))
    gap = f"gap {label(conditions[1])} - {label(conditions[2])} {full.mean - base.mean:+.2f} (lower bound {bound:+.2f})"
    if not bound > 0:
        return bound, gap
    symbol = "R" if conditions[2] == "all_t0" else "F"  # of what pre-training brings over none, or its second half
    values = paired_values([subset, full, base])
    if values is None:
        return bound, f"{symbol} = {(subset.mean - base.mean) / (full.mean - base.mean):.2f}, {gap}"
    fraction, low, high = retained_fraction(*values, confidence=confidence)
    return bound, f"{symbol} = {fraction:.2f} [{low:.2f}, {high:.2f}], {gap}"


def _failures(conditions: Sequence[str], outcomes: Outcomes) -> str:
    keys = {"all_tstar" if c == "dense" else outcomes.key(c) for c in conditions}
    counts = [outcomes.failures.get(c, (0, 0)) for c in sorted(keys)]
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
    """Per claim that was judged, the verdict on "all data sets": reproduced (or by arithmetic) if it is in every panel
    on each data set that the paper claims it for, and missing if one of them was not judged."""
    rank = ("missing", "contradicted", NOT_BY_ARITHMETIC, "inconclusive", "reproduced", BY_ARITHMETIC)
    found = {}
    for number in sorted({v.claim for v in verdicts if v.statistic != ITSELF}):
        chosen = [v for v in verdicts if v.claim == number and v.dataset in CLAIMS[number].datasets]
        absent = set(CLAIMS[number].datasets) - {v.dataset for v in chosen}
        found[number] = "missing" if absent else min((v.verdict for v in chosen), key=rank.index)
    return found
