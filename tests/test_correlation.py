"""Rank correlations, their bootstrap, equivalence and slopes, against scipy and every resample."""

import numpy as np
import pytest
import scipy.stats

from repro.verify.stats import advantage, equivalence, one_sample, regression, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties):
    x, y = np.random.default_rng(3).normal(size=(2, 15))
    if ties:
        x, y = np.round(x), np.round(y)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_of_a_resample_is_scipys_on_the_points_written_out():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 7))
    counts = rng.multinomial(7, np.full(7, 1 / 7), size=20)
    written = [scipy.stats.spearmanr(np.repeat(x, c), np.repeat(y, c)).statistic for c in counts]
    np.testing.assert_allclose(spearman(x, y, counts), written, atol=1e-12)


def test_bootstrap_interval_is_that_of_every_resample():
    """Three groups of two have 27 equally likely resamples: quantiles and p of them all, found by brute force."""
    rng = np.random.default_rng(5)
    barrier, pretrain, final = rng.normal(size=(3, 6))
    members = np.array([[0, 3], [1, 4], [2, 5]])
    deltas = []
    for draw in np.ndindex(3, 3, 3):
        at = members[list(draw)].ravel()
        rho = [abs(scipy.stats.spearmanr(x[at], final[at]).statistic) for x in (barrier, pretrain)]
        deltas.append(rho[0] - rho[1])
    found = advantage(barrier, pretrain, final, [0, 1, 2, 0, 1, 2], confidence=0.8, resamples=100_000)
    assert found.n == 3
    low, high = np.quantile(np.repeat(deltas, 1000), [0.1, 0.9])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    p = 2 * min(np.mean(np.array(deltas) <= 1e-12), np.mean(np.array(deltas) >= -1e-12))
    assert found.p == pytest.approx(min(1, p), abs=0.01)


def test_points_without_variation_decide_nothing():
    found = advantage(np.ones(12), np.arange(12.0), np.arange(12.0))
    assert (found.low, found.high, found.p) == (-np.inf, np.inf, 1.0)


@pytest.mark.parametrize("mean", [0.0, 0.2, 0.4, -1.0])
def test_equivalence_is_two_t_tests(mean):
    x = mean + 0.2 * scipy.stats.norm.ppf((np.arange(8) + 0.5) / 8)
    found = equivalence(one_sample(x), 0.25)
    below = scipy.stats.ttest_1samp(x, 0.25, alternative="less")
    above = scipy.stats.ttest_1samp(x, -0.25, alternative="greater")
    assert found.p == pytest.approx(max(below.pvalue, above.pvalue), rel=1e-9)
    assert (found.verdict == "reproduced") == (found.p < 0.05)
    outside = scipy.stats.ttest_1samp(x, 0).confidence_interval()
    assert (found.verdict == "contradicted") == (outside.low > 0.25 or outside.high < -0.25)


def test_equivalence_without_spread_is_open():
    assert equivalence(one_sample(np.zeros(4)), 0.25).verdict == "inconclusive"


def test_regression_is_the_t_test_of_a_slope():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    found, reference = regression(x, y), scipy.stats.pearsonr(x, y)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.effect == pytest.approx(np.polyfit(x, y, 1)[0])
    assert (found.low > 0) == (found.p < 0.05 and found.effect > 0)
