"""How far a command is: its work, what is left of it, a line on stderr, and a state that `repro status` reads.

Time left is the work left at the rate of the last half minute. Work is counted in images: one trained on counts 1, one
that a network is only measured on counts 1/3, since a forward pass is a third of a step. Work is left for all pieces
that are not kept yet, less what their networks have behind them, checkpoints included. A piece whose network diverged
leaves no work once that is known.
"""

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.data import Passes
from repro.recipes.training import Training
from repro.store.work import Running
from repro.train.job import Job

FORWARD = 1 / 3  # work of an image that a network is only measured on
WINDOW = 30.0  # seconds that a rate is measured over
ENOUGH = 2.0  # seconds that tell a rate
EVERY = {True: 0.5, False: 30.0}  # seconds between lines, on a terminal and elsewhere
WRITTEN = 1.0  # seconds between states in the work folder


def images_between(training: Training, size: int, start: int, stop: int) -> int:
    """Images that a network is trained on from step ``start`` to ``stop``, in passes over ``size`` images."""
    per_pass = Passes(size, training.batch_size, training.drop_last).steps_per_pass
    in_pass = per_pass * training.batch_size if training.drop_last else size

    def until(step: int) -> int:
        whole, rest = divmod(step, per_pass)
        return whole * in_pass + rest * training.batch_size

    return until(stop) - until(start)


def images_of(training: Training, job: Job, stop: int | None = None) -> int:
    """Images that a job is trained on, from its first step to ``stop`` (its last one by default)."""
    stop = job.stop if stop is None else min(max(job.start, stop), job.stop)
    turn = min(max(job.warmup, job.start), stop)
    later = job.subset if job.then is None else job.then
    return images_between(training, len(job.subset), job.start, turn) + images_between(training, len(later), turn, stop)


class Rate:
    """A total, and its rate in the last half minute. The first part is left out: it may have waited for a compiler."""

    def __init__(self) -> None:
        self.total, self.samples = 0.0, deque()

    def add(self, now: float, amount: float) -> None:
        self.total += amount
        if not self.samples or now - self.samples[-1][0] >= WINDOW / 100:
            self.samples.append((now, self.total))
            while len(self.samples) > 2 and now - self.samples[1][0] >= WINDOW:
                self.samples.popleft()

    def at(self, now: float) -> float | None:
        """The rate per second; None as long as too little time has passed to tell."""
        then, before = self.samples[0] if self.samples else (now, 0.0)
        return (self.total - before) / (now - then) if now - then >= ENOUGH and self.total > before else None


class Ticker:
    """One command's progress on stderr: a line rewritten on a terminal, a line every half minute elsewhere.

    `expect` the pieces; `begin` each cohort; call the ticker after its steps (it is a ``report`` of
    `repro.train.loop`) and `measured` after images it is measured on; `finish` the pieces. Only the clock is read: a
    GPU is not waited for, and may be a second behind.

    Arguments:
        title: 'imp all-t20'.
        artifact: in whose work folder `repro status` finds the same as data; None writes none.
    """

    def __init__(self, title: str, artifact: Path | None = None):
        self.title, self.artifact = title, artifact
        self.process = f"process {os.getpid()} on {platform.node()}"  # as in locks and logs
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.pending: dict[str, float] = {}
        self.done = 0.0  # work on pending pieces that is behind the cohort in hand
        self.where = ""
        self.step: int | None = None  # None while measuring
        self.stop, self.per_epoch = 0, 0
        self.shown = self.written = time.monotonic()  # last line, last state
        self.work = Rate()
        self.images = Rate()  # through the networks, by what is being done now

    def expect(self, work: Mapping[str, float]) -> None:
        """Pieces still to do, and their work."""
        self.pending.update(work)

    def begin(self, where: str, jobs: Sequence[Job] = (), training: Training | None = None, done: float = 0.0) -> None:
        """A cohort begins. done: work on its pieces that is behind it already.

        Its steps are shown as epochs where all its jobs have the same ones, and more than one.
        """
        self.where, self.done = where, done
        self.images = Rate()
        self.stop = max((job.stop for job in jobs), default=0)
        sizes = {len(images) for job in jobs for images in (job.subset, job.then) if images is not None}
        epochs = {Passes(size, training.batch_size, training.drop_last).steps_per_pass for size in sizes}
        self.per_epoch = epochs.pop() if len(epochs) == 1 and min(epochs) < self.stop else 0

    def finish(self, pieces: Iterable[str]) -> None:
        """Pieces are kept, or came to nothing."""
        self.done = max(0.0, self.done - sum(self.pending.pop(piece, 0.0) for piece in pieces))

    def __call__(self, step: int, images: int) -> None:
        """The cohort has come to ``step``, by training on ``images`` images since the last call."""
        self._count(step, images, 1.0)

    def measured(self, images: int, work: float = FORWARD) -> None:
        """So many more images have gone through networks that are measured, each of them so much work."""
        self._count(None, images, work)

    def _count(self, step: int | None, images: int, work: float) -> None:
        now = time.monotonic()
        if (step is None) != (self.step is None):
            self.images = Rate()
        self.step = step
        self.images.add(now, images)
        self.work.add(now, images * work)
        self.done += images * work
        if now - self.shown >= EVERY[self.terminal]:
            self.shown = now
            self._show(str(self.state(now)))
        if self.artifact and now - self.written >= WRITTEN:
            self.written = now
            self.state(now).write(self.artifact, self.process)

    def state(self, now: float) -> Running:
        """Where the command is."""
        pace = self.work.at(now)
        left = max(0.0, sum(self.pending.values()) - self.done) / pace if pace else None
        return Running(self.title, self.where, self.step, self.stop, self.per_epoch, self.images.at(now), left)

    def _show(self, text: str) -> None:
        if self.terminal:
            text = f"\r\x1b[K{text[: columns() - 1]}"
        print(text, end="" if self.terminal else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves a clean line behind."""
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def ticker(title: str):
    """A `Ticker` that leaves a clean line behind."""
    tick = Ticker(title)
    try:
        yield tick
    finally:
        tick.close()


def place(what: str, done: int, size: int, total: int) -> str:
    """The next ``size`` of ``total`` things after ``done``: 'networks 9-16 of 24', or 'network 1 of 1'."""
    return f"{what}s {done + 1}-{done + size} of {total}" if size > 1 else f"{what} {done + 1} of {total}"


def columns() -> int:
    """Width of the terminal that stderr is; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
