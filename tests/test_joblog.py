"""What a job's log holds, and what is read from it while the job runs, when it failed and when it was killed."""

import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime

import click
import pytest

from paper_figures.shared.cells import figure2
from repro import plan
from repro.cli import main
from repro.errors import RunError, UsageError
from repro.protocol import DIGITS
from repro.run import job_log
from repro.store import files
from tests.command_line import ROOT, one_sentence, repro

MARK = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
PROCESS = """
import sys, time
from repro.run import job_log
with job_log.recorded(sys.argv[1], ["imp", "a b.h5"]):
    print("imp x: level 1 of 10, epoch 2 of 20, 31,200 images/s, 4 min left", file=sys.stderr)
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def commands(monkeypatch):
    """Commands of the group: `say WORD …` prints on both streams; `fail` does what `commands.fail` is."""

    @click.command()
    @click.argument("words", nargs=-1)
    def say(words):
        click.echo(" ".join(words))
        print("warning: heard", file=sys.stderr)

    @click.command()
    def fail():
        raise commands.fail

    monkeypatch.setitem(main.commands, "say", say)
    monkeypatch.setitem(main.commands, "fail", fail)

    class commands:
        fail = None

    return commands


def test_a_log_holds_both_streams_of_all_commands(commands, tmp_path):
    log = tmp_path / "new" / "x.log"
    before = datetime.now(UTC).replace(microsecond=0)
    said = repro("--log", log, "say", "one two", "then", "say", "three")
    assert (said.stdout, said.stderr) == ("one two\nthree\n", "warning: heard\n" * 2)
    begin, *lines, end = log.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(rf"# began {MARK}, process \d+ on \S+: repro say 'one two' then say three", begin)
    assert lines == ["one two", "warning: heard", "three", "warning: heard"] and re.fullmatch(
        f"# ended {MARK}: done", end
    )
    found = job_log.last_attempt(log)
    assert (found.state, found.sentence, found.progress) == ("done", "", "")
    assert before <= found.began <= found.ended <= datetime.now(UTC)
    repro("--log", log, "say", "again")
    assert log.read_text(encoding="utf-8").count("# began ") == 2 and log.read_text(encoding="utf-8").startswith(begin)


def test_quiet_prints_to_the_log_alone(commands, tmp_path):
    said = repro("--log", tmp_path / "x.log", "--quiet", "say", "one")
    assert (said.stdout, said.stderr) == ("", "")
    assert (tmp_path / "x.log").read_text(encoding="utf-8").splitlines()[1:-1] == ["one", "warning: heard"]


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
@pytest.mark.parametrize(
    ("failure", "status", "sentence"),
    [
        (UsageError("size (=0) is none"), 2, "size (=0) is none"),
        (RunError("no space\nleft"), 1, "no space left"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: what was finished is kept; the same command (without --force) takes it up",
        ),
        (SystemExit(3), 3, ""),
    ],
)
def test_a_failure_is_told_in_the_log_and_to_the_user(commands, tmp_path, failure, status, sentence, quiet):
    commands.fail, log = failure, tmp_path / "x.log"
    said = repro("--log", log, *quiet, "say", "one", "then", "fail", "then", "say", "two", code=status)
    expected = f"exit status {status}: {sentence}" if sentence else f"exit status {status}"
    assert re.fullmatch(f"# ended {MARK}: {re.escape(expected)}", log.read_text(encoding="utf-8").splitlines()[-1])
    found = job_log.last_attempt(log)
    assert (found.state, found.sentence) == ("failed", sentence) and "two" not in found.progress
    if sentence and quiet:
        assert " ".join(said.stderr.split()) == f"Error: {sentence}" and said.stdout == ""
    elif sentence:
        assert " ".join(said.stderr.split()) == f"warning: heard Error: {sentence}" and said.stdout == "one\n"
    if sentence:
        assert "Error: " in log.read_text(encoding="utf-8")


def test_a_defect_leaves_its_traceback(commands, tmp_path):
    commands.fail = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError):
        repro("--log", tmp_path / "x.log", "--quiet", "fail")
    text = (tmp_path / "x.log").read_text(encoding="utf-8")
    assert "Traceback" in text and job_log.last_attempt(tmp_path / "x.log").sentence == "ZeroDivisionError: a defect"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("--quiet", "say"), 2, "--quiet prints to the log alone: add --log FILE"),
        (
            ("say", "then", "--log", "x.log", "say"),
            2,
            "--log and --quiet are for all commands: put them before the first, not after a then",
        ),
        (("--log", "file/x.log", "say"), 1, "cannot write the log file/x.log (not a directory): choose another --log"),
        (("--log", ".", "say"), 2, "--log . is a folder: give the name of a file in it"),
    ],
)
def test_a_log_that_cannot_be(commands, tmp_path, monkeypatch, words, status, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = repro(*words, code=status).stderr.replace("file exists", "not a directory")
    assert one_sentence(said.replace("warning: heard\n", "")) == sentence


class Terminal:
    """A stream that is a terminal."""

    def __init__(self):
        self.shown = []

    def write(self, text: str) -> int:
        self.shown.append(text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_a_terminals_progress_is_kept_every_half_minute(monkeypatch, tmp_path):
    clock, terminal = [0.0], Terminal()
    monkeypatch.setattr(job_log.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", terminal)
    lines = [f"imp x: level {k} of 200, epoch 1 of 20, 5 images/s, 4 min left" for k in range(200)]
    with job_log.recorded(tmp_path / "x.log", ["imp"]):
        assert sys.stderr.isatty()
        for k, line in enumerate(lines):
            clock[0] = k / 2
            print(f"\r\x1b[K{line}", end="", file=sys.stderr)
        print("\r\x1b[K", end="", file=sys.stderr)
        print("warning: hot", file=sys.stderr)
    assert "".join(terminal.shown) == "".join(f"\r\x1b[K{line}" for line in lines) + "\r\x1b[Kwarning: hot\n"
    assert (tmp_path / "x.log").read_text(encoding="utf-8").splitlines()[1:-1] == [*lines[::60], "warning: hot"]
    assert job_log.last_attempt(tmp_path / "x.log").progress == lines[180]


def test_a_full_disk_ends_the_log_and_not_the_work(capsys, tmp_path):
    with open("/dev/full", "w", buffering=1, encoding="utf-8") as full:
        record = job_log.Record(tmp_path / "x.log", full, quiet=True)
        record.keep("one\n")
        record.keep("two\n")
        assert not record.quiet  # else nobody would hear the rest
        with pytest.raises(OSError):
            full.close()
    warning = f"cannot write {tmp_path}/x.log (no space left on device): the log ends here, the work goes on"
    assert capsys.readouterr().err == f"warning: {warning}\n"


def begin(log) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(log)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_one_at_a_time_and_a_killed_one_is_stopped(tmp_path):
    log = tmp_path / "x.log"
    assert job_log.last_attempt(log) is None
    first = begin(log)
    assert first.stdout.readline() == "ready\n"
    found = job_log.last_attempt(log)
    assert (found.state, found.command, found.ended) == ("running", "repro imp 'a b.h5'", None)
    assert found.owner.startswith(f"process {first.pid} on ") and found.progress.endswith("4 min left")
    second = begin(log)
    assert second.stderr.readline() == f"waiting: {log} is held by {found.owner}\n"
    assert job_log.last_attempt(log) == found
    second.kill()
    second.communicate()
    assert job_log.last_attempt(log) == found  # who only waited has left nothing
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    stopped = job_log.last_attempt(log)
    assert (stopped.state, stopped.owner, stopped.progress) == ("stopped", found.owner, found.progress)
    assert stopped.sentence == job_log.STOPPED and stopped.ended is None
    third = begin(log)
    assert third.stdout.readline() == "ready\n" and job_log.last_attempt(log).owner.startswith(f"process {third.pid} ")
    third.communicate("\n")
    assert job_log.last_attempt(log).state == "done" and third.returncode == 0


def test_looking_disturbs_nobody(tmp_path):
    log, over = tmp_path / "x.log", threading.Event()
    log.write_text("# began 2026-11-23T22:00:00+00:00, process 1 on far: repro imp\n", encoding="utf-8")

    def look():
        while not over.is_set():
            assert not isinstance(job_log.last_attempt(log), Exception)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(300):
            files.acquire(log).close()  # AttributeError where it was not had
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("text", "state", "sentence", "progress"),
    [
        ("", None, None, None),
        ("hello\n", None, None, None),
        (
            "# began 2026-11-23T22:00:00+00:00, process 1 on far: repro imp\n# ended 2026-11-23T23:00:00+00:00: done\n"
            "# began 2026-11-24T22:00:00+00:00, process 2 on far: repro imp\n"
            "score a: step 5 of 9, measuring\n\x00\xff\n"
            "warning: 1 of 2 is left\n# ended 2026-11-24T23:00:00+00:00: exit status 2: size (=0): choose 1\n",
            "failed",
            "size (=0): choose 1",
            "score a: step 5 of 9, measuring",
        ),
        (
            "# began 2026-11-23T22:00:00+00:00, process 1 on far: repro imp\n"
            "# ended 2026-11-23T23:00:00+00:00: exit status 3\n"
            "# began 2026-11-24T22:00:00+00:00, process 2 on far: repro imp\nx.h5: computed 2, reused 0\n",
            "stopped",
            job_log.STOPPED,
            "",
        ),
    ],
)
def test_the_last_attempt_of_a_log(tmp_path, text, state, sentence, progress):
    (tmp_path / "x.log").write_bytes(text.encode("latin-1"))
    found = job_log.last_attempt(tmp_path / "x.log")
    assert (found and (found.state, found.sentence, found.progress)) == (state and (state, sentence, progress))
    assert found is None or (found.owner, found.began) == ("process 2 on far", datetime(2026, 11, 24, 22, tzinfo=UTC))


DAMAGED = {
    "a date that is none": b"# began 2026-99-99T00:00:00+00:00, process 7 on here: repro x\n",
    "a date without a zone": b"# began 2026-01-01T00:00:00, process 7 on here: repro x\n",
    "zeros": bytes(3000),
    "no text": b"# began \xff\xfe, process 7 on here: repro x\n# ended \xff: done\n",
    "an end that is none": b"# began 2026-01-01T00:00:00+00:00, process 7 on here: repro x\n# ended now: done\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_is_no_reason_to_fail(name, tmp_path):
    (tmp_path / "x.log").write_bytes(DAMAGED[name])
    found = job_log.last_attempt(tmp_path / "x.log")
    assert found is None if name != "an end that is none" else found.state == "stopped"
    steps = plan.steps(figure2(plan.resize(DIGITS, replicates=1)), tmp_path)
    steps[0].target.parent.mkdir()
    for job in plan.as_jobs(steps):
        job.log.write_bytes(DAMAGED[name])
    assert "artifacts" not in repro("status", "figure2", "--replicates", 1, "--results", tmp_path).stderr


def test_a_log_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "x.log")
    assert job_log.last_attempt(tmp_path / "x.log") is None
