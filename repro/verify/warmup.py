"""Claims on learning-rate warm-up (section 5, Figure 6): the effect of the subset that is warmed up on.

The unit is the replicate, which all subsets and warm-up lengths share. A diverged run counts as chance, and the note
says how many there are. The paper's numbers were read off a picture: means and standard deviations of 8 replicates.
They are compared by Welch's test. Published runs of different length count as independent in a slope, and as perfectly
correlated in a mean over lengths, because each of these gives the larger error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from repro.protocol import CIFAR10, Protocol
from repro.verify import stats
from repro.verify.claims import CLAIMS, WARMUP_CLAIMS
from repro.verify.claims import WARMUP_MARGIN as MARGIN
from repro.verify.outcomes import Evidence
from repro.verify.published import WARMUP_PANELS, warmup_curves
from repro.verify.stats import Estimate, Sample, contrast, interval
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, NOT_BY_ARITHMETIC, Lacking, Verdict

LONG = 8
"""A warm-up is long from this multiple of the shortest on: 800 steps beside 100."""


@dataclass(frozen=True)
class Sweep:
    """The warm-ups of one data set.

    cells: accuracies (percent) by kind, size and steps w of warm-up; all data have size 0. steps, sizes: ascending.
    replicates: how many each cell was promised. notes: what every verdict says. confidence: of intervals.
    """

    dataset: str
    cells: Mapping[tuple[str, int, int], Sample]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    replicates: int
    notes: tuple[str, ...] = ()
    confidence: float = 0.95

    @property
    def inner(self) -> str:
        """The interval that decides two one-sided tests, in words: '90 %' beside one of 95 %."""
        return f"{100 * (2 * self.confidence - 1):g} %"

    def require(self, curves: Sequence[tuple[str, int]], steps: Sequence[int]) -> None:
        """Raises Lacking unless these curves are complete."""
        if gap := self.gap(curves, steps):
            raise Lacking(gap)

    def gap(self, curves: Sequence[tuple[str, int]], steps: Sequence[int]) -> str:
        """What is missing of these curves first, '' if nothing is."""
        needed = max(2, self.replicates)
        for kind, size in curves:
            for w in steps:
                n = self.cells[kind, size, w].n if (kind, size, w) in self.cells else 0
                if n < needed:
                    return f"{curve_name(kind, size)}, w = {w}, has {n} of {needed} replicates"
        return ""

    def at(self, kind: str, size: int, w: int) -> Sample:
        return self.cells[kind, size, w]

    def mean(self, kind: str, size: int, steps: Sequence[int]) -> Sample:
        """The outcome averaged over several lengths of warm-up."""
        cells = [self.at(kind, size, w) for w in steps]
        if any(cell.values is None for cell in cells):
            mean, std = (float(np.mean([getattr(cell, name) for cell in cells])) for name in ("mean", "std"))
            return Sample(mean, std, min(cell.n for cell in cells))
        shared = set.intersection(*(set(cell.values) for cell in cells))
        return Sample.of({r: float(np.mean([cell.values[r] for cell in cells])) for r in sorted(shared)})

    def judged(self, number: int, estimate: Estimate, text: str, notes: Sequence[str], **fields) -> Verdict:
        """The verdict of an estimate; fields: those of `Claim.judged`."""
        return CLAIMS[number].judged(estimate, self.dataset, text, note="; ".join((*notes, *self.notes)), **fields)


def own_sweep(rows: pd.DataFrame, protocol: Protocol) -> Sweep:
    """The study of `protocol` from the rows of `Evidence.warmup`, which hold one data set."""
    failed = rows["diverged"].astype(bool) | rows["acc"].isna()
    rows = rows.assign(
        percent=100 * rows["acc"].astype(float).where(~failed, 1 / protocol.num_classes),
        size=rows["size"].where(rows["kind"] != "all", 0),
    )
    cells = {
        (kind, int(size), int(w)): Sample.of({int(r): float(x) for r, x in zip(part["replicate"], part["percent"])})
        for (kind, size, w), part in rows.groupby(["kind", "size", "w"])
    }
    notes = (f"runs diverged: {int(failed.sum())}",) if failed.any() else ()
    study = protocol.warmup
    steps, sizes = tuple(sorted(study.steps)), tuple(sorted(study.sizes))
    return Sweep(protocol.dataset, cells, steps, sizes, study.replicates, notes, protocol.confidence)


def published_sweep(panel: str, table: pd.DataFrame | None = None) -> Sweep:
    """The published curves, with all data as one panel draws them. table: `warmup_curves()`, if it has been altered."""
    rows = warmup_curves() if table is None else table
    rows = rows[(rows["kind"] != "all") | (rows["panel"] == panel)]
    cells = {
        (kind, size, w): Sample.published([100 * mean], [100 * std], n)
        for kind, size, w, mean, std, n in zip(*(rows[c] for c in ("kind", "size", "w", "mean", "std", "n")))
    }
    steps, sizes = sorted(set(rows["w"])), sorted(set(rows["size"]) - {0})
    return Sweep("cifar10", cells, tuple(steps), tuple(sizes), 8, ("read off a picture",))


def curve_name(kind: str, size: int) -> str:
    """A curve in words: 'easy 5120', 'all data'."""
    return f"{kind} {size}" if size else "all data"


def verdicts(evidence: Evidence, protocol: Protocol) -> list[Verdict]:
    """Verdicts on claims 26 to 30 from the warm-up runs of one data set; 'missing' where they are lacking."""
    rows, study, dataset = evidence.warmup, protocol.warmup, protocol.dataset
    comparable = protocol.full and dataset == "cifar10"
    if rows.empty or study is None:
        reason = "no warm-up runs" if study else f"the protocol of {dataset} has no warm-up study"
        promised = {claim: study is not None and (comparable or claim.number != 29) for claim in WARMUP_CLAIMS}
        return [claim.missing(dataset, reason, promised=word) for claim, word in promised.items()]
    sweep = own_sweep(rows, protocol)
    found = _judged(sweep, protocol)
    if comparable:
        found[29] = _decided(29, _baseline, sweep, published_sweep("easy"))
    else:
        reason = "compared with the paper's at its schedule on cifar10 only"
        found[29] = CLAIMS[29].missing(dataset, reason, promised=False)
    return [found[claim.number] for claim in WARMUP_CLAIMS]


def from_published(dataset: str) -> list[Verdict]:
    """What the paper's own numbers say on claims 26 to 30: 'missing' but for cifar10."""
    if dataset != "cifar10":
        return [claim.missing(dataset, f"the paper has no warm-up study of {dataset}") for claim in WARMUP_CLAIMS]
    return judge_sweeps({panel: published_sweep(panel) for panel in WARMUP_PANELS})


def judge_sweeps(sweeps: Mapping[str, Sweep]) -> list[Verdict]:
    """Verdicts from published curves, with all data as each panel draws them; the easy panel's decide."""
    sweep = sweeps["easy"]
    found = _judged(sweep, CIFAR10)
    words = {panel: _decided(28, _shortest, other).verdict for panel, other in sweeps.items()}
    if len(set(words.values())) > 1:
        by_panel = ", ".join(f"{panel} {word}" for panel, word in words.items())
        note = f"{found[28].note}; by the panel whose all-data curve is taken: {by_panel}"
        found[28] = replace(found[28], note=note)
    means = ", ".join(f"{sweep.at('all', 0, w).mean:.2f} (w = {w})" for w in sweep.steps)
    note = f"what own runs are compared with, read off a picture: {means} %"
    found[29] = CLAIMS[29].verdict(sweep.dataset, "reproduced", effect=0.0, statistic=ITSELF, note=note)
    return [found[claim.number] for claim in WARMUP_CLAIMS]


def _judged(sweep: Sweep, protocol: Protocol) -> dict[int, Verdict]:
    """The verdicts that own and published sweeps have alike: on all claims but 29."""
    found = {26: _decided(26, _slopes, sweep), 27: _decided(27, _hard, sweep), 28: _decided(28, _shortest, sweep)}
    return found | {30: _decided(30, _parts, sweep, protocol)}


def _decided(number: int, judge: Callable[..., Verdict], sweep: Sweep, *more) -> Verdict:
    try:
        return judge(sweep, *more)
    except Lacking as lacking:
        return CLAIMS[number].missing(sweep.dataset, str(lacking))


def slope_terms(sweep: Sweep, size: int) -> list[tuple[float, Sample]]:
    """Terms of the slope of easy - random at one size, in pp per doubling of the warm-up."""
    weights = [float(x) for x in stats.slope_weights(sweep.steps)]
    curves = (("easy", 1.0), ("random", -1.0))
    return [(sign * x, sweep.at(kind, size, w)) for kind, sign in curves for x, w in zip(weights, sweep.steps)]


def _slopes(sweep: Sweep) -> Verdict:
    """The slope decides at the smallest size; those at the other sizes are in the note."""
    size = sweep.sizes[0]
    sweep.require([("easy", size), ("random", size)], sweep.steps)
    terms = [(-x, sample) for x, sample in slope_terms(sweep, size)]
    estimate = contrast(terms, confidence=sweep.confidence)
    known = [s for s in sweep.sizes if not sweep.gap([("easy", s), ("random", s)], sweep.steps)]
    found = {s: contrast(slope_terms(sweep, s), confidence=sweep.confidence) for s in known}
    slopes = ", ".join(f"{interval(e)} at {s}" for s, e in found.items())
    longest = sweep.steps[-1]
    ends = {s: sweep.at("easy", s, longest).mean - sweep.at("random", s, longest).mean for s in known}
    at_end = ", ".join(f"{difference:+.2f} at {s}" for s, difference in ends.items())
    notes = [f"slope of easy - random {slopes}", f"easy - random at w = {longest} {at_end}"]
    return sweep.judged(26, estimate, f"random - easy at {size}, pp per doubling of w", notes, terms=terms)


def long_steps(steps: Sequence[int]) -> list[int]:
    """The warm-ups of at least LONG times the shortest; in a sweep without any, the longer half."""
    return [w for w in steps if w >= LONG * steps[0]] or list(steps[len(steps) // 2 :])


def _hard(sweep: Sweep) -> Verdict:
    size, steps = sweep.sizes[-1], long_steps(sweep.steps)
    sweep.require([("hard", size), ("random", size)], steps)
    terms = [(1.0, sweep.mean("hard", size, steps)), (-1.0, sweep.mean("random", size, steps))]
    estimate = contrast(terms, confidence=sweep.confidence)
    found = stats.equivalence(estimate, MARGIN)
    each = ", ".join(f"{sweep.at('hard', size, w).mean - sweep.at('random', size, w).mean:+.2f} ({w})" for w in steps)
    inner = f"{sweep.inner} interval [{found.low:+.2f}, {found.high:+.2f}]"
    notes = [f"equivalence, {inner} within {MARGIN}", f"by w: {each}"]
    text = f"hard - random at {size}, mean over w >= {steps[0]}"
    return sweep.judged(27, estimate, text, notes, word=found.verdict, p=found.p, terms=terms, margin=MARGIN)


def _shortest(sweep: Sweep) -> Verdict:
    w = sweep.steps[0]
    sweep.require([("all", 0), *((kind, size) for size in sweep.sizes for kind in ("easy", "random"))], [w])
    parts = []
    for size in sweep.sizes:
        for kind, other in (("all", 0), ("random", size)):
            terms = [(1.0, sweep.at("easy", size, w)), (-1.0, sweep.at(kind, other, w))]
            estimate = contrast(terms, confidence=sweep.confidence)
            text = f"easy {size} - {curve_name(kind, other)} at w = {w}"
            parts.append((text, terms, estimate, stats.equivalence(estimate, MARGIN)))
    word, (text, terms, estimate, worst) = _all_equal(parts)
    each = ", ".join(f"{t} {e.effect:+.2f} ({sweep.inner} [{q.low:+.2f}, {q.high:+.2f}])" for t, _, e, q in parts)
    notes = [f"equivalence within {MARGIN}, all of: {each}"]
    return sweep.judged(28, estimate, text, notes, word=word, p=worst.p, terms=terms, margin=MARGIN)


def _all_equal(parts: Sequence[tuple]) -> tuple[str, tuple]:
    """(the word of "all are equal", the part with the largest p, which is also the claim's).

    parts: tuples that end in an `Equivalence`.
    """
    return stats.joint([part[-1].verdict for part in parts]), max(parts, key=lambda part: part[-1].p)


def _baseline(own: Sweep, paper: Sweep) -> Verdict:
    """Gains over the shortest warm-up have to equal the published ones at every length.

    One length contradicts that, if its interval lies outside the margin. The allowed error is shared out over the
    lengths for this (Bonferroni).
    """
    first, rest = paper.steps[0], paper.steps[1:]
    own.require([("all", 0)], paper.steps)
    parts, outside = [], False
    for w in rest:
        gain = [(1.0, own.at("all", 0, w)), (-1.0, own.at("all", 0, first))]
        published = [(-1.0, paper.at("all", 0, w)), (1.0, paper.at("all", 0, first))]
        values = stats.within_replicates(gain)  # own gains are paired; the published ones are summaries and cannot be
        terms = published + (gain if values is None else [(1.0, Sample.of(dict(enumerate(values))))])
        estimate = contrast(terms, confidence=own.confidence)
        wide = contrast(terms, confidence=1 - (1 - own.confidence) / len(rest))
        outside |= stats.equivalence(wide, MARGIN).verdict == "contradicted"
        parts.append((w, estimate, stats.equivalence(estimate, MARGIN)))
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
    return own.judged(29, estimate, text, notes, word=word, p=worst.p, margin=MARGIN)


def _parts(sweep: Sweep, protocol: Protocol) -> Verdict:
    """Arithmetic: t* as a share of its training, against the best all-data warm-up as a share of its own (percent)."""
    sweep.require([("all", 0)], sweep.steps)
    best, total = max(sweep.steps, key=lambda w: sweep.at("all", 0, w).mean), protocol.warmup.training.steps
    rewind, warm = 100 * protocol.t_star / protocol.training.steps, 100 * best / total
    text = f"w = {best} of {total} steps ({warm:.1f} %)"
    text += f", t* = {protocol.t_star} of {protocol.training.steps} ({rewind:.1f} %)"
    word, note = BY_ARITHMETIC if rewind < warm else NOT_BY_ARITHMETIC, "; ".join((text, *sweep.notes))
    statistic = "best warm-up - t*, in percent of their trainings, arithmetic"
    return CLAIMS[30].verdict(sweep.dataset, word, effect=warm - rewind, statistic=statistic, note=note)
