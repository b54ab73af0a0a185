"""Claims on loss barriers as data, and how samples become verdicts: the same for own and for published barriers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from repro.verify.claim import Claim
from repro.verify.correlation import FEWEST_CONDITIONS, FEWEST_PARENTS, Advantage, ModeShift, inner_interval
from repro.verify.stats import Estimate, Sample, contrast, decide, lower_bound, within_replicates
from repro.verify.verdict import NO_GAP, Verdict

_FIGURE5 = {"figure": "figure5", "datasets": ("cifar100", "cinic10"), "source": "picture"}

CLAIMS = (
    Claim(
        number=18,
        title="More pre-training lowers barriers",
        statement="With more pre-training per-example loss barriers shift down: all@t* has a lower mean barrier than "
        "all@t*/2 and a larger share of barriers below 0.5 nats.",
        section="section 4, Figure 5",
        caveat="two networks per step, whose step was inferred",
        **_FIGURE5,
    ),
    Claim(
        number=19,
        title="Random has the barriers of all data",
        statement="Random subsets at t*/2 have the mean barrier of all data at t*/2, to within half of what the second "
        "half of pre-training lowers it by.",
        section="section 4, Figure 5",
        caveat="random barriers lie slightly higher",
        **_FIGURE5,
    ),
    Claim(
        number=20,
        title="Easy has the barriers of all data at t*",
        statement="The mean barrier of easy subsets at t*/2 is nearer to that of all data at t* than to t*/2.",
        section="section 4, Figure 5",
        caveat="one histogram without any spread",
        **_FIGURE5,
    ),
    Claim(
        number=21,
        title="The mode shifts as well",
        statement="With more pre-training the mode of the barriers shifts down, not only their mean.",
        section="section 4, Figure 5",
        caveat="the highest bin is the same in all four histograms: no shift is visible at this binning",
        **_FIGURE5,
    ),
    Claim(
        number=22,
        title="Barriers predict final accuracy better",
        primary=True,
        statement="Over conditions, the mean barrier is more strongly correlated (rank) with final accuracy than the "
        "accuracy at the end of pre-training is.",
        section="section 4, Figure 5",
        caveat="which parents are of one condition was inferred, and only by single parents is the interval above 0",
        **_FIGURE5,
    ),
    Claim(
        number=23,
        title="Easy has smaller barriers than random",
        primary=True,
        statement="At equal subset size and step, easy subsets lead to smaller barriers than random ones.",
        section="section 4, Figure 5",
        caveat="the step and size of an easy point are unknown, so both are pooled",
        **_FIGURE5,
    ),
    Claim(
        number=24,
        title="LMC-score subsets do not reach easy",
        statement="Subsets of the examples with the smallest barriers end below the easiest by EL2N.",
        section="appendix D",
        figure="appendix",
        datasets=("cinic10",),
        source="picture",
        caveat="LMC-score subsets at one step against easy ones at two",
    ),
    Claim(
        number=25,
        title="Linear connectivity sets in after t*",
        statement="At t* children are not yet linearly connected: their 0-1 barrier is above 2 %.",
        section="section 4",
        caveat="no 0-1 barrier was published, and of the loss barrier two points",
        **_FIGURE5,
    ),
)
BY_NUMBER = {claim.number: claim for claim in CLAIMS}


def missing(number: int, dataset: str, note: str) -> Verdict:
    return Verdict(claim=number, dataset=dataset, verdict="missing", note=note, primary=BY_NUMBER[number].primary)


def judged(
    number: int,
    dataset: str,
    estimate: Estimate,
    text: str,
    unit: str,
    *,
    terms: Sequence[tuple[float, Sample]] = (),
    margin: float = 0.0,
    word: str | None = None,
    p: float | None = None,
    note: str = "",
) -> Verdict:
    """A verdict from an estimate: by its interval against the margin, or the word (and p) given.

    terms: those of the estimate, for the median over parents.
    """
    values = within_replicates(terms) if terms else None
    return Verdict(
        claim=number,
        dataset=dataset,
        verdict=decide(estimate, margin) if word is None else word,
        effect=float(estimate.effect),
        low=float(estimate.low),
        high=float(estimate.high),
        median=None if values is None else float(np.median(values)),
        margin=margin,
        n=estimate.n,
        p=float(estimate.p) if p is None else p,
        statistic=f"{text}, {estimate.method}",
        note=note,
        unit=unit,
        primary=BY_NUMBER[number].primary,
    )


def random_alike(samples: Mapping[str, Sample], dataset: str, note: str = "", confidence: float = 0.95) -> Verdict:
    """Claim 19, of samples half, full and random. The margin, half the gap, is estimated too and takes part in the
    tests: random - half - gap/2 below 0 and random - half + gap/2 above it, 90 % intervals (TOST)."""
    terms = [(1.0, samples["random"]), (-1.0, samples["half"])]
    estimate, (gap, gap_note) = contrast(terms, confidence=confidence), _gap(samples, confidence)
    shifted = [
        [(1.0, samples["random"]), (-1 - sign / 2, samples["half"]), (sign / 2, samples["full"])] for sign in (1, -1)
    ]
    sides = [contrast(side, confidence=confidence) for side in shifted]
    p = max(side.p / 2 if sign * side.effect < 0 else 1 - side.p / 2 for sign, side in zip((1, -1), sides))
    if inner_interval(sides[0])[1] < 0 < inner_interval(sides[1])[0]:
        word = "reproduced"
    else:
        word = "contradicted" if sides[0].low > 0 or sides[1].high < 0 else "inconclusive"
    margin = (samples["half"].mean - samples["full"].mean) / 2
    note = "; ".join(filter(None, (f"equivalence margin {margin:.2f} either way, {gap_note}", note)))
    text = "barrier of random - all@t*/2"
    found = judged(19, dataset, estimate, text, "nats", terms=terms, word=word, p=float(p), note=note)
    return found if gap > 0 else _no_gap(found)


def easy_nearer(samples: Mapping[str, Sample], dataset: str, confidence: float = 0.95) -> Verdict:
    """Claim 20, of samples half, full and easy: (half + full)/2 - easy above 0, given a gap between half and full."""
    terms = [(0.5, samples["half"]), (0.5, samples["full"]), (-1.0, samples["easy"])]
    gap, note = _gap(samples, confidence)
    text = "barrier of (all@t* + all@t*/2)/2 - easy"
    found = judged(20, dataset, contrast(terms, confidence=confidence), text, "nats", terms=terms, note=note)
    return found if gap > 0 else _no_gap(found)


def _no_gap(verdict: Verdict) -> Verdict:
    return replace(verdict, verdict="inconclusive", p=None, note=f"{NO_GAP}; {verdict.note}")


def _gap(samples: Mapping[str, Sample], confidence: float) -> tuple[float, str]:
    """One-sided lower bound of half - full, the assay check, and a note on it."""
    bound = float(lower_bound(contrast([(1.0, samples["half"]), (-1.0, samples["full"])], confidence=confidence)))
    gap = samples["half"].mean - samples["full"].mean
    return bound, f"gap all@t*/2 - all@t* {gap:+.2f} (lower bound {bound:+.2f})"


def modes_compared(dataset: str, modes: Mapping[str, float], shift: float | ModeShift, width: float = 0.5) -> Verdict:
    """Claim 21. modes: lower edge of the highest bin per condition; shift: half - full, without an interval where
    parents are not told apart, and then undecided."""
    places = ", ".join(f"{name} ({low:g}, {low + width:g}]" for name, low in modes.items())
    tested = isinstance(shift, ModeShift)
    effect = shift.effect if tested else float(shift)
    enough = tested and shift.n >= FEWEST_PARENTS
    few = f"no verdict with fewer than {FEWEST_PARENTS} parents" if tested and not enough else ""
    notes = [few, f"highest bins: {places}", "" if effect else "no shift is visible at this binning"]
    found = Verdict(
        claim=21,
        dataset=dataset,
        verdict="inconclusive",
        effect=effect,
        statistic="mode of all@t*/2 - all@t*" + (", bootstrap over parents" if tested else ", described"),
        note="; ".join(filter(None, notes)),
        unit="nats",
    )
    if not tested:
        return found
    word, p = (decide(shift), shift.p) if enough else ("inconclusive", 1.0)
    return replace(found, verdict=word, low=shift.low, high=shift.high, n=shift.n, p=p)


def ranked(dataset: str, found: Advantage, note: str) -> Verdict:
    """Claim 22; with too few conditions there is no verdict."""
    enough = found.n >= FEWEST_CONDITIONS
    few = "" if enough else f"no verdict with fewer than {FEWEST_CONDITIONS} conditions"
    rhos = f"rho of barrier {found.rho_barrier:+.2f}, of pre-train accuracy {found.rho_pretrain:+.2f}"
    return Verdict(
        claim=22,
        dataset=dataset,
        verdict=decide(found) if enough else "inconclusive",
        effect=found.effect,
        low=found.low,
        high=found.high,
        n=found.n,
        p=found.p if enough else 1.0,
        statistic="|rho| of barrier - |rho| of pre-train accuracy, bootstrap over conditions",
        note="; ".join(filter(None, (few, rhos, note))),
        unit="rank correlation",
        primary=True,
    )
