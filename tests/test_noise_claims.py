"""Claims under label noise, on what the subsets hold, and on composition: on simulated runs with known means."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from repro.protocol import CIFAR10, CIFAR100, DIGITS, JUDGED
from repro.verify.judge import judge, verdicts_on
from repro.verify.outcomes import COLUMNS, Evidence, from_runs
from repro.verify.pruned_runs import contamination, passes
from repro.verify.report import sentence
from repro.verify.stats import holm
from tests.simulated_runs import MEANS, simulate, verdicts_of, with_noise

FIGURE4 = ("figure2", "figure4")
FOUR_FOLDS = replace(CIFAR10, folds=4)


def judged(runs, **options):
    given = dict(figures=FIGURE4, noise=(0.1, 0.5))
    return {(v.claim, v.panel): v for v in verdicts_of(runs, **{**given, **options})}


@pytest.fixture(scope="module")
def runs():
    return with_noise()


def outcome(runs, condition, noise=0.0, size=None):
    rows = runs[(runs.condition == condition) & (runs.noise == noise) & runs.level.between(6, 10)]
    rows = rows if size is None else rows[rows["size"] == size]
    return 100 * rows.groupby("replicate")["acc"].mean().to_numpy()


# --- the noise panels ----------------------------------------------------------------------------------------------


def test_clear_effects_are_reproduced_in_each_panel(runs):
    found = judged(runs)
    panels = {(n, f"{p} % noise") for n in (13, 16, 17) for p in (10, 50)} | {(n, "50 % noise") for n in (14, 15)}
    assert {key for key in found if key[1]} == panels
    assert all(found[key].promised and found[key].n == 8 for key in panels)
    assert all(found[key].verdict == "reproduced" for key in panels)
    assert [key for key, v in found.items() if v.primary] == [(5, ""), (8, ""), (16, "50 % noise")]


def test_clean_claims_do_not_notice_the_noise_panels(runs):
    clean, noisy = judged(simulate()), judged(runs)
    for claim in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12):
        assert replace(clean[claim, ""], p_holm=None) == replace(noisy[claim, ""], p_holm=None)


@pytest.mark.parametrize(
    ("claim", "panel", "expected"),
    [
        (13, "10 %", lambda c, n, m: [c("all_tstar") - n("all_tstar"), c("random", 2048) - n("random")]),
        (13, "50 %", lambda c, n, m: [m("all_tstar") - n("all_tstar"), m("random") - n("random")]),
        (
            14,
            "50 %",
            lambda c, n, m: [
                0.35 * (c("all_tstar") - c("all_t0")) - (n(k) - c("all_t0"))
                for k in ("all_tstar", "all_tstar_half", "random")
            ],
        ),
        (15, "50 %", lambda c, n, m: [n("easy") - c("easy", 2048) + 0.5 * (c("all_tstar") - c("all_tstar_half"))]),
        (16, "50 %", lambda c, n, m: [n("easy") - n(k) for k in ("all_tstar", "all_tstar_half", "random")]),
        (16, "10 %", lambda c, n, m: [n("easy") - n(k) for k in ("all_tstar", "all_tstar_half", "random")]),
        (17, "10 %", lambda c, n, m: [n("easy") - n("random")]),
        (17, "50 %", lambda c, n, m: [n("easy") - n("random")]),
    ],
)
def test_effects_are_contrasts_within_replicates(runs, claim, panel, expected):
    noise = float(panel[:2]) / 100
    parts = expected(
        lambda c, size=None: outcome(runs, c, size=size),
        lambda c: outcome(runs, c, noise),
        lambda c: outcome(runs, c, 0.1),
    )
    found = judged(runs)[claim, f"{panel} noise"]
    worst = min(parts, key=lambda x: x.mean() / x.std(ddof=1))  # the smallest t is the largest p
    half = 2.364624251592785 * worst.std(ddof=1) / np.sqrt(8)  # t(7) at 97.5 %
    assert [found.effect, found.low, found.high] == pytest.approx(
        [worst.mean(), worst.mean() - half, worst.mean() + half]
    )
    assert found.median == pytest.approx(np.median(worst))


@pytest.mark.parametrize(
    ("claim", "panel", "means"),
    [
        (13, "10 %", {0.1: {"all_tstar": 91.5}}),
        (13, "50 %", {0.5: {"random": 89.9}}),
        (14, "50 %", {0.5: {"all_tstar": 89.5}}),  # R = 0.5
        (14, "50 %", {0.5: {"random": 89.5}}),
        (15, "50 %", {0.5: {"easy": 90.0}}),  # 0.9 below clean easy, half the gap is 0.5
        (16, "10 %", {0.1: {"easy": 90.1}}),
        (16, "50 %", {0.5: {"easy": 88.0}}),
        (17, "10 %", {0.1: {"easy": 89.1}}),
        (17, "50 %", {0.5: {"random": 91.5}}),
    ],
)
def test_the_opposite_is_contradicted(claim, panel, means):
    assert judged(with_noise(means))[claim, f"{panel} noise"].verdict == "contradicted"


def test_without_a_clean_gap_nothing_is_said_about_robustness_or_initialisation():
    flat = dict.fromkeys(("all_tstar", "all_tstar_half", "all_t0"), 90.0)
    found = judged(with_noise({0.0: flat}, noise=0.5))
    for claim in (14, 15):
        assert found[claim, "50 % noise"].verdict == "inconclusive" and found[claim, "50 % noise"].p is None


def test_r_is_reported(runs):
    x0, full = outcome(runs, "all_t0").mean(), outcome(runs, "all_tstar").mean()
    note = judged(runs)[14, "50 % noise"].note
    for condition in ("all_tstar", "all_tstar_half", "random"):
        assert f"R = {(outcome(runs, condition, 0.5).mean() - x0) / (full - x0):.2f} [" in note


def test_the_noise_size_is_fixed_beforehand_and_said(runs):
    note = judged(runs)[17, "50 % noise"].note
    assert "subsets of 2048, fixed beforehand, as the paper does not print Figure 4's" in note
    other = judged(runs, noise_size=1024)[17, "50 % noise"]
    assert other.verdict == "missing" and "no run of easy (50 % noise) of size 1024" in other.note
    digits = with_noise(dataset="digits", size=256)
    digits = digits.drop_duplicates(["condition", "noise", "replicate", "level"]).assign(
        size=lambda r: r["size"].replace(3200, 256)
    )
    found = judged(digits, dataset="digits", noise_size=256, subset_size=256)[15, "50 % noise"]
    assert found.verdict == "reproduced" and "does not print" not in found.note


def test_panels_that_are_not_planned_are_not_promised(runs):
    found = judged(runs[runs.noise != 0.1], noise=(0.5,))
    assert not found[17, "10 % noise"].promised and found[17, "50 % noise"].promised
    assert found[17, "10 % noise"].verdict == "missing"
    clean = judged(simulate(), noise=())
    assert not any(v.promised for (_, panel), v in clean.items() if panel)
    assert judged(simulate())[17, "50 % noise"].promised  # planned and not there


def test_replicates_promised_differ_by_condition(runs):
    six = runs[(runs.noise == 0) | (runs.replicate < 6)].assign(promised=lambda r: np.where(r.noise == 0, 8, 6))
    found = judged(six, replicates=8)
    assert found[17, "50 % noise"].verdict == "reproduced" and found[17, "50 % noise"].n == 6
    assert found[8, ""].n == 8
    short = judged(six.assign(promised=8))
    assert "easy (50 % noise) has 6 of 8 replicates" in short[17, "50 % noise"].note
    assert judged(six.drop(columns="promised"), replicates=8)[17, "50 % noise"].verdict == "missing"


def test_runs_of_other_figures_are_samples_and_disturb_nothing(runs):
    extra = [
        simulate({"lmc": 89.0}, base={}),
        simulate({"forgetting": 89.5}, size=1024, base={}),
        simulate({"easy": 89.9}, base={}).assign(t=400),
        simulate({"all_t": 90.7}, base={}).assign(t=800),
    ]
    table = pd.concat([runs, *extra], ignore_index=True)
    assert judged(table) == judged(runs)
    found = from_runs(table, CIFAR10)
    for key, rows in zip(("lmc", "forgetting_1024", "easy@400", "all_t@800"), extra):
        assert found.sample(key).mean == pytest.approx(outcome(rows, key.split("@")[0].split("_1")[0]).mean())


# --- what the subsets hold -----------------------------------------------------------------------------------------


def subsets(easy=0.02, random=0.45, hard=0.9, *, noise=0.5, size=2048, dataset="cifar10", n=8):
    """Easy and hard are the same subset for every replicate, random is redrawn."""
    rng = np.random.default_rng(0)
    rows = [
        (dataset, kind, kind, size, noise, replicate, share + (0.01 * rng.normal() if kind == "random" else 0.0), 0)
        for kind, share in (("easy", easy), ("random", random), ("hard", hard))
        for replicate in range(n)
    ]
    return pd.DataFrame(rows, columns=COLUMNS["subsets"])


def test_contamination_is_compared_within_replicates():
    table = subsets()
    found = {v.panel: v for v in contamination(Evidence(subsets=table), FOUR_FOLDS)}
    assert found["10 % noise"].verdict == "missing" and found["10 % noise"].promised
    verdict = found["50 % noise"]
    shares = table.pivot(index="replicate", columns="condition", values="wrong_labels")
    differences = 100 * (shares.random - shares.easy)  # 0.43, the smaller step
    expected = differences.groupby(differences.index % 4).mean()  # replicates 0 and 4 share a fold, and its easy subset
    half = 3.182446305284263 * expected.std(ddof=1) / np.sqrt(4)  # t(3) at 97.5 %
    assert (verdict.verdict, verdict.n, verdict.unit) == ("reproduced", 4, "pp")
    assert [verdict.effect, verdict.low] == pytest.approx([expected.mean(), expected.mean() - half])
    assert "easy 2.0 %" in verdict.note and "hard 90.0 %" in verdict.note
    assert "8 replicates share 4 draws of scores" in verdict.note


def test_one_draw_of_scores_decides_nothing():
    """Eight random subsets beside one easy subset: n is 1, and the numbers stand in the note."""
    found = contamination(Evidence(subsets=subsets()), CIFAR10)[1]
    assert (found.verdict, found.n, found.low, found.p) == ("inconclusive", 1, None, None)
    assert found.effect == pytest.approx(43, abs=2) and "8 replicates share 1 draws" in found.note
    assert "[" not in sentence(found, "paper").partition("Inconclusive")[2].partition("The paper's claim")[0]


@pytest.mark.parametrize(
    ("shares", "word"),
    [((0.5, 0.45, 0.9), "contradicted"), ((0.02, 0.45, 0.3), "contradicted"), ((0.45, 0.45, 0.9), "inconclusive")],
)
def test_contamination_needs_both_steps(shares, word):
    assert contamination(Evidence(subsets=subsets(*shares)), FOUR_FOLDS)[1].verdict == word


def test_the_least_favourable_step_is_the_one_of_the_larger_p():
    """random - easy is 3 points and sure, hard - random is 4 points and unsure: the second decides."""
    table = subsets(0.42, 0.45, 0.49)
    hard = table.condition == "hard"
    table.loc[hard, "wrong_labels"] += np.tile([0.06, -0.06, 0.05, -0.05], 2)
    found = contamination(Evidence(subsets=table), FOUR_FOLDS)[1]
    assert found.statistic.startswith("wrong labels, hard - random") and found.verdict == "inconclusive"


def test_contamination_of_another_size_or_a_lacking_kind_is_missing():
    for table in (subsets(size=1024), subsets()[lambda t: t.condition != "hard"], subsets(n=1)):
        found = contamination(Evidence(subsets=table), CIFAR10)[1]
        assert found.verdict == "missing" and "of size 2048 at 50 % noise" in found.note
    assert contamination(Evidence(), CIFAR100) == []  # no noise panel


@pytest.mark.parametrize(
    ("dataset", "seen", "size"), [("cifar10", 25600, 3200), ("cifar100", 51200, 2048), ("cinic10", 102400, 51200)]
)
def test_images_seen_exceed_the_subset(dataset, seen, size):
    found = passes(dataset)
    assert found.verdict == "by arithmetic" and found.effect == seen / size and found.p is None
    assert f"{seen} images seen, subset of {size}" in found.statistic


def test_one_pass_contradicts():
    assert passes(replace(CIFAR10, subset_size=25600)).verdict == "contradicted by arithmetic"


# --- easiness or the choice of classes -----------------------------------------------------------------------------


def composition(dataset, other, means):
    """Runs of the appendix beside Figure 2's; other: the easy subset that is not Figure 2's."""
    base = {other: means[0], "random_like_easy": means[1]}
    return pd.concat([simulate(dataset=dataset), simulate(base=base, dataset=dataset)], ignore_index=True)


@pytest.mark.parametrize(("balanced", "other"), [(True, "easy_unbalanced"), (False, "easy_balanced")])
def test_composition_compares_like_with_like(balanced, other):
    """Of easy (90.9) one of the two kinds is missing and runs under the other's name; random is 90.1."""
    runs = composition("digits", other, (90.7, 89.5))
    found = judged(runs, dataset="digits", balanced=balanced)[32, ""]
    like = outcome(runs, "random_like_easy")
    unbalanced, even = (other, "easy") if balanced else ("easy", other)
    parts = [outcome(runs, unbalanced) - like, outcome(runs, even) - outcome(runs, "random")]
    assert found.verdict == "reproduced"
    assert found.effect == pytest.approx(min(parts, key=lambda x: x.mean() / x.std(ddof=1)).mean())
    for part in parts:
        assert f"{part.mean():+.2f} [" in found.note
    described = (like - outcome(runs, "random")).mean()
    assert f"not tested: random like easy - random {described:+.2f} [" in found.note


def test_composition_alone_contradicts():
    """Random examples of easy's classes are as good as easy, and balanced easy is worse than random."""
    runs = composition("cifar10", "easy_balanced", (89.7, 90.9))
    assert judged(runs)[32, ""].verdict == "contradicted"
    assert judged(simulate())[32, ""].verdict == "missing" and not judged(simulate())[32, ""].promised


# --- the whole paper -----------------------------------------------------------------------------------------------


def test_one_table_for_the_whole_paper(runs):
    digits = runs.assign(dataset="digits", size=runs["size"].where(runs["size"] == 0, 256))
    digits = digits.drop_duplicates(["condition", "noise", "replicate", "level"])
    evidence = Evidence(
        runs=digits, subsets=pd.concat([subsets(dataset="digits", size=256, noise=noise) for noise in (0.1, 0.5)])
    )
    p = replace(DIGITS, judging_levels=JUDGED, replicates=8)
    found = judge(evidence, [p], figures=["figure2", "figure3", "figure4", "figure5", "figure6", "appendix"])
    record = json.loads(found.json)
    assert {v["claim"] for v in record["verdicts"]} == set(range(1, 33))
    assert found.exit_status == 3  # barriers and warm-up are promised and missing
    assert max(map(len, found.terminal.splitlines())) < 160
    groups = [line for line in found.terminal.splitlines() if re.fullmatch(r"Figure \d|Appendix", line)]
    assert groups == ["Figure 2", "Figure 3", "Figure 4", "Figure 5", "Figure 6", "Appendix"]
    primary = {v["claim"] for v in record["verdicts"] if v["primary"]}
    assert primary == {5, 8, 16, 22, 23, 26}
    p = {v["claim"]: (v["p"], v["p_holm"]) for v in record["verdicts"] if v["primary"] and v["p"] is not None}
    assert set(p) == {5, 8, 16}  # three of six tested: the others count as p = 1
    assert [h for _, h in p.values()] == pytest.approx(list(holm([*(x for x, _ in p.values()), 1, 1, 1])[:3]))


def test_claims_of_other_figures_are_shown_where_their_data_are(runs):
    found = {(v.claim, v.panel): v for v in verdicts_on(Evidence(runs=runs), CIFAR10, figures=["figure4"])}
    assert {key[0] for key in found} == {1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31}
    assert all(v.promised == (n in (13, 14, 15, 16, 17, 31)) for (n, _), v in found.items())
    assert found[31, "10 % noise"].verdict == "missing"  # and claim 7 has no run of 256, the sweep's smallest
    alone = verdicts_on(Evidence(runs=simulate(MEANS)), CIFAR10, figures=["figure2"])
    assert {v.claim for v in alone} == {1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12}
