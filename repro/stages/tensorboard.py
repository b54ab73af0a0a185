"""TensorBoard: the training loss of every network, and what is measured of every piece."""

import re
import sys
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from repro.errors import UsageError
from repro.train.job import Job

LOSS = "training_loss"
POINTS = 300  # of a training from its first step to its last one
RUN = re.compile(r"(.*\b(?:replicate|fold)_\d+)/?(.*)")  # a piece: who (the run), and what of it (the tag)


def require_tensorboard() -> None:
    """Raises UsageError where the package is not installed."""
    if find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard, which is not installed: run make .venv/.extras")


class Losses:
    """A ``watch`` of `repro.train.loop.train`: mean losses every so many steps, kept on the device until `take`.

    Arguments:
        jobs: those of the training. Points lie at multiples of ``every``, and at each job's last step; that makes about
            `POINTS` of them.

    The mean is over the steps since the last point, or since the training was taken up. Steps that are trained again,
    because memory ran out, count once.
    """

    def __init__(self, jobs: Sequence[Job]):
        self.stops = [job.stop for job in jobs]
        self.every = max(1, -(-(max(self.stops) - min(job.start for job in jobs)) // POINTS))
        self.sums: Tensor | None = None  # of the losses since the last point, float64 [jobs]
        self.index: dict[tuple[int, ...], Tensor] = {}
        self.counts, self.reached = [0] * len(jobs), [-1] * len(jobs)
        self.points: list[tuple[int, list[int], Tensor, list[int]]] = []  # step, job numbers, sums, counts

    def __call__(self, step: int, rows: list[int], losses: Tensor) -> None:
        """Losses [K, R] of the jobs ``rows`` at the steps from ``step`` on. They may be overwritten afterwards."""
        if self.sums is None:
            self.sums = torch.zeros(len(self.stops), dtype=torch.float64, device=losses.device)
        if any(self.reached[j] > step for j in rows):
            self._forget(step, rows)
        end = step + len(losses)
        edges = [*range(step - step % self.every + self.every, end, self.every), end]
        for begin, edge in zip([step, *edges], edges):
            self.sums[self._at(rows)] += losses[begin - step : edge - step].sum(0, dtype=torch.float64)
            for j in rows:
                self.counts[j] += edge - begin
            if whole := [j for j in rows if edge % self.every == 0 or edge == self.stops[j]]:
                self.points.append((edge, whole, self.sums[self._at(whole)], [self.counts[j] for j in whole]))
                self._begin(whole)
        for j in rows:
            self.reached[j] = end

    def _forget(self, step: int, rows: list[int]) -> None:
        """The jobs go back to a step, which is not before the last `take`."""
        self.points = [point for point in self.points if point[0] <= step or not set(point[1]) & set(rows)]
        self._begin(rows)

    def _begin(self, rows: list[int]) -> None:
        self.sums[self._at(rows)] = 0.0
        for j in rows:
            self.counts[j] = 0

    def _at(self, rows: list[int]) -> Tensor:
        """The rows as an index on the device: a list would be sent, and waited for, at every step."""
        if (key := tuple(rows)) not in self.index:
            self.index[key] = torch.tensor(rows, device=self.sums.device)
        return self.index[key]

    def take(self) -> list[tuple[int, int, float]]:
        """Points that are new: (job number, steps done, mean loss in nats)."""
        points, self.points = self.points, []
        if not points:
            return []
        sums = iter(torch.cat([sums for _, _, sums, _ in points]).tolist())  # the device is waited for here alone
        return [(j, step, next(sums) / n) for step, rows, _, counts in points for j, n in zip(rows, counts)]


class Curves:
    """What one command writes to ``folder/<artifact>/<replicate>``, its runs.

    Losses are written with the checkpoints, so that a command that is taken up goes on where they end. Where the folder
    cannot be written to there is one warning, and no more curves: training goes on.

    Arguments:
        path: of the artifact. Its name in ``folder`` is its path below the last ``results``, or else its stem.
        recipe: of the artifact.
        anew: nothing of the artifact is there, and what an earlier command wrote is hidden by TensorBoard.
    """

    def __init__(self, folder: str | Path, path: Path, recipe: dict, *, anew: bool):
        parts = path.absolute().with_suffix("").parts
        below = len(parts) - parts[::-1].index("results") if "results" in parts[:-1] else -1
        self.folder, self.recipe, self.anew = Path(folder).joinpath(*parts[below:]), recipe, anew
        self.writers: dict = {}
        self.open: tuple[list[str], Losses] | None = None
        self.off = False

    def watch(self, pieces: Sequence[str], jobs: Sequence[Job]) -> Losses:
        """A ``watch`` for the training of ``jobs``, one for each of ``pieces``; see `flush`."""
        self.open = list(pieces), Losses(jobs)
        return self.open[1]

    def flush(self) -> None:
        """Write the losses since the last time."""
        if self.open and not self.off:
            pieces, losses = self.open
            self._write((pieces[j], f"{LOSS}/{{}}", step, value) for j, step, value in losses.take())

    def add(self, rows: Iterable[dict]) -> None:
        """Write the numbers that were measured, a row of the table each: its columns of floats that are not NaN.

        They are drawn against the level, or else the step, of the row; where it has neither, against the step that its
        network is trained to.
        """
        points = []
        for row in rows:
            axis = next((name for name in ("level", "step") if name in row), None)
            at = row[axis] if axis else self.recipe.get("t", self.recipe.get("steps", 0))
            piece = "/".join(part for part in row["piece"].split("/") if not part.startswith(f"{axis}_{at}"))
            found = {name: value for name, value in row.items() if isinstance(value, float) and value == value}
            points += [(piece, f"{name}/{{}}", at, value) for name, value in found.items()]
        self._write(points)

    def _write(self, points: Iterable[tuple[str, str, int, float]]) -> None:
        if self.off:
            return
        try:
            written = set()
            for piece, tag, step, value in points:
                run, what = RUN.fullmatch(piece).groups() if RUN.fullmatch(piece) else (piece, "")
                self._writer(run).add_scalar(tag.format(what).rstrip("/"), value, step)
                written.add(run)
            for run in written:
                self.writers[run].flush()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self.off, reason = True, error.strerror or error
        print(
            f"warning: no more curves for TensorBoard, {self.folder} cannot be written to ({reason})", file=sys.stderr
        )

    def _writer(self, run: str):
        if run not in self.writers:
            from torch.utils.tensorboard import SummaryWriter  # an optional package

            _quieten()
            self.writers[run] = SummaryWriter(str(self.folder / run), purge_step=0 if self.anew else None)
        return self.writers[run]

    def close(self) -> None:
        """Close the files; losses since the last checkpoint are not written, since they will come again."""
        try:
            for writer in self.writers.values() if not self.off else ():
                writer.close()
        except OSError as error:
            self._stop(error)


@cache
def _quieten() -> None:
    """Hide the tracebacks of tensorboard's threads, because the caller gets the same error."""
    others = threading.excepthook

    def handle(args):
        if type(args.thread).__module__.partition(".")[0] != "tensorboard":
            others(args)

    threading.excepthook = handle
