"""What is written: whole or not at all, on a disk that is full at any moment, and never over a file of another kind."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro import store
from repro.store import file_kinds, files
from repro.study.study import Study
from tests import simulated_artifacts
from tests.command_line import CPU, ROOT, TINY, complaint, no_hang, one_sentence, repro
from tests.test_bad_machine import process

SELECT = ("select", "--kind", "random", "--dataset", "digits", "--size", 80, "--replicates", 2)
CALLS = ("write", "fsync", "replace", "ftruncate", "mkdir")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    made = Study("figure2", replicates=2, results=tmp_path_factory.mktemp("study") / "results")
    simulated_artifacts.make(made)
    return made


@pytest.fixture(scope="module")
def subset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("subset") / "subset.h5"
    repro(*SELECT, "--out", path)
    return path


class Disk:
    """Every write, fsync, rename and folder from the ``last``-th on fails for want of space."""

    def __init__(self, monkeypatch, last: int):
        self.count, self.last = 0, last
        for name in CALLS:
            monkeypatch.setattr(os, name, self.guarded(getattr(os, name)))
        monkeypatch.setattr(files, "open", self.guarded(open, lambda _, mode="r", **__: mode == "wb"), raising=False)

    def guarded(self, function, writes=lambda *_, **__: True):
        def call(*arguments, **options):
            if writes(*arguments, **options):
                self.count += 1
                if self.count > self.last:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
            return function(*arguments, **options)

        return call


COMMANDS = {
    "select": lambda study, subset, out: (*SELECT, "--out", out / "new" / "x.h5"),
    "export": lambda study, subset, out: ("export", subset, "--out", out / "new" / "x.csv"),
    "figure": lambda study, subset, out: ("figure", "figure2", "--replicates", 2, "--results", out / "results"),
    "verify": lambda study, subset, out: ("verify", "figure2", "--replicates", 2, "--results", out / "results"),
    "archive": lambda study, subset, out: ("archive", "figure2", "--replicates", 2, "--results", out / "results"),
    "plan": lambda study, subset, out: ("plan", "figure2", "--results", out, "--make", out / "new" / "x.mk"),
    "report": lambda study, subset, out: ("report", "figure2", "--replicates", 2, "--results", out / "results"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.heavy
def test_a_disk_that_is_full_at_any_moment(name, study, subset, tmp_path, monkeypatch):
    shutil.copytree(study.results, tmp_path / "results")
    words = COMMANDS[name](study, subset, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    last, failed = 0, 0
    while True:
        with monkeypatch.context() as patch:
            disk = Disk(patch, last)
            said = repro(*words, code=None)
        if said.exit_code == 0:
            break
        failed += 1
        assert said.exit_code == 1 and one_sentence(said.stderr).startswith("no space left on device"), said.stderr
        there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert not [path for path in there if path.name.endswith((".lock", ".tmp"))]
        assert {path: there[path] for path in before} == before
        last = max(last + 1, disk.last + 1 if last < 12 else int(disk.last * 1.3))
    assert failed >= 3


def test_a_disk_without_a_byte_left(tmp_path):
    """A real one, mounted where that process alone sees it."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare program, with which a small disk could be mounted")
    own_mounts = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--map-root-user", "--mount")
    full = (
        f'mount -t tmpfs -o size=64k tmpfs "{tmp_path}" && (cat /dev/zero > "{tmp_path}/fill" 2>/dev/null; exec "$@")'
    )
    small = (*own_mounts, "sh", "-c", full, "sh")
    if trial := subprocess.run([*small, "true"], capture_output=True, text=True).stderr:
        pytest.skip(f"no small disk can be mounted here: {trial.strip()}")
    script = """
for words in (["select", "--kind", "random", "--dataset", "digits", "--size", "80", "--out", "x.h5"],
              ["plan", "figure2", "--results", ".", "--make", "x.mk"]):
    os.chdir(sys.argv[1])
    done = CliRunner().invoke(main, words)
    print(done.exit_code, done.stderr.strip(), os.listdir("."))
"""
    for line, name in zip(process(script, tmp_path, before=small), ("x.h5", "x.mk"), strict=True):
        assert line.startswith(f"1 Error: no space left on device while writing {name}: free some space")
        assert line.endswith(" ['fill']")


KILLED_AT = """
import os, sys
from pathlib import Path
import numpy as np
os.environ["MPLBACKEND"] = "Agg"
from repro.cli import main
count, last = 0, int(sys.argv[1])
def dying(function):
    def call(*arguments):
        global count
        count += 1
        if count > last:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return call
for name in ("fsync", "replace"):
    setattr(os, name, dying(getattr(os, name)))
main(sys.argv[2:])
"""


@pytest.mark.heavy
def test_figures_and_verdicts_are_whole_after_a_kill(study, tmp_path):
    shutil.copytree(study.results, tmp_path / "results")
    again = ("--replicates", "2", "--results", str(tmp_path / "results"))
    words = ("figure", "figure2", *again, "then", "verify", "figure2", *again)
    names = [f"figure2{end}" for end in (".pdf", ".png", ".csv", "-verdicts.md", "-verdicts.json")]
    repro(*words)
    whole = {name: (tmp_path / "results" / name).read_bytes() for name in names}
    for last in range(0, 15, 4):
        for name in names:
            (tmp_path / "results" / name).unlink(missing_ok=True)
        run = subprocess.run([sys.executable, "-c", KILLED_AT, str(last), *words], cwd=ROOT, capture_output=True)
        assert run.returncode == -9
        left = {path.name: path.read_bytes() for path in (tmp_path / "results").glob("figure2*")}
        assert left == {name: whole[name] for name in left} and len(left) == (last + 1) // 3


def foreign(path: Path) -> bytes:
    content = b"index,score\n" + b"1,2\n" * 99
    path.write_bytes(content)
    return content


@pytest.mark.parametrize(
    "words",
    [
        (*SELECT, "--out", "{}/x.h5"),
        (*SELECT, "--force", "--out", "{}/x.h5"),
        ("pretrain", "--dataset", "digits", "-t", 2, *TINY, *CPU, "--out", "{}/x.h5"),
        ("export", "{subset}", "--out", "{}/x.csv"),
        ("export", "{subset}", "--out", "{}/x.parquet"),
        ("plan", "figure2", "--results", "{}", "--make", "{}/x.mk"),
        ("report", "figure2", "--results", "{}", "--out", "{}/x.html"),
        ("archive", "figure2", "--replicates", 2, "--results", "{results}", "--out", "{}/x.zip"),
        ("--log", "{}/x.log", "inspect", "{subset}"),
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
@pytest.mark.parametrize("kind", ["text", "artifact"])
def test_a_file_of_another_kind_is_never_overwritten(words, kind, study, subset, tmp_path):
    words = [str(word).format(tmp_path, subset=subset, results=study.results) for word in words]
    out = Path(next(word for word in words if word.startswith(f"{tmp_path}/x.")))
    if kind == "artifact" and out.suffix == ".h5":
        shutil.copy(study.results / "digits" / "scores.h5", out)
    elif kind == "artifact":
        shutil.copy(subset, out)
    else:
        foreign(out)
    content = out.read_bytes()
    said = complaint(*words)
    assert str(out) in said and "choose another --" in said
    assert out.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    "words",
    [
        (*SELECT, "--out", "x.h5"),
        ("export", "{subset}", "--out", "x.csv"),
        ("export", "{subset}", "--out", "x.parquet"),
        ("plan", "figure2", "--speed", 250_000, "--results", ".", "--make", "x.mk"),
        ("report", "figure2", "--results", ".", "--out", "x.html"),
        ("archive", "figure2", "--replicates", 2, "--results", "{results}", "--out", "x.zip"),
        ("--log", "x.log", "inspect", "{subset}"),
    ],
    ids=lambda words: words[-1],
)
def test_a_file_of_its_own_kind_is_and_links_stay(words, study, subset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(word).format(subset=subset, results=study.results) for word in words]
    repro(*words)
    name = next(word for word in words if word.startswith("x."))
    (tmp_path / "elsewhere").mkdir()
    target = Path(name).rename(tmp_path / "elsewhere" / name)
    Path(name).symlink_to(target)
    repro(*words)
    assert Path(name).is_symlink() and target.is_file() and not target.is_symlink()
    target.unlink()  # a link that leads nowhere yet
    repro(*words)
    assert Path(name).is_symlink() and target.is_file()


def test_networks_replace_nothing(tmp_path):
    source = tmp_path / "p.h5"
    repro("pretrain", "--dataset", "digits", "-t", 2, *TINY, *CPU, "--out", source)
    foreign(tmp_path / "x.safetensors")
    words = ("export", source, "--replicate", 0, "--part", "rewind", "--out")
    assert "is there and is a text file, not the same network" in complaint(*words, tmp_path / "x.safetensors")
    for _ in range(2):
        repro(*words, tmp_path / "y.safetensors")
    other = ("export", source, "--replicate", 1, "--part", "rewind", "--out", tmp_path / "y.safetensors")
    assert "is there and is a safetensors file, not the same network" in complaint(*other)


LONG = "x" * 243


@pytest.mark.parametrize(
    "out, said",
    [
        ("folder", "is a folder: give the name of a file in it"),
        ("", "is empty"),
        (LONG, "has a name of 243 bytes"),
        (b"caf\xe9.h5", "is not UTF-8: choose another name"),
        ("/dev/null", "/dev/null is no ordinary file"),
        ("pipe", "is no ordinary file"),
        ("folder/..", "is a folder"),
    ],
)
@pytest.mark.parametrize("command", ["select", "pretrain", "imp", "export"])
def test_a_bad_out_is_noticed_before_the_work(out, said, command, subset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    if command == "export" and out in ("folder", "", "folder/.."):
        return  # a folder takes the table
    words = {
        "select": SELECT,
        "export": ("export", subset),
        "pretrain": ("pretrain", "--dataset", "digits", "-t", 10**5, *TINY[:2], "--steps", 10**6),
        "imp": ("imp", subset),
    }[command]
    if command == "imp":
        repro("pretrain", "--dataset", "digits", "-t", 2, *TINY, *CPU, "--out", "p.h5")
        words = ("imp", "p.h5", "--levels", 2)
    before = sorted(os.listdir(os.fsencode(tmp_path)))
    told = complaint(*words, "--out", os.fsdecode(out))
    assert said in told and len(told) < 400
    assert sorted(os.listdir(os.fsencode(tmp_path))) == before


def test_force_begins_the_same_kind_anew(subset, tmp_path):
    shutil.copy(subset, tmp_path / "x.h5")
    assert "computed 3, reused 0" in repro(*SELECT[:-1], 3, "--force", "--out", tmp_path / "x.h5").stdout


def test_the_longest_name_can_be_written(tmp_path):
    out = tmp_path / ("x" * (file_kinds.LONGEST - 5) + ".work")
    repro(*SELECT, "--out", out)
    assert store.read(out).kind == "subset"


@pytest.mark.heavy
@pytest.mark.parametrize(
    "redirect, status, said",
    [
        (">&-", 1, "Error: cannot print to standard output (it is closed): what was made is kept\n"),
        (">/dev/full", 1, "Error: cannot print to standard output (no space left on device): what was made is kept\n"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 1, ""),
        ("<&- >&- 2>&-", 1, ""),
    ],
)
def test_standard_streams_that_are_closed_or_full(redirect, status, said, subset, tmp_path):
    command = f"{sys.executable} -m repro {' '.join(map(str, SELECT))} --out x.h5 then inspect x.h5 {redirect}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, said)
    assert store.read(tmp_path / "x.h5").content_sha256 == store.read(subset).content_sha256
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_verdict_files_are_json(study, tmp_path):
    repro("verify", "figure2", "--replicates", 2, "--results", study.results)
    assert json.loads((study.results / "figure2-verdicts.json").read_text(encoding="utf-8"))["verdicts"]


@pytest.mark.parametrize(
    "words",
    [
        ("select", "--kind", "easy", "--size", 9, "--dataset", "digits", "--scores", "{}.csv", "--out", "x.h5"),
        ("select", "--kind", "easy", "--size", 9, "--dataset", "digits", "--scores", "{}.npy", "--out", "x.h5"),
        ("select", "--kind", "easy", "--size", 9, "--scores", "{}.h5", "--out", "x.h5"),
        ("pretrain", "--dataset", "digits", "-t", 2, *TINY, "--labels", "{}.csv", "--out", "x.h5"),
        ("pretrain", "--dataset", "digits", "-t", 2, *TINY[2:], "--network", "{}.py:Net", "--out", "x.h5"),
        ("barrier", "{}.pt", "{}.pt", "--network", "cifar_resnet8_w4", "--dataset", "digits"),
        ("imp", "{}.h5", "--levels", 1, "--out", "x.h5"),
        ("inspect", "{}.h5"),
        ("export", "{}.h5", "--out", "x.csv"),
        ("plan", "{}.py"),
        ("reseal", "{}.h5"),
        ("verify", "--archive", "{}.zip"),
        ("--log", "{}.log", "ls"),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", ["zero", "pipe"])
def test_nothing_waits_for_a_device_or_a_pipe(words, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ending in ("csv", "npy", "h5", "py", "pt", "zip", "log"):
        if device == "pipe":
            os.mkfifo(f"x{ending}.{ending}")
        else:
            Path(f"x{ending}.{ending}").symlink_to("/dev/zero")
    words = [re.sub(r"\{\}\.(\w+)", r"x\1.\1", str(word)) for word in words]
    before = sorted(os.listdir())
    with no_hang():
        said = repro(*words, code=None)
    assert said.exit_code in (1, 2) and said.stderr.splitlines()[-1].startswith("Error: ")
    assert sorted(os.listdir()) == before
