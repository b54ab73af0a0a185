"""A demo figure through a real Slurm: with a fault in one cell and a job that its time limit kills, and then whole."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from repro.run import job_log
from tests import slurm_node, tiny_demo
from tests.command_line import HANG, contents

pytestmark = pytest.mark.heavy
LAUNCH = "LAUNCH=srun --quiet --gpus=1 -c1 -t 1"
FAULTY, LATE = "imp-hard80-t2", "imp-all-t4"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, tiny_environment) -> dict[str, str]:
    """Environment of processes that know the node."""
    if reason := slurm_node.reason_not_to():
        pytest.skip(reason)
    with slurm_node.slurm_node(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**tiny_environment, **environment}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("by-slurm")


def make(slurm, results) -> subprocess.Popen:
    command = tiny_demo.make_command(results.parent / "venv", results, "-j8", "-k", LAUNCH)
    return subprocess.Popen(command, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_in_the_middle(slurm, results) -> None:
    """Stops a job after a level of it was kept, and has Slurm's clock for it run out: its limit is whole minutes."""
    log, pieces = results / "digits" / f"{LATE}.log", results / "digits" / f"{LATE}.h5.work"
    deadline = time.monotonic() + HANG
    while not list(pieces.glob("pieces-*.h5")):
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8") if log.exists() else "never began"
        time.sleep(0.002)
    process = int(job_log.last_attempt(log).owner.split()[1])
    os.kill(process, signal.SIGSTOP)
    number = re.search(rb"\0SLURM_JOB_ID=(\d+)", Path(f"/proc/{process}/environ").read_bytes())[1].decode()
    subprocess.run(["scontrol", "update", f"JobId={number}", "EndTime=now+1"], env=slurm, check=True)


@pytest.fixture(scope="module")
def first(slurm, results):
    """(exit status, stdout, stderr) of a make with a foreign file at one target and a job killed by its time limit."""
    (results / "digits").mkdir()
    (results / "digits" / f"{FAULTY}.h5").write_text("somebody's thesis", encoding="utf-8")
    making = make(slurm, results)
    try:
        stop_in_the_middle(slurm, results)
        return making.communicate(timeout=HANG) + (making.returncode,)
    finally:
        making.kill()


def logs(results):
    return {path.stem: path for path in (results / "digits").glob("*.log")}


def test_a_failing_cell_leaves_the_others_running_and_is_named(first, results, made_by_make):
    stdout, stderr, status = first
    assert status == 2 and not (results / "figure2.csv").exists()
    made = {path.name for path in (results / "digits").glob("imp-*.h5")}
    assert made == {path.name for path in (made_by_make / "digits").glob("imp-*.h5")} - {f"{LATE}.h5"}
    whole = [name for name in made if name != f"{FAULTY}.h5"]
    assert len(whole) == 4
    for name in whole:
        assert contents(results / "digits" / name) == contents(made_by_make / "digits" / name)
    assert "DUE TO TIME LIMIT" in stderr
    attempt = job_log.last_attempt(logs(results)[FAULTY])
    assert attempt.state == "failed" and f"{FAULTY}.h5" in attempt.sentence
    assert job_log.last_attempt(logs(results)[LATE]).state == "stopped"
    at_the_end = stderr.rpartition("Error 1")[2]  # of the make that runs the rules
    assert all(str(logs(results)[cell]) in stderr for cell in (FAULTY, LATE))
    assert attempt.sentence in at_the_end and "computed" not in stdout  # jobs talk to their logs


def test_make_again_takes_up_what_was_killed_and_makes_the_same_figure(first, slurm, results, made_by_make):
    (results / "digits" / f"{FAULTY}.h5").unlink()
    kept = len(list((results / "digits" / f"{LATE}.h5.work").glob("pieces-*.h5")))
    making = make(slurm, results)
    stdout, stderr = making.communicate(timeout=HANG)
    assert making.returncode == 0, stderr
    assert sorted(re.findall(r"^making (.*?):", stdout, re.M)) == [LATE, FAULTY]
    text = logs(results)[LATE].read_text(encoding="utf-8")
    computed, reused = map(int, re.findall(rf"{LATE}.h5: computed (\d+), reused (\d+)", text)[-1])
    assert computed + reused == 2 * (tiny_demo.LEVELS + 1) and reused == 2 * kept > 0
    assert contents(results / "digits" / f"{LATE}.h5") == contents(made_by_make / "digits" / f"{LATE}.h5")
    assert (results / "figure2.csv").read_bytes() == (made_by_make / "figure2.csv").read_bytes()
    assert not list(results.glob(".*.mk"))


def test_every_job_has_one_log_that_begins_and_ends(first, results, made_by_make):
    """After both makes: two attempts at the two, one at each of the others, on a device each."""
    assert logs(results).keys() == logs(made_by_make).keys()
    for name, path in logs(results).items():
        text = path.read_text(encoding="utf-8")
        began, ended = (len(re.findall(rf"^# {word} ", text, re.M)) for word in ("began", "ended"))
        assert (began, ended) == {FAULTY: (2, 2), LATE: (2, 1)}.get(name, (1, 1)), text
        assert job_log.last_attempt(path).state == "done"
