"""Commands that are killed at every rename, sync and removal, or signalled at random moments: nothing finished is lost.

The same command afterwards ends, with the arrays of a run that nobody disturbed, and nothing else is left over.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from repro.cli import main
from tests.command_line import CPU, TINY, chain_of_artifacts, contents, no_hang, repro

pytestmark = pytest.mark.slow
CALLS = ("replace", "rename", "fsync", "unlink", "rmdir", "ftruncate")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
EACH = 13  # random moments of a command
COMMANDS = {
    "score": lambda made: ("--dataset", "digits", *TINY, "--networks", 2, *CPU),
    "select": lambda made: ("--kind", "easy", "--size", 90, "--replicates", 2, "--scores", made["scores"]),
    "pretrain": lambda made: ("--subset", made["easy"], "-t", 5, *TINY, *CPU),
    "imp": lambda made: (made["rewind"], "--levels", 2, *CPU),
    "branch": lambda made: (made["imp"], "--mask", "shuffled", *CPU),
    "barrier": lambda made: (made["rewind"], "--alphas", 3, *CPU),
    "warmup": lambda made: ("--dataset", "digits", "--subset", made["easy"], "--warmup-steps", "2,4", *TINY, *CPU),
    "gradients": lambda made: ("--dataset", "digits", "-t", 8, "--every", 4, *TINY, *CPU),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return chain_of_artifacts(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def undisturbed(made, tmp_path_factory):
    """{command: the arrays of its artifact}"""
    folder, found = tmp_path_factory.mktemp("undisturbed"), {}
    for command, words in COMMANDS.items():
        repro(command, *words(made), "--out", folder / f"{command}.h5")
        found[command] = contents(folder / f"{command}.h5")
    return found


class Moments:
    """Counts moments of this process, and sends it a signal at the k-th, or never if k is 0."""

    def __init__(self, k: int, number: int):
        self.count, self.k, self.number = 0, k, number

    def one(self) -> None:
        self.count += 1
        if self.count == self.k:
            os.kill(os.getpid(), self.number)

    def at_calls(self) -> None:
        for name in CALLS:
            setattr(os, name, self._guarded(getattr(os, name)))

    def _guarded(self, function):
        def call(*arguments, **options):
            self.one()
            return function(*arguments, **options)

        return call

    def at_functions(self) -> None:
        sys.setprofile(lambda frame, event, argument: self.one() if event == "call" else None)


def run(words: list[str], k: int = 0, number: int = 0, way: str = "at_calls") -> tuple[int, int]:
    """(exit status, moments) of a command in a process of its own; a signal that ended it is negative."""
    receiver, sender = os.pipe()
    if not (pid := os.fork()):
        status = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            moments = Moments(k, number)
            getattr(moments, way)()
            try:
                main(words)
            except SystemExit as ended:
                status = int(ended.code or 0)
            sys.setprofile(None)
            os.write(sender, str(moments.count).encode())
        finally:
            os._exit(status)
    os.close(sender)
    try:
        with no_hang(), open(receiver) as told:
            count = int(told.read() or 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status), count


def holds(words: list[str], out: Path, wanted: dict) -> None:
    assert run(words)[0] == 0
    assert contents(out) == wanted and list(out.parent.iterdir()) == [out]
    out.unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_every_rename_sync_and_removal(command, made, undisturbed, tmp_path):
    out = tmp_path / f"{command}.h5"
    words = [str(word) for word in (command, *COMMANDS[command](made), "--out", out)]
    status, count = run(words)
    assert status == 0 and count > 3 and contents(out) == undisturbed[command]
    out.unlink()
    for k in range(1, count + 1):
        assert run(words, k, signal.SIGKILL)[0] == -signal.SIGKILL
        holds(words, out, undisturbed[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_signalled_at_random_moments(command, made, undisturbed, tmp_path):
    out = tmp_path / f"{command}.h5"
    words = [str(word) for word in (command, *COMMANDS[command](made), "--out", out)]
    status, count = run(words, way="at_functions")
    assert status == 0
    out.unlink()
    statuses = []
    for n, k in enumerate(np.random.default_rng(0).integers(1, count, EACH)):
        number = SIGNALS[n % len(SIGNALS)]
        statuses.append(run(words, int(k), number, "at_functions")[0])
        ends = (-number,) if number == signal.SIGKILL else (-number, 128 + number, 0, 1)  # too late, or while it ended
        assert statuses[-1] in ends
        holds(words, out, undisturbed[command])
    assert sum(status != 0 for status in statuses) > EACH // 2
