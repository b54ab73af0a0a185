"""The statistics behind the verdicts, as pure functions.

The unit is the replicate. Its outcome is one number, the mean accuracy over the protocol's judging levels, fixed before
the runs; levels of one replicate are strongly dependent, so no level is ever tested by itself. Conditions of one
replicate share initialisation, data order and test images: their differences are taken within the replicate. The
paper's numbers are means and standard deviations only: against them, and between them, the tests are unpaired (Welch),
never pooled.

Arrays have the replicates on the last axis; leading axes are independent experiments (the tests simulate thousands).
Accuracies and effects are in percent and percentage points (pp).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are first used: `repro status` starts without them

RESAMPLES = 10_000
_NO_SPREAD = 1e-9  # pp; one image in 90,000 is 1e-3 pp, so anything smaller is rounding


@dataclass(frozen=True)
class Estimate:
    """An effect and its uncertainty: floats, or arrays of one value an experiment.

    effect, se, low, high: pp. df: degrees of freedom of t. p: two-sided, of "the effect equals the margin".
    n: replicates (pairs, or the smallest group). method: the name of the test. confidence: of the interval.
    Without any spread between replicates nothing can be tested: low, high are infinite and p is 1.
    """

    effect: float
    se: float
    df: float
    low: float
    high: float
    p: float
    n: int
    method: str
    confidence: float = 0.95


@dataclass(frozen=True)
class Sample:
    """The outcomes of one condition: its mean and standard deviation (percent, ddof 1) over n replicates.

    values: outcome by replicate number, None where only a summary is published.
    """

    mean: float
    std: float
    n: int
    values: Mapping[int, float] | None = None

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Sample:
        x = np.array(list(values.values()), dtype=float)
        return cls(float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else float("nan"), x.size, dict(values))

    def within(self, replicates: Collection[int]) -> Sample:
        """The same of these replicates alone."""
        return Sample.of({r: x for r, x in self.values.items() if r in replicates})

    @classmethod
    def published(cls, means: Sequence[float], stds: Sequence[float], n: int) -> Sample:
        """Published means and standard deviations (ddof 0), one of each per level, as the sample of their mean.

        The levels of one replicate are taken as perfectly correlated, which makes the standard deviation of their mean
        the mean of their standard deviations: the largest it can be.
        """
        return cls(float(np.mean(means)), float(np.mean(ddof1(np.asarray(stds, dtype=float), n))), n)


def ddof1(std: np.ndarray, n: int) -> np.ndarray:
    """A population standard deviation of n values (ddof 0, as the paper's bands) as a sample's (ddof 1)."""
    return std * np.sqrt(n / (n - 1))


def pooled_std(stds: Sequence[float], ns: Sequence[int]) -> float:
    """The common standard deviation of several groups (ddof 1), weighted by their degrees of freedom."""
    stds, dfs = np.asarray(stds, dtype=float), np.asarray(ns) - 1
    return np.sqrt((dfs * stds**2).sum(-1) / dfs.sum())


def one_sample(x: np.ndarray, *, margin: float = 0.0, confidence: float = 0.95) -> Estimate:
    """Student's interval for the mean of x, shape (..., n): n per-replicate differences or contrasts, n >= 2."""
    n = x.shape[-1]
    assert n >= 2, "an interval needs two replicates"
    se = x.std(-1, ddof=1) / np.sqrt(n)
    return _student(x.mean(-1), se, n - 1, n, "paired t", margin, confidence)


def welch(terms: Sequence[tuple], *, margin: float = 0.0, confidence: float = 0.95) -> Estimate:
    """Interval for sum(weight * mean) of independent groups with unequal variances (Welch-Satterthwaite).

    terms: (weight, mean, std with ddof 1, n) per group; means and stds may be arrays of one shape.
    """
    effect = sum(w * mean for w, mean, _, _ in terms)
    variances = [(w * std) ** 2 / n for w, _, std, n in terms]
    total = sum(variances)
    denominator = np.asarray(sum(v**2 / (n - 1) for v, (_, _, _, n) in zip(variances, terms)))
    df = (np.where(denominator > 0, total**2, 1.0) / np.where(denominator > 0, denominator, 1.0))[()]
    n = min(n for _, _, _, n in terms)
    return _student(effect, np.sqrt(total), df, n, "Welch t", margin, confidence)


def _student(effect, se, df, n, method, margin, confidence) -> Estimate:
    flat = np.asarray(se) <= _NO_SPREAD
    t = np.where(flat, 0.0, (effect - margin) / np.where(flat, 1.0, se))
    half = np.where(flat, np.inf, scipy.stats.t.ppf((1 + confidence) / 2, df) * se)
    return Estimate(
        effect, se, df, effect - half, effect + half, 2 * scipy.stats.t.sf(abs(t), df), n, method, confidence
    )


def contrast(terms: Sequence[tuple[float, Sample]], *, margin: float = 0.0, confidence: float = 0.95) -> Estimate:
    """Estimate of sum(weight * mean): within replicates where the samples share at least two, by Welch otherwise."""
    x = within_replicates(terms)
    if x is not None:
        return one_sample(x, margin=margin, confidence=confidence)
    return welch([(w, s.mean, s.std, s.n) for w, s in terms], margin=margin, confidence=confidence)


def within_replicates(terms: Sequence[tuple[float, Sample]]) -> np.ndarray | None:
    """sum(weight * value) of each shared replicate, shape (n,); None where `paired_values` is."""
    values = paired_values([sample for _, sample in terms])
    return None if values is None else np.array([weight for weight, _ in terms]) @ values


def shared_replicates(samples: Sequence[Sample]) -> set[int] | None:
    """The replicates that all samples have; None if there are fewer than two or a sample is only a summary."""
    if any(sample.values is None for sample in samples):
        return None
    common = set.intersection(*(set(sample.values) for sample in samples))
    return common if len(common) >= 2 else None


def paired_values(samples: Sequence[Sample]) -> np.ndarray | None:
    """The outcomes of `shared_replicates`, shape (samples, n); None where there are none."""
    common = shared_replicates(samples)
    return None if common is None else np.array([[sample.values[r] for r in sorted(common)] for sample in samples])


def shared(samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """The samples over `shared_replicates`, so that all are of the same test folds; as they are where there are none."""
    common = shared_replicates(list(samples.values()))
    return {name: sample if common is None else sample.within(common) for name, sample in samples.items()}


def lower_bound(estimate: Estimate) -> float:
    """One-sided lower bound of an effect at the estimate's confidence, as the assay check uses it; -inf without
    spread."""
    flat = np.asarray(estimate.se) <= _NO_SPREAD
    return np.where(flat, -np.inf, estimate.effect - scipy.stats.t.ppf(estimate.confidence, estimate.df) * estimate.se)[
        ()
    ]


def decide(estimate: Estimate, margin: float = 0.0) -> str:
    """'reproduced' with the whole interval above the margin, 'contradicted' below it, 'inconclusive' otherwise."""
    if estimate.low > margin:
        return "reproduced"
    return "contradicted" if estimate.high < margin else "inconclusive"


def joint(words: Collection[str]) -> str:
    """The word of a claim whose parts all have to hold, from the words of `decide` or of an equivalence test."""
    return next((word for word in ("contradicted", "inconclusive") if word in words), "reproduced")


def against(estimate: Estimate, margin: float = 0.0) -> tuple[float, float]:
    """How unfavourable a part of a claim is: its one-sided p of "the effect exceeds the margin", then the effect.

    A claim needs all its parts, so the largest p is also the claim's.
    """
    p = float(estimate.p)
    return (p / 2 if estimate.effect > margin else 1 - p / 2), margin - float(estimate.effect)


def retained_fraction(
    subset: np.ndarray, full: np.ndarray, base: np.ndarray, *, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """F = (subset - base) / (full - base) of the means, and its bootstrap interval (percentile, replicates together).

    subset, full, base: shape (n,), the same replicates in the same order. The resamples are fixed by a fixed seed.
    A description, not a test: simulated, the 95 % interval covers 81, 89, 93 % of the time with 4, 8, 16 replicates.
    """
    rows = np.random.default_rng(0).integers(0, subset.size, (resamples, subset.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (subset - base)[rows].mean(1) / (full - base)[rows].mean(1)
        fraction = np.divide(subset.mean() - base.mean(), full.mean() - base.mean())
    ratio = ratio[~np.isnan(ratio)]
    if ratio.size == 0:
        return float(fraction), -np.inf, np.inf
    # inverted_cdf picks a resample and never interpolates, which an infinite ratio would turn into NaN
    low, high = np.quantile(ratio, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return float(fraction), float(low), float(high)


def holm(p: Sequence[float], family: int | None = None) -> np.ndarray:
    """Holm's adjusted p-values, in the order given.

    family: the number of hypotheses fixed beforehand (default: those given); the ones not given count as p = 1.
    """
    p = np.asarray(p, dtype=float)
    m = p.size if family is None else family
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (m - np.arange(p.size))))
    return adjusted


def largest_z(conditions: int, passing: float = 0.95) -> float:
    """The bound on max |z| which a perfect replication of so many conditions keeps with the given probability.

    Sidak: conditions taken as independent and s as known. The reference all@t* they share makes it pass a little more
    often, the estimated s a little less, pairing of the own conditions more (97 to 98 %).
    """
    return float(scipy.stats.norm.ppf((1 + passing ** (1 / conditions)) / 2))


def agreement_z(d_own, d_published, s, n_own: float, n_published: float):
    """z of a difference to all@t* against the published one; every group has standard deviation s (pp)."""
    return (d_own - d_published) / (s * np.sqrt(2 / n_own + 2 / n_published))
