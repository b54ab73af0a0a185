"""Claims on pruned runs, judged from their outcomes: own runs are paired, published summaries are not (Welch).

The two claims on the subsets themselves are here too: passes over them (arithmetic), wrong labels inside (from scores).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from repro.protocol import Protocol, protocol
from repro.verify import stats
from repro.verify.claims import CLAIMS, RUN_CLAIMS
from repro.verify.outcomes import SUBSETS, Evidence, Outcomes, from_runs, label, noise_panel, same_replicates
from repro.verify.published import SIZES
from repro.verify.stats import Estimate, Sample, contrast, decide, interval
from repro.verify.verdict import BY_ARITHMETIC, NOT_BY_ARITHMETIC, Claim, LevelEffect, Part, Verdict


def verdicts(evidence: Evidence, protocol: Protocol) -> list[Verdict]:
    """Verdicts on the claims about pruned runs and about their subsets, from the tables of one data set."""
    return [*of_runs(evidence.runs, protocol), passes(protocol), *contamination(evidence, protocol)]


def of_runs(runs: pd.DataFrame, p: Protocol) -> list[Verdict]:
    """Verdicts on `RUN_CLAIMS` from a runs table (`outcomes.from_runs` says which); a noise panel that the protocol
    does not have is not promised."""
    planned = {"", *map(noise_panel, p.noise)}
    return [replace(v, promised=v.panel in planned) for v in judge(from_runs(runs, p), p.confidence)]


def judge(outcomes: Outcomes, confidence: float = 0.95) -> list[Verdict]:
    """Verdicts on `RUN_CLAIMS`, once for each panel of a claim."""
    return [_judge(claim, panel, outcomes, confidence) for claim in RUN_CLAIMS for panel in claim.panels]


@dataclass(frozen=True)
class Decided:
    """The parts of a claim in one panel: their estimates and words, and the gaps of those that need one."""

    estimates: list[Estimate]
    words: list[str]
    gaps: list[tuple[float, str]]

    @property
    def no_gap(self) -> bool:
        return not all(gap > 0 for gap, _ in self.gaps)

    @property
    def word(self) -> str:
        """The claim's word: all its parts have to hold, and without a gap nothing is decided."""
        return "inconclusive" if self.no_gap else stats.joint(self.words)


def decided(parts: Sequence[Part], outcomes: Outcomes, confidence: float = 0.95) -> Decided:
    """Each part by its interval, whatever the others say."""
    estimates = [contrast(_terms(part, outcomes), margin=part.margin, confidence=confidence) for part in parts]
    words = [decide(estimate, part.margin) for estimate, part in zip(estimates, parts)]
    return Decided(estimates, words, [_gap(p.fraction, outcomes, confidence) for p in parts if p.fraction])


def _judge(claim: Claim, panel: str, outcomes: Outcomes, confidence: float) -> Verdict:
    parts = [part for part in claim.parts if part.panel == panel]
    conditions = [c for part in parts for c in part.conditions]
    if reason := outcomes.missing(conditions):
        return claim.missing(outcomes.dataset, reason, panel=panel)
    most = max(outcomes.sample(c).n for c in conditions)
    outcomes = outcomes.shared(conditions)
    found, notes = decided(parts, outcomes, confidence), []
    if len(parts) > 1:
        each = zip(parts, found.estimates, found.words)
        notes.append("; ".join(f"{part.text} {interval(e)}, {word}" for part, e, word in each))
    for other in claim.described:
        if other.panel == panel and not outcomes.missing(other.conditions):
            e = contrast(_terms(other, outcomes), margin=other.margin, confidence=confidence)
            side = "above" if e.low > other.margin else "below" if e.high < other.margin else "not told from"
            notes.append(f"not tested: {other.text} {interval(e)}, {side} {other.margin:g}")
    notes += [note for _, note in found.gaps]
    if (n := outcomes.sample(conditions[0]).n) < most and outcomes.sample(conditions[0]).values:
        notes.append(f"over the {n} replicates that all of its conditions have, of up to {most}")
    if any("~" in c and c.partition("~")[0] in SUBSETS for c in conditions):
        unknown = ", as the paper does not print Figure 4's" if outcomes.dataset in SIZES else ""
        notes.append(f"subsets of {outcomes.noise_size}, fixed beforehand{unknown}")
    notes.append(_failures(conditions, outcomes))
    part, estimate = max(zip(parts, found.estimates), key=lambda pair: stats.against(pair[1], pair[0].margin))
    about = dict(panel=panel, margin=part.margin, word=found.word, no_gap=found.no_gap)
    about |= dict(levels=_levels(part, outcomes, confidence), judged=outcomes.levels, confidence=confidence)
    about["note"] = "; ".join(filter(None, dict.fromkeys(notes)))
    verdict = claim.judged(estimate, outcomes.dataset, part.text, terms=_terms(part, outcomes), **about)
    return replace(verdict, p=None) if found.no_gap else verdict


def _terms(part: Part, outcomes: Outcomes) -> list[tuple[float, Sample]]:
    return [(weight, outcomes.sample(condition)) for condition, weight in part.weights]


def _gap(conditions: tuple[str, str, str], outcomes: Outcomes, confidence: float) -> tuple[float, str]:
    """One-sided lower bound of the gap (the assay check), and the note on the fraction of it that is kept."""
    subset, full, base = (outcomes.sample(condition) for condition in conditions)
    bound = float(stats.lower_bound(contrast([(1.0, full), (-1.0, base)], confidence=confidence)))
    gap = f"gap {label(conditions[1])} - {label(conditions[2])} {full.mean - base.mean:+.2f} (lower bound {bound:+.2f})"
    if not bound > 0:
        return bound, gap
    symbol = "R" if conditions[2] == "all_t0" else "F"  # of what pre-training brings over none, or its second half
    values = stats.paired_values([subset, full, base])
    if values is None:
        return bound, f"{symbol} = {(subset.mean - base.mean) / (full.mean - base.mean):.2f}, {gap}"
    fraction, low, high = stats.retained_fraction(*values, confidence=confidence)
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


# Claims on the subsets themselves


def passes(p: Protocol | str) -> Verdict:
    """Claim 6 by arithmetic: t*/2 x batch size images are more than the subset holds. p: a name means the paper's."""
    p = protocol(p, "paper") if isinstance(p, str) else p
    steps, batch = p.t_star // 2, p.training.batch_size
    seen = steps * batch
    text = f"{steps} steps x {batch} images = {seen} images seen, subset of {p.subset_size}"
    word, effect = BY_ARITHMETIC if seen > p.subset_size else NOT_BY_ARITHMETIC, seen / p.subset_size
    return CLAIMS[6].verdict(p.dataset, word, effect=effect, margin=1.0, unit="passes", statistic=text)


def draw_of(kind: str, replicate: int, p: Protocol) -> int:
    """Which draw a replicate's subset is: easy and hard ones come from the scores of the fold, random ones are drawn
    for each replicate."""
    return replicate if kind == "random" else replicate % p.folds


def contamination(evidence: Evidence, p: Protocol) -> list[Verdict]:
    """Claim 31, once per noise panel: share of wrong labels inside easy below random below hard, within draws.

    Of the subsets of `p.noise_size`; shares in percent, differences in pp. The replicates of one fold share scores, and
    so their easy and hard subsets: they count as one draw, n is the number of draws, and one draw has no interval.
    Missing without all three kinds.
    """
    return [_contamination(evidence.subsets, p, noise) for noise in p.noise]


def _contamination(table: pd.DataFrame, p: Protocol, noise: float) -> Verdict:
    claim, panel = CLAIMS[31], noise_panel(noise)
    rows = table[(table["size"] == p.noise_size) & np.isclose(table["noise"].astype(float), noise)]
    rows = rows[rows["condition"].isin(SUBSETS)].drop_duplicates(["condition", "replicate"])  # listed with each step
    counts = rows["condition"].value_counts()
    promised = rows.groupby("condition")["promised"].max() if "promised" in rows else {}
    needed = {kind: max(2, int(promised.get(kind, 2))) for kind in ("easy", "random", "hard")}
    lacking = [f"{kind} ({counts.get(kind, 0)} of {n})" for kind, n in needed.items() if counts.get(kind, 0) < n]
    if lacking:
        note = f"replicates lacking of subsets of size {p.noise_size} at {panel}: {', '.join(lacking)}"
        return claim.missing(p.dataset, note, panel=panel)
    rows = same_replicates(rows, ["condition"])
    draws = rows["replicate"].map(lambda r: draw_of("easy", int(r), p))
    shares = (100 * rows["wrong_labels"].astype(float)).groupby([rows["condition"], draws]).mean()
    samples = {kind: Sample.of({int(d): float(x) for d, x in shares[kind].items()}) for kind in SUBSETS}
    note = "wrong labels: " + ", ".join(f"{kind} {samples[kind].mean:.1f} %" for kind in ("easy", "random", "hard"))
    note += f"; {rows['replicate'].nunique()} replicates share {draws.nunique()} draws of scores"
    pairs = [("random", "easy"), ("hard", "random")]
    terms = [[(1.0, samples[more]), (-1.0, samples[less])] for more, less in pairs]
    if draws.nunique() < 2:
        worst = min(range(2), key=lambda i: sum(w * sample.mean for w, sample in terms[i]))
        effect = sum(w * sample.mean for w, sample in terms[worst])
        text = f"wrong labels, {' - '.join(pairs[worst])}, of one draw"
        note += ": an interval needs two"
        return claim.verdict(p.dataset, "inconclusive", panel=panel, effect=effect, n=1, statistic=text, note=note)
    estimates = [contrast(pair, confidence=p.confidence) for pair in terms]
    word = stats.joint([decide(e) for e in estimates])
    worst = max(range(2), key=lambda i: stats.against(estimates[i]))
    text = f"wrong labels, {' - '.join(pairs[worst])}"
    return claim.judged(estimates[worst], p.dataset, text, panel=panel, terms=terms[worst], word=word, note=note)
