"""The command line for tests: in this process where that will do, in its own where signals and limits matter."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
from click.testing import CliRunner, Result

from repro.cli import main

ROOT = Path(__file__).parents[1]
TINY = ("--network", "cifar_resnet8_w4", "--steps", 12, "--batch-size", 64, "--milestones", "6", "--replicates", 2)
HANG = 900  # seconds after which what should have ended is taken to hang: no test says how long anything takes
CPU = ("--device", "cpu")  # for what is compared bit for bit


class Hang(BaseException):
    """What should have ended did not."""


@contextmanager
def no_hang(seconds: int = HANG):
    """Raises Hang in this process after so many seconds."""

    def ended(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def repro(*words, code: int | None = 0) -> Result:
    """Runs a command in this process. What is no exit status (a traceback for the user) is raised."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert code in (None, result.exit_code), f"exit status {result.exit_code}: {result.output}"
    return result


def one_sentence(stderr: str) -> str:
    """The one sentence of a failed command; click puts its usage line before it."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith(("Usage: ", "Try '"))]
    assert len(lines) == 1 and lines[0].startswith("Error: "), stderr
    return lines[0].removeprefix("Error: ")


def complaint(*words, code: int = 2) -> str:
    """The one sentence with which a command fails."""
    result = repro(*words, code=code)
    assert not result.stdout
    return one_sentence(result.stderr)


def start(*words, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """Starts a command in a process of its own."""
    command = [*launcher, sys.executable, "-m", "repro", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c
    )


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path: Path, process: subprocess.Popen, *, after: Path | None = None) -> None:
    """Until the process has written a file (later than another one); it must not end before."""
    if after:
        wait_for(after, process)
    deadline = time.monotonic() + HANG
    while not _exists(path, after):
        assert process.poll() is None, f"ended before it wrote {path}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no {path} in time"
        time.sleep(0.002)


def _exists(path: Path, after: Path | None) -> bool:
    try:
        return not after or path.stat().st_mtime_ns > after.stat().st_mtime_ns if path.exists() else False
    except FileNotFoundError:  # replaced by a newer one at this moment
        return False


def contents(path: Path, below: str = "", but: tuple[str, ...] = ("table/seconds",)) -> dict:
    """Every array of an artifact, bit for bit, as plain h5py reads it; columns of measured time are left out."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {
        name: (array.dtype.str, array.shape, array.tobytes())
        for name, array in found.items()
        if name.startswith(below) and name not in but
    }


def chain_of_artifacts(folder: Path) -> dict[str, Path]:
    """Artifacts of two replicates on digits, by name, from scores to imp; `whole` is trained to the end."""
    out = {name: folder / f"{name}.h5" for name in ("scores", "easy", "rewind", "imp", "whole")}
    repro("score", "--dataset", "digits", *TINY, "--networks", 2, "--out", out["scores"])
    repro("select", "--kind", "easy", "--size", 80, "--replicates", 2, "--scores", out["scores"], "--out", out["easy"])
    repro("pretrain", "--subset", out["easy"], "-t", 4, *TINY, "--out", out["rewind"])
    repro("pretrain", "--dataset", "digits", "-t", 12, *TINY, "--out", out["whole"])
    repro("imp", out["rewind"], "--levels", 1, "--out", out["imp"])
    return {**out, "folder": folder}
