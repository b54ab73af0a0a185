"""Statistics of Figures 5 and 6, as pure functions: rank correlations over conditions, equivalence, slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are first used: `repro status` starts without them

from repro.verify.stats import RESAMPLES, Estimate

FEWEST_CONDITIONS = 12
"""With fewer the rank correlations of Figure 5 decide nothing."""

FEWEST_PARENTS = 6
"""With fewer a bootstrap over parents decides nothing: even if all agree, a sign test has p above 0.05."""


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
    return Advantage(
        rho_barrier, rho_pretrain, effect, float(low), float(high), float(min(1.0, max(p, 1 / resamples))), len(labels)
    )


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: verdict word, the inner interval (low, high) that decides it, the larger p of the two."""

    verdict: str
    low: float
    high: float
    p: float


def equivalence(estimate: Estimate, margin: float) -> Equivalence:
    """Does the effect lie within +-margin? TOST at 5 % (of a 95 % interval, 2.5 % of a 97.5 % one).

    'reproduced' with the inner interval inside, 'contradicted' with the estimate's own wholly outside, 'inconclusive'
    otherwise, and without any spread between replicates.
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
