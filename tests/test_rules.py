"""Make rules: what shares a process, what waits for what, what a failure stops, and the Makefile around them."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from paper_figures import NAMES as FIGURES
from paper_figures import needed
from paper_figures.figure2 import needed as figure2
from repro import plan
from repro.errors import UsageError
from repro.plan import jobs as planned
from repro.protocol import DIGITS
from tests.command_line import ROOT, complaint, repro

pytestmark = pytest.mark.usefixtures("nothing_is_measured")
PROTOCOL = dataclasses.replace(DIGITS, replicates=2, levels=3, t_star=20, subset_size=256, seed=1, prune_fraction=0.1)

# Stands for the program: makes the files named by --out from those it is given, one command after the other.
STUB = """#!/bin/sh
test "$1" = --log && shift 2
test "$1" = --quiet && shift
last=then
for word in "$@"; do
  case $last in
    then) verb=$word;;
    --scores|--subset|--like) test -s "$word" || exit 9;;
    imp|branch|barrier) test -s "$word" || exit 9;;
    --out) mkdir -p "$(dirname "$word")" && echo "$FOO" > "$word";;
  esac
  last=$word
done
"""


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "stub"
    path.write_text(STUB, encoding="utf-8")
    path.chmod(0o755)
    return path


def make(rules, *arguments, **environment) -> subprocess.CompletedProcess:
    assert shutil.which("make"), "the program is run by make"
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-f", str(rules), *arguments]
    return subprocess.run(command, cwd=rules.parent, env={**own, **environment}, capture_output=True, text=True)


def unlogged(line: str) -> str:
    """The commands of a process, less where it logs them."""
    return re.sub(r" +", " ", re.sub(r"--log (\S+\.log|\$\S+) +(--quiet |\$\(if \$\(LAUNCH\),--quiet\) )?", "", line))


def test_commands_share_a_process_and_stop_at_the_first_failure(results):
    sizes = ("--dataset", "digits", "--replicates", 1, "--kind", "random")
    done = repro(
        "select",
        *sizes,
        "--size",
        20,
        "--out",
        results / "a.h5",
        "then",
        "select",
        *sizes,
        "--size",
        30,
        "--out",
        results / "b.h5",
    )
    assert done.stdout.count("computed 1") == 2
    said = complaint(
        "select",
        *sizes,
        "--size",
        0,
        "--out",
        results / "c.h5",
        "then",
        "select",
        *sizes,
        "--size",
        30,
        "--out",
        results / "d.h5",
    )
    assert "subset size (=0)" in said and not (results / "d.h5").exists()


def test_make_runs_the_rules_in_order_with_a_launcher(stub, results, tmp_path):
    steps = plan.steps(figure2(PROTOCOL, "shuffle-mask"), results)
    rules = tmp_path / "figure2.mk"
    rules.write_text(planned.rules(steps, program=(str(stub),), options="--device cpu"), encoding="utf-8")
    dry = make(rules, "-n", "all", LAUNCH="echo")
    processes = sum(str(stub) in line for line in dry.stdout.splitlines())
    assert dry.returncode == 0 and processes < len(steps) and not results.exists()
    log, wrapper = tmp_path / "log", tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    done = make(rules, "-j4", "all", LAUNCH=f"env FOO=1 {wrapper}")
    assert done.returncode == 0, done.stderr
    assert all(step.target.read_text(encoding="utf-8") == "1\n" for step in steps)
    ran = log.read_text(encoding="utf-8").splitlines()
    assert all(" --quiet " in line for line in ran)
    ran = [unlogged(line) for line in ran]
    commands = [word for line in ran for word in line.removeprefix(f"{stub} ").split(" then ")]
    assert Counter(commands) == Counter(f"{' '.join(step.command)} --device cpu" for step in steps)
    assert len(ran) == processes
    assert make(rules, "all").returncode == 0 and len(log.read_text().splitlines()) == len(ran)  # without LAUNCH
    assert all(step.target.read_text(encoding="utf-8") == "\n" for step in steps)


def chains(steps):
    """The commands of each process, by verb and target."""
    lines = [line for line in planned.rules(steps, program=("repro",)).splitlines() if line.startswith("\t$(LAUNCH)")]
    return [
        [
            part.split()[0] + " " + part.split()[-1].rpartition("/")[2].removesuffix(".h5")
            for part in unlogged(line).removeprefix("\t$(LAUNCH) repro ").split(" then ")
        ]
        for line in lines
    ]


def test_a_process_goes_on_where_nobody_else_waits(results):
    """Subsets follow their scores; pre-training, pruning and barriers of a cell share a process, cells do not."""
    cell = plan.Cell("easy", PROTOCOL, 10, plan.Subset("easy", 256))
    hard = plan.Cell("hard", PROTOCOL, 10, plan.Subset("hard", 256))
    loose = [plan.Cell("random", PROTOCOL, 10, plan.Subset("random", m)) for m in (128, 256)]
    assert chains(plan.steps([plan.Barrier(cell), hard, *loose], results)) == [
        ["score scores", "select subset-easy256", "select subset-hard256"],
        ["pretrain pretrain-easy256-t10", "imp imp-easy256-t10", "barrier barrier-easy256-t10"],  # the longest first
        ["select subset-random128", "select subset-random256"],
        ["pretrain pretrain-hard256-t10", "imp imp-hard256-t10"],
        ["pretrain pretrain-random128-t10", "imp imp-random128-t10"],
        ["pretrain pretrain-random256-t10", "imp imp-random256-t10"],
    ]
    assert chains(plan.steps([cell], results)) == [
        ["score scores", "select subset-easy256", "pretrain pretrain-easy256-t10", "imp imp-easy256-t10"]
    ]
    two = plan.steps([plan.Barrier(cell), plan.Branch("shuffled", cell)], results)
    assert chains(two)[1:] == [
        ["branch branch-easy256-t10-shuffled"],
        ["barrier barrier-easy256-t10"],
    ]  # the longer first


def test_every_rule_of_all_figures_waits_for_what_it_reads(stub, results, tmp_path):
    steps = plan.steps([item for figure in FIGURES for item in needed(figure, DIGITS)], results)
    rules = tmp_path / "all.mk"
    rules.write_text(planned.rules(steps, program=(str(stub),)), encoding="utf-8")
    done = make(rules, "-j8", "all", FOO="x")  # the stub fails where an input is not there yet
    assert done.returncode == 0 and all(step.target.exists() for step in steps), done.stderr


def test_make_stops_when_a_command_fails(stub, results, tmp_path):
    rules = tmp_path / "figure2.mk"
    rules.write_text(planned.rules(plan.steps(figure2(PROTOCOL), results), program=(str(stub),)), encoding="utf-8")
    stub.write_text(STUB.replace("verb=$word", 'verb=$word; test "$verb" != score || exit 3'), encoding="utf-8")
    failed = make(rules, "-j2", "all")
    assert failed.returncode == 2 and "Error 3" in failed.stderr
    assert not (results / "digits" / "subset-easy256.h5").exists()


def test_odd_names(results, tmp_path):
    steps = plan.steps(figure2(PROTOCOL)[:1], tmp_path / "my results")
    with pytest.raises(UsageError, match="make cannot have ' ' in the path .*my results/.*: choose another --results"):
        planned.rules(steps, program=("repro",))
    rules = tmp_path / "odd.mk"
    rules.write_text(
        planned.rules(plan.steps(figure2(PROTOCOL)[:1], results), program=("/my $HOME/python", "-m", "repro")),
        encoding="utf-8",
    )
    dry = make(rules, "-n", "all").stdout
    assert "'/my $HOME/python' -m repro --log" in dry and "'/my $HOME/python' -m repro pretrain" in unlogged(dry)


def test_the_makefile_plans_makes_verifies_and_draws(tmp_path):
    """The real Makefile with a program that tells what it was asked."""
    told, venv = tmp_path / "told", tmp_path / "venv"
    venv.mkdir()
    (venv / ".installed").write_text("", encoding="utf-8")
    program = tmp_path / "program"
    find = 'while test "$1" != --make; do shift; done'
    write_rules = f"{{ {find}; mkdir -p $(dirname $2); printf 'all:\\n\\t$(LAUNCH) true\\n' > $2; }}"
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\ntest $1 != plan || {write_rules}\n', encoding="utf-8")
    program.chmod(0o755)
    common = ("-C", str(ROOT), "figure2", "SCALE=demo", f"VENV={venv}", f"REPRO={program}", f"RESULTS={tmp_path}/r")
    done = make(
        ROOT / "Makefile",
        *common,
        "SEED=7",
        "CONTROL=swap-easy-hard",
        "REPLICATES=3",
        "LEVELS=9",
        "YES=1",
        "DATA=/images",
        "DATASETS=digits",
        "LAUNCH=echo launched",
        "JOBS=3",
    )
    assert done.returncode == 0 and "launched true" in done.stdout, done.stderr
    choice = (
        f"figure2 --scale demo --results {tmp_path}/r --dataset digits --seed 7 --control swap-easy-hard "
        "--replicates 3 --levels 9"
    )
    planned, *rest = [re.sub(" +", " ", line).strip() for line in told.read_text(encoding="utf-8").splitlines()]
    rules = re.search(rf" --make ({tmp_path}/r/\.figure2-\S+\.mk)", planned)[1]  # a name of its own: two may run
    assert planned == f"plan {choice} --make {rules} --options --data-dir '/images' --jobs 3 --yes"
    assert rest == [f"--log {tmp_path}/r/figures.log figure {choice} then verify {choice}"]
    assert not Path(rules).exists()
    for words, scale, jobs in ((("scores",), "scores", 3), (("figure2", "SCALE=day"), "day", 1)):
        dry = (
            make(ROOT / "Makefile", "-n", "-C", str(ROOT), *words, f"VENV={venv}", f"REPRO={program}", "JOBS=3")
            .stdout.replace("'", "")
            .replace("\\\n", " ")
            .replace('"$rules"', f"results/{scale}/.{words[0]}-here.mk")
        )
        assert re.search(rf"plan {words[0]} --scale {scale} --results results/{scale} .*--jobs {jobs}\b", dry)
        assert re.search(rf"-j{jobs} -f results/{scale}/\.{words[0]}-\S+\.mk all", dry)
    told.unlink()
    demo = ("demo", f"VENV={venv}", f"REPRO={program}", f"RESULTS={tmp_path}/r", "SEED=7", "JOBS=3")
    last = make(ROOT / "Makefile", *demo).stdout.splitlines()[-4:]
    assert [line.split()[:2] for line in last[:3]] == [
        ["picture", f"{tmp_path}/r/figure2.png"],
        ["table", f"{tmp_path}/r/figure2-verdicts.md"],
        ["report", f"{tmp_path}/r/report.html"],
    ]
    assert last[3].startswith("next     make figures SCALE=demo SEED=7 ")
    asked = [line.split()[:2] for line in told.read_text(encoding="utf-8").splitlines() if not line.startswith("--log")]
    assert asked == [["plan", "figure2"], ["report", "figure2"]]
    program.write_text("#!/bin/sh\nexit 2\n", encoding="utf-8")
    assert make(ROOT / "Makefile", *common).returncode == 2  # a plan that is refused stops everything
