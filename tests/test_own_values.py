"""Figures of one's own that are refused, and what is read of their files, how often."""

from pathlib import Path

import numpy as np
import pytest

from repro.data.user_numbers import read_numbers
from repro.plan import options, steps
from repro.protocol import DIGITS
from repro.study.study import Study
from repro.verify.judge import judge
from repro.verify.outcomes import Evidence
from tests.command_line import complaint, repro

PROTOCOL = 'from repro.protocol import own\nPROTOCOL = own("digits", steps=40, t_star=4, subset_size=64)\n'
FAULTS = {
    "cannot be run (SyntaxError: ": "PROTOCOL = (",
    "cannot be run (ZeroDivisionError: division by zero, line 2)": "\n1 / 0",
    "defines no PROTOCOL: write": "x = 1",
    "own() does not take lerning_rate: give fields": PROTOCOL.replace("steps", "lerning_rate"),
    "CLAIMS of fig.py has 'figure9': choose among figure1": PROTOCOL + "CLAIMS = ['figure9']",
    "needed() of fig.py fails (KeyError: 'x', line 4): mend it": PROTOCOL + "def needed(p):\n    return {}['x']",
    "needed() of fig.py gives 3: it has to give items": PROTOCOL + "def needed(p):\n    return [3]",
    "needed() of fig.py gives nothing for digits": PROTOCOL + "def needed(p):\n    return []",
    "asks for momentum 0.5 on digits, which is always 0.9": PROTOCOL.replace("steps", "momentum=0.5, steps"),
    "nowhere is no image folder": PROTOCOL.replace("digits", "folder:nowhere"),
    "there is no file net.py for network": PROTOCOL.replace("steps", "network='net.py:Net', steps"),
}


VALUES = [
    "replicates=-3",
    "replicates=0",
    "replicates=True",
    "replicates=2.0",
    "replicates=10**9",
    "levels=-1",
    "levels='3'",
    "children=-1",
    "subset_size=0",
    "t_star=-2",
    "seed=1.5",
    "sizes=(64, -1)",
    "sizes=64",
    "noise=(2.0,)",
    "more_replicates=0",
    "prune_fraction=1.5",
    "normalization='mine'",
    "folds=0",
    "second_look=0",
    "second_look='8'",
    "second_look=16",
    "judging_levels=(3, 2)",
    "judging_levels=()",
    "judging_levels=(1.5,)",
    "sizes=[64]",
    "network=3",
    "scoring=None",
    "warmup=3",
]


@pytest.mark.parametrize("value", VALUES)
def test_values_of_an_own_figure(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    field = value.partition("=")[0]
    Path("fig.py").write_text(
        f"from dataclasses import replace\nfrom repro.protocol import DIGITS\nPROTOCOL = replace(DIGITS, {value})\n",
        encoding="utf-8",
    )
    for command in ("plan", "figure", "status"):
        assert complaint(command, "fig.py").startswith(f"fig.py has {field} (=")


def test_values_within_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part, field, value in (("scoring", "networks", -3), ("warmup", "replicates", -3), ("training", "steps", 2.5)):
        Path("fig.py").write_text(
            "from dataclasses import replace\nfrom repro.protocol import DIGITS as D\n"
            f"PROTOCOL = replace(D, {part}=replace(D.{part}, {field}={value}))\n"
        )
        assert complaint("plan", "fig.py").startswith(f"fig.py has {field} (={value})")


CELLS = {
    "Cell('all_t', p, -1)": "t (=-1)",
    "Cell('all_t', p, 1, replicates=-3)": "replicates (=-3)",
    "Cell('all_t', p, 1, levels=-2)": "levels (=-2)",
    "Cell('easy', p, 1, Subset('easy', 0))": "size (=0)",
    "Cell('easy', p, 1, Subset('worst', 9))": "kind (='worst')",
    "Cell('all_t', p, 1, noise=7.0)": "noise (=7.0)",
    "Barrier(Cell('all_t', p, 1, replicates=0))": "replicates (=0)",
    "Barrier(3)": "cell (=3)",
    "Chosen(p, Subset('easy', 9), 0, 0)": "replicates (=0)",
    "Chosen(p, Subset('easy', 9), 2)": "noise (=2)",
    "Chosen(p, None)": "subset (=None)",
    "Gradients(p, replicates=-1)": "replicates (=-1)",
    "Gradients(p, Subset('easy', 2.5))": "size (=2.5)",
    "Gradients(3)": "protocol (=3)",
    "Cell('random', p, 1, Subset('random', 9, like='easy'))": "like (='easy')",
    "Cell('all_t', p, 1, pruning='snip')": "pruning (='snip')",
    "Cell('all_t', p, 1, pruning=Pruning('snip', batches=2.5))": "batches (=2.5)",
    "Cell('all_t', p, 1, pruning=Pruning(rewind='none', finetune_steps=2.5))": "finetune_steps (=2.5)",
    "Cell('all_t', p, 1, pruning=Pruning(keep_dense=(1,)))": "keep_dense (=(1,))",
}


@pytest.mark.parametrize("cell", CELLS)
def test_values_of_what_an_own_figure_needs(cell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "from repro.plan import Barrier, Cell, Chosen, Gradients, Pruning, Subset\n"
    Path("fig.py").write_text(head + PROTOCOL + f"def needed(p):\n    return [{cell}]\n", encoding="utf-8")
    assert complaint("plan", "fig.py").startswith(f"fig.py has {CELLS[cell]}: it must be ")


def test_an_own_figure_is_run_once_for_a_command(tmp_path, monkeypatch):
    """At the largest number of replicates too, where the next one is none that a protocol may have."""
    monkeypatch.chdir(tmp_path)
    needed = "def needed(p):\n    return [Cell('all_t', p, 1, replicates=p.replicates, levels=p.levels)]\n"
    counted = "with open('runs', 'a') as file:\n    print('run', file=file)\n"
    Path("fig.py").write_text(f"from repro.plan import Cell\n{counted}{PROTOCOL}{needed}", encoding="utf-8")
    for k, most in enumerate(("--replicates", "--levels", "--seed"), 1):
        repro("plan", "fig.py", most, 1000, "--speed", 1e9)
        assert Path("runs").read_text(encoding="utf-8").count("run") == k


def test_a_border_that_has_no_effect_is_none_of_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fig.py").write_text(PROTOCOL.replace("steps", "border=2, augment=False, steps"), encoding="utf-8")
    study = Study("fig.py")
    found = steps(study.items(), study.results)
    assert found
    for step in found:
        assert "--border" not in step.command and "border" not in step.recipe


def test_a_file_is_read_once_for_each_of_its_states(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = []
    monkeypatch.setattr(options, "read_numbers", lambda *args, **more: read.append(1) or read_numbers(*args, **more))
    for changed in (0, 1):
        np.savetxt("human.csv", np.arange(1797) % 10 + changed, fmt="%d")
        found = [options.given_labels("human.csv", DIGITS) for _ in range(3)]
        assert all(labels[0] == changed for labels in found) and len(read) == changed + 1


@pytest.mark.parametrize("sentence, text", FAULTS.items(), ids=lambda text: text[:30])
def test_a_faulty_figure_is_explained(sentence, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fig.py").write_text(text, encoding="utf-8")
    assert sentence in complaint("plan", "fig.py")


def test_a_figure_without_a_sweep_of_sizes_is_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from dataclasses import replace\nfrom repro.protocol import DIGITS\nPROTOCOL = replace(DIGITS, sizes=())\n"
    Path("fig.py").write_text(text, encoding="utf-8")
    study = Study("fig.py", results=tmp_path / "results")
    assert "Very small subsets degrade" in judge(Evidence(), study.protocols, figures=("figure3",)).markdown
