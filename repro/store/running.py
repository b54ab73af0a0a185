"""Where a command at work is: a small JSON file in its artifact's work folder, and the line of progress made of it."""

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from repro.errors import RunError
from repro.store import files
from repro.store.work import PROGRESS, folder_of


@dataclass(frozen=True)
class Running:
    """What a command says of itself; `str` is its line of progress.

    Arguments:
        command: 'imp all-t20'.
        piece: the place in the command of the networks trained now, 'level 3 of 10 (2 networks)'.
        step: their step; None while they are measured.
        steps: their last step.
        per_epoch: steps of an epoch; 0 where the line counts steps.
        images: images a second, or None before that is known.
        left: seconds of work left in the command, or None before that is known.
    """

    command: str
    piece: str
    step: int | None
    steps: int
    per_epoch: int
    images: float | None
    left: float | None

    def __str__(self) -> str:
        parts = [f"{self.command}: {self.piece}"]
        if self.step is None:
            parts.append("measuring")
        elif self.per_epoch:
            parts.append(f"epoch {-(-self.step // self.per_epoch)} of {-(-self.steps // self.per_epoch)}")
        else:
            parts.append(f"step {self.step:,} of {self.steps:,}")
        if self.images:
            parts.append(f"{self.images:,.0f} images/s")
        if self.left is not None:
            parts.append(f"{spoken(self.left)} left")
        return ", ".join(parts)

    def write(self, artifact: Path, process: str) -> None:
        """Replaces what ``process`` has said before. A disk that refuses it is no reason to stop the work."""
        path = folder_of(artifact) / PROGRESS
        if path.parent.is_dir():
            with suppress(RunError):
                files.write_whole(path, [json.dumps(asdict(self) | {"process": process}).encode()], lasting=False)

    @classmethod
    def read(cls, artifact: Path, process: str) -> "Running | None":
        """What ``process`` last said; None where it has said nothing yet, or where the file is another version's."""
        try:
            found = json.loads((folder_of(artifact) / PROGRESS).read_text(encoding="utf-8"))
            if found.pop("process") != process:
                return None  # of an attempt that was stopped
            running = cls(**found)
            str(running)
            return running
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return None


def spoken(seconds: float) -> str:
    """A time, rounded up, as '50 s', '4 min', '3.5 h' or '12 days'."""
    for unit, name, digits in ((1, "s", 0), (60, "min", 0), (3600, "h", 1)):
        if seconds < 100 * unit * (1 if unit < 3600 else 0.6):
            return f"{math.ceil(seconds / unit * 10**digits) / 10**digits:g} {name}"
    return f"{math.ceil(seconds / 86400)} days"
