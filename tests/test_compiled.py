"""What is compiled is kept for the next process, and a cache that is damaged or out of reach costs time alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy
ONE_STEP = """
import numpy as np, torch
from repro.engines.sparse.compiled import call, entry
@entry
def double(x):
    for k in range(len(x)):
        x[k] = 2 * x[k]
x = np.ones(3)
call(double, "floats", x)
call(double, "floats", x)
print(x.tolist())
"""


TOLD = "compiling engine sparse for this CPU"


def compiling(folder, before="", checkout=Path(__file__).parents[1]):
    """What a process that compiles a small function says, with its cache in a folder; ``before`` is run first."""
    (script := folder / "one_step.py").write_text(before + ONE_STEP)
    where = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, str(script)], env=os.environ | where, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[4.0, 4.0, 4.0]\n"), done.stderr
    return done.stderr


def test_compiling_is_told_once_a_machine(tmp_path):
    assert compiling(tmp_path) == "compiling engine sparse for this CPU: half a minute, once\n"
    assert compiling(tmp_path) == ""


def test_a_damaged_cache_is_made_again(tmp_path):
    compiling(tmp_path)
    (kept,) = tmp_path.glob("cache/**/*.nbc")
    kept.write_bytes(kept.read_bytes()[:100])
    assert "once (what was kept is damaged)" in compiling(tmp_path)
    assert compiling(tmp_path) == ""


def test_a_second_checkout_has_a_cache_of_its_own(tmp_path):
    """Numba keeps code by the place of its file, and each is told that it compiles."""
    for name in ("one", "two"):
        shutil.copytree(Path(__file__).parents[1] / "repro", tmp_path / name / "repro")
        assert TOLD in compiling(tmp_path, checkout=tmp_path / name)
    assert len(list(tmp_path.glob("cache/*/engine-*"))) == 2


def test_files_that_cannot_be_locked_are_compiled_all_the_same(tmp_path):
    refused = "import fcntl\ndef flock(*_): raise OSError(95, 'no locks')\nfcntl.flock = flock\n"
    assert TOLD in compiling(tmp_path, refused) and compiling(tmp_path, refused) == ""


def test_a_user_who_is_in_no_list_has_no_home(tmp_path):
    """As in a container that runs as any number: then among temporary files."""
    (tmp_path / "tmp").mkdir()
    unknown = "import os, pwd\ndel os.environ['XDG_CACHE_HOME'], os.environ['HOME']\npwd.getpwuid = {}.__getitem__\n"
    assert TOLD in compiling(tmp_path, unknown) and list(tmp_path.glob("tmp/*/*/**/*.nbc"))


def test_a_user_without_a_home_keeps_it_among_temporary_files(tmp_path):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    assert TOLD in compiling(tmp_path) and compiling(tmp_path) == ""
    assert list(tmp_path.glob("tmp/*/*/**/*.nbc"))


def test_what_others_can_write_is_not_executed(tmp_path):
    (tmp_path / "tmp").write_text("a file", encoding="utf-8")
    compiling(tmp_path)
    (kept,) = tmp_path.glob("cache/*/engine-*")
    kept.chmod(0o777)
    assert "once (not kept: " in compiling(tmp_path)


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    for name in ("cache", "tmp"):
        (tmp_path / name).write_text("a file", encoding="utf-8")
    assert "once (not kept: " in compiling(tmp_path)


def test_a_disk_that_is_full_from_then_on_keeps_nothing(tmp_path):
    full = "from numba.core import caching\ndef full(_): raise OSError(28, 'full')\n"
    assert "once (not kept: " in compiling(tmp_path, full + "caching._CacheLocator.ensure_cache_path = full\n")
