"""A figure's judgement as a whole: with a control, the control alone, and only where there is an effect to destroy."""

import json
import re

import pytest

from repro.protocol import CIFAR10
from repro.verify.evidence import Evidence
from repro.verify.judge import judge
from tests.simulated_runs import MEANS, simulate

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
    assert len(rows) == 11 and all("reproduced" in row or "inconclusive" in row for row in rows)
    assert sum(row.startswith("  P") for row in rows) == 2
    assert max(map(len, found.terminal.splitlines())) < 160


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
