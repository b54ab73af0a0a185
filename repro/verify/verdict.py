"""A verdict: what the data say about one claim."""

from __future__ import annotations

from dataclasses import dataclass

NO_GAP = "no gap to recover"
BY_ARITHMETIC, NOT_BY_ARITHMETIC = "by arithmetic", "contradicted by arithmetic"
"""Words of a claim that no measurement can turn: outside the counts of 'reproduced' and 'contradicted'."""
ITSELF = "the published curve itself"
"""Statistic of a claim that is a published curve: its own numbers can neither support nor contradict it."""


@dataclass(frozen=True)
class LevelEffect:
    """The deciding contrast at one pruning level, in pp: shown, never tested."""

    level: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the data say about a claim: verdict is 'reproduced', 'contradicted', 'inconclusive' or 'missing', or of
    arithmetic BY_ARITHMETIC or NOT_BY_ARITHMETIC.

    effect, its interval (low, high), median (over replicates; None for summaries) and margin in `unit`; p two-sided, of
    "the effect equals the margin"; p_holm adjusted over the primary hypotheses (None elsewhere); n replicates (or
    conditions, or what the statistic says). Of a claim with several parts these are the least favourable part's, and
    the note gives all. panel: of the figure, for claims judged in each ("50 % noise"). promised: the figures asked for
    should have had the data. All numbers are None when the verdict is 'missing'; p is None without a gap to recover
    (the note then starts with NO_GAP) and, with the interval and n, for arithmetic. confidence: of the interval. sizes:
    of published numbers, (subset size, verdict) at every size that was published. judged: pruning levels over which
    accuracies were averaged; empty of claims on other quantities.
    """

    claim: int
    dataset: str
    verdict: str
    panel: str = ""
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
    unit: str = "pp"
    confidence: float = 0.95
    sizes: tuple[tuple[int, str], ...] = ()
    judged: tuple[int, ...] = ()
