"""Claims on learning-rate warm-up (section 5, Figure 6): the effect of the subset that is warmed up on.

The unit is the replicate, which all subsets and warm-up lengths share. A diverged run counts as chance and is counted.
The paper's numbers were read off a picture: means and standard deviations of 8 replicates (Welch). Runs of different
length count as independent in a slope and as perfectly correlated in a mean over lengths: each the larger error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from repro.protocol import Protocol
from repro.protocol import protocol as protocol_of
from repro.verify.claim import Claim
from repro.verify.correlation import equivalence, slope_weights
from repro.verify.outcomes import Evidence
from repro.verify.published_points import PANELS
from repro.verify.stats import Estimate, Sample, contrast, decide, joint, within_replicates
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, NOT_BY_ARITHMETIC, Verdict
from repro.verify.warmup_sweep import Sweep, curve_name, own_sweep, published_sweep

MARGIN = 0.25
"""Equivalence margin, pp."""

LONG = 8
"""Warm-ups from this multiple of the shortest on are long ones: 800 of 100 steps."""

_FIGURE6 = {"figure": "figure6", "section": "section 5, Figure 6", "datasets": ("cifar10",)}

CLAIMS = (
    Claim(
        number=26,
        title="Easy warm-up hurts, longer more",
        primary=True,
        statement="The longer the warm-up, the more accuracy the easiest examples lose against random ones (slope at "
        "the smallest subset; the losses themselves and other sizes are shown, not tested).",
        source="picture",
        **_FIGURE6,
    ),
    Claim(
        number=27,
        title="Hard is like random for large subsets",
        statement=f"A long warm-up on the hardest examples equals one on random ones to within {MARGIN} pp, at the "
        "largest size.",
        source="picture",
        caveat="random subsets are class-balanced there and hard ones are not",
        **_FIGURE6,
    ),
    Claim(
        number=28,
        title="Easy brings nothing at the shortest warm-up",
        statement=f"At the shortest warm-up easy subsets equal all data and random subsets to within {MARGIN} pp.",
        source="picture",
        caveat="inconclusive with the wider band that the random panel draws around all data",
        **_FIGURE6,
    ),
    Claim(
        number=29,
        title="All-data warm-up has the published accuracies",
        statement="Warm-up on all data gains over the shortest what the paper's does, at every length, to within "
        f"{MARGIN} pp.",
        source="picture",
        **_FIGURE6,
    ),
    Claim(
        number=30,
        title="Pruning needs less pre-training than training needs warm-up",
        statement="t* is a smaller part of its training than the best all-data warm-up is of its own.",
        source="arithmetic",
        **_FIGURE6,
    ),
)
BY_NUMBER = {claim.number: claim for claim in CLAIMS}


def verdicts(evidence: Evidence, protocol: Protocol) -> list[Verdict]:
    """Verdicts on claims 26 to 30 from the warm-up runs of one data set; 'missing' where they are lacking."""
    rows, study = evidence.warmup, protocol.warmup
    comparable = protocol.full and protocol.dataset == "cifar10"
    if rows.empty or study is None:
        reason = "no warm-up runs" if study else f"the protocol of {protocol.dataset} has no warm-up study"
        promised = {n: study is not None and (comparable or n != 29) for n in BY_NUMBER}
        return [replace(_missing(n, protocol.dataset, reason), promised=promised[n]) for n in BY_NUMBER]
    sweep = own_sweep(rows, protocol)
    if comparable:
        baseline = _baseline(sweep, published_sweep("easy"))
    else:
        reason = "compared with the paper's at its schedule on cifar10 only"
        baseline = replace(_missing(29, protocol.dataset, reason), promised=False)
    return [_slopes(sweep), _hard(sweep), _shortest(sweep), baseline, _parts(sweep, protocol)]


def from_published(dataset: str) -> list[Verdict]:
    """What the paper's own numbers say on claims 26 to 30: 'missing' but for cifar10."""
    if dataset != "cifar10":
        return [_missing(n, dataset, f"the paper has no warm-up study of {dataset}") for n in BY_NUMBER]
    sweeps = {panel: published_sweep(panel) for panel in PANELS}
    return judge_sweeps(sweeps)


def judge_sweeps(sweeps: Mapping[str, Sweep]) -> list[Verdict]:
    """Verdicts from published curves, with all data as each panel draws them; the easy panel's decide."""
    sweep = sweeps["easy"]
    words = {panel: _shortest(other).verdict for panel, other in sweeps.items()}
    shortest = _shortest(sweep)
    if len(set(words.values())) > 1:
        note = ", ".join(f"{panel} {word}" for panel, word in words.items())
        shortest = replace(shortest, note=f"{shortest.note}; by the panel whose all-data curve is taken: {note}")
    means = ", ".join(f"{sweep.at('all', 0, w).mean:.2f} (w = {w})" for w in sweep.steps)
    return [
        _slopes(sweep),
        _hard(sweep),
        shortest,
        Verdict(
            claim=29,
            dataset=sweep.dataset,
            verdict="reproduced",
            effect=0.0,
            statistic=ITSELF,
            note=f"what own runs are compared with, read off a picture: {means} %",
        ),
        _parts(sweep, protocol_of(sweep.dataset, "paper")),
    ]


def _missing(number: int, dataset: str, note: str) -> Verdict:
    return Verdict(claim=number, dataset=dataset, verdict="missing", note=note, primary=BY_NUMBER[number].primary)


def _verdict(
    number: int,
    sweep: Sweep,
    estimate: Estimate,
    text: str,
    *,
    word: str,
    p: float,
    terms: Sequence[tuple[float, Sample]],
    notes: Sequence[str],
    margin: float = 0.0,
) -> Verdict:
    values = within_replicates(terms) if terms else None
    return Verdict(
        claim=number,
        dataset=sweep.dataset,
        verdict=word,
        effect=float(estimate.effect),
        low=float(estimate.low),
        high=float(estimate.high),
        median=None if values is None else float(np.median(values)),
        margin=margin,
        n=estimate.n,
        p=float(p),
        statistic=f"{text}, {estimate.method}",
        note="; ".join((*notes, *sweep.notes)),
        primary=BY_NUMBER[number].primary,
    )


def slope_terms(sweep: Sweep, size: int) -> list[tuple[float, Sample]]:
    """Terms of the slope of easy - random (pp per doubling of w) at one size."""
    weights = [float(x) for x in slope_weights(sweep.steps)]
    curves = (("easy", 1.0), ("random", -1.0))
    return [(sign * x, sweep.at(kind, size, w)) for kind, sign in curves for x, w in zip(weights, sweep.steps)]


def _slopes(sweep: Sweep) -> Verdict:
    size = sweep.sizes[0]
    reason = sweep.gap([("easy", size), ("random", size)], sweep.steps)
    if reason:
        return _missing(26, sweep.dataset, reason)
    terms = [(-x, sample) for x, sample in slope_terms(sweep, size)]
    estimate = contrast(terms, confidence=sweep.confidence)
    known = [s for s in sweep.sizes if not sweep.gap([("easy", s), ("random", s)], sweep.steps)]
    found = {s: contrast(slope_terms(sweep, s), confidence=sweep.confidence) for s in known}
    slopes = ", ".join(f"{e.effect:+.2f} [{e.low:+.2f}, {e.high:+.2f}] at {s}" for s, e in found.items())
    longest = sweep.steps[-1]
    at_end = ", ".join(
        f"{sweep.at('easy', s, longest).mean - sweep.at('random', s, longest).mean:+.2f} at {s}" for s in known
    )
    return _verdict(
        26,
        sweep,
        estimate,
        f"random - easy at {size}, pp per doubling of w",
        word=decide(estimate),
        p=estimate.p,
        terms=terms,
        notes=[f"slope of easy - random {slopes}", f"easy - random at w = {longest} {at_end}"],
    )


def long_steps(steps: Sequence[int]) -> list[int]:
    """The warm-ups of at least eight times the shortest; the upper half of a sweep that has none."""
    return [w for w in steps if w >= LONG * steps[0]] or list(steps[len(steps) // 2 :])


def _hard(sweep: Sweep) -> Verdict:
    size, steps = sweep.sizes[-1], long_steps(sweep.steps)
    reason = sweep.gap([("hard", size), ("random", size)], steps)
    if reason:
        return _missing(27, sweep.dataset, reason)
    terms = [(1.0, sweep.mean("hard", size, steps)), (-1.0, sweep.mean("random", size, steps))]
    estimate = contrast(terms, confidence=sweep.confidence)
    found = equivalence(estimate, MARGIN)
    each = ", ".join(f"{sweep.at('hard', size, w).mean - sweep.at('random', size, w).mean:+.2f} ({w})" for w in steps)
    inner = f"{sweep.inner} interval [{found.low:+.2f}, {found.high:+.2f}]"
    notes = [f"equivalence, {inner} within {MARGIN}", f"by w: {each}"]
    text = f"hard - random at {size}, mean over w >= {steps[0]}"
    return _verdict(27, sweep, estimate, text, word=found.verdict, p=found.p, terms=terms, notes=notes, margin=MARGIN)


def _shortest(sweep: Sweep) -> Verdict:
    w = sweep.steps[0]
    reason = sweep.gap([("all", 0), *((k, s) for s in sweep.sizes for k in ("easy", "random"))], [w])
    if reason:
        return _missing(28, sweep.dataset, reason)
    parts = []
    for size in sweep.sizes:
        for kind, other in (("all", 0), ("random", size)):
            terms = [(1.0, sweep.at("easy", size, w)), (-1.0, sweep.at(kind, other, w))]
            estimate = contrast(terms, confidence=sweep.confidence)
            text = f"easy {size} - {curve_name(kind, other)} at w = {w}"
            parts.append((text, terms, estimate, equivalence(estimate, MARGIN)))
    word, (text, terms, estimate, worst) = _all_equal(parts)
    each = ", ".join(f"{t} {e.effect:+.2f} ({sweep.inner} [{q.low:+.2f}, {q.high:+.2f}])" for t, _, e, q in parts)
    notes = [f"equivalence within {MARGIN}, all of: {each}"]
    return _verdict(28, sweep, estimate, text, word=word, p=worst.p, terms=terms, notes=notes, margin=MARGIN)


def _all_equal(parts: Sequence[tuple]) -> tuple[str, tuple]:
    """The word of "all are equal", and the least favourable part: parts end in their `Equivalence`, the largest p of
    which is also the claim's."""
    return joint([part[-1].verdict for part in parts]), max(parts, key=lambda part: part[-1].p)


def _baseline(own: Sweep, paper: Sweep) -> Verdict:
    """Gains over the shortest warm-up against the published ones: equivalence at every length.

    Contradicted by an interval outside the margin at any length, with the error shared out over the lengths.
    """
    first, rest = paper.steps[0], paper.steps[1:]
    reason = own.gap([("all", 0)], paper.steps)
    if reason:
        return _missing(29, own.dataset, reason)
    parts, outside = [], False
    for w in rest:
        gain = [(1.0, own.at("all", 0, w)), (-1.0, own.at("all", 0, first))]
        published = [(-1.0, paper.at("all", 0, w)), (1.0, paper.at("all", 0, first))]
        values = within_replicates(gain)  # the published numbers are summaries, own gains are paired
        terms = published + (gain if values is None else [(1.0, Sample.of(dict(enumerate(values))))])
        estimate = contrast(terms, confidence=own.confidence)
        wide = contrast(terms, confidence=1 - (1 - own.confidence) / len(rest))
        outside |= equivalence(wide, MARGIN).verdict == "contradicted"
        parts.append((w, estimate, equivalence(estimate, MARGIN)))
    word, (w, estimate, worst) = _all_equal(parts)
    word = "contradicted" if outside else "inconclusive" if word == "contradicted" else word
    each = ", ".join(f"{e.effect:+.2f} ({own.inner} [{q.low:+.2f}, {q.high:+.2f}]) at {w}" for w, e, q in parts)
    offset = np.mean([own.at("all", 0, w).mean - paper.at("all", 0, w).mean for w in paper.steps])
    notes = [
        f"equivalence within {MARGIN} at every length: {each}",
        f"mean offset of the accuracy {offset:+.2f} pp, not tested",
        *paper.notes,
    ]
    text = f"own - published gain from w = {first} to {w}, the least favourable of {len(rest)}"
    return _verdict(29, own, estimate, text, word=word, p=worst.p, terms=[], notes=notes, margin=MARGIN)


def _parts(sweep: Sweep, protocol: Protocol) -> Verdict:
    """Arithmetic: t* of the pruned runs' training against the best all-data warm-up of its own, percent of each."""
    reason = sweep.gap([("all", 0)], sweep.steps)
    if reason:
        return _missing(30, sweep.dataset, reason)
    best = max(sweep.steps, key=lambda w: sweep.at("all", 0, w).mean)
    total = protocol.warmup.training.steps
    rewind, warm = 100 * protocol.t_star / protocol.training.steps, 100 * best / total
    text = f"w = {best} of {total} steps ({warm:.1f} %), t* = {protocol.t_star} of {protocol.training.steps} ({rewind:.1f} %)"
    return Verdict(
        claim=30,
        dataset=sweep.dataset,
        verdict=BY_ARITHMETIC if rewind < warm else NOT_BY_ARITHMETIC,
        effect=warm - rewind,
        statistic="best warm-up - t*, in percent of their trainings, arithmetic",
        note="; ".join((text, *sweep.notes)),
    )
