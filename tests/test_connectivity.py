"""Claims 18 to 25 judged on simulated barriers with a known truth."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from repro.protocol import protocol
from repro.verify import barrier_decisions, barriers, published
from repro.verify.outcomes import COLUMNS, Evidence

SIZES = (25600, 51200)
CINIC10 = replace(protocol("cinic10", "paper"), barrier_sizes=SIZES)
T_STAR, HALF = CINIC10.t_star, CINIC10.t_star // 2
ALL = {"all_tstar": T_STAR, "all_tstar_half": HALF, "all_t": 200}
SUBSETS = ("random", "easy", "hard")
BARRIER = {"all_tstar": 0.4, "all_tstar_half": 0.9, "all_t": 1.6, "random": 0.9, "easy": 0.5, "hard": 1.4}


def conditions():
    """(condition, size, t) of 15 conditions: all data at three steps, three subsets of two sizes at two steps."""
    return [(c, 0, t) for c, t in ALL.items()] + [(c, s, t) for c in SUBSETS for s in SIZES for t in (200, HALF)]


def simulate(mean=None, *, parents=4, seed=0, recalibrated=None, noise=0.02, error=0.1):
    """Evidence in which final accuracy falls with the barrier; pre-train accuracy follows it much more loosely.

    mean: barrier by condition; recalibrated: the same with recalibrated batch norm (default: none measured).
    """
    rng = np.random.default_rng(seed)
    parent = 0.05 * rng.normal(size=parents)
    barriers, runs = [], []
    for condition, size, t in conditions():
        own = {**BARRIER, **(mean or {})}[condition] * (1.0 + 0.15 * (size and t == 200)) + 1e-6 * size
        shuffled = 0.5 + 0.1 * rng.normal()
        for r in range(parents):
            final = 0.9 - 0.02 * own + 0.001 * parent[r]
            pretrain = shuffled - 0.1 * own
            run = ("cinic10", condition, size, t, 0.0, r)
            runs.extend((*run, level, final, 0.8**level, False) for level in range(11))
            for mode, table in (("averaged", None), ("recalibrated", recalibrated)):
                if mode == "recalibrated" and table is None:
                    continue
                centre = own if table is None else table[condition]
                for a, b in ((0, 1), (0, 2), (1, 2)):
                    ce = centre + parent[r] + noise * rng.normal()
                    barriers.append(
                        {
                            "dataset": "cinic10",
                            "condition": condition,
                            "size": size,
                            "t": t,
                            "noise": 0.0,
                            "replicate": r,
                            "level": 0,
                            "a": a,
                            "b": b,
                            "fresh": a > 0,
                            "batch_norm": mode,
                            "train_ce": ce,
                            "train_error_max": error * ce,
                            "test_error_max": error * ce,
                            "share_below_half": 0.8 - 0.3 * ce,
                            "diverged": False,
                            "pretrain_acc": pretrain,
                            "pretrain_acc_recalibrated": pretrain,
                        }
                    )
    return Evidence(
        runs=pd.DataFrame(runs, columns=list(COLUMNS["runs"])),
        barriers=pd.DataFrame(barriers, columns=list(COLUMNS["barriers"])),
    )


def judge(evidence, of=CINIC10):
    found = barriers.verdicts(evidence.of("cinic10"), of)
    assert [v.claim for v in found] == list(range(18, 26))
    return {v.claim: v for v in found}


@cache
def plain():
    return judge(simulate())


def swapped(evidence, one="easy", other="random"):
    names = {one: other, other: one}
    return Evidence(**{n: getattr(evidence, n).replace({"condition": names}) for n in ("runs", "barriers")})


def test_known_truth_is_reproduced():
    found = plain()
    assert {n: v.verdict for n, v in found.items() if n != 24 and n != 21} == dict.fromkeys(
        (18, 19, 20, 22, 23, 25), "reproduced"
    )
    assert found[21].verdict == found[24].verdict == "missing"
    assert found[18].unit in ("nats", "pp") and "nats" in found[18].note and "pp" in found[18].note
    assert found[22].n == 15 and found[23].n == 4 and found[22].primary and found[23].primary


def test_effects_are_those_computed_by_hand():
    evidence = simulate()
    rows = evidence.barriers
    cells = rows.groupby(["condition", "size", "t", "replicate"])["train_ce"].mean()
    difference = [
        np.mean([cells["random", s, t, r] - cells["easy", s, t, r] for s in SIZES for t in (200, HALF)])
        for r in range(4)
    ]
    reference = scipy.stats.ttest_1samp(difference, 0)
    found = plain()
    assert found[23].effect == pytest.approx(np.mean(difference)) and found[23].p == pytest.approx(reference.pvalue)
    assert found[25].margin == 2
    assert found[25].effect == pytest.approx(100 * 0.1 * cells["all_tstar", 0, T_STAR].mean())
    gap = cells["all_tstar_half", 0, HALF].mean() - cells["all_tstar", 0, T_STAR].mean()
    assert f"equivalence margin {gap / 2:.2f}" in found[19].note


def test_rank_correlations_average_the_parents_of_a_condition_first():
    evidence = simulate()
    keys = ["condition", "size", "t"]
    means = evidence.barriers.groupby(keys)[["train_ce", "pretrain_acc"]].mean()
    final = evidence.runs[evidence.runs["level"] == 7].groupby(keys)["acc"].mean().loc[means.index]
    rho = [abs(scipy.stats.spearmanr(means[c], final).statistic) for c in means]
    assert plain()[22].effect == pytest.approx(rho[0] - rho[1])


def test_conditions_with_more_parents_are_compared_over_those_that_all_have():
    """Rank correlations, equivalence and the gap: as if no condition had a third and fourth parent."""
    evidence = simulate()
    for claim, lacking in ((22, "hard"), (19, "all_tstar"), (20, "easy"), (23, "random")):
        rows = evidence.barriers
        some = judge(replace(evidence, barriers=rows[(rows.condition != lacking) | (rows.replicate < 2)]))[claim]
        few = judge(replace(evidence, barriers=rows[rows.replicate < 2]))[claim]
        assert (some.effect, some.low, some.high, some.p) == (few.effect, few.low, few.high, few.p)
        assert some.note == few.note


def test_single_parents_stand_beside_the_averaged_ones():
    """As of the published points: each parent a point, those of a condition resampled together."""
    evidence = simulate(noise=0.3)
    keys = ["condition", "size", "t", "replicate"]
    parents = evidence.barriers.groupby(keys)[["train_ce", "pretrain_acc"]].mean()
    final = evidence.runs[evidence.runs["level"] == 7].set_index(keys)["acc"].loc[parents.index]
    rho = [abs(scipy.stats.spearmanr(parents[c], final).statistic) for c in parents]
    note = judge(evidence)[22].note
    assert "over 15 conditions, each the mean of 4 parents" in note
    assert f"over single parents: {rho[0] - rho[1]:+.2f} [" in note


def test_the_least_favourable_part_of_claim_18_is_the_one_of_the_larger_p():
    evidence = simulate()
    rows = evidence.barriers.copy()
    rng = np.random.default_rng(3)
    rows["share_below_half"] += 0.1 * rng.normal(size=4)[rows["replicate"]] * (rows["condition"] == "all_tstar")
    found = judge(replace(evidence, barriers=rows))[18]
    cells = rows.groupby(["condition", "replicate"])[["train_ce", "share_below_half"]].mean()
    full, half = cells.loc["all_tstar"], cells.loc["all_tstar_half"]
    p = [
        scipy.stats.ttest_1samp(x, 0, alternative="greater").pvalue
        for x in (half.train_ce - full.train_ce, full.share_below_half - half.share_below_half)
    ]
    assert p[1] > p[0] and found.unit == "pp" and found.p == pytest.approx(2 * p[1])


def test_opposite_truth_is_contradicted():
    found = judge(simulate({"all_tstar": 1.2, "all_tstar_half": 0.6}))
    assert found[18].verdict == "contradicted"
    assert {found[n].verdict for n in (19, 20)} == {"inconclusive"}
    assert all(found[n].no_gap and found[n].p is None for n in (19, 20))
    found = judge(simulate({"random": 1.5, "easy": 1.4}))
    assert found[19].verdict == found[20].verdict == "contradicted"
    assert judge(simulate(error=0.01))[25].verdict == "contradicted"


def test_a_gap_of_half_stays_open():
    found = judge(simulate({"random": 0.9 + 0.25 - 1e-6 * 51200, "easy": 0.65 - 1e-6 * 51200}, noise=0.1))
    assert found[19].verdict == found[20].verdict == "inconclusive"


def test_swapping_easy_and_random_turns_the_verdict():
    found, turned = plain(), judge(swapped(simulate()))
    assert (found[23].verdict, turned[23].verdict) == ("reproduced", "contradicted")
    assert turned[23].effect == pytest.approx(-found[23].effect)
    assert turned[20].verdict == turned[19].verdict == "contradicted"


def test_pretrain_accuracy_that_predicts_better_contradicts():
    evidence = simulate()
    barriers = evidence.barriers.copy()
    final = evidence.runs.groupby(["condition", "size", "t"])["acc"].mean()
    barriers["pretrain_acc"] = [final[c, s, t] for c, s, t in zip(*(barriers[k] for k in ("condition", "size", "t")))]
    unrelated = dict(zip(conditions(), np.random.default_rng(2).permutation(15).astype(float)))
    barriers["train_ce"] = [unrelated[key] for key in zip(*(barriers[k] for k in ("condition", "size", "t")))]
    assert judge(replace(evidence, barriers=barriers))[22].verdict == "contradicted"


def test_a_verdict_that_flips_with_batch_norm_is_told():
    other = {**BARRIER, "easy": 1.2, "random": 0.6}
    found = judge(simulate(recalibrated=other))
    assert found[23].verdict == "reproduced"
    assert "with recalibrated batch norm contradicted" in found[23].note and "the verdict flips" in found[23].note
    steady = judge(simulate(recalibrated=BARRIER))
    assert "with recalibrated batch norm reproduced" in steady[23].note and "flips" not in steady[23].note
    noise = np.random.default_rng(1).permutation(list(BARRIER.values()))
    found = judge(simulate(recalibrated=dict(zip(BARRIER, map(float, noise)))))
    assert "the verdict flips: as published reproduced" in found[22].note
    assert "fresh children only" in found[22].note and "within t = 400 (7 conditions)" in found[22].note


def test_few_conditions_give_no_verdict():
    evidence = simulate()
    kept = evidence.barriers["condition"].isin(("easy", "random", "all_tstar"))
    planned = replace(CINIC10, barrier_all=(T_STAR,))
    found = judge(replace(evidence, barriers=evidence.barriers[kept]), planned)[22]
    assert found.verdict == "inconclusive" and found.n == 9 and found.p == 1
    assert found.note.startswith("no verdict with fewer than 12 conditions")


def test_diverged_pairs_are_left_out_and_counted():
    evidence = simulate()
    barriers = evidence.barriers.copy()
    bad = barriers.index[(barriers["condition"] == "easy") & (barriers["replicate"] == 1) & (barriers["a"] == 1)]
    barriers.loc[bad, ["train_ce", "train_error_max"]] = np.nan
    barriers.loc[bad, "diverged"] = True
    found = judge(replace(evidence, barriers=barriers))
    assert found[23].verdict == "reproduced" and f"a child diverged: {len(bad)}" in found[23].note


def test_zero_steps_sparse_children_and_noisy_labels_play_no_part():
    evidence = simulate()
    extra = evidence.barriers.assign(train_ce=9.0)
    more = pd.concat([evidence.barriers, extra.assign(level=7), extra.assign(noise=0.5)], ignore_index=True)
    found = judge(replace(evidence, barriers=more))
    assert {n: v.effect for n, v in found.items()} == {n: v.effect for n, v in plain().items()}
    start = extra[extra["condition"] == "all_tstar"].assign(condition="all_t0", t=0)
    runs = evidence.runs[evidence.runs["condition"] == "all_tstar"].assign(condition="all_t0", t=0)
    with_start = Evidence(runs=pd.concat([evidence.runs, runs]), barriers=pd.concat([evidence.barriers, start]))
    assert judge(with_start)[22].n == 15


def with_modes(half, full):
    """Histograms whose highest bin is given for each parent."""
    rows = [
        ("cinic10", c, 0, t, "averaged", r, low, 100 + 50 * (low == top))
        for c, t, tops in (("all_tstar_half", HALF, half), ("all_tstar", T_STAR, full))
        for r, top in enumerate(tops)
        for low in np.arange(-5, 10, 0.5)
    ]
    return replace(simulate(), histograms=pd.DataFrame(rows, columns=list(COLUMNS["histograms"])))


def test_the_mode_of_histograms_is_decided_by_a_bootstrap_over_parents():
    same = ((1.0, 0.0), (0.0, 0.0), (0.0, 0.5))
    words = {(a, b): judge(with_modes([a] * 6, [b] * 6))[21] for a, b in same}
    assert [v.verdict for v in words.values()] == ["reproduced", "inconclusive", "contradicted"]
    assert words[1.0, 0.0].effect == words[1.0, 0.0].low == 1.0 and words[1.0, 0.0].n == 6
    few = judge(with_modes([1.0] * 5, [0.0] * 5))[21]  # agree, and a sign test of five has p = 0.06
    assert (few.verdict, few.p) == ("inconclusive", 1.0) and few.note.startswith("no verdict with fewer than 6 parents")
    split = judge(with_modes([1.0] * 4 + [0.0] * 2, [0.0] * 4 + [1.0] * 2))[21]
    assert split.effect == 1.0 and split.verdict == "inconclusive" and split.low < 0 < split.high
    # by hand: all 6^6 draws, by how often the last two parents come up (a tie takes the lower bin)
    draws = np.array(list(np.ndindex(*[6] * 6)))
    last = (draws >= 4).sum(1)
    shift = np.where(last < 3, 1.0, np.where(last > 3, -1.0, 0.0))
    assert split.p == pytest.approx(2 * (shift <= 0).mean(), abs=0.02)
    assert split.low == np.quantile(shift, 0.025, method="inverted_cdf")


def test_a_mode_over_parents_that_only_one_condition_has_is_not_compared():
    """The fifth to eighth parents of all@t*/2 have no partner; one parent has no interval."""
    found = judge(with_modes([0.0] * 4 + [5.0] * 8, [0.0] * 4))[21]
    assert (found.effect, found.n) == (0.0, 4)
    assert judge(with_modes([1.0], [0.0]))[21].verdict == "missing"


def test_lmc_subsets_are_compared_at_the_same_size_and_step():
    evidence = simulate()
    easy = evidence.runs[(evidence.runs["condition"] == "easy") & (evidence.runs["size"] == 25600)]
    rng = np.random.default_rng(0)
    lmc = easy.assign(condition="lmc", acc=easy["acc"] - 0.01 + 0.001 * rng.normal(size=len(easy)))
    found = judge(replace(evidence, runs=pd.concat([evidence.runs, lmc])))[24]
    assert found.verdict == "reproduced" and found.effect == pytest.approx(1.0, abs=0.1) and found.n == 4
    collapsed = easy.assign(condition="lmc", diverged=easy["level"] == 6)
    found = judge(replace(evidence, runs=pd.concat([evidence.runs, collapsed])))[24]
    assert found.effect == pytest.approx(100 * (easy.loc[easy["level"] > 5, "acc"].mean() - 0.1))


def test_onset_over_the_sweep_is_in_the_note():
    evidence = simulate()
    later = evidence.barriers[evidence.barriers["condition"] == "all_tstar"]
    later = later.assign(condition="all_t", t=1600, train_error_max=0.001)
    found = judge(replace(evidence, barriers=pd.concat([evidence.barriers, later])))
    assert "onset over steps 200 to 1600: t = 1600" in found[25].note


@pytest.mark.parametrize("parents", [0, 1])
def test_missing_without_two_parents(parents):
    evidence = simulate(parents=parents) if parents else Evidence()
    found = judge(evidence)
    words = {n: v.verdict for n, v in found.items()}
    assert set(words.values()) == {"missing"} and all(v.note for v in found.values())


@pytest.mark.parametrize(
    ("left_out", "lacking"),
    [
        (lambda b: b["replicate"] >= 2, {18, 19, 20, 21, 22, 23, 25}),  # 2 of 4 parents
        (lambda b: (b["condition"] == "easy") & (b["size"] == 25600), {22, 23}),
        (lambda b: b["condition"] == "all_t", {22}),
    ],
)
def test_barriers_that_were_promised_and_lack_are_missing(left_out, lacking):
    evidence = simulate()
    barriers = evidence.barriers.assign(promised=4)
    found = judge(replace(evidence, barriers=barriers[~left_out(barriers)]))
    assert {n for n, v in found.items() if v.verdict == "missing"} - {21, 24} == lacking - {21}


def test_parents_without_every_size_and_step_do_not_bend_the_mean():
    evidence = simulate()
    barriers = evidence.barriers.assign(promised=2)
    barriers.loc[(barriers["condition"] == "random") & (barriers["size"] == 25600), "train_ce"] += 2.0
    few = barriers[(barriers["size"] != 25600) | (barriers["replicate"] < 2)]
    found = judge(replace(evidence, barriers=few))[23]
    assert found.n == 2 and found.effect == pytest.approx(1.43, abs=0.05)


def test_swapping_the_steps_of_all_data_turns_claim_18():
    points, bins = (f("cinic10") for f in (published.scatter, published.histograms))
    t = points["t"].where(points["condition"] != "all", points["t"].map({200: 800, 400: 400, 800: 200}))
    found = {v.claim: v.verdict for v in barrier_decisions.judge_points(points.assign(t=t), bins, "cinic10")}
    assert found[18] == "contradicted"
