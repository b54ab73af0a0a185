"""One writer at a time where locks are hard: network file systems, looks at them, and two makes on one folder."""

import errno
import fcntl
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from repro import store
from repro.errors import RunError
from repro.run import job_log
from repro.store import files
from tests import tiny_demo
from tests.command_line import HANG, contents

JOBS = ("imp-all-t0", "imp-all-t4")
ALL = tiny_demo.REPLICATES * (tiny_demo.LEVELS + 1)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks(monkeypatch, tmp_path, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = (
        rf"cannot lock {tmp_path}/x\S+ \({os.strerror(number).lower()}\): choose a folder on a file system with "
        r"locks, or have this one mounted with them \(NFS: .*; Lustre: flock\)"
    )
    with pytest.raises(RunError, match=said), store.writer_lock(tmp_path / "x.h5"):
        pass
    with pytest.raises(RunError, match=said), job_log.recorded(tmp_path / "x.log", ["imp"]):
        pass


def test_what_this_node_remembers_of_a_removed_lock_is_not_believed(monkeypatch, tmp_path):
    """NFS: the last holder removed the file we opened, a third makes a new one, and `stat` still knows the old."""
    lock = tmp_path / "x.lock"
    lock.write_text("", encoding="utf-8")
    remembered, flock, calls = os.stat(lock), fcntl.flock, []
    other = open(lock, "a", encoding="utf-8")  # keeps the removed file's number from being given to the new one

    def taken_meanwhile(file, how):
        if not calls:
            lock.unlink()
            lock.write_text("", encoding="utf-8")
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", taken_meanwhile)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *_, **__: remembered)
        held = files.acquire(lock)
    assert len(calls) == 2 and os.path.samestat(os.fstat(held.fileno()), os.stat(lock))
    assert not os.path.samestat(remembered, os.stat(lock))
    held.close()
    other.close()


def test_a_stale_handle_is_opened_again(monkeypatch, tmp_path):
    failures = [OSError(errno.ESTALE, "stale"), OSError(errno.ESTALE, "stale")]

    def opened(*arguments, **options):
        if failures:
            raise failures.pop()
        return open(*arguments, **options)

    monkeypatch.setattr(files, "open", opened, raising=False)
    files.acquire(tmp_path / "x.lock").close()
    assert not failures


def test_files_whose_numbers_change_cannot_be_locked(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_stands", lambda *_: False)
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    with pytest.raises(RunError, match=r"cannot lock .*x.lock \(its files change their numbers\): choose a folder"):
        files.acquire(tmp_path / "x.lock")


def test_a_look_at_a_lock_is_no_writer(monkeypatch, tmp_path):
    """Somebody looks whether it is held at the moment that it is taken."""
    looking = open(tmp_path / "x.h5.lock", "a+", encoding="utf-8")
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(files.time, "sleep", lambda _: looking.close())
    with store.writer_lock(tmp_path / "x.h5"):
        assert looking.closed


def test_temporary_files_of_two_nodes_have_two_names(monkeypatch, tmp_path):
    names = []
    monkeypatch.setattr(os, "replace", lambda source, target: names.append(source.name))
    for node in ("node1", "node2"):
        monkeypatch.setattr(platform, "node", lambda node=node: node)
        files.write_whole(tmp_path / "x.h5", [b""])
    assert names == [f".x.h5.{node}.{os.getpid()}.tmp" for node in ("node1", "node2")]
    files.remove_leftovers(tmp_path, "x.h5")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def plan_rules(tmp_path_factory, tiny_environment):
    """Writes the rules of the figure for a results folder."""

    def write(results):
        rules = results.parent / f"{results.name}.mk"
        words = ("--results", results, "--replicates", str(tiny_demo.REPLICATES), "--levels", str(tiny_demo.LEVELS))
        subprocess.run(
            [
                sys.executable,
                "-m",
                "repro",
                "plan",
                tiny_demo.FIGURE,
                *words,
                "--make",
                rules,
                "--options",
                "--device cpu --checkpoint-seconds 0.001",
            ],
            env=tiny_environment,
            check=True,
            capture_output=True,
        )
        return rules

    return write


@contextmanager
def make(rules, results, environment):
    """Two jobs of the figure; a session of its own, which is killed with all its processes."""
    command = ["make", "-j2", "-f", rules, *(str(results / "digits" / f"{name}.h5") for name in JOBS)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(true) -> None:
    deadline = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check(results, made_by_make) -> list[list[tuple[int, int]]]:
    """That each artifact is the one of make alone. What its processes computed and reused, those that ended."""
    found = []
    for name in JOBS:
        assert contents(results / "digits" / f"{name}.h5") == contents(made_by_make / "digits" / f"{name}.h5")
        log = results / "digits" / f"{name}.log"
        told = re.findall(rf"{name}.h5: computed (\d+), reused (\d+)", log.read_text(encoding="utf-8"))
        found.append([(int(computed), int(reused)) for computed, reused in told])
        assert job_log.last_attempt(log).state == "done"
    assert not [path.name for path in (results / "digits").iterdir() if path.suffix not in (".h5", ".log")]
    return found


@pytest.mark.heavy
def test_two_makes_at_once_compute_nothing_twice(plan_rules, tiny_environment, made_by_make, tmp_path):
    results = tmp_path / "results"
    rules = plan_rules(results)
    with make(rules, results, tiny_environment) as one, make(rules, results, tiny_environment) as other:
        said = [process.communicate(timeout=HANG) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), said
    assert (said[0][1] + said[1][1]).count("waiting: ") == len(JOBS)
    assert check(results, made_by_make) == [[(ALL, 0), (0, ALL)]] * len(JOBS)


@pytest.mark.heavy
def test_kill_of_one_make_frees_the_other(plan_rules, tiny_environment, made_by_make, tmp_path):
    results = tmp_path / "results"
    rules, work = plan_rules(results), results / "digits" / f"{JOBS[0]}.h5.work"
    with make(rules, results, tiny_environment) as first:
        wait_until(lambda: all(job_log.last_attempt(results / "digits" / f"{name}.log") for name in JOBS))
        with make(rules, results, tiny_environment) as second:
            wait_until(lambda: list(work.glob("pieces-*.h5")))
            os.killpg(first.pid, signal.SIGKILL)
            kept = 2 * len(list(work.glob("pieces-*.h5")))
            stdout, stderr = second.communicate(timeout=HANG)
    assert second.returncode == 0, stderr
    [(computed, reused)], others = check(results, made_by_make)
    assert computed + reused == ALL and 0 < kept <= reused
    assert sum(others[-1]) == ALL and sum(each[0] for each in others) <= ALL
