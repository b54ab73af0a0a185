"""TensorBoard: the training loss of every network, and what is measured of every piece."""

import re
import sys
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from repro.errors import UsageError
from repro.train.job import Job
from repro.train.losses import Losses

LOSS = "training_loss"
RUN = re.compile(r"(.*\b(?:replicate|fold)_\d+)/?(.*)")  # a piece: who (the run), and what of it (the tag)


def require_tensorboard() -> None:
    """Raises UsageError where the package is not installed."""
    if find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard, which is not installed: run make .venv/.extras")


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
            from torch.utils.tensorboard import SummaryWriter  # an extra

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
    """No traceback of what tensorboard's threads raise: their callers are told it as well."""
    others = threading.excepthook

    def handle(args):
        if type(args.thread).__module__.partition(".")[0] != "tensorboard":
            others(args)

    threading.excepthook = handle
