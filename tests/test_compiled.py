"""What is compiled is kept for the next process, and a cache that is damaged or out of reach costs time alone."""

import os
import subprocess
import sys
from pathlib import Path

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


def compiling(folder):
    """What a process that compiles a small function says, with its cache in a folder."""
    (script := folder / "one_step.py").write_text(ONE_STEP)
    where = {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
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
    assert compiling(tmp_path) == ""


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert "once (not kept: " in compiling(tmp_path)
