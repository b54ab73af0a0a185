"""Claims 18 to 25 judged on the paper's own barriers: means, shares, correlations and words as recorded."""

from functools import cache

import numpy as np
import pytest
import scipy.stats

from repro.verify import barrier_decisions, published


@cache
def judged():
    return {v.claim: v for v in barrier_decisions.from_published("cinic10")}


def test_published_histograms_have_the_recorded_means_and_shares():
    note = judged()[18].note
    assert "all@200 mean 1.6, 28.5 % below 0.5" in note and "all@400 mean 0.8, 59.7 % below 0.5" in note
    assert "random@200 mean 2.1, 21.9 % below 0.5" in judged()[19].note
    assert "easy@200 mean 1.0, 46.6 % below 0.5" in judged()[20].note
    counts = published.histograms("cinic10")
    highest = counts[counts["bin_lo"] == 0].set_index(["condition", "t"])["count"]
    assert round(highest["all", 200], -3) == 257_000 and round(highest["all", 400], -3) == 536_000


def test_published_rank_correlations_and_their_interval():
    points = published.scatter("cinic10")
    for rows, rhos in ((points, (-0.84, 0.65)), (points[points["condition"] != "lmc"], (-0.87, 0.71))):
        found = [scipy.stats.spearmanr(rows[c], rows["final"]).statistic for c in ("barrier", "pretrain_acc")]
        assert [round(x, 2) for x in found] == list(rhos)
    verdict = judged()[22]
    assert verdict.verdict == "inconclusive" and verdict.primary  # weaker than the text
    assert (round(verdict.effect, 3), round(verdict.low, 3), round(verdict.high, 3)) == (0.142, -0.055, 0.390)
    means = points.groupby("group")[["barrier", "pretrain_acc", "final"]].mean()
    rho = [scipy.stats.spearmanr(means[c], means["final"]).statistic for c in ("barrier", "pretrain_acc")]
    assert f"rho of barrier {rho[0]:+.2f}, of pre-train accuracy {rho[1]:+.2f}; over 21 conditions" in verdict.note
    assert "single parents, those of a condition resampled together: -0.84 and +0.65" in verdict.note
    assert "+0.19 [+0.05, +0.37], reproduced" in verdict.note


def test_inferred_conditions_hold_two_parents():
    points = published.scatter("cinic10")
    sizes = points.groupby("group").size()
    assert len(points) == 41 and len(sizes) == 21 and sorted(sizes)[:2] == [1, 2] and sizes.max() == 2
    alone = points[points["group"] == sizes.idxmin()]
    assert alone[["condition", "t"]].to_numpy().tolist() == [["random", 200.0]]
    assert (points.groupby("group")[["condition"]].nunique() == 1).all().all()


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        (18, "reproduced"),
        (19, "inconclusive"),
        (20, "inconclusive"),
        (21, "inconclusive"),
        (22, "inconclusive"),
        (23, "reproduced"),
        (24, "inconclusive"),
        (25, "inconclusive"),
    ],
)
def test_what_the_papers_own_numbers_support(claim, word):
    verdict = judged()[claim]
    assert verdict.verdict == word and verdict.note.endswith("read off a picture")


def test_published_effects():
    found = judged()
    assert found[24].effect == pytest.approx(100 * (0.8606 - 0.8598), abs=0.01)
    assert found[25].effect == pytest.approx((0.4531 + 0.2754) / 2)
    assert found[20].effect == pytest.approx((1.6 + 0.8) / 2 - 1.0, abs=0.05)
    assert found[21].effect == 0 and "(0, 0.5]" in found[21].note
    x = [np.log2(t) for t in (800, 800, 400, 400, 200, 200)]
    slope = np.polyfit(x, [0.4531, 0.2754, 0.548, 0.936, 1.3169, 1.8006], 1)[0]
    assert found[18].effect == pytest.approx(-slope)


def test_swapping_two_conditions_of_the_paper_turns_its_verdict():
    points, bins = (f("cinic10") for f in (published.scatter, published.histograms))
    exchanged = points.replace({"condition": {"easy": "random", "random": "easy"}})
    exchanged["t"] = points["t"].where(points["condition"] == "all", np.tile([200, 400], 21)[:41])
    found = {v.claim: v.verdict for v in barrier_decisions.judge_points(exchanged, bins, "cinic10")}
    assert found[23] == "contradicted"
    crossed = points.rename(columns={"barrier": "pretrain_acc", "pretrain_acc": "barrier"})
    found = {v.claim: v for v in barrier_decisions.judge_points(crossed, bins, "cinic10")}
    assert found[22].effect == pytest.approx(-judged()[22].effect)
    assert "-0.19 [-0.37, -0.05], contradicted" in found[22].note


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "digits"])
def test_other_data_sets_have_no_published_barriers(dataset):
    found = barrier_decisions.from_published(dataset)
    assert len(found) == 8 and all(v.verdict == "missing" and v.note for v in found)
