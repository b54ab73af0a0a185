"""What users give make: words, whatever is in them; and no folder for a look or a slip of the keyboard."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT, repro


def make(*arguments, cwd: Path, **environment) -> subprocess.CompletedProcess:
    """The real Makefile in a folder of its own."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-f", str(ROOT / "Makefile"), *arguments]
    return subprocess.run(command, cwd=cwd, env={**own, **environment}, capture_output=True, text=True)


def install(folder: Path) -> None:
    """What make looks for before it does anything."""
    (folder / "venv").mkdir()
    for name in ("requirements.txt", "pyproject.toml", "venv/.installed"):
        (folder / name).touch()
    (folder / "Makefile").symlink_to(ROOT / "Makefile")  # for a make within make


ODD = [
    "r;touch PWNED",
    "r`touch PWNED`",
    "r' ; touch PWNED '",
    "r && touch PWNED",
    'r" ; touch PWNED "',
    "r|touch PWNED",
    "a  b",
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "name",
    [
        "RESULTS",
        "SEED",
        "DATASETS",
        "CONTROL",
        "REPLICATES",
        "LEVELS",
        "DATA",
        "DEVICE",
        "TENSORBOARD",
        "SCALE",
        "FIGURE",
        "BENCH",
        "JOBS",
    ],
)
def test_variables_of_make_are_words(name, odd, tmp_path):
    """The arguments of the program are what was given; nothing in them is executed."""
    install(tmp_path)
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open('told', 'a'))\n"
    )
    program.chmod(0o755)
    goals = {"FIGURE": ["archive", "figure"], "BENCH": ["bench"], "SCALE": ["figure2", "archive"]}
    for goal in goals.get(name, ["figure2", "archive", "demo"]):
        scale = [] if name == "SCALE" else ["SCALE=demo"]
        programs = [f"{variable}={program}" for variable in ("REPRO", "BENCHMARKS")]
        done = make(goal, "VENV=venv", *programs, f"{name}={odd}", *scale, cwd=tmp_path)
    if goal == "demo":
        results = odd if name == "RESULTS" else "results/demo" + (f"-seed{odd}" if name == "SEED" else "")
        figure = f"{results}/figure2" + (f"-{odd}" if name == "CONTROL" else "")
        told = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()[-4:]]
        assert told[:3] == [f"{figure}.png", f"{figure}-verdicts.md", f"{results}/report.html"], done.stderr
        assert told[3].startswith("make figures SCALE=demo" + (f" SEED={odd}" if name == "SEED" else ""))
    assert not list(tmp_path.rglob("PWNED*"))
    told = [json.loads(line) for line in (tmp_path / "told").read_text(encoding="utf-8").splitlines()]
    given = [word for words in told for word in words]
    wanted = {
        "DATASETS": odd.split(),
        "BENCH": odd.split(),
        "DATA": None,
        "TENSORBOARD": None,
        "JOBS": [odd],
        "FIGURE": [odd],
        "SCALE": [odd],
    }.get(name, [odd])
    if wanted is None:  # inside --options, which plan splits as a shell does
        options = shlex.split(given[given.index("--options") + 1])
        assert odd in options
    else:
        assert set(wanted) <= set(given)


@pytest.mark.heavy  # what would take too long is measured first, twice
def test_a_look_and_a_slip_make_no_folder(tmp_path):
    install(tmp_path)
    before = sorted(os.listdir(tmp_path))
    common = ("figure2", "VENV=venv", f"REPRO={sys.executable} -m repro", "SCALE=paper")
    environment = {"PYTHONPATH": str(ROOT)}
    for slip in ("LEVELS=abc", "DATASETS=cifar11", "CONTROL=none", "DATASETS=cifar10"):  # the last would take too long
        done = make(*common, slip, cwd=tmp_path, **environment)
        assert done.returncode == 2 and sorted(os.listdir(tmp_path)) == before, (slip, done.stderr)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    make(*common, slip, cwd=tmp_path, **environment)
    assert (tmp_path / "results" / "paper").is_dir() and not os.listdir(tmp_path / "results" / "paper")
    for look in (("plan", "figure2"), ("status", "figure2"), ("verify", "figure2"), ("ls",)):
        repro(*look, "--results", tmp_path / "none", code=None)
    assert not (tmp_path / "none").exists()
