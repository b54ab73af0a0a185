"""What killed commands leave: cleaned up by the next command there, and nothing else is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repro import store
from repro.store import work
from tests.command_line import repro
from tests.test_store_writes import CELL, killed_when_ready, start

SELECT = ("select", "--kind", "random", "--dataset", "digits", "--size", 80, "--replicates", 1)


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_locks_and_empty_work_of_killed_commands_go(tmp_path):
    killed_when_ready(
        "lock = store.writer_lock(path); lock.__enter__()\nstore.WorkFolder(path, **CELL)\nready()", tmp_path / "a.h5"
    )
    (tmp_path / "b.h5.lock").touch()
    assert sorted(os.listdir(tmp_path)) == ["a.h5.lock", "a.h5.work", "b.h5.lock"]
    repro(*SELECT, "--out", tmp_path / "x.h5")
    assert os.listdir(tmp_path) == ["x.h5"]


def test_what_is_in_use_or_not_ours_stays(tmp_path):
    running = start(
        "lock = store.writer_lock(path); lock.__enter__()\nstore.WorkFolder(path, **CELL)\nready()", tmp_path / "a.h5"
    )
    assert running.stdout.readline() == "ready\n"
    store.WorkFolder(tmp_path / "kept.h5", **CELL).save("level_0", {"a": np.ones(3)})
    for name, text in (("poetry.lock", "[[package]]"), ("empty.lock", ""), ("mine.mk", "all:")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "mine.work").mkdir()
    (tmp_path / "yours.work").mkdir()
    (tmp_path / "yours.work" / "lineage.json").write_text("{}", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe.lock")
    before = sorted(map(str, tmp_path.rglob("*")))
    work.sweep(tmp_path)
    work.sweep(tmp_path / "none")
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    running.kill()
    running.communicate()
    work.sweep(tmp_path)
    assert sorted(set(before) - set(map(str, tmp_path.rglob("*")))) == [
        str(tmp_path / name) for name in ("a.h5.lock", "a.h5.work", "a.h5.work/lineage.json")
    ]


@pytest.mark.heavy
def test_rules_of_makes_that_are_gone(tmp_path):
    node = os.uname().nodename
    names = {
        f".figure2-{node}-{gone()}.mk": False,
        f".figure2-{node}-{os.getpid()}.mk": True,
        f".figure2-elsewhere-{gone()}.mk": True,
        f".mine-{node}-{gone()}.mk": True,
    }
    for name in names:
        (tmp_path / name).write_text("mine" if name.startswith(".mine") else ".SILENT:\n.PHONY: all \n")
    repro("plan", "figure2", "--results", tmp_path, "--make", tmp_path / "x.mk")
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_a_look_removes_nothing(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "a.h5.lock").touch()
    repro("status", "figure2", "--results", tmp_path)
    assert Path(tmp_path / "digits" / "a.h5.lock").exists() and json.dumps(os.listdir(tmp_path)) == '["digits"]'
