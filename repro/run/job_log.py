"""One log per job: what its process printed, whether it runs, and how its last attempt ended.

An attempt begins with a line `# began TIME, process N on HOST: repro …` and ends with `# ended TIME: done` or
`# ended TIME: exit status 2: SENTENCE`. A killed attempt has no last line. The process locks the log as long as it
lives, so that no two processes do the same job; the kernel frees the lock even of a killed one.
"""

import fcntl
import os
import platform
import re
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from repro.errors import RunError, UsageError
from repro.store import files
from repro.store.file_kinds import require_replaceable

PROGRESS_SECONDS = 30  # a terminal's progress line is kept this often
STOPPED = "it was killed, ran out of its time limit or memory, or its machine went down"
_BEGAN = re.compile(r"# began (\S+), (process \d+ on \S+): (.*)")
_ENDED = re.compile(r"# ended (\S+): (?:(done)|exit status \d+(?:: (.*))?)")
_ESCAPES = re.compile(r"\x1b\[[\d;]*[A-Za-z]|\r")


@dataclass(frozen=True)
class Attempt:
    """An attempt at a job, read from its log.

    Arguments:
        state: 'running'; 'done'; 'failed', with an exit status; or 'stopped', by a signal or with its machine.
        owner: 'process 123 on HOST'.
        command: 'repro pretrain … then imp …'.
        sentence: why, for 'failed' and 'stopped'; '' where the process gave no reason.
        began, ended: with time zone; ended is None for 'running' and 'stopped'.
    """

    state: str
    owner: str
    command: str
    sentence: str
    began: datetime
    ended: datetime | None


def last_attempt(path: str | Path) -> Attempt | None:
    """The last attempt in a log, or None where there is none. The job is neither delayed nor disturbed."""
    path, before = Path(path), None
    while True:
        try:
            with files.open_regular(path) as file:
                text = file.read().decode(errors="replace")
        except (OSError, UsageError):
            return None
        found = _parse(text)
        if found is None or found.state != "running" or _held(path):
            return found
        if text == before:  # read twice: it may end between reading and looking for the lock
            return Attempt("stopped", found.owner, found.command, STOPPED, found.began, None)
        before = text


def _parse(text: str) -> Attempt | None:
    lines = text.splitlines()
    starts = [(k, match) for k, line in enumerate(lines) if (match := _BEGAN.fullmatch(line)) and _time(match[1])]
    if not starts:
        return None
    start, begin = starts[-1]
    said = lines[start + 1 :]
    end = next((match for line in reversed(said) if (match := _ENDED.fullmatch(line)) and _time(match[1])), None)
    state = "running" if end is None else "done" if end[2] else "failed"
    return Attempt(state, begin[2], begin[3], (end and end[3]) or "", _time(begin[1]), end and _time(end[1]))


def _time(text: str) -> datetime | None:
    """The time, or None for text that is no time with a zone: a damaged line counts as absent."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def _held(path: Path) -> bool:
    """Whether a process holds the log's lock. The shared lock taken here ends at once, and who waits tries again."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, where no job can run either
        return False
    return False


class Record:
    """An attempt being recorded.

    Arguments:
        quiet: print to the log alone, until `failed`: the sentence is for the user.
    """

    def __init__(self, path: Path, file: TextIO, *, quiet: bool):
        self.path, self.file, self.quiet, self.sentence, self.shown = path, file, quiet, "", float("-inf")
        self.broken = False

    def failed(self, sentence: str) -> None:
        """Note the sentence with which the command fails, before it is printed."""
        self.sentence, self.quiet = " ".join(sentence.split()), False

    def keep(self, text: str) -> None:
        """Write what was printed. A line that a terminal rewrites is kept every half minute."""
        if text.startswith("\r"):
            line, now = _ESCAPES.sub("", text).strip(), time.monotonic()
            if not line or now - self.shown < PROGRESS_SECONDS:
                return
            self.shown, text = now, f"{line}\n"
        try:
            if not self.broken:
                self.file.write(text)
        except OSError as error:  # the work is worth more than its log
            self.broken, self.quiet = True, False
            reason = (error.strerror or str(error)).lower()
            print(f"warning: cannot write {self.path} ({reason}): the log ends here, the work goes on", file=sys.stderr)

    def mark(self, line: str) -> None:
        """Write a line that begins or ends an attempt, and flush it, so that other machines see it at once."""
        self.keep(f"# {line}\n")
        try:
            os.fsync(self.file.fileno())
        except OSError:  # a pipe, or a full disk that `keep` has told of
            pass


class _Copy:
    """A text stream whose text also goes to the log, or only there."""

    def __init__(self, stream: TextIO, record: Record):
        self._stream, self._record = stream, record

    def write(self, text: str) -> int:
        self._record.keep(text)
        return len(text) if self._record.quiet else self._stream.write(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):  # isatty, flush, encoding …
        return getattr(self._stream, name)


@contextmanager
def recorded(path: str | Path, words: Sequence[str], *, quiet: bool = False) -> Iterator[Record]:
    """Records what this process prints to sys.stdout and sys.stderr as an attempt at `repro WORDS`.

    Waits for another process that holds the log. Raises RunError when the log cannot be written or locked.
    """
    path = Path(path)
    require_replaceable(path, "log", option="--log")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _held_by_us(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunError(f"cannot write the log {path} ({reason}): choose another --log") from error
    record, streams = Record(path, file, quiet=quiet), (sys.stdout, sys.stderr)
    command = " ".join(shlex.join(["repro", *words]).split())
    record.mark(f"began {_now()}, process {os.getpid()} on {platform.node()}: {command}")
    sys.stdout, sys.stderr = _Copy(sys.stdout, record), _Copy(sys.stderr, record)
    ending = "done"
    try:
        yield record
    except SystemExit as ended:
        if ended.code:
            ending = _status(ended.code, record.sentence)
        raise
    except BaseException as error:
        record.keep(traceback.format_exc())  # the interpreter prints it on the terminal
        ending = _status(1, " ".join("".join(traceback.format_exception_only(error)).split()))
        raise
    finally:
        sys.stdout, sys.stderr = streams
        record.mark(f"ended {_now()}: {ending}")
        try:
            file.close()
        except OSError:  # the full disk that `keep` has told of
            pass


def _held_by_us(path: Path) -> TextIO:
    said = False
    while True:
        if (file := files.acquire(path)) is not None:
            file.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
            return file
        if not said:
            attempt = last_attempt(path)
            owner = attempt.owner if attempt else "another process"
            print(f"waiting: {path} is held by {owner}", file=sys.stderr, flush=True)
            said = True


def _status(code, sentence: str) -> str:
    return f"exit status {code if isinstance(code, int) else 1}" + (f": {sentence}" if sentence else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
