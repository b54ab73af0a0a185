"""From a figure to make rules: each artifact once, inputs first, nothing that is complete, and what it costs."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections import Counter

import pytest
import torch

import paper_figures
from paper_figures.figure2 import CONTROLS, cells
from repro import cost, plan, store
from repro.errors import UsageError
from repro.nets import create
from repro.protocol import CIFAR10, CINIC10, DIGITS, datasets_at
from tests.command_line import ROOT, complaint, repro

PROTOCOL = dataclasses.replace(DIGITS, replicates=2, levels=3, t_star=20, subset_size=256, seed=1, prune_fraction=0.1)
# Stands for the program: makes the file named by --out from those it is given, and tells.
STUB = """#!/bin/sh
verb=$1
for word in "$@"; do
  case $last in --scores|--subset|--masks) test -s "$word" || exit 9;; --out) out=$word;; esac
  last=$word
done
test "$verb" != imp || test -s "$2" || exit 9
mkdir -p "$(dirname "$out")" && echo "$FOO" > "$out"
"""


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "stub"
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def make(rules, *arguments, **environment) -> subprocess.CompletedProcess:
    assert shutil.which("make"), "the program is run by make"
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-f", str(rules), *arguments]
    return subprocess.run(command, cwd=rules.parent, env={**own, **environment}, capture_output=True, text=True)


def pretend(step: plan.Step, *, less: int = 0, **recipe) -> None:
    """An artifact that has everything the step asks for, less some pieces, or another recipe."""
    kinds = {"score": "score", "select": "subset", "pretrain": "pretrain", "imp": "imp"}
    inputs = {str(role): store.read(path) for role, path in enumerate(step.needs)}
    pieces = sorted(step.wanted)[: len(step.wanted) - less]
    store.write(step.target, kind=kinds[step.command[0]], recipe={**step.recipe, **recipe}, inputs=inputs, arrays={},
                table={"piece": pieces}, provenance={}, defaults={})  # fmt: skip


def todo(steps):
    return [step.target.stem for step in steps if step.missing()]


@pytest.mark.parametrize("control", [None, *CONTROLS])
@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
def test_every_artifact_is_made_once_and_after_its_inputs(scale, control, results):
    for protocol in datasets_at(scale):
        steps = plan.steps(cells(protocol, control) + cells(protocol, None), results)
        made = [step.target for step in steps]
        assert len(set(made)) == len(made)
        for position, step in enumerate(steps):
            assert set(step.needs) <= set(made[:position])
            assert {str(path) for path in step.needs} <= set(step.command) and str(step.target) == step.command[-1]
        shared = control in (None, "swap-easy-hard")
        assert len(made) == 16 + {True: 0, False: 1 if control == "shuffle-mask" else 6}[shared]


def test_the_cells_of_figure_2():
    found = {cell.condition: (cell.name, cell.kind, cell.size, cell.t) for cell in cells(CIFAR10)}
    assert found == {
        "all_t0": ("all-t0", "all", 0, 0), "all_tstar_half": ("all-t200", "all", 0, 200),
        "all_tstar": ("all-t400", "all", 0, 400),
        "random": ("random3200-t200", "random", 3200, 200), "easy": ("easy3200-t200", "easy", 3200, 200),
        "hard": ("hard3200-t200", "hard", 3200, 200),
    }  # fmt: skip
    assert [cell.size for cell in cells(CINIC10)][3:] == [51200] * 3


def test_controls_change_what_they_should(results):
    def commands(control):
        steps = plan.steps(cells(PROTOCOL, control), results)
        return {step.target.stem: " ".join(step.command) for step in steps}

    plain, permuted, shuffled = (commands(control) for control in (None, "permute-scores", "shuffle-mask"))
    assert {name for name in permuted if "permuted" in name} == {
        f"{kind}-{which}256-permuted{t}" for which in ("easy", "hard") for kind, t in
        (("subset", ""), ("pretrain", "-t10"), ("imp", "-t10"))
    }  # fmt: skip
    assert [name for name, command in permuted.items() if "--permute-scores" in command] == [
        "subset-easy256-permuted", "subset-hard256-permuted"]  # fmt: skip
    assert {name: permuted[name] for name in plain if name in permuted}.items() <= plain.items()
    [extra] = set(shuffled) - set(plain)
    assert extra == "imp-all-t20-shuffled"
    assert f"--pruning shuffled --masks {results}/digits/imp-all-t20.h5" in shuffled[extra]
    swapped = {cell.condition: cell.kind for cell in cells(PROTOCOL, "swap-easy-hard")}
    assert (swapped["easy"], swapped["hard"]) == ("hard", "easy") and commands("swap-easy-hard") == plain
    with pytest.raises(UsageError, match="unknown control 'magic'"):
        cells(PROTOCOL, "magic")
    with pytest.raises(UsageError, match="unknown figure 'figure9': choose figure2"):
        paper_figures.figure("figure9")


def test_commands_are_those_of_the_program(results):
    """Every planned command is understood, and its options say what the protocol says."""
    from repro.cli import main

    for step in plan.steps(cells(PROTOCOL, "permute-scores") + cells(PROTOCOL, "shuffle-mask"), results):
        with main.commands[step.command[0]].make_context(step.command[0], list(step.command[1:])) as context:
            given = context.params
        assert given["replicates"] == 2 and str(given["out"]) == str(step.target)
        expected = {"seed": 1, "levels": 3, "prune_fraction": 0.1, "scale": "demo", "t": step.recipe.get("t")}
        assert {name: given[name] for name in expected if name in given}.items() <= expected.items()


def test_what_is_complete_is_not_made_again(results):
    steps = plan.steps(cells(PROTOCOL), results)
    assert todo(steps) == [step.target.stem for step in steps]
    for step in steps:
        pretend(step)
    assert todo(steps) == []
    assert plan.rules([], program=("repro",)) == ".PHONY: all \nall: \n\t@:\n"
    by_name = {step.target.stem: step for step in steps}
    more_levels = todo(plan.steps(cells(plan.resize(PROTOCOL, levels=4)), results))
    assert more_levels == [name for name in by_name if name.startswith("imp")]
    assert len(todo(plan.steps(cells(plan.resize(PROTOCOL, replicates=3)), results))) == len(steps)
    another_seed = todo(plan.steps(cells(plan.resize(PROTOCOL, seed=7)), results))
    assert set(by_name) - set(another_seed) == {"subset-easy256", "subset-hard256"}  # they have none, but new scores

    pretend(by_name["imp-all-t20"], less=1)
    by_name["subset-hard256"].target.write_bytes(b"damaged")
    assert sorted(todo(steps)) == sorted(["imp-all-t20", "subset-hard256", "pretrain-hard256-t10"])
    pretend(by_name["subset-hard256"])
    pretend(by_name["imp-all-t20"])
    for field, value in (("milestones", [1]), ("weight_decay", 0.5), ("augment", True), ("precision", "bf16")):
        pretend(by_name["pretrain-all-t0"], **{field: value})
        assert todo(steps)[0] == "pretrain-all-t0", field
        assert "imp-all-t0" in todo(steps)  # its input is another one now


def test_a_figure_is_not_drawn_from_another_experiment(results):
    for step in plan.steps(cells(PROTOCOL), results):
        pretend(step, **({"lr": 0.25} if step.target.stem == "imp-random256-t10" else {}))
    with pytest.raises(UsageError, match="imp-random256-t10.h5 is of another experiment: lr is 0.25 there and 1.0 he"):
        plan.collect(cells(PROTOCOL)[3:], results)
    with pytest.raises(UsageError, match="seed is 1 there and 7 here; choose another --results folder"):
        plan.collect(cells(plan.resize(PROTOCOL, seed=7)), results)


def test_make_runs_the_rules_in_order_with_a_launcher(stub, results, tmp_path):
    steps = plan.steps(cells(PROTOCOL, "shuffle-mask"), results)
    rules = tmp_path / "figure2.mk"
    rules.write_text(plan.rules(steps, program=(str(stub),), options="--device cpu"))
    dry = make(rules, "-n", "all", LAUNCH="echo")
    assert dry.returncode == 0 and len(dry.stdout.splitlines()) == len(steps) + 1 and not results.exists()
    log, wrapper = tmp_path / "log", tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec "$@"\n')
    wrapper.chmod(0o755)
    done = make(rules, "-j4", "all", LAUNCH=f"env FOO=1 {wrapper}")
    assert done.returncode == 0, done.stderr
    assert all(step.target.read_text() == "1\n" for step in steps)
    ran = log.read_text().splitlines()
    assert Counter(ran) == Counter(f"{stub} {' '.join(step.command)} --device cpu" for step in steps)
    assert make(rules, "all").returncode == 0 and len(log.read_text().splitlines()) == len(ran)  # without LAUNCH
    assert all(step.target.read_text() == "\n" for step in steps)


def test_make_stops_when_a_command_fails(stub, results, tmp_path):
    rules = tmp_path / "figure2.mk"
    rules.write_text(plan.rules(plan.steps(cells(PROTOCOL), results), program=(str(stub),)))
    stub.write_text(STUB.replace("verb=$1", 'verb=$1; test "$verb" != score || exit 3'))
    failed = make(rules, "-j2", "all")
    assert failed.returncode == 2 and "Error 3" in failed.stderr
    assert not (results / "digits" / "subset-easy256.h5").exists()


def test_odd_names(results, tmp_path):
    steps = plan.steps(cells(PROTOCOL)[:1], tmp_path / "my results")
    with pytest.raises(UsageError, match="make cannot have ' ' in the path .*my results/.*: choose another --results"):
        plan.rules(steps, program=("repro",))
    rules = tmp_path / "odd.mk"
    rules.write_text(plan.rules(plan.steps(cells(PROTOCOL)[:1], results), program=("/my $HOME/python", "-m", "repro")))
    assert "'/my $HOME/python' -m repro pretrain" in make(rules, "-n", "all").stdout


def test_the_makefile_plans_makes_verifies_and_draws(tmp_path):
    """The real Makefile with a program that tells what it was asked."""
    told, venv = tmp_path / "told", tmp_path / "venv"
    venv.mkdir()
    (venv / ".installed").write_text("")
    program = tmp_path / "program"
    write_rules = f"printf 'all:\\n\\t$(LAUNCH) true\\n' > {tmp_path}/r/figure2.mk"
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\ntest $1 != plan || {write_rules}\n')
    program.chmod(0o755)
    common = ("-C", str(ROOT), "figure2", "SCALE=demo", f"VENV={venv}", f"REPRO={program}", f"RESULTS={tmp_path}/r")
    done = make(ROOT / "Makefile", *common, "SEED=7", "CONTROL=swap-easy-hard", "REPLICATES=3", "LEVELS=9", "YES=1",
                "DATA=/images", "DATASETS=digits", "LAUNCH=echo launched")  # fmt: skip
    assert done.returncode == 0 and "launched true" in done.stdout, done.stderr
    choice = (f"figure2 --scale demo --results {tmp_path}/r --dataset digits --seed 7 --control swap-easy-hard "
              "--replicates 3 --levels 9")  # fmt: skip
    planned, *rest = [re.sub(" +", " ", line).strip() for line in told.read_text().splitlines()]
    assert planned == f"plan {choice} --make {tmp_path}/r/figure2.mk --options --data-dir /images --yes"
    assert rest == [f"figure {choice}", f"verify {choice}"]
    program.write_text("#!/bin/sh\nexit 2\n")
    assert make(ROOT / "Makefile", *common).returncode == 2  # a plan that is refused stops everything


def test_cost(results, monkeypatch):
    shown = repro("plan", "figure2", "--results", results, "--replicates", 8, "--levels", 12).stdout
    scores, pretrained, levels = 5 * 10, 5 * 8, 6 * 8 * 13
    before = DIGITS.t_star + 4 * (DIGITS.t_star // 2)  # steps of pre-training of a replicate, over the conditions
    after = 6 * DIGITS.training.steps - before
    images = 64 * (scores * DIGITS.scoring.training.steps + 8 * before + 8 * 13 * after)
    assert f"in all {scores + pretrained + levels:,} trainings, {images:,} images" in shown
    steps = plan.steps(cells(dataclasses.replace(DIGITS, replicates=8, levels=12)), results)
    assert cost.total_flops(steps) == images * cost.flops_per_image(DIGITS.network, DIGITS)
    said = complaint("plan", "figure2", "--results", results / "my results", "--make", results / "x.mk")
    assert said.startswith("make cannot have ' ' in the path")

    paper = plan.steps(cells(CIFAR10), results)
    monkeypatch.setattr(cost, "estimate", lambda todo: ("about 900 hours here", 900.0))
    with pytest.raises(UsageError, match=r"this would take about 900 hours here: add YES=1 \(or --yes\) to do it all"):
        cost.require_sensible(paper, yes=False)
    cost.require_sensible(paper, yes=True)
    cost.require_sensible(steps, yes=False)  # minutes anywhere


@pytest.mark.parametrize("protocol", [DIGITS, CIFAR10], ids=lambda p: p.network)
def test_flops_are_six_per_multiply_and_add(protocol):
    """Forward and backward; multiplications counted layer by layer from the shapes that pass through a real network."""
    network = create(protocol.network, num_classes=10, in_chans=protocol.in_chans).eval()
    counted = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, _, y: counted.append(m.weight.numel() * y.shape[2] * y.shape[3]))
    with torch.no_grad():
        network(torch.zeros(1, protocol.in_chans, protocol.image_size, protocol.image_size))
    counted.append(network.fc.weight.numel())
    assert cost.flops_per_image(protocol.network, protocol) == 6 * sum(counted)
