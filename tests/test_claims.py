"""Claims on simulated runs: verdicts, gates, sizes, missing data and failed runs."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from repro.errors import UsageError
from repro.protocol import CIFAR10
from repro.verify.claims import RUN_CLAIMS
from repro.verify.outcomes import from_runs
from repro.verify.report import Judgement
from tests.simulated_runs import MEANS, judge, simulate

FIGURE2 = {1, 2, 3, 4, 5, 8, 9, 10, 11, 12}
ELSEWHERE = {7, 13, 14, 15, 16, 17, 32}  # claims on runs of other figures
CLEAN = {claim.number: claim for claim in RUN_CLAIMS if claim.number in FIGURE2 | {7}}


def outcome(runs, condition):
    """The mean over levels 6 to 10 of each replicate, in percent."""
    rows = runs[(runs.condition == condition) & runs.level.between(6, 10)]
    return 100 * rows.groupby("replicate")["acc"].mean().to_numpy()


def dense(runs):
    return 100 * runs[(runs.condition == "all_tstar") & (runs.level == 0)].set_index("replicate")["acc"].to_numpy()


@pytest.fixture(scope="module")
def runs():
    return simulate()


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_clear_effects_are_reproduced(runs):
    found = judge(runs)
    assert set(found) == {claim.number for claim in RUN_CLAIMS} == FIGURE2 | ELSEWHERE
    assert {n for n, v in found.items() if v.verdict == "reproduced"} == FIGURE2
    assert {n for n, v in found.items() if v.primary} == {5, 8, 16}
    assert all(v.verdict == "missing" and not v.promised for n, v in found.items() if n in ELSEWHERE)
    assert all(v.statistic.endswith("paired t") and v.n == 8 for n, v in found.items() if n in FIGURE2)
    assert Judgement("paper", list(found.values())).exit_status == 0


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (1, lambda x, dense: dense - x["all_t0"]),
        (3, lambda x, dense: x["all_tstar"] - dense),
        (4, lambda x, dense: dense - x["all_tstar_half"]),
        (5, lambda x, dense: x["random"] - x["all_tstar_half"] + 0.5 * (x["all_tstar"] - x["all_tstar_half"])),
        (8, lambda x, dense: x["easy"] - 0.5 * (x["all_tstar"] + x["all_tstar_half"])),
        (9, lambda x, dense: x["easy"] - x["all_tstar_half"]),
        (10, lambda x, dense: x["easy"] - x["random"]),
        (12, lambda x, dense: 0.35 * (x["all_tstar"] - x["all_t0"]) - (x["hard"] - x["all_t0"])),
    ],
)
def test_effects_are_means_within_replicates(runs, claim, expected):
    values = expected({c: outcome(runs, c) for c in MEANS}, dense(runs))
    found = judge(runs)[claim]
    half = 2.364624251592785 * values.std(ddof=1) / np.sqrt(8)  # t(7) at 97.5 %
    assert [found.effect, found.low, found.high] == pytest.approx(
        [values.mean(), values.mean() - half, values.mean() + half]
    )
    assert found.median == pytest.approx(np.median(values))


def test_two_parts_show_the_weaker_and_need_both(runs):
    found = judge(runs)[11]
    assert found.statistic.startswith("all@t*/2 - hard")  # 90.0 - 88.3, the smaller
    assert "random - hard" in found.note
    half_true = judge(simulate({"hard": 90.05, "random": 91.0}))[11]
    assert half_true.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("claim", "means"),
    [
        (1, {"all_t0": 92.0}),
        (2, {"all_tstar_half": 91.5}),
        (3, {"all_tstar": 90.0}),
        (4, {"all_tstar_half": 91.0}),
        (5, {"random": 89.0}),
        (8, {"easy": 90.1}),
        (9, {"easy": 89.6}),
        (10, {"easy": 89.7}),
        (11, {"hard": 90.6}),
        (12, {"hard": 90.0}),
    ],
)
def test_the_opposite_is_contradicted(claim, means):
    assert judge(simulate(means))[claim].verdict == "contradicted"


def test_pairing_sees_what_the_replicates_share_hides():
    runs = simulate(common=3.0)
    shifted = runs.assign(replicate=runs["replicate"] + 100 * (runs["condition"] == "easy"))  # nothing left to pair
    paired, apart = judge(runs)[9], judge(shifted)[9]
    assert (paired.verdict, apart.verdict) == ("reproduced", "inconclusive")
    assert apart.statistic.endswith("Welch t") and apart.effect == pytest.approx(paired.effect)


@pytest.mark.parametrize(
    ("claim", "lacking", "untouched"),
    [(2, "all_t0", 9), (5, "all_tstar", 9), (8, "all_tstar", 10), (11, "all_tstar_half", 10)],
)
def test_every_part_and_note_of_a_claim_is_over_the_same_replicates(claim, lacking, untouched, runs):
    """Where one condition has 4 of the 8 replicates, the claim is judged as if all had: parts, gap, share, levels."""
    some = judge(runs[(runs.condition != lacking) | (runs.replicate < 4)])
    few, every = judge(runs[runs.replicate < 4])[claim], judge(runs)
    assert some[claim].n == 4
    assert some[claim].note.endswith("over the 4 replicates that all of its conditions have, of up to 8")
    without = some[claim].note.removesuffix("over the 4 replicates that all of its conditions have, of up to 8")
    assert dataclasses.replace(some[claim], note=without.rstrip("; "), p_holm=None) == dataclasses.replace(
        few, p_holm=None
    )
    assert dataclasses.replace(some[untouched], p_holm=None) == dataclasses.replace(every[untouched], p_holm=None)


def test_levels_are_shown_with_their_own_intervals(runs):
    found = judge(runs)[9].levels
    assert [k.level for k in found] == list(range(1, 13))
    at = {c: 100 * runs[(runs.condition == c) & (runs.level == 12)]["acc"].to_numpy() for c in MEANS}
    assert found[-1].effect == pytest.approx((at["easy"] - at["all_tstar_half"]).mean())
    assert all(k.low < k.effect < k.high for k in found)


def test_order_of_the_rows_does_not_matter(runs):
    assert judge(runs.sample(frac=1, random_state=0)) == judge(runs)


def test_a_second_look_widens_the_intervals(runs):
    first, second = judge(runs)[8], judge(runs, second_look=16)[8]
    assert second.low < first.low and second.high > first.high and second.p == first.p


def test_verdicts_cannot_be_altered(runs):
    with pytest.raises(dataclasses.FrozenInstanceError):
        judge(runs)[1].verdict = "reproduced"


@pytest.mark.parametrize("claim", [5, 8, 12])
def test_without_a_gap_there_is_nothing_to_match(claim):
    level = dict.fromkeys(("all_tstar", "all_tstar_half", "all_t0"), 90.0)
    for subset in (80.0, 95.0):  # however bad or good the subset
        found = judge(simulate({**level, "random": subset, "easy": subset, "hard": subset}, noise=0.5))[claim]
        assert found.verdict == "inconclusive" and found.no_gap
        assert found.p is None and found.p_holm is None


def test_the_assay_check_is_one_sided():
    """Gaps 0.1, 0.3, 0.6, 0.9 pp: t(3) = 2.71 lies between the one-sided 2.35 and the two-sided 3.18."""
    runs = simulate(n=4, noise=0.0, common=0.0)
    gaps = np.array([0.1, 0.3, 0.6, 0.9])
    full = runs.condition == "all_tstar"
    runs.loc[full, "acc"] = 0.90 + gaps[runs.loc[full, "replicate"]] / 100
    runs.loc[runs.condition == "all_tstar_half", "acc"] = 0.90
    found = judge(runs)
    assert found[2].verdict == "inconclusive" and found[2].low < 0 < found[2].effect == pytest.approx(gaps.mean())
    assert not found[8].no_gap and found[8].p is not None


def test_the_retained_fraction_is_reported(runs):
    x = {c: outcome(runs, c).mean() for c in MEANS}
    fraction = (x["easy"] - x["all_tstar_half"]) / (x["all_tstar"] - x["all_tstar_half"])
    assert re.search(rf"F = {fraction:.2f} \[\d\.\d\d, \d\.\d\d\], gap all@t\* - all@t\*/2", judge(runs)[8].note)


def test_holm_counts_all_six_primary_hypotheses(runs):
    p = {n: v for n, v in judge(runs).items() if v.primary and v.p is not None}
    smaller, larger = sorted(p.values(), key=lambda v: v.p)
    assert smaller.p_holm == pytest.approx(6 * smaller.p)
    assert larger.p_holm == pytest.approx(max(6 * smaller.p, 5 * larger.p))
    assert all(v.p_holm is None for n, v in judge(runs).items() if n not in p)


# --- missing and failed runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", MEANS)
def test_a_missing_condition_is_missing_and_never_passes(runs, condition):
    found = judge(runs[runs.condition != condition])
    missing = {n for n, v in found.items() if v.verdict == "missing"}
    assert (
        missing
        == {
            n
            for n, claim in CLEAN.items()
            if condition in claim.conditions or (condition == "all_tstar" and "dense" in claim.conditions)
        }
        | ELSEWHERE
    )
    assert all(found[n].effect is None and found[n].note for n in missing)
    for scale in ("demo", "small", "paper"):
        assert Judgement(scale, list(found.values())).exit_status == 3


def spoil(runs, condition, replicate, level):
    return runs[~((runs.condition == condition) & (runs.replicate == replicate) & (runs.level >= level))]


def test_an_unfinished_replicate_is_missing_data(runs):
    found = judge(spoil(runs, "easy", 3, 9))
    assert {n for n, v in found.items() if v.verdict == "missing"} == {8, 9, 10} | ELSEWHERE
    assert found[9].note == "easy, replicate 3, lacks level 9, 10"
    assert judge(spoil(runs, "easy", 3, 11))[9] != found[9]  # levels above 10 are not needed


def test_fewer_replicates_than_promised_are_missing_data(runs):
    assert judge(runs[runs.replicate < 4])[8].verdict == "reproduced"
    found = judge(runs[runs.replicate < 4], replicates=8)
    assert found[8].verdict == "missing" and "easy has 4 of 8 replicates" in found[8].note
    assert judge(runs[runs.replicate < 1])[8].verdict == "missing"  # one replicate has no interval


def test_no_runs_at_all(runs):
    found = judge(runs[:0])
    assert (
        all(v.verdict == "missing" for v in found.values()) and Judgement("demo", list(found.values())).exit_status == 3
    )
    assert Judgement("demo", []).exit_status == 3


@pytest.mark.parametrize("how", ["flag", "nan", "stopped"])
def test_a_diverged_run_counts_as_chance(runs, how):
    bad = (runs.condition == "easy") & (runs.replicate == 2) & (runs.level >= 8)
    if how == "flag":
        table = runs.assign(diverged=runs.diverged | bad)
    elif how == "nan":
        table = runs.assign(acc=runs.acc.mask(bad))
    else:
        table = runs.assign(diverged=runs.diverged | bad)[~(bad & (runs.level > 8))]
    found = judge(table)[9]
    first = 100 * runs[(runs.condition == "easy") & (runs.replicate == 2) & runs.level.isin((6, 7))]["acc"].sum()
    expected = outcome(runs, "easy")
    expected[2] = (first + 3 * 10.0) / 5
    assert found.effect == pytest.approx((expected - outcome(runs, "all_tstar_half")).mean())
    assert "runs diverged: 1, collapsed to chance: 0" in found.note
    assert found.median > 0 > found.effect  # the median beside the mean tells the difference


def test_collapsed_runs_are_counted(runs):
    bad = (runs.condition == "hard") & runs.replicate.isin((1, 5)) & (runs.level == 10)
    assert "runs diverged: 0, collapsed to chance: 2" in judge(runs.assign(acc=runs.acc.mask(bad, 0.11)))[11].note
    assert "collapsed" not in judge(runs)[11].note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: pd.concat([r, r[r.condition == "easy"][:1]]), "hold easy, replicate 0, level 0 more than once"),
        (lambda r: r.drop(columns="acc"), "lacks the column 'acc'"),
        (lambda r: r.assign(acc=100 * r.acc), "is not a fraction of 1"),
    ],
    ids=["twice", "column", "percent"],
)
def test_bad_tables_are_usage_errors(runs, change, message):
    with pytest.raises(UsageError, match=message):
        judge(change(runs))


# --- sizes, steps and figures --------------------------------------------------------------------------------------


def sweep(smallest=88.5):
    small = simulate({"random": smallest}, size=256, seed=1)
    return pd.concat([simulate(), small[small.condition == "random"]], ignore_index=True)


def test_very_small_subsets_need_the_sweep(runs):
    absent = judge(runs)[7]
    assert absent.verdict == "missing" and "needs the size sweep of figure 3" in absent.note and not absent.promised
    alone = judge(runs, figures=("figure3",))
    assert alone[7].promised and Judgement("demo", list(alone.values())).exit_status == 3
    found = judge(sweep(), figures=("figure3",), sizes=(256, 3200))
    assert found[7].verdict == "reproduced" and Judgement("demo", list(found.values())).exit_status == 0
    assert judge(sweep(90.9), sizes=(256,))[7].verdict == "contradicted"
    for claim in FIGURE2:
        assert judge(sweep())[claim].effect == judge(runs)[claim].effect


def test_the_size_is_fixed_beforehand():
    other = simulate(size=1024)
    at_paper_scale = judge(other)
    assert at_paper_scale[8].verdict == "missing" and "no run of easy of size 3200" in at_paper_scale[8].note
    assert judge(other, subset_size=1024)[8].verdict == "reproduced"
    digits = pd.concat([simulate(dataset="digits", size=256), simulate(dataset="digits", size=128)])
    digits = digits.drop_duplicates(["condition", "size", "replicate", "level"])
    assert judge(digits, dataset="digits", subset_size=256)[8].verdict == "reproduced"


def test_subsets_at_another_rewind_step_belong_to_another_figure(runs):
    later = runs[runs.condition == "easy"].assign(t=400, acc=0.5)
    assert judge(pd.concat([runs, later], ignore_index=True)) == judge(runs)


def test_other_datasets_in_the_table_are_left_alone(runs):
    both = pd.concat([runs, simulate({"easy": 80.0}, dataset="digits", size=256)], ignore_index=True)
    assert judge(both) == judge(runs)


def test_outcomes_are_means_over_levels_6_to_10(runs):
    found = from_runs(runs, CIFAR10).sample("easy")
    assert list(found.values.values()) == pytest.approx(outcome(runs, "easy"))
    assert found.std == pytest.approx(outcome(runs, "easy").std(ddof=1))
