"""A claim of the paper as data, and a verdict: what the data say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.data import split_size
from repro.verify.stats import Estimate, Terms, contrast, decide, holm, within_replicates

PAPER_DATASETS = ("cifar10", "cifar100", "cinic10")
SOURCES = ("exact", "picture", "arithmetic", "none")
PRIMARY_HYPOTHESES = 6
"""Fixed before the runs, over all figures: claims 5, 8, 16 at 50 % noise, 22, 23, 26; Holm's family in a data set."""

BY_ARITHMETIC, NOT_BY_ARITHMETIC = "by arithmetic", "contradicted by arithmetic"
"""Words of a claim that no measurement can turn: outside the counts of 'reproduced' and 'contradicted'."""
ITSELF = "the published curve itself"
"""Statistic of a claim that is a published curve: its own numbers can neither support nor contradict it."""


def unshrunk(dataset: str) -> str:
    """The data set whose published numbers stand beside this one: 'cifar10' for 'cifar10@16', or itself."""
    return split_size(dataset)[0]


def figure_order(name: str) -> tuple[bool, str]:
    """Sorts figures by name in the paper's order: figure1 to figure6, then the others."""
    return not name.startswith("figure"), name


class Lacking(Exception):
    """Data that a claim needs are not there; the text says which."""


@dataclass(frozen=True)
class Part:
    """One comparison: sum(weight * outcome of condition), in pp, should exceed the margin.

    fraction: (subset, full, base): what the subset keeps of full - base, F = (subset - base) / (full - base). Without
    a positive gap full - base there is nothing to keep, and the claim stays inconclusive. panel: of the figure, where
    the claim is judged in each of several ("50 % noise"); parts of one panel have to hold together.
    """

    text: str
    weights: tuple[tuple[str, float], ...]
    margin: float = 0.0
    fraction: tuple[str, str, str] | None = None
    panel: str = ""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Every condition whose outcome the part needs."""
        return tuple(dict.fromkeys((*(c for c, _ in self.weights), *(self.fraction or ()))))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper.

    parts: comparisons of outcomes of pruned runs (none for claims on other tables). described: further ones, shown in
    the note and never tested. primary: one of the six hypotheses under Holm; primary_panel: in this panel only.
    figure: the one whose runs can decide it. datasets: those the paper makes it for. source: which published numbers
    it is compared with: 'exact' (vector figures and printed values), 'picture' (digitised), 'arithmetic' (follows from
    the protocol) or 'none'. caveat: where the published numbers are weaker than the text, a clause.
    """

    number: int
    title: str
    statement: str
    section: str
    parts: tuple[Part, ...] = ()
    described: tuple[Part, ...] = ()
    primary: bool = False
    primary_panel: str = ""
    figure: str = "figure2"
    datasets: tuple[str, ...] = PAPER_DATASETS
    source: str = "exact"
    caveat: str = ""

    def __post_init__(self):
        assert self.source in SOURCES, self.source

    @property
    def panels(self) -> tuple[str, ...]:
        """Where it is judged: ("",) for most claims, the panels of the figure otherwise."""
        return tuple(dict.fromkeys(part.panel for part in self.parts)) or ("",)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Every condition whose outcome the claim needs."""
        return tuple(dict.fromkeys(c for part in self.parts for c in part.conditions))

    def is_primary(self, panel: str = "") -> bool:
        return self.primary and panel == self.primary_panel

    def verdict(self, dataset: str, word: str, *, panel: str = "", **fields) -> Verdict:
        """A verdict on this claim, which says whether it is a primary hypothesis in this panel."""
        about = dict(claim=self.number, dataset=dataset, panel=panel, primary=self.is_primary(panel))
        return Verdict(verdict=word, **about, **fields)

    def missing(self, dataset: str, note: str, **fields) -> Verdict:
        """The verdict where data are lacking; the note says which."""
        return self.verdict(dataset, "missing", note=note, **fields)

    def judged(
        self, estimate: Estimate, dataset: str, text: str, *, terms: Terms = (), word="", margin=0.0, **fields
    ) -> Verdict:
        """The verdict of an estimate: by its interval against the margin, or the word given.

        text: what was estimated. terms: those of the estimate, for the median over replicates. fields: further ones of
        the verdict; ``p`` replaces the estimate's.
        """
        values = within_replicates(terms) if terms else None
        effect, low, high, p = (float(getattr(estimate, name)) for name in ("effect", "low", "high", "p"))
        found = {"effect": effect, "low": low, "high": high, "n": estimate.n, "p": p, "margin": margin}
        found |= {"median": None if values is None else float(np.median(values))}
        found |= {"statistic": f"{text}, {estimate.method}"} | fields
        return self.verdict(dataset, word or decide(estimate, margin), **found)

    def contrasted(self, terms: Terms, dataset: str, text: str, *, margin=0.0, confidence=0.95, **fields) -> Verdict:
        """The verdict of `contrast` of the terms, by its interval against the margin; see `judged`."""
        estimate = contrast(terms, margin=margin, confidence=confidence)
        return self.judged(estimate, dataset, text, terms=terms, margin=margin, **fields)


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
    should have had the data. no_gap: the gap that the claim compares with is not above zero, so nothing is decided. All
    numbers are None when the verdict is 'missing'; p is None without a gap and, with the interval and n, for
    arithmetic. confidence: of the interval. sizes: of published numbers, (subset size, verdict) at every size that was
    published. judged: pruning levels over which accuracies were averaged; empty for claims on other quantities.
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
    no_gap: bool = False

    @property
    def survives_holm(self) -> bool:
        """Whether a decided primary hypothesis stays significant after Holm's correction."""
        significance = round(1 - self.confidence, 9)
        return self.verdict != "inconclusive" and self.p_holm is not None and self.p_holm <= significance


def with_holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of one data set with p adjusted over the six primary hypotheses; those not tested count as p = 1."""
    adjusted = [replace(v, p_holm=None) for v in verdicts]
    primary = [i for i, v in enumerate(adjusted) if v.primary and v.p is not None]
    for i, p in zip(primary, holm([adjusted[i].p for i in primary], PRIMARY_HYPOTHESES)):
        adjusted[i] = replace(adjusted[i], p_holm=float(p))
    return adjusted
