"""What is told of a plan in every state, on real artifacts of the demo cut to seconds, with logs written by hand."""

import dataclasses
import fcntl
import os
import shutil
import sys
from datetime import UTC, datetime

import pytest

from repro import plan, protocol, store
from repro.protocol import DIGITS
from repro.run import status as told
from repro.store.work import Running, folder_of
from repro.study.study import Study
from tests.command_line import CPU, repro


@pytest.fixture(scope="module")
def tiny():
    training = dataclasses.replace(DIGITS.training, steps=6, milestones=(4,))
    p = dataclasses.replace(
        DIGITS,
        network="cifar_resnet8_w4",
        training=training,
        t_star=2,
        replicates=2,
        more_replicates=None,
        levels=1,
        barrier_level=1,
        sweep_levels=(1,),
        scoring=dataclasses.replace(DIGITS.scoring, network="cifar_resnet8_w4", networks=1, training=training),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocol._PROTOCOLS, ("digits", "demo"), p)
        yield p


@pytest.fixture(scope="module")
def begun(tiny, tmp_path_factory):
    """A Figure 2 of which the cell all-t2 is finished and nothing else."""
    results = tmp_path_factory.mktemp("status")
    for step in steps_of(results):
        if step.target.stem in ("pretrain-all-t2", "imp-all-t2"):
            repro(*step.command, *CPU)
    return results


@pytest.fixture
def results(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "results")


def steps_of(results):
    study = Study("figure2", "demo", results=results)
    return plan.steps(study.items(), study.results)


def states(results) -> dict[str, told.State]:
    return {state.step.target.stem: state for state in told.status(steps_of(results)).states}


def log_of(results, stem, *lines):
    """Writes the log of the job that makes an artifact, as an attempt of a process that is no longer."""
    job = next(job for job in plan.as_jobs(plan.unfinished(steps_of(results))) if stem in job.name.split(", "))
    job.log.write_text("\n".join(["# began 2026-11-23T22:00:00+00:00, process 1 on elsewhere: repro x", *lines, ""]))
    return job.log


def test_before_anything_is_made(tiny, tmp_path):
    found = told.status(steps_of(tmp_path / "nowhere"))
    assert {state.word for state in found.states} == {"waiting"} and found.clock is None
    assert found.counts == f"{len(found.states)} waiting; time left not known yet with 1 at once"
    notes = {state.step.target.stem: state.note for state in found.states}
    assert notes["pretrain-all-t2"] == "for its turn" and notes["imp-all-t2"] == "for pretrain-all-t2"
    assert repro("status", "figure2", "--failed", "--results", tmp_path / "nowhere").output == ""


def test_done_and_waiting_with_the_time_that_is_left(results):
    found = states(results)
    assert found["imp-all-t2"].word == "done" and found["imp-all-t2"].made == "level 1 of 1"
    assert found["pretrain-all-t2"].made == "2 of 2"
    other = found["imp-all-t1"]
    run = store.read_header(found["imp-all-t2"].step.target).provenance["runs"][0]
    trained = found["imp-all-t2"].step
    work = [step.images + step.evaluated / 3 for step in (trained, other.step)]
    assert other.seconds == pytest.approx(run["wall_seconds"] * work[1] / work[0])  # of its own kind, by work
    assert found["scores"].seconds > 0 and found["subset-easy256"].seconds == 0
    assert told.status(steps_of(results)).clock > sum(state.seconds for state in found.values())  # and the starts
    lines = repro("status", "figure2", "--results", results).stdout.splitlines()
    assert len(lines) == len(found) + 1 and not any("\x1b" in line for line in lines)
    assert lines[-1].startswith(f"2 done, {len(found) - 2} waiting; about ") and lines[-1].endswith("with 1 at once")


def test_pieces_in_a_work_folder_count(results):
    """The artifact is gone, and its first level lies in the work folder, as after a kill."""
    step = next(step for step in steps_of(results) if step.target.stem == "imp-all-t2")
    whole = store.read(step.target)
    rows = [row for row in whole.table().to_dict("records") if row["level"] == 0]
    from repro.stages.artifact_writer import ArtifactWriter
    from repro.stages.machine import Machine

    inputs = {"pretrain": store.read(step.needs[0])}
    os.remove(step.target)
    with ArtifactWriter(step.target, "imp", whole.recipe, inputs, Machine()) as writer:
        writer.add({row.pop("piece"): ({}, row) for row in rows})
        held = states(results)["imp-all-t2"]  # in the same process: a lock of another open file
    assert held.word == "running" and held.note == f"process {os.getpid()} on {os.uname().nodename}"
    after = states(results)["imp-all-t2"]
    assert (after.word, after.made) == ("waiting", "level 1 of 1")
    assert after.step.images == step.images // 2  # of two levels


def tell(results, stem, left):
    """A state in an artifact's work folder, as the process of `log_of` writes it."""
    target = next(step.target for step in steps_of(results) if step.target.stem == stem)
    folder_of(target).mkdir()
    Running(f"imp {stem}", "level 1 of 1 (2 networks)", 3, 6, 0, 1000.0, left).write(target, "process 1 on elsewhere")


def test_a_running_job_tells_its_own_progress(results):
    earlier = "imp all-t1: level 1 of 1 (2 networks), step 3 of 6, 1,000 images/s, 4 min left"
    log = log_of(results, "imp-all-t1", earlier)  # as a log of an earlier version
    first = "pretrain-all-t1"
    assert states(results)[first].word == "failed"  # nobody holds the log: killed
    with open(log, encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        [silent] = [state for state in told.status(steps_of(results)).states if state.word == "running"]
        tell(results, first, 240.0)
        found = told.status(steps_of(results))
    assert silent.note == "process 1 on elsewhere: starting"
    [state] = [state for state in found.states if state.word == "running"]
    assert state.step.target.stem == first and state.seconds == 240 and found.at_once == 1
    assert state.note == f"process 1 on elsewhere: {earlier}".replace("all-t1", first)
    assert ", 1 running, " in found.counts


def test_without_anything_finished_speed_is_that_of_who_is_running(tiny, tmp_path):
    results = tmp_path / "results"
    (results / "digits").mkdir(parents=True)
    log = log_of(results, "pretrain-all-t1")
    tell(results, "pretrain-all-t1", None)
    with open(log, encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = states(results)
    step = found["imp-all-t1"].step
    assert found["imp-all-t1"].seconds == pytest.approx((step.images + step.evaluated / 3) / 1000)


def test_what_failed_says_why_and_where(results):
    log = log_of(results, "imp-all-t1", "# ended 2026-11-23T22:10:00+00:00: exit status 1: all replicates diverged")
    found = states(results)
    assert found["pretrain-all-t1"].word == "failed"
    assert found["pretrain-all-t1"].note == f"all replicates diverged ({log})"
    assert found["imp-all-t1"].note == "for pretrain-all-t1, which failed"
    lines = repro("status", "figure2", "--failed", "--results", results).stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("failed   pretrain-all-t1") and lines[0].endswith(f"({log})")
    log.write_text(log.read_text() + "# began 2026-11-23T23:00:00+00:00, process 2 on elsewhere: repro x\n")
    assert states(results)["pretrain-all-t1"].note.startswith("stopped, takes up from 0 of 2: ")  # no end: killed
    now = datetime.now(UTC).isoformat(timespec="seconds")
    log.write_text(log.read_text(encoding="utf-8") + f"# ended {now}: done\n", encoding="utf-8")
    assert states(results)["pretrain-all-t1"].word == "waiting"  # it asks for more than that attempt made


def test_files_that_vanish_or_are_damaged(results, monkeypatch):
    for stem in ("imp-all-t2", "pretrain-all-t2"):
        (results / "digits" / f"{stem}.h5").write_bytes(b"half of it")
    work = results / "digits" / "imp-all-t2.h5.work"
    work.mkdir()
    (work / "pieces-00000.h5").write_bytes(b"")
    (work / "lineage.json").write_text("{", encoding="utf-8")
    (results / "digits" / "imp-all-t2.log").write_bytes(b"\xff\x00")
    state = states(results)["imp-all-t2"]
    assert state.word == "failed" and "imp-all-t2.h5" in state.note  # its command would refuse to replace it
    known = steps_of(results)
    (work / "lineage.json").write_text('{"recipe": {}}', encoding="utf-8")
    monkeypatch.setattr(plan.Step, "differing", lambda step, recipe: shutil.rmtree(work, ignore_errors=True) or [])
    assert len(told.status(known).states) == len(known)


def test_a_plan_of_one_network_does_without_what_is_slow_to_import(tmp_path):
    import subprocess

    code = (
        "import sys\nfrom repro import plan\n"
        "from repro.run.status import status\nfrom repro.study.study import Study\n"
        f"s = Study('all', 'demo', results=__import__('pathlib').Path({str(tmp_path)!r}))\n"
        "status(plan.steps(s.items(), s.results))\nassert not {'torch', 'scipy.stats'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
