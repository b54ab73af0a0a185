"""What is trained, who observes it, and the state that training goes on from after an interruption."""

import time
from collections.abc import Callable
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
        vector: [layout.size] parameters and float buffers at the first step; None, until it is drawn, for the random
            initialisation.
        subset: int64 [M] dataset indices it trains on.
        start, stop: steps [start, stop), counted from the random initialisation.
        seed, replicate: address of its random streams: data order and augmentation.
        mask: bool [num_prunable], or None for dense.
        labels: int64 [N] of the whole data set, when they are not the data set's own.
        lr_scale: factor on the recipe's learning rate.
        warmup: steps over which the rate rises linearly, from 0 at step 0 to the recipe's at this step (protocol
            section 10); 0 is the recipe's own ``warmup_steps``.
        then: int64 [M'] dataset indices it trains on from step ``warmup`` on, with weights, momentum and clock carried
            over; None is ``subset`` throughout.
        role: prefix of the random streams, for networks that must not share a replicate's data order.
    """

    vector: Tensor | None
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
        """Learning rate of the update number ``step``. Steps after the schedule have its last rate."""
        return training.lr_at(min(step, training.steps - 1), self.warmup or None) * self.lr_scale


class Observer(Protocol):
    """Sees every block of training steps, and has arrays that are part of a checkpoint."""

    state: dict[str, np.ndarray]

    def __call__(self, step: int, rows: list[int], index: Tensor, logits: Tensor) -> None:
        """After a block of K steps from ``step`` on: job numbers, dataset indices int64 [K, R, B] of the batches, and
        logits [K, R, B, C] before each update.
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


class Keeper:
    """The last good state: in memory, to go on from when memory runs out, and as checkpoints when they are due.

    Arguments:
        save: writes a checkpoint; None for none.
        seconds: time between checkpoints, more if saving would take above a twentieth of the time.
        observe: the observer, whose arrays belong to the state.
    """

    def __init__(self, save: Callable[[Progress], None] | None, seconds: float, observe: Observer | None):
        self.save, self.seconds, self.observe = save, seconds, observe
        self.saved, self.interval = time.monotonic(), seconds

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.save is not None and time.monotonic() - self.saved > self.interval

    def checkpoint(self, state: Progress) -> None:
        """Write the state, and keep it."""
        asked = time.monotonic()
        self.save(state)
        self.saved = time.monotonic()
        self.interval = max(self.seconds, 20 * (self.saved - asked))
        self.keep(state)

    def keep(self, state: Progress) -> None:
        """Keep the state in memory."""
        self.state, self.extra = state, {name: array.copy() for name, array in state.extra.items()}

    def recall(self) -> Progress:
        """The state kept last; what the observer has counted since is undone."""
        if self.observe:
            self.observe.state.update({name: array.copy() for name, array in self.extra.items()})
        return self.state
