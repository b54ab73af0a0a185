"""Mistakes of all kinds, one small test for each: a sentence, and nothing of the user's changed.

`test_three_hundred` tries many more, in minutes.
"""

import os
import re
import tempfile
from importlib import import_module

import h5py
import numpy as np
import pytest

from repro import store
from repro.cli import figures, group
from repro.data import images
from repro.errors import RunError
from repro.plan.jobs import words_of
from repro.stages import artifact_writer
from repro.store import files, work
from repro.verify import judge
from tests import odd_inputs
from tests.command_line import ROOT, TINY, chain_of_artifacts, complaint, repro

SELECT = ("select", "--kind", "random", "--dataset", "digits", "--size", 80, "--replicates", 1)
PRETRAIN = ("pretrain", "--dataset", "digits", "-t", 1, *TINY)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return chain_of_artifacts(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize(
    "words, said",
    [
        ((*PRETRAIN[:2], "folder:~nosuchuser/x", *PRETRAIN[3:]), "no folder ~nosuchuser/x of images"),
        ((*PRETRAIN, "--network", "~nosuchuser/x.py:Net"), "there is no file ~nosuchuser/x.py"),
        ((*PRETRAIN, "--network", ""), "'--network' is empty: give a value, or leave it out"),
        ((*PRETRAIN, "--lr", "1e39"), r"lr \(=1e\+39\) must be a positive finite number of single precision"),
        ((*PRETRAIN, "--weight-decay", "1e39"), r"weight decay \(=1e\+39\) must be 0 or"),
        ((*PRETRAIN, "--threads", "9" * 20), rf"number of threads \(={'9' * 20}\) must be from 1 to 1024"),
        ((*PRETRAIN, "--network", "x" * 9000), "unknown network 'x+…x+': use"),
    ],
)
def test_values(words, said, tmp_path):
    told = complaint(*words, "--out", tmp_path / "x.h5")
    assert re.match(said, told) and len(told) < 600 and not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_names_of_two_lines_and_not_utf8(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert complaint("inspect", "two\nlines.h5").startswith("two lines.h5 does not exist")
    os.mkdir("caf\udce9")
    (tmp_path / "caf\udce9" / "\udce9.h5").write_bytes(made["easy"].read_bytes())
    assert "easy" in repro("ls", "--results", "caf\udce9").stdout
    repro("export", "caf\udce9", "--out", "x.parquet")
    assert "is not UTF-8: choose another folder" in complaint("report", "figure2", "--results", "caf\udce9")
    repro("plan", "figure2", "--results", "r", "--make", "x.mk", "--options", "--data-dir caf\udce9")
    assert b"--data-dir 'caf\xe9'" in (tmp_path / "x.mk").read_bytes()


def test_a_quote_that_is_not_closed(tmp_path):
    told = complaint("plan", "figure2", "--results", tmp_path, "--make", tmp_path / "x.mk", "--options", "it's")
    assert told == """--options "it's" are not words for a shell (no closing quotation): quote them in pairs"""
    assert words_of("--a 'b c'") == ("--a", "b c")


def test_damaged_hdf5_of_the_user(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("group/score", data=np.arange(1797.0), chunks=(100,), compression="gzip")
    whole = (tmp_path / "s.hdf5").write_bytes((tmp_path / "s.h5").read_bytes()) and (tmp_path / "s.hdf5").read_bytes()
    words = (
        "select",
        "--kind",
        "easy",
        "--dataset",
        "digits",
        "--size",
        9,
        "--replicates",
        1,
        "--scores",
        tmp_path / "s.hdf5",
    )
    codes = []
    for start in range(100, len(whole), 400):
        (tmp_path / "s.hdf5").write_bytes(whole[:start] + bytes(300) + whole[start + 300 :])
        result = repro(*words, "--dry-run", "--out", tmp_path / "x.h5", code=None)  # no traceback
        assert result.exit_code in (0, 2)
        codes.append(result.exit_code)
    assert codes.count(2) >= len(codes) // 2


def test_links_out_of_an_artifact(made, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["group/score"] = np.arange(2)
    (tmp_path / "x.h5").write_bytes(odd_inputs.linked(made["easy"], "other.h5"))
    told = complaint("inspect", tmp_path / "x.h5")
    assert told.startswith(f"{tmp_path / 'x.h5'} has a link to another place at table/far")


def test_recipes_of_somebody_else(made, tmp_path):
    path = tmp_path / "easy.h5"
    for recipe, said in (
        ({"dataset": 3}, "has dataset = 3"),
        ({"size": -1}, "has size = -1"),
        ({"size": True}, "has size = True"),
        ({"dataset": None}, "has no dataset"),
    ):
        path.write_bytes(odd_inputs.resealed(made["easy"], **recipe))
        assert said in complaint("pretrain", "--subset", path, "-t", 1, *TINY, "--out", tmp_path / "x.h5")
    path.write_bytes(odd_inputs.resealed(made["easy"], labels_sha256="0" * 64))
    assert "easy.h5 has no array labels" in complaint(
        "pretrain", "--subset", path, "-t", 1, *TINY, "--out", tmp_path / "x.h5"
    )


def test_a_lock_that_is_none(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.h5.lock").symlink_to("mine")
    (tmp_path / "poetry.lock").write_text("[[package]]")
    for name in ("a.h5", "poetry"):
        assert "is no lock of this program: move it away" in complaint(*SELECT, "--out", tmp_path / name)
    work.sweep(tmp_path)
    assert (tmp_path / "a.h5.lock").is_symlink() and (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "poetry.lock").read_text() == "[[package]]"


def test_links_in_a_circle(tmp_path):
    (tmp_path / "x.h5").symlink_to("y.h5")
    (tmp_path / "y.h5").symlink_to("x.h5")
    assert "is a link that leads back to itself" in complaint(*SELECT, "--out", tmp_path / "x.h5")
    with pytest.raises(RunError, match="(?i)too many levels of symbolic links"):
        files.write_whole(tmp_path / "x.h5", [b"x"])
    assert (tmp_path / "x.h5").is_symlink() and (tmp_path / "y.h5").is_symlink()


def test_a_clock_that_is_set_back(tmp_path, monkeypatch):
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(artifact_writer.time, "time", lambda: 3600.0 * next(hours))
    repro(*SELECT, "--out", tmp_path / "x.h5")
    assert store.read(tmp_path / "x.h5").provenance["runs"][-1]["wall_seconds"] >= 0


def test_no_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)  # none that Python could write to
    with pytest.raises(OSError) as failure:
        tempfile.TemporaryDirectory()
    assert group._told(failure.value).startswith("no temporary file can be written: set TMPDIR")


def test_shortage_of_memory_advises_what_helps(monkeypatch, made, tmp_path):
    def short(*_, **__):
        raise MemoryError("Unable to allocate 5.00 GiB for an array")

    monkeypatch.setattr(images, "_digits", short)
    told = complaint(*PRETRAIN, "--out", tmp_path / "x.h5", code=1)
    assert told == (
        "out of memory (unable to allocate 5.00 gib for an array): "
        "end other programs, or use a machine with more memory"
    )
    monkeypatch.undo()
    monkeypatch.setattr("repro.reading.query.describe", short)
    assert complaint("inspect", made["easy"], code=1) == told


def test_git_is_not_locked(monkeypatch):
    asked, provenance = [], import_module("repro.store.provenance")
    monkeypatch.setattr(provenance, "_ask", lambda *words: asked.append(words) or str(provenance.ROOT))
    provenance._revision.__wrapped__()
    assert asked and all(words[:2] == ("git", "--no-optional-locks") for words in asked)


def test_a_dumb_terminal_gets_no_colours(monkeypatch, tmp_path):
    from click.testing import CliRunner

    words = ["status", "figure2", "--results", str(tmp_path)]
    monkeypatch.setattr(figures, "COLOURS", dict.fromkeys(figures.COLOURS, "red"))
    for term, coloured in (("xterm", True), ("dumb", False)):
        shown = CliRunner(env={"TERM": term}).invoke(group.main, words, color=True).stdout
        assert ("\x1b[" in shown) == coloured


def test_one_replicate_is_said_to_be_too_few():
    from dataclasses import replace

    from repro.protocol import DIGITS
    from repro.verify.outcomes import Evidence

    assert "one replicate gives no interval" in judge.looks(Evidence(), replace(DIGITS, replicates=1))
    assert "one replicate" not in judge.looks(Evidence(), replace(DIGITS, replicates=2))


def test_the_page_counts_what_is_tried():
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if "test_three_hundred.py" in line or line.endswith("| the same |")]
    found = re.findall(r"\| ([\d,]+) \|", "\n".join(rows))
    assert found[:3] == [f"{len(each):,}" for each in odd_inputs.cases().values()]
