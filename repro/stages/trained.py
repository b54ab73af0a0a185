"""Networks at the end of their training: which of them diverged, and the columns of a table that they fill."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from torch import Tensor

from repro.engines import Report
from repro.errors import RunError
from repro.train.evaluate import Predictions
from repro.train.job import NEVER, Job, Progress


@dataclass
class Trained:
    """A cohort at the end of its training, and which of its networks diverged. All stages decide by this one rule:

    A network has diverged when a loss during its training, a number of its state, or a logit in a measurement of it
    (`repro.stages.trainer.Trainer.measure`) is not finite.

    engines, pieces: by network. report: for its measurements.
    diverged_at: int64 [R], the step of the first loss that was not finite; the last step where only the state or a
    logit is not finite; else -1.
    """

    jobs: Sequence[Job]
    state: Progress
    engines: list[str]
    pieces: Sequence[str] = ()
    report: Report = None
    diverged_at: np.ndarray = field(init=False)

    def __post_init__(self):
        self.diverged_at = self.state.diverged_at.copy()
        self.lose(~self.state.vectors.isfinite().all(1).numpy())

    def lose(self, lost: np.ndarray) -> None:
        """These networks, bool [R], have diverged by the end of their training."""
        stops = [job.stop for job in self.jobs]
        self.diverged_at = np.where(lost & (self.diverged_at == NEVER), stops, self.diverged_at)

    @property
    def vectors(self) -> Tensor:
        """[R, layout.size]."""
        return self.state.vectors

    @property
    def diverged(self) -> np.ndarray:
        """bool [R]."""
        return self.diverged_at != NEVER

    def networks(self, seen: Sequence[dict[str, Predictions]]) -> list["Network"]:
        """Each network, with what it predicts on each split."""
        seconds = self.state.seconds / len(self.jobs)  # a network's share of the time that the training took
        pieces = self.pieces or [""] * len(self.jobs)
        each = zip(pieces, self.jobs, self.vectors, seen, self.diverged_at.tolist(), self.engines)
        return [Network(*known, at, seconds, engine) for *known, at, engine in each]


@dataclass(frozen=True)
class Network:
    """One trained network: its piece and job, its numbers [layout.size], and its predictions by split.

    Its other properties are columns of tables: acc and loss of its test images, train_acc and train_loss of all its
    training images, without augmentation; losses in nats. ``acc`` is chance, 1/classes, for a network that diverged.
    """

    piece: str
    job: Job
    vector: Tensor
    on: dict[str, Predictions]
    diverged_at: int
    seconds: float
    engine: str

    def columns(self, *names: str) -> dict:
        """Some of its columns, in this order."""
        return {name: getattr(self, name) for name in names}

    @property
    def diverged(self) -> bool:
        return self.diverged_at != NEVER

    @property
    def acc(self) -> float:
        test = self.on["test"]
        return 1 / test.logits.shape[1] if self.diverged else test.accuracy

    @property
    def loss(self) -> float:
        return self.on["test"].loss

    @property
    def train_acc(self) -> float:
        return self.on["train"].accuracy

    @property
    def train_loss(self) -> float:
        return self.on["train"].loss


def advice(diverged_at: int, first: int, lr: float) -> str:
    """What to do about a loss that was not finite at step ``diverged_at`` of a training from step ``first`` on."""
    if diverged_at == first:
        weights = "the weights it starts from, and at " if first else ""
        return (
            f"that was before any update, so the learning rate (={lr}) is not why: look at {weights}what its forward "
            "gives in training mode"
        )
    return f"lower --lr (={lr})"


def divergence(name: str, diverged: pd.DataFrame, hint: str, *, all_lost: bool, then: str = "") -> list[str]:
    """The warning about replicates that diverged, if there are any.

    Arguments:
        name: of the artifact.
        diverged: the rows of its table that diverged.
        all_lost: whether nothing else is in the table, for which RunError is raised.
        then: what happens to them, ' and count as chance'.
    """
    if all_lost:
        since = ""
        if "diverged_at" in diverged:  # levels that could not begin have none
            since = f" from step {diverged.diverged_at[diverged.diverged_at != NEVER].min()}"
        raise RunError(f"all replicates of {name} diverged (loss not finite{since}): {hint} and pass --force")
    if diverged.empty:
        return []
    return [f"warning: replicates {sorted(set(diverged.replicate))} diverged{then}: {hint}"]
