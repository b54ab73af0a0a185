"""Claims on learning-rate warm-up (section 5, Figure 6): the effect of the subset that is warmed up on.

The unit is the replicate, which all subsets and warm-up lengths share. A diverged run counts as chance and is counted.
The paper's numbers were read off a picture: means and standard deviations of 8 replicates (Welch). Runs of different
length count as independent in a slope and as perfectly correlated in a mean over lengths: each the larger error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from repro.protocol import CIFAR10, Protocol
from repro.verify.claims import CLAIMS, WARMUP_CLAIMS
from repro.verify.claims import WARMUP_MARGIN as MARGIN
from repro.verify.outcomes import Evidence
from repro.verify.published import WARMUP_PANELS, warmup_curves
from repro.verify.stats import (
    Estimate,
    Sample,
    contrast,
    equivalence,
    interval,
    joint,
    slope_weights,
    within_replicates,
)
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, NOT_BY_ARITHMETIC, Verdict

NUMBERS = tuple(claim.number for claim in WARMUP_CLAIMS)
LONG = 8
"""Warm-ups from this multiple of the shortest on are long ones: 800 of 100 steps."""


@dataclass(frozen=True)
class Sweep:
    """cells: accuracies (percent) by (kind, size, w), size 0 for all data. replicates: promised of each cell.
    confidence: of intervals."""

    dataset: str
    cells: Mapping[tuple[str, int, int], Sample]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    replicates: int
    notes: tuple[str, ...] = ()
    confidence: float = 0.95

    @property
    def inner(self) -> str:
        """The interval of two one-sided tests: '90 %' beside one of 95 %."""
        return f"{100 * (2 * self.confidence - 1):g} %"

    def gap(self, curves: Sequence[tuple[str, int]], steps: Sequence[int]) -> str:
        """What is missing of these curves, '' if nothing is."""
        for kind, size in curves:
            for w in steps:
                n = self.cells[kind, size, w].n if (kind, size, w) in self.cells else 0
                if n < max(2, self.replicates):
                    return f"{curve_name(kind, size)}, w = {w}, has {n} of {max(2, self.replicates)} replicates"
        return ""

    def at(self, kind: str, size: int, w: int) -> Sample:
        return self.cells[kind, size, w]

    def mean(self, kind: str, size: int, steps: Sequence[int]) -> Sample:
        """The outcome averaged over several w."""
        cells = [self.at(kind, size, w) for w in steps]
        if any(cell.values is None for cell in cells):
            mean, std = (float(np.mean([getattr(cell, name) for cell in cells])) for name in ("mean", "std"))
            return Sample(mean, std, min(cell.n for cell in cells))
        shared = set.intersection(*(set(cell.values) for cell in cells))
        return Sample.of({r: float(np.mean([cell.values[r] for cell in cells])) for r in sorted(shared)})


def own_sweep(rows: pd.DataFrame, protocol: Protocol) -> Sweep:
    """The study of `protocol` from the rows of `Evidence.warmup`, which hold one data set."""
    failed = rows["diverged"].astype(bool) | rows["acc"].isna()
    percent = 100 * rows["acc"].astype(float).where(~failed, 1 / protocol.num_classes)
    sizes = rows["size"].where(rows["kind"] != "all", 0)
    cells = {
        (kind, int(size), int(w)): Sample.of(
            {int(r): float(x) for r, x in zip(rows.loc[part.index, "replicate"], part)}
        )
        for (kind, size, w), part in percent.groupby([rows["kind"], sizes, rows["w"]])
    }
    notes = (f"runs diverged: {int(failed.sum())}",) if failed.any() else ()
    study, steps, sizes = protocol.warmup, sorted(protocol.warmup.steps), sorted(protocol.warmup.sizes)
    about = dict(notes=notes, confidence=protocol.confidence)
    return Sweep(protocol.dataset, cells, tuple(steps), tuple(sizes), study.replicates, **about)


def published_sweep(panel: str, table: pd.DataFrame | None = None) -> Sweep:
    """The published curves, with all data as drawn in one panel. table: `warmup_curves()`, if it has been altered."""
    rows = warmup_curves() if table is None else table
    rows = rows[(rows["kind"] != "all") | (rows["panel"] == panel)]
    cells = {
        (kind, size, w): Sample.published([100 * mean], [100 * std], n)
        for kind, size, w, mean, std, n in zip(*(rows[c] for c in ("kind", "size", "w", "mean", "std", "n")))
    }
    steps, sizes = sorted(set(rows["w"])), sorted(set(rows["size"]) - {0})
    return Sweep("cifar10", cells, tuple(steps), tuple(sizes), 8, ("read off a picture",))


def curve_name(kind: str, size: int) -> str:
    """A curve as people write it: easy 5120, all data."""
    return f"{kind} {size}" if size else "all data"


def verdicts(evidence: Evidence, protocol: Protocol) -> list[Verdict]:
    """Verdicts on claims 26 to 30 from the warm-up runs of one data set; 'missing' where they are lacking."""
    rows, study = evidence.warmup, protocol.warmup
    comparable = protocol.full and protocol.dataset == "cifar10"
    if rows.empty or study is None:
        reason = "no warm-up runs" if study else f"the protocol of {protocol.dataset} has no warm-up study"
        promised = {n: study is not None and (comparable or n != 29) for n in NUMBERS}
        return [replace(_missing(n, protocol.dataset, reason), promised=promised[n]) for n in NUMBERS]
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
        return [_missing(n, dataset, f"the paper has no warm-up study of {dataset}") for n in NUMBERS]
    sweeps = {panel: published_sweep(panel) for panel in WARMUP_PANELS}
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
        Verdict.on(
            CLAIMS[29],
            sweep.dataset,
            "reproduced",
            effect=0.0,
            statistic=ITSELF,
            note=f"what own runs are compared with, read off a picture: {means} %",
        ),
        _parts(sweep, CIFAR10),
    ]


def _missing(number: int, dataset: str, note: str) -> Verdict:
    return Verdict.missing(CLAIMS[number], dataset, note)


def _verdict(number: int, sweep: Sweep, estimate: Estimate, text: str, notes: Sequence[str], **fields) -> Verdict:
    note = "; ".join((*notes, *sweep.notes))
    return Verdict.judged_by(estimate, CLAIMS[number], sweep.dataset, text, note=note, **fields)


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
    slopes = ", ".join(f"{interval(e)} at {s}" for s, e in found.items())
    longest = sweep.steps[-1]
    at_end = ", ".join(
        f"{sweep.at('easy', s, longest).mean - sweep.at('random', s, longest).mean:+.2f} at {s}" for s in known
    )
    notes = [f"slope of easy - random {slopes}", f"easy - random at w = {longest} {at_end}"]
    return _verdict(26, sweep, estimate, f"random - easy at {size}, pp per doubling of w", notes, terms=terms)


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
    about = dict(word=found.verdict, p=found.p, terms=terms, margin=MARGIN)
    return _verdict(27, sweep, estimate, text, notes, **about)


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
    return _verdict(28, sweep, estimate, text, notes, word=word, p=worst.p, terms=terms, margin=MARGIN)


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
    return _verdict(29, own, estimate, text, notes, word=word, p=worst.p, margin=MARGIN)


def _parts(sweep: Sweep, protocol: Protocol) -> Verdict:
    """Arithmetic: t* of the pruned runs' training against the best all-data warm-up of its own, percent of each."""
    reason = sweep.gap([("all", 0)], sweep.steps)
    if reason:
        return _missing(30, sweep.dataset, reason)
    best = max(sweep.steps, key=lambda w: sweep.at("all", 0, w).mean)
    total = protocol.warmup.training.steps
    rewind, warm = 100 * protocol.t_star / protocol.training.steps, 100 * best / total
    text = f"w = {best} of {total} steps ({warm:.1f} %)"
    text += f", t* = {protocol.t_star} of {protocol.training.steps} ({rewind:.1f} %)"
    return Verdict.on(
        CLAIMS[30],
        sweep.dataset,
        BY_ARITHMETIC if rewind < warm else NOT_BY_ARITHMETIC,
        effect=warm - rewind,
        statistic="best warm-up - t*, in percent of their trainings, arithmetic",
        note="; ".join((text, *sweep.notes)),
    )
