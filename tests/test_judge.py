"""A figure's judgement as a whole: with a control, the control alone, and only where there is an effect to destroy."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.protocol import CIFAR10, CIFAR100
from repro.study.collect import collect
from repro.study.study import Study
from repro.verify import published
from repro.verify.judge import judge, verdicts_on
from repro.verify.outcomes import COLUMNS, Evidence
from tests import simulated_artifacts, test_connectivity
from tests.simulated_runs import MEANS, simulate, verdicts_of

SWAPPED = {"easy": MEANS["hard"], "hard": MEANS["easy"]}
PERMUTED = {"easy": MEANS["random"], "hard": MEANS["random"]}
NO_EFFECT = {"easy": 90.0, "hard": 90.0, "random": 90.0}


def judged(runs, *, unspoiled=None, **options):
    unspoiled = None if unspoiled is None else Evidence(runs=unspoiled)
    return judge(Evidence(runs=runs), [CIFAR10], figures=["figure2"], unspoiled=unspoiled, **options)


def test_without_a_control_every_claim_is_judged_and_agreement_told():
    found = judged(simulate())
    record = json.loads(found.json)
    assert {v["claim"] for v in record["verdicts"]} == {1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12}
    assert found.exit_status == 0 and len(record["agreement"]) == 1 and not record["controls"]
    rows = [line for line in found.terminal.splitlines() if re.match(r"  [P ] +\d+\. ", line)]
    words = ("reproduced", "inconclusive", "by arithmetic")
    assert len(rows) == 11 and all(any(word in row for word in words) for row in rows)
    assert sum(row.startswith("  P") for row in rows) == 2
    assert max(map(len, found.terminal.splitlines())) < 160


def interval(verdict):
    return verdict["high"] - verdict["low"]


def test_a_declared_second_look_widens_every_interval_and_says_so():
    """97.5 % at both looks: at the first n, and at the second, where artifacts grew as declared."""
    declared, runs = replace(CIFAR10, second_look=16, replicates=8), simulate(n=16)
    first = runs[runs.replicate < 8]
    evidence = Evidence(runs=first)
    usual, wide = (judge(evidence, [p], figures=["figure2"]) for p in (CIFAR10, declared))
    plain, looked = (json.loads(found.json) for found in (usual, wide))
    for a, b in zip(plain["verdicts"], looked["verdicts"]):
        if a["low"] is not None:
            assert interval(b) / interval(a) == pytest.approx(stats.t.ppf(0.9875, 7) / stats.t.ppf(0.975, 7))
            assert (a["confidence"], b["confidence"]) == (0.95, 0.975)
    assert plain["looks"] == {} and looked["looks"] == {
        "cifar10": "first of two looks, declared: intervals of 97.5 % at both"
    }
    assert "effect [97.5 %], pp" in wide.terminal and "effect [95 %], pp" in usual.terminal
    grown = pd.DataFrame([("cifar10", "imp-a", 8, 16), ("cifar10", "imp-b", 4, 16)], columns=COLUMNS["growth"])
    second = judge(Evidence(runs=runs, growth=grown), [replace(declared, replicates=16)], figures=["figure2"])
    told = "second look at n = 16 after n = 4 and 8, declared: intervals of 97.5 % at both"
    assert told in second.terminal and told.capitalize() in second.markdown


def test_each_data_sets_table_names_the_confidence_of_its_own_intervals():
    runs = pd.concat([simulate(), simulate(dataset="cifar100", size=2048)])
    protocols = [CIFAR10, replace(CIFAR100, second_look=16)]
    found = judge(Evidence(runs=runs), protocols, figures=["figure2"])
    for text, mark in ((found.markdown, "## Verdicts on {}, "), (found.terminal, "{}, paper scale")):
        for dataset, percent in (("cifar10", "95"), ("cifar100", "97.5")):
            table = text.partition(mark.format(dataset))[2]
            assert table.index(f"effect [{percent} %], pp") == table.index("effect ["), (dataset, text[:20])


@pytest.mark.parametrize(
    ("second_look", "grown", "told"),
    [
        (
            None,
            [("imp-a", 8, 16)],
            "second look, not declared: 1 artifact grew from n = 8 to n = 16, and intervals are "
            "narrower than 2 looks allow",
        ),
        (
            12,
            [("imp-a", 8, 16)],
            "second look at n = 16 after n = 8, declared at n = 12 and not at this one: intervals of 97.5 % at both",
        ),
        (
            16,
            [("imp-a", 8, 16), ("imp-a", 12, 16), ("imp-b", 8, 16)],
            "third look, not declared: 2 artifacts grew from "
            "n = 8 and 12 to n = 16, and intervals are narrower than 3 looks allow",
        ),
        (
            16,
            [("imp-a", 8, 16), ("imp-a", 8, 16)],
            "second look at n = 16 after n = 8, declared: intervals of 97.5 % at both",
        ),  # two items that ask for one artifact
        (16, [], "one look, at n = 16, of two declared: intervals of 97.5 % at both"),
    ],
)
def test_the_looks_that_were_taken_are_told_beside_the_verdicts(second_look, grown, told):
    rows = pd.DataFrame([("cifar10", *row) for row in grown], columns=COLUMNS["growth"])
    p = replace(CIFAR10, second_look=second_look, replicates=16)
    found = judge(Evidence(runs=simulate(n=16), growth=rows), [p], figures=["figure2"])
    assert told in found.terminal.splitlines() and f"**{told.capitalize()}.**" in found.markdown
    assert json.loads(found.json)["looks"] == {"cifar10": told}


def test_holm_at_two_looks_asks_for_half_the_error():
    verdict = verdicts_of(simulate())[4]
    assert verdict.primary
    between = replace(verdict, p_holm=0.03)
    assert between.survives_holm and not replace(between, confidence=0.975).survives_holm


@pytest.mark.parametrize("control, spoiled", [("swap-easy-hard", SWAPPED), ("permute-scores", PERMUTED)])
def test_a_control_on_runs_with_an_effect_passes_and_judges_no_claim(control, spoiled):
    found = judged(simulate(spoiled), control=control, unspoiled=simulate())
    record = json.loads(found.json)
    assert [c["verdict"] for c in record["controls"]] == ["passed"]
    assert record["verdicts"] == [] and record["agreement"] == []
    assert found.exit_status == 0  # easy worse than hard is what the control asks for, no contradiction of the paper


def test_a_control_that_should_have_failed_is_told():
    found = judged(simulate(), control="swap-easy-hard", unspoiled=simulate())
    assert json.loads(found.json)["controls"][0]["verdict"] == "failed"


@pytest.mark.parametrize("control", ["swap-easy-hard", "permute-scores"])
def test_a_control_without_an_effect_to_destroy_is_uninformative(control):
    flat = simulate(NO_EFFECT, seed=3)
    found = judged(flat, control=control, unspoiled=flat)
    assert json.loads(found.json)["controls"][0]["verdict"] == "uninformative"
    assert "no effect that a control could destroy" in found.terminal


def test_a_control_whose_runs_are_missing_is_missing():
    runs = simulate()
    found = judged(runs[runs.condition != "hard"], control="swap-easy-hard", unspoiled=runs)
    assert found.exit_status == 3 and "missing" in found.terminal


@pytest.mark.parametrize("levels, words", [((10, 11, 12), "levels 10 to 12"), ((8, 10, 12), "levels 8, 10, 12")])
def test_outcomes_are_over_the_protocols_judging_levels(levels, words):
    """Every claim, the control and the agreement: each equal to that of runs with these levels' means everywhere."""
    runs = simulate(levels=13)
    hit = (runs.condition == "hard") & (runs.level < 8)
    runs = runs.assign(acc=runs.acc.mask(hit, 0.95))  # elsewhere than at the judging levels hard is best
    p = replace(CIFAR10, judging_levels=levels)
    found = judge(Evidence(runs=runs), [p], figures=["figure2"])
    record = json.loads(found.json)
    at = runs[runs.level.isin(levels)]
    mean = 100 * at.groupby(["condition", "replicate"]).acc.mean().unstack("condition")
    reference = stats.ttest_1samp(mean.easy - mean.random, 0)
    easy = next(v for v in record["verdicts"] if v["claim"] == 10)
    effect = reference.statistic * stats.sem(mean.easy - mean.random)
    assert (easy["effect"], easy["p"]) == pytest.approx((effect, reference.pvalue))
    assert easy["judged"] == list(levels) and f"mean accuracy over {words} unless" in found.markdown
    assert next(v for v in record["verdicts"] if v["claim"] == 11)["verdict"] == "reproduced"
    hard = next(c for c in record["agreement"][0]["conditions"] if c["condition"] == "hard")
    assert hard["own"] == pytest.approx((mean.hard - mean.all_tstar).mean())
    paper = published.curves("cifar10").query("level in @levels and size in (0, 3200)")
    gap = 100 * paper.groupby("condition")["mean"].mean()
    assert hard["published"] == pytest.approx(gap["hard"] - gap["all_tstar"])
    swapped = judge(Evidence(runs=runs), [p], figures=["figure2"], control="swap-easy-hard")
    control = json.loads(swapped.json)["controls"][0]
    assert control["effect"] == pytest.approx((mean.easy - mean.hard).mean())


def test_a_replicate_without_a_judging_level_is_missing():
    p = replace(CIFAR10, judging_levels=(12, 13))
    found = json.loads(judge(Evidence(runs=simulate(levels=13)), [p], figures=["figure2"]).json)
    assert "lacks level 13" in next(v for v in found["verdicts"] if v["claim"] == 10)["note"]


LABELLED = """
from repro.plan import Cell, Subset
from repro.protocol import own

PROTOCOL = own("digits", subset_size=64, levels=1, replicates=4, sweep_levels=(1,), judging_levels=(0, 1))
CLAIMS = ("figure2", "figure5", "appendix")

def needed(p):
    half, easy = p.t_star // 2, Subset("easy", 64)
    labelled = [Cell("all_tstar", p, p.t_star, labels="human.csv"), Cell("easy", p, half, easy, labels="human.csv")]
    clean = [Cell("all_tstar", p, p.t_star), Cell("easy", p, half, easy)]
    clean.append(Cell("lmc", p, half, Subset("easy", 64, "lmc")))
    return clean + (labelled if WITH_LABELS else [])
"""


def test_runs_with_a_users_labels_are_in_no_clean_arm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("human.csv", np.arange(1797) % 10, fmt="%d")
    found = []
    for with_labels in (False, True):
        (tmp_path / "fig.py").write_text(f"WITH_LABELS = {with_labels}\n{LABELLED}")
        study = Study("fig.py", results=tmp_path / str(with_labels))
        simulated_artifacts.make(study)
        evidence = collect(study.items(), study.results)
        assert ("human.csv" in set(evidence.runs.labels)) == with_labels
        found.append(verdicts_on(evidence, study.protocols[0], figures=study.claims))
    assert found[0] == found[1]
    assert {v.claim: v.verdict for v in found[0]}[24] != "missing"


def test_barriers_with_a_users_labels_are_in_no_clean_arm():
    clean, p = test_connectivity.simulate(), test_connectivity.CINIC10
    other = {"runs": clean.runs.assign(acc=0.2), "barriers": clean.barriers.assign(train_ce=9.0, train_error_max=0.5)}
    mixed = {
        name: pd.concat([getattr(clean, name).assign(labels=""), table.assign(labels="human.csv")])
        for name, table in other.items()
    }
    figures = ["figure2", "figure5", "appendix"]
    expected = verdicts_on(clean, p, figures=figures)
    assert {v.claim for v in expected if v.verdict != "missing"} >= {18, 19, 20, 22, 23, 25}
    assert verdicts_on(Evidence(**mixed), p, figures=figures) == expected
