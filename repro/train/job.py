"""What is trained, how far it has come, and who looks on."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from repro.recipes.training import Training

NEVER = -1


@dataclass(frozen=True)
class Job:
    """One network's stretch of training.

    Arguments:
        vector: [layout.size] parameters and float buffers at the first step.
        subset: int64 [M] dataset indices it trains on.
        start, stop: steps [start, stop), counted from the random initialisation.
        seed, replicate: address of its random streams: data order and augmentation.
        mask: bool [num_prunable], or None for dense.
        labels: int64 [N] of the whole data set, when they are not the data set's own.
        lr_scale: factor on the recipe's learning rate.
        warmup: steps over which the rate rises linearly, from 0 at step 0 to the recipe's at this step (protocol
            section 10).
        then: int64 [M'] dataset indices it trains on from step ``warmup`` on, with weights, momentum and clock carried
            over; None is ``subset`` throughout.
        role: prefix of the random streams, for networks that must not share a replicate's data order.
    """

    vector: Tensor
    subset: np.ndarray
    start: int
    stop: int
    seed: int
    replicate: int
    mask: Tensor | None = None
    labels: Tensor | None = None
    lr_scale: float = 1.0
    warmup: int = 0
    then: np.ndarray | None = None
    role: str = ""

    def rate(self, training: Training, step: int) -> float:
        """Learning rate of the update number ``step``."""
        rising = min(1.0, step / self.warmup) if self.warmup else 1.0
        return training.lr_at(step) * self.lr_scale * rising


class Observer(Protocol):
    """Something that looks at every training step, and whose arrays are part of a checkpoint."""

    state: dict[str, np.ndarray]

    def __call__(self, step: int, rows: list[int], index: Tensor, logits: Tensor) -> None:
        """After a step: job numbers, dataset indices int64 [R, B] of the batch, logits [R, B, K] before the update.

        The weights may be some steps further by then: it is called for a block of steps at once.
        """


@dataclass
class Progress:
    """State of a cohort in mid-training: what a checkpoint holds. Row j belongs to job j."""

    step: int
    vectors: Tensor
    momentum: Tensor
    diverged_at: np.ndarray
    seconds: float = 0.0
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    engines: dict[int, str] = field(default_factory=dict)
    """By job, the engine that trained it in this process."""
