"""The statistics behind the verdicts, as pure functions.

The unit is the replicate. Its outcome is one number, the mean accuracy over the protocol's judging levels, which were
fixed before the runs. Levels of one replicate depend strongly on each other, so no level is tested by itself.
Conditions of one replicate share initialisation, data order and test images, so differences are taken within the
replicate. The paper has published means and standard deviations only, so tests with its numbers are unpaired (Welch,
never pooled).

Arrays have the replicates on the last axis; leading axes are independent experiments (the tests simulate thousands).
Accuracies and effects are in percent and percentage points (pp).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are first used: `repro status` starts without them

RESAMPLES = 10_000
FEWEST_CONDITIONS = 12
"""The rank correlations of Figure 5 decide nothing with fewer."""
FEWEST_PARENTS = 6
"""A bootstrap over parents decides nothing with fewer: even if all agree, a sign test has p above 0.05."""
_NO_SPREAD = 1e-9  # pp; smaller spreads are rounding, because one image in 90,000 is 1e-3 pp


@dataclass(frozen=True)
class Estimate:
    """An effect and its uncertainty: floats, or arrays with one value per experiment.

    effect, se, low, high: pp. df: degrees of freedom of t. p: two-sided, of "the effect equals the margin". n: pairs of
    replicates, or replicates of the smallest group. method: name of the test. confidence: of the interval (low, high).
    Replicates without any spread test nothing: the interval is infinite and p is 1.
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
        """The sample of outcomes by replicate number; std is NaN of a single one."""
        x = np.array(list(values.values()), dtype=float)
        return cls(float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else float("nan"), x.size, dict(values))

    def within(self, replicates: Collection[int]) -> Sample:
        """The sample of these replicates alone."""
        return Sample.of({r: x for r, x in self.values.items() if r in replicates})

    @classmethod
    def published(cls, means: Sequence[float], stds: Sequence[float], n: int) -> Sample:
        """The sample of the mean over levels, of which means and stds (ddof 0) are published, one of each per level.

        Levels of one replicate count as perfectly correlated. The standard deviation of their mean is then the mean of
        theirs, which is the largest it can be.
        """
        return cls(float(np.mean(means)), float(np.mean(ddof1(np.asarray(stds, dtype=float), n))), n)


Terms = Sequence[tuple[float, Sample]]
"""The terms of a contrast: weight and sample of each."""


def ddof1(std: np.ndarray, n: int) -> np.ndarray:
    """The standard deviation of a sample (ddof 1) from that of its n values (ddof 0, as in the paper's bands)."""
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


def contrast(terms: Terms, *, margin: float = 0.0, confidence: float = 0.95) -> Estimate:
    """Estimate of sum(weight * mean): within replicates where the samples share at least two, by Welch otherwise."""
    x = within_replicates(terms)
    if x is not None:
        return one_sample(x, margin=margin, confidence=confidence)
    return welch([(w, s.mean, s.std, s.n) for w, s in terms], margin=margin, confidence=confidence)


def within_replicates(terms: Terms) -> np.ndarray | None:
    """sum(weight * value) of each shared replicate, shape (n,); None where `paired_values` is."""
    values = paired_values([sample for _, sample in terms])
    return None if values is None else np.array([weight for weight, _ in terms]) @ values


def interval(found) -> str:
    """The effect and interval of anything with effect, low and high, as text: "+0.41 [+0.10, +0.72]"."""
    return f"{found.effect:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


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
    """The samples over `shared_replicates`, so that all are of the same test folds; unchanged where there are none."""
    common = shared_replicates(list(samples.values()))
    return {name: sample if common is None else sample.within(common) for name, sample in samples.items()}


def lower_bound(estimate: Estimate) -> float:
    """One-sided lower bound of an effect at the estimate's confidence, for the assay check; -inf without spread."""
    flat, t = np.asarray(estimate.se) <= _NO_SPREAD, scipy.stats.t.ppf(estimate.confidence, estimate.df)
    return np.where(flat, -np.inf, estimate.effect - t * estimate.se)[()]


def decide(estimate: Estimate, margin: float = 0.0) -> str:
    """'reproduced' with the whole interval above the margin, 'contradicted' below it, 'inconclusive' otherwise."""
    if estimate.low > margin:
        return "reproduced"
    return "contradicted" if estimate.high < margin else "inconclusive"


def joint(words: Collection[str]) -> str:
    """The word of a claim whose parts all have to hold, from the words of `decide` or of an equivalence test."""
    return next((word for word in ("contradicted", "inconclusive") if word in words), "reproduced")


def against(estimate: Estimate, margin: float = 0.0) -> tuple[float, float]:
    """A key that sorts the parts of a claim, the least favourable last: one-sided p of "the effect exceeds the margin",
    then the effect. A claim needs all its parts, so the largest p is also the claim's."""
    p = float(estimate.p)
    return (p / 2 if estimate.effect > margin else 1 - p / 2), margin - float(estimate.effect)


def retained_fraction(
    subset: np.ndarray, full: np.ndarray, base: np.ndarray, *, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """F = (subset - base) / (full - base) of the means, and its bootstrap interval (percentile, replicates together).

    subset, full, base: shape (n,), the same replicates in the same order. The seed of the resamples is fixed. The
    interval describes and does not test: at 95 %, it covers 81, 89 and 93 % in simulations of 4, 8 and 16 replicates.
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

    family: the number of hypotheses, fixed beforehand; those that are not given count as p = 1. None: those given.
    """
    p = np.asarray(p, dtype=float)
    m = p.size if family is None else family
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (m - np.arange(p.size))))
    return adjusted


def largest_z(conditions: int, passing: float = 0.95) -> float:
    """The bound on max |z| which a perfect replication of so many conditions keeps with the given probability.

    By Sidak's formula, which takes conditions as independent and s as known. A replication passes a little more often
    because conditions share all@t*, a little less because s is estimated, and more because own conditions are paired:
    97 to 98 % in all.
    """
    return float(scipy.stats.norm.ppf((1 + passing ** (1 / conditions)) / 2))


def agreement_z(d_own, d_published, s, n_own: float, n_published: float):
    """z of a difference to all@t* against the published one; every group has standard deviation s (pp)."""
    return (d_own - d_published) / (s * np.sqrt(2 / n_own + 2 / n_published))


# Figures 5 and 6: rank correlations over conditions, equivalence, modes, slopes


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation of x and y, shape (n,), ties sharing their mean rank.

    counts: how often each point occurs, shape (..., n): one correlation per sample, as if it had been written out.
    NaN where x or y is constant.
    """
    counts = np.ones(len(x)) if counts is None else np.asarray(counts, dtype=float)
    a, b = (_centred_ranks(np.asarray(v, dtype=float), counts) for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts * a * b).sum(-1) / np.sqrt((counts * a * a).sum(-1) * (counts * b * b).sum(-1))


def _centred_ranks(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # the rank of a point is the number of points below it and half of those level with it, up to a constant
    below = (x[None, :] < x[:, None]) + 0.5 * (x[None, :] == x[:, None])
    ranks = counts @ below.T
    return ranks - (counts * ranks).sum(-1, keepdims=True) / counts.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Advantage:
    """How much better the barrier ranks final accuracy than pre-train accuracy does.

    effect: |rho_barrier| - |rho_pretrain|, with its percentile interval (low, high) and two-sided bootstrap p, of
    "the effect is 0". n: conditions resampled.
    """

    rho_barrier: float
    rho_pretrain: float
    effect: float
    low: float
    high: float
    p: float
    n: int
    method = "bootstrap over conditions"


def advantage(
    barrier: np.ndarray,
    pretrain: np.ndarray,
    final: np.ndarray,
    groups: Sequence[int] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Advantage:
    """Compare the two rank correlations over points, shape (n,) each; conditions are resampled, seed fixed.

    groups: the condition of each point (default: each is one); a condition is drawn with all its points. A resample
    without variation says nothing and is left out; without any the interval is infinite and p is 1.
    """
    labels, member = np.unique(np.arange(len(final)) if groups is None else np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=resamples)
    rho_barrier, rho_pretrain = (float(spearman(x, final)) for x in (barrier, pretrain))
    counts = drawn[:, member]
    deltas = abs(spearman(barrier, final, counts)) - abs(spearman(pretrain, final, counts))
    deltas = deltas[~np.isnan(deltas)]
    effect = abs(rho_barrier) - abs(rho_pretrain)
    if deltas.size == 0 or np.isnan(effect):
        return Advantage(rho_barrier, rho_pretrain, effect, -np.inf, np.inf, 1.0, len(labels))
    low, high = np.quantile(deltas, [(1 - confidence) / 2, (1 + confidence) / 2])
    p = 2 * min((deltas <= 0).mean(), (deltas >= 0).mean())
    p = float(min(1.0, max(p, 1 / resamples)))
    return Advantage(rho_barrier, rho_pretrain, effect, float(low), float(high), p, len(labels))


@dataclass(frozen=True)
class Equivalence:
    """The result of two one-sided tests. low, high: the inner interval, which decides the verdict. p: the larger."""

    verdict: str
    low: float
    high: float
    p: float


def equivalence(estimate: Estimate, margin: float) -> Equivalence:
    """Does the effect lie within +-margin? Two one-sided tests, at 5 % beside 95 % intervals, 2.5 % beside 97.5 %.

    'reproduced' if the inner interval lies inside, 'contradicted' if the estimate's own lies wholly outside, else
    'inconclusive', as it is without any spread between replicates.
    """
    if not np.isfinite(estimate.high):
        return Equivalence("inconclusive", -np.inf, np.inf, 1.0)
    low, high = inner_interval(estimate)
    nearest = margin - abs(estimate.effect)
    p = float(scipy.stats.t.sf(nearest / estimate.se, estimate.df))
    if -margin < low and high < margin:
        return Equivalence("reproduced", low, high, p)
    outside = estimate.low > margin or estimate.high < -margin
    return Equivalence("contradicted" if outside else "inconclusive", low, high, p)


def inner_interval(estimate: Estimate) -> tuple[float, float]:
    """The interval that decides two one-sided tests, 90 % beside a 95 % one; infinite without spread."""
    if not np.isfinite(estimate.high):
        return -np.inf, np.inf
    half = scipy.stats.t.ppf(estimate.confidence, estimate.df) * estimate.se
    return float(estimate.effect - half), float(estimate.effect + half)


@dataclass(frozen=True)
class ModeShift:
    """How far the mode of a histogram moves: effect, its percentile interval (low, high), two-sided bootstrap p, n."""

    effect: float
    low: float
    high: float
    p: float
    n: int
    method = "bootstrap over parents"


def mode_shift(
    first: np.ndarray, second: np.ndarray, edges: np.ndarray, *, confidence: float = 0.95, resamples: int = RESAMPLES
) -> ModeShift:
    """Mode of ``first`` less mode of ``second``, with parents resampled (seed fixed).

    Arguments:
        first, second: counts, shape (parents, bins), of the same parents in the same order.
        edges: lower edges of the bins, shape (bins,). The mode is the edge of the highest bin of the sum over parents,
            the lowest of several.
    """
    n = len(first)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    shifts = edges[(drawn @ first).argmax(-1)] - edges[(drawn @ second).argmax(-1)]
    effect = float(edges[first.sum(0).argmax()] - edges[second.sum(0).argmax()])
    low, high = np.quantile(shifts, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    p = min(1.0, max(2 * min((shifts <= 0).mean(), (shifts >= 0).mean()), 1 / resamples))
    return ModeShift(effect, float(low), float(high), float(p), n)


def regression(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Least-squares slope of y on x, shape (n,) each, n >= 3, with its 95 % interval and the p of "no slope"."""
    fit, df = scipy.stats.linregress(x, y), len(x) - 2
    half = scipy.stats.t.ppf(0.975, df) * fit.stderr
    return Estimate(fit.slope, fit.stderr, df, fit.slope - half, fit.slope + half, fit.pvalue, len(x), "least squares")


def slope_weights(w: Sequence[int]) -> np.ndarray:
    """Weights whose sum with the values at w is their least-squares slope per doubling of w. At least two w."""
    x = np.log2(np.asarray(w, dtype=float))
    x = x - x.mean()
    return x / (x * x).sum()
