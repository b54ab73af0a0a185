"""Verdicts as exit status, table and JSON, and the controls, on simulated runs."""

import dataclasses
import json

import numpy as np
import pytest

from repro.errors import UsageError
from repro.protocol import CIFAR10
from repro.verify.checks import control_verdict
from repro.verify.reference import from_published, published_support
from repro.verify.report import HEADER, Judgement, across_datasets, paper_claim, sentence
from tests.simulated_runs import MEANS, judge, simulate


@pytest.fixture(scope="module")
def runs():
    return simulate()


# --- exit statuses and reports -------------------------------------------------------------------------------------


def test_a_contradicted_primary_claim_fails_at_paper_scale_only():
    found = list(judge(simulate({"easy": 89.0})).values())
    assert [Judgement(scale, found).exit_status for scale in ("demo", "small", "paper")] == [0, 0, 1]


def test_other_contradictions_do_not_fail():
    found = list(judge(simulate({"all_tstar_half": 90.9, "random": 91.0, "easy": 91.1, "hard": 90.7})).values())
    assert {v.claim for v in found if v.verdict == "contradicted"} >= {4}
    assert Judgement("paper", found).exit_status == 0


def test_holm_spares_a_weak_contradiction():
    weak = [
        dataclasses.replace(v, verdict="contradicted", p_holm=0.06) if v.primary else v
        for v in judge(simulate()).values()
    ]
    strong = [dataclasses.replace(v, p_holm=0.04) if v.primary else v for v in weak]
    assert (Judgement("paper", weak).exit_status, Judgement("paper", strong).exit_status) == (0, 1)


def test_missing_outranks_contradicted():
    runs = simulate({"easy": 89.0})
    assert Judgement("paper", list(judge(runs[runs.condition != "hard"]).values())).exit_status == 3


def test_two_columns(runs):
    found = judge(runs)
    assert paper_claim(found[8], "paper") == "reproduced"
    assert paper_claim(found[8], "small") == "not tested (cifar10 at small scale)"
    digits = judge(runs.assign(dataset="digits"), dataset="digits")
    assert paper_claim(digits[8], "demo") == "not tested (digits)"
    cinic = judge(runs.assign(dataset="cinic10"), dataset="cinic10")
    assert paper_claim(cinic[12], "paper") == "not made for cinic10"


def test_the_third_column_says_where_the_published_numbers_are_weaker():
    assert published_support(8, "cifar10") == "inconclusive at n = 4 (+0.28 [-0.14, +0.69])"
    assert published_support(8, "digits") == "inconclusive at n = 4 (cifar10, cinic10); supported (cifar100)"
    assert published_support(4, "cinic10").startswith("contradicted (-0.67")
    assert published_support(12, "digits") == "inconclusive at n = 4 (cifar10)"


def test_markdown_has_a_row_and_a_sentence_for_every_claim(runs):
    found = list(judge(runs).values())
    text = Judgement("demo", found).markdown
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    figures = sum("| **" in row for row in rows)
    assert (
        len(rows) == 2 + figures + len(found)
        and figures == 4
        and {row.count(" | ") for row in rows} == {len(HEADER) - 1}
    )
    assert all(sentence(v, "demo") in text for v in found)
    assert "nan" not in text.lower() and "None" not in text
    starred = [row for row in rows if "| reproduced \\* |" in row]
    assert len(starred) == 2 and all(row.startswith("| P | ") for row in starred)
    assert "| 7. Very small subsets degrade |  |  |  |  | not planned here |" in text


def test_markdown_without_a_gap_says_so():
    found = judge(simulate({"all_tstar": 90.0}, noise=0.5))
    assert "| inconclusive: no gap to recover |" in Judgement("demo", list(found.values())).markdown


def reject(constant):
    raise AssertionError(f"{constant} in JSON")


def test_json_has_no_nan(runs):
    flat = simulate(noise=0.0, common=0.0).assign(acc=lambda r: r.acc.round(2))  # no spread: infinite intervals
    for table in (runs, flat, runs[:0]):
        found = list(judge(table).values())
        document = json.loads(Judgement("paper", found).json, parse_constant=reject)
        assert [v["claim"] for v in document["verdicts"]] == [v.claim for v in found]
        assert document["exit_status"] == Judgement("paper", found).exit_status
    infinite = [v for v in judge(flat).values() if v.low is not None and np.isinf(v.low)]
    assert infinite and all(v.verdict == "inconclusive" for v in infinite)


def test_all_datasets_means_each_of_them(runs):
    good, bad = (list(judge(simulate(means)).values()) for means in ({}, {"easy": 89.0}))
    every = [dataclasses.replace(v, dataset=d) for d in ("cifar10", "cifar100", "cinic10") for v in good]
    assert across_datasets(every)[8] == "reproduced" and across_datasets(every + bad)[8] == "contradicted"
    assert across_datasets(good)[8] == "missing" and across_datasets(good)[12] == "reproduced"
    published = [v for d in ("cifar10", "cifar100", "cinic10") for v in from_published(d)]
    assert across_datasets(published)[9] == "reproduced" and across_datasets(published)[8] == "inconclusive"
    assert across_datasets(published)[12] == "inconclusive"  # CINIC-10 contradicts, but the paper says it of CIFAR-10
    assert "## On all data sets" in Judgement("paper", published).markdown


# --- controls ------------------------------------------------------------------------------------------------------


def exchanged(runs):
    return runs.assign(condition=runs.condition.replace({"easy": "hard", "hard": "easy"}))


def control(runs, name):
    return control_verdict(runs, name, dataclasses.replace(CIFAR10, replicates=2))


def test_exchanging_easy_and_hard_flips_the_signs(runs):
    before, after = judge(runs), judge(exchanged(runs))
    for claim in (8, 9, 10, 11):
        assert (before[claim].verdict, after[claim].verdict) == ("reproduced", "contradicted")
    assert control(exchanged(runs), "swap-easy-hard").verdict == "passed"
    assert control(runs, "swap-easy-hard").verdict == "failed"
    assert control(simulate({"easy": 90.0, "hard": 90.0}, noise=1.0), "swap-easy-hard").verdict == "inconclusive"


def test_permuted_scores_make_easy_random():
    permuted = simulate({"easy": MEANS["random"], "hard": MEANS["random"]})
    assert judge(permuted)[10].verdict == "inconclusive"
    assert control(permuted, "permute-scores").verdict == "passed"
    assert control(simulate(), "permute-scores").verdict == "failed"
    slight = simulate({"easy": MEANS["random"] + 0.15}, noise=0.02)  # significant, yet within half the gap of 1 pp
    assert control(slight, "permute-scores").low > 0 and control(slight, "permute-scores").verdict == "passed"


def test_permuted_scores_pass_about_as_often_as_they_should():
    verdicts = [
        control(simulate({"easy": MEANS["random"]}, n=4, levels=11, seed=seed, noise=1.5), "permute-scores")
        for seed in range(40)
    ]
    assert sum(v.verdict == "passed" for v in verdicts) >= 34  # 38 expected; fewer than 34 has a probability of 1.4 %


@pytest.mark.parametrize(("mean", "verdict"), [(80.0, "passed"), (91.0, "inconclusive"), (95.0, "failed")])
def test_a_shuffled_mask_is_worse(mean, verdict):
    found = control(simulate({"shuffled": mean}, levels=17), "shuffle-mask")
    assert found.verdict == verdict and "at levels 14 to 16" in found.note


def test_a_shuffled_mask_is_compared_where_both_have_levels():
    runs = simulate({"shuffled": 80.0}, levels=15)
    found = control(runs[(runs.condition != "shuffled") | runs.level.isin((12, 14))], "shuffle-mask")
    assert found.verdict == "passed" and found.note == "shuffled - all@t* at levels 12, 14"


@pytest.mark.parametrize(
    ("name", "condition"), [("permute-scores", "random"), ("swap-easy-hard", "hard"), ("shuffle-mask", "shuffled")]
)
def test_controls_never_pass_on_missing_data(name, condition):
    runs = simulate({"shuffled": 80.0})
    found = control(runs[runs.condition != condition], name)
    assert (found.verdict, found.effect) == ("missing", None)
    if name == "shuffle-mask":
        assert found.note == "no level that two replicates have of both shuffled and all@t*"
    assert control(runs[runs.replicate == 0], name).verdict == "missing"
    assert Judgement("demo", list(judge(runs).values()), controls=[found]).exit_status == 3


def test_controls_without_spread_decide_nothing():
    flat = simulate(noise=0.0, common=0.0).assign(acc=lambda r: r.acc.round(2))
    assert control(flat, "permute-scores").verdict == "inconclusive"


def test_unknown_control():
    with pytest.raises(UsageError, match=r"control \(=shuffle\) is unknown"):
        control(simulate(n=2), "shuffle")


def test_controls_are_reported(runs):
    found = control(exchanged(runs), "swap-easy-hard")
    text = Judgement("demo", list(judge(runs).values()), controls=[found]).markdown
    assert "- swap-easy-hard on cifar10: **passed**, easy - hard: " in text
    document = json.loads(Judgement("demo", list(judge(runs).values()), controls=[found]).json, parse_constant=reject)
    assert document["controls"][0]["verdict"] == "passed"
