"""The one training loop: jobs in, trained networks out, in a cohort, with a step checkpoint.

A job is one network's stretch of training, from a step to a step. Jobs of a cohort may differ in everything but the
architecture and the optimizer's constants: weights, mask, subset, labels, learning rate, first and last step.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher, Passes
from repro.errors import RunError
from repro.nets.cohort import Cohort
from repro.train.schedule import Training
from repro.train.streams import stream

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
        """After a step: job numbers, dataset indices int64 [R, B] of the batch, logits [R, B, K] before the update."""


@dataclass
class Progress:
    """State of a cohort in mid-training: what a checkpoint holds. Row j belongs to job j."""

    step: int
    vectors: Tensor
    momentum: Tensor
    diverged_at: np.ndarray
    seconds: float = 0.0
    extra: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class _Order:
    """The data order and augmentation of one job over one of its subsets: drawn once per pass."""

    job: Job
    subset: np.ndarray
    training: Training
    batcher: Batcher
    current: int = NEVER
    index: Tensor = field(default=None, repr=False)
    offsets: tuple[Tensor, ...] | None = field(default=None, repr=False)

    def __post_init__(self):
        self.passes = Passes(len(self.subset), self.training.batch_size, self.training.drop_last)

    def batch(self, step: int) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        number, rows = self.passes.locate(step)
        if number != self.current:
            address = (self.job.seed, self.job.replicate)
            device = self.batcher.device
            order = stream(*address, self.job.role + "order", number).permutation(len(self.subset))
            self.index = torch.from_numpy(self.subset[order]).to(device)
            if self.training.augment:
                drawn = self.batcher.draw(stream(*address, self.job.role + "augment", number), len(order))
                self.offsets = tuple(torch.from_numpy(a).to(device) for a in drawn)
            self.current = number
        return self.index[rows], self.offsets and tuple(a[rows] for a in self.offsets)


def train(
    jobs: list[Job],
    training: Training,
    *,
    cohort_of: Callable[[int], Cohort],
    batcher: Batcher,
    labels: Tensor,
    resume: Progress | None = None,
    checkpoint: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = 60.0,
    report: Callable[[int, int], None] | None = None,
    observe: Observer | None = None,
) -> Progress:
    """Train all jobs to their last step.

    Arguments:
        cohort_of: gives a cohort of R networks (cached by the caller).
        labels: int64 [N] of the data set, on the device.
        resume: a checkpoint of the same jobs to take up from.
        checkpoint: called with the state about every ``checkpoint_seconds``.
        report: called after each step with (step done, images trained on since the last call).
        observe: called after each step; its state is saved with checkpoints and restored when resuming.

    Returns the final state; ``diverged_at`` holds the step of a job's first loss that was not finite, else -1.
    Momentum starts at zero: it is not carried into a job (protocol section 4), only from its ``subset`` to ``then``.
    """
    state = resume or Progress(
        step=min(job.start for job in jobs),
        vectors=torch.stack([job.vector for job in jobs]),
        momentum=torch.zeros(len(jobs), cohort_of(len(jobs)).layout.num_parameters, dtype=jobs[0].vector.dtype),
        diverged_at=np.full(len(jobs), NEVER),
    )
    if observe:
        observe.state.update(state.extra)
        state.extra = observe.state
    first = [_Order(job, job.subset, training, batcher) for job in jobs]
    later = [order if job.then is None else _Order(job, job.then, training, batcher) for job, order in zip(jobs, first)]
    saved, interval = time.monotonic(), checkpoint_seconds
    for begin, end, rows in _segments(jobs, state.step):
        cohort = cohort_of(len(rows))
        _load(cohort, state, rows, [jobs[j].mask for j in rows])
        targets = _targets([jobs[j] for j in rows], labels)
        diverged = torch.full((len(rows),), NEVER, device=cohort.device)
        began = time.monotonic()
        for step in range(begin, end):
            batches = [(first if step < jobs[j].warmup else later)[j].batch(step) for j in rows]
            images, label = _assemble(batcher, batches, targets, cohort.dtype)
            rates = [jobs[j].rate(training, step) for j in rows]
            losses = cohort.step(images, label, rates, momentum=training.momentum,
                                 weight_decay=training.weight_decay, nesterov=training.nesterov)  # fmt: skip
            diverged = torch.where(~losses.isfinite() & (diverged == NEVER), step, diverged)
            if observe:
                observe(step, rows, torch.stack([index for index, _ in batches]), cohort.logits)
            if report:
                report(step + 1, label.numel())
            if checkpoint and time.monotonic() - saved > interval and step + 1 < end:
                state = _store(cohort, state, rows, diverged, step + 1, time.monotonic() - began)
                asked = time.monotonic()
                checkpoint(state)
                began = saved = time.monotonic()
                interval = max(checkpoint_seconds, 20 * (saved - asked))  # saving takes at most a twentieth of the time
        state = _store(cohort, state, rows, diverged, end, time.monotonic() - began)
    return state


def _segments(jobs: list[Job], first: int) -> list[tuple[int, int, list[int]]]:
    """Stretches of steps during which the same jobs are at work: (begin, end, job numbers)."""
    events = sorted({first} | {edge for job in jobs for edge in (job.start, job.stop) if edge > first})
    stretches = []
    for begin, end in zip(events, events[1:]):
        rows = [j for j, job in enumerate(jobs) if job.start <= begin and end <= job.stop]
        if rows:
            stretches.append((begin, end, rows))
    return stretches


def _load(cohort: Cohort, state: Progress, rows: list[int], masks: list[Tensor | None]) -> None:
    cohort.load(state.vectors[rows].to(cohort.device))
    cohort.load_momentum(state.momentum[rows].to(cohort.device))
    dense = torch.ones(cohort.layout.num_prunable, dtype=torch.bool)
    cohort.load_masks(torch.stack([dense if m is None else m.cpu() for m in masks]).to(cohort.device))
    cohort.train()


def _store(cohort: Cohort, state: Progress, rows: list[int], diverged: Tensor, step: int, seconds: float) -> Progress:
    vectors, momentum, diverged_at = state.vectors.clone(), state.momentum.clone(), state.diverged_at.copy()
    vectors[rows] = cohort.vectors().cpu()
    momentum[rows] = cohort.momentum_vectors().cpu()
    for j, at in zip(rows, diverged.tolist()):
        diverged_at[j] = at if diverged_at[j] == NEVER else diverged_at[j]
    return Progress(step, vectors, momentum, diverged_at, state.seconds + seconds, state.extra)


def _targets(jobs: list[Job], labels: Tensor) -> Tensor:
    """Labels [N] when all jobs share the data set's own, else [R, N]."""
    if all(job.labels is None for job in jobs):
        return labels
    return torch.stack([labels if job.labels is None else job.labels.to(labels.device) for job in jobs])


def _assemble(batcher: Batcher, batches: list, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images [R, B, H, W, C] in ``dtype`` and labels [R, B] of one step."""
    if len({len(index) for index, _ in batches}) > 1:
        sizes = sorted({len(index) for index, _ in batches})
        raise RunError(f"batches of one cohort differ in size {sizes}: train those subsets in separate cohorts")
    index = torch.stack([index for index, _ in batches])
    offsets = None
    if batches[0][1] is not None:
        offsets = tuple(torch.stack(parts) for parts in zip(*(offset for _, offset in batches)))
    images = batcher.normalise(batcher.gather(index, offsets), dtype)
    return images, labels[index] if labels.ndim == 1 else labels.gather(1, index)
