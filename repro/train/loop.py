"""The one training loop: jobs in, trained networks out, in a cohort, with a step checkpoint.

A job is one network's stretch of training, from a step to a step. Jobs of a cohort may differ in everything but the
architecture and the optimizer's constants: weights, mask, subset, labels, learning rate, first and last step.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher
from repro.engines import Block, Cohort, Sgd
from repro.errors import RunError
from repro.recipes.training import Training
from repro.train.job import NEVER, Job, Keeper, Observer, Progress
from repro.train.random_streams import DataOrder, send

__all__ = ["NEVER", "Job", "Observer", "Progress", "train"]

MOST_STEPS = 50  # of a block
SECONDS = 1.0  # a block takes about as long: progress is reported and checkpoints are made between blocks
TURN = 200  # steps that a part of a cohort too large for the memory trains before the next part does


def train(
    jobs: list[Job],
    training: Training,
    *,
    cohort_of: Callable[[list[Job]], Cohort],
    batcher: Batcher,
    labels: Tensor,
    resume: Progress | None = None,
    checkpoint: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = 60.0,
    report: Callable[[int, int], None] | None = None,
    observe: Observer | None = None,
    watch: Callable[[int, list[int], Tensor], None] | None = None,
) -> Progress:
    """Train all jobs to their last step.

    Arguments:
        cohort_of: gives a cohort for some of the jobs (cached by the caller).
        labels: int64 [N] of the data set, on the device.
        resume: a checkpoint of the same jobs to take up from.
        checkpoint: called with the state about every ``checkpoint_seconds``.
        report: called after each block of steps with (steps done, images trained on since the last call).
        observe: called after each block of steps; its state is saved with checkpoints and restored when resuming.
        watch: called after each block of steps with (its first step, job numbers, losses [K, R] on the device, before
            the updates). Steps may come again.

    Returns the final state; ``diverged_at`` holds the step of a job's first loss that was not finite, else -1.
    Momentum starts at zero: it is not carried into a job (protocol section 4), only from its ``subset`` to ``then``.

    A cohort that does not fit into the device's memory is trained in halves, from the last state that was kept. Raises
    RunError when a single network does not fit.
    """
    state = resume or Progress(
        step=min(job.start for job in jobs),
        vectors=torch.stack([job.vector for job in jobs]),
        momentum=torch.zeros(len(jobs), cohort_of(jobs).layout.num_parameters, dtype=jobs[0].vector.dtype),
        diverged_at=np.full(len(jobs), NEVER),
    )
    if observe:
        observe.state.update(state.extra)
        state.extra = observe.state
    runner = Runner(jobs, training, batcher, labels, report, observe, watch)
    keeper = Keeper(checkpoint, checkpoint_seconds, observe)
    most = len(jobs)  # as many as are known, or hoped, to fit into the memory together
    for begin, end, rows in _segments(jobs, state.step):
        while begin < end:
            keeper.keep(state)
            parts = parts_of(rows, most)
            stop = end if len(parts) == 1 else min(end, begin + TURN)
            try:
                for part in parts:
                    cohort = None
                    cohort = cohort_of([jobs[j] for j in part])
                    if cohort.too_large and len(part) > 1:
                        raise torch.OutOfMemoryError
                    state = runner.train(cohort, state, part, begin, stop, keeper if len(parts) == 1 else None)
            except torch.OutOfMemoryError:
                state = None
            if state is None:  # outside the handler: the exception keeps the tensors alive that filled the memory
                most = _halve(cohort, len(part), training, batcher.device)
                state = keeper.recall()
                begin = max(begin, state.step)
            else:
                begin = stop
                if begin < end and keeper.due:
                    keeper.checkpoint(state)
    return state


def _halve(cohort: Cohort | None, size: int, training: Training, device: torch.device) -> int:
    """The largest cohort to try after one of ``size`` did not fit, whose memory is freed.

    Raises RunError when there is no smaller one.
    """
    if size == 1:
        raise RunError(
            f"one network with batches of {training.batch_size} does not fit into the free memory of {device}: end "
            "what else runs there, or take a device with more memory or --device cpu"
        )
    if cohort is None or not cohort.too_large:  # else the warning was printed before
        print(
            f"warning: {size} networks do not fit into the free memory of {device} together: training at most "
            f"{-(-size // 2)} at a time",
            file=sys.stderr,
        )
    if cohort:
        cohort.release()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return -(-size // 2)


def parts_of(rows: list, most: int) -> list[list]:
    """The rows in as few parts of at most ``most`` as can be, of nearly equal size."""
    parts, rows = [], list(rows)
    for remaining in range(-(-len(rows) // most), 0, -1):
        size = -(-len(rows) // remaining)
        parts.append(rows[:size])
        rows = rows[size:]
    return parts


def _segments(jobs: list[Job], first: int) -> list[tuple[int, int, list[int]]]:
    """Stretches of steps during which the same jobs are at work: (begin, end, job numbers)."""
    events = sorted({first} | {edge for job in jobs for edge in (job.start, job.stop) if edge > first})
    stretches = []
    for begin, end in zip(events, events[1:]):
        rows = [j for j, job in enumerate(jobs) if job.start <= begin and end <= job.stop]
        if rows:
            stretches.append((begin, end, rows))
    return stretches


class Runner:
    """Trains jobs of one list, some of them at a time.

    Arguments: those of `repro.train.loop.train`.
    """

    def __init__(
        self,
        jobs: list[Job],
        training: Training,
        batcher: Batcher,
        labels: Tensor,
        report: Callable[[int, int], None] | None,
        observe: Observer | None,
        watch: Callable[[int, list[int], Tensor], None] | None,
    ):
        self.jobs, self.training, self.batcher, self.labels = jobs, training, batcher, labels
        self.report, self.observe, self.watch = report, observe, watch
        self.sgd = Sgd(training.momentum, training.weight_decay, training.nesterov, training.label_smoothing)

        def order(job: Job, subset: np.ndarray) -> DataOrder:
            return DataOrder(subset, (job.seed, job.replicate), job.role, training, batcher)

        self.first = [order(job, job.subset) for job in jobs]
        self.later = [one if job.then is None else order(job, job.then) for job, one in zip(jobs, self.first)]

    def train(
        self, cohort: Cohort, state: Progress, rows: list[int], begin: int, end: int, keeper: Keeper | None
    ) -> Progress:
        """The state with the jobs ``rows`` trained as one cohort from step ``begin`` to ``end``.

        With a ``keeper``, checkpoints are made in between.
        """
        jobs = [self.jobs[j] for j in rows]
        _load(cohort, state, rows, [job.mask for job in jobs])
        targets = _targets(jobs, self.labels)
        diverged = torch.full((len(rows),), NEVER, device=cohort.device)
        began, step, pace = time.monotonic(), begin, Pace(cohort.steps_at_once)
        while step < end:
            block = self._block(cohort, rows, step, min(end, step + pace.steps))
            with pace:
                losses, logits = cohort.train(block, self.batcher, targets, self.sgd, logits=self.observe is not None)
            diverged = torch.where(diverged == NEVER, _first_lost(losses, step), diverged)
            if self.observe:
                self.observe(step, rows, block.index, logits)
            if self.watch:
                self.watch(step, rows, losses)
            step += len(block)
            if self.report:
                self.report(step, block.index.numel())
            if keeper and keeper.due and step < end:
                state = _store(cohort, state, rows, diverged, step, began)
                keeper.checkpoint(state)
                began = time.monotonic()
            pace.limit(SECONDS if keeper is None else min(SECONDS, keeper.interval))
        return _store(cohort, state, rows, diverged, end, began)

    def _block(self, cohort: Cohort, rows: list[int], step: int, end: int) -> Block:
        """The steps from ``step`` to ``end``, or to the first whose batches are of another size."""
        size, count = self._batch_size(rows, step), 1
        while step + count < end and self._batch_size(rows, step + count) == size:
            count += 1
        index = torch.empty(count, len(rows), size, dtype=torch.int64, device=self.batcher.device)
        offsets = None
        if self.training.augment:
            offsets = torch.empty_like(index), torch.empty_like(index), torch.empty_like(index, dtype=torch.bool)
        for r, j in enumerate(rows):
            turn = min(max(self.jobs[j].warmup - step, 0), count)  # steps before the job changes its subset
            for order, part, at in (
                (self.first[j], slice(turn), step),
                (self.later[j], slice(turn, None), step + turn),
            ):
                order.batches(at, index[part, r], offsets and tuple(a[part, r] for a in offsets))
        rates = [[self.jobs[j].rate(self.training, step + k) for j in rows] for k in range(count)]
        return Block(index, offsets, send(torch.tensor(rates, dtype=cohort.dtype), cohort.device))

    def _batch_size(self, rows: list[int], step: int) -> int:
        return _one_size((self.first if step < self.jobs[j].warmup else self.later)[j].size(step) for j in rows)


class Pace:
    """How many steps the next block has: what fits into the time allowed, and at most twice those of the last.

    Arguments:
        multiple: they are a multiple of it. How steps are cut into blocks changes no result.
    """

    def __init__(self, multiple: int):
        self.multiple, self.steps, self.took = multiple, multiple, 0.0

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_) -> None:
        self.took = time.monotonic() - self.began

    def limit(self, seconds: float) -> None:
        """Choose the steps of the next block."""
        fitting = self.steps * min(2.0, seconds / max(self.took, 1e-9))
        most = max(self.multiple, MOST_STEPS - MOST_STEPS % self.multiple)
        self.steps = min(most, max(self.multiple, int(fitting) // self.multiple * self.multiple))


def _load(cohort: Cohort, state: Progress, rows: list[int], masks: list[Tensor | None]) -> None:
    cohort.load(state.vectors[rows])
    cohort.load_momentum(state.momentum[rows])
    dense = torch.ones(cohort.layout.num_prunable, dtype=torch.bool)
    cohort.load_masks(torch.stack([dense if m is None else m.cpu() for m in masks]))


def _first_lost(losses: Tensor, step: int) -> Tensor:
    """Of losses [K, R] from ``step`` on: each replica's first step whose loss is not finite, [R], or `NEVER`."""
    lost = ~losses.isfinite()
    return torch.where(lost.any(0), step + lost.int().argmax(0), NEVER)


def _store(cohort: Cohort, state: Progress, rows: list[int], diverged: Tensor, step: int, began: float) -> Progress:
    vectors, momentum, diverged_at = state.vectors.clone(), state.momentum.clone(), state.diverged_at.copy()
    vectors[rows] = cohort.vectors().cpu()
    momentum[rows] = cohort.momentum_vectors().cpu()
    for j, at in zip(rows, diverged.tolist()):
        diverged_at[j] = at if diverged_at[j] == NEVER else diverged_at[j]
    seconds = time.monotonic() - began  # only now has a GPU done all of it
    engines = state.engines | dict.fromkeys(rows, cohort.engine)
    return Progress(step, vectors, momentum, diverged_at, state.seconds + seconds, state.extra, engines)


def _targets(jobs: list[Job], labels: Tensor) -> Tensor:
    """Labels [N] when all jobs share the data set's own, else [R, N]."""
    if all(job.labels is None for job in jobs):
        return labels
    return torch.stack([labels if job.labels is None else job.labels.to(labels.device) for job in jobs])


def _one_size(sizes: Iterable[int]) -> int:
    """The size of all batches of a step. Raises RunError when they differ."""
    if len(found := set(sizes)) > 1:
        raise RunError(f"batches of one cohort differ in size {sorted(found)}: train those subsets in separate cohorts")
    return found.pop()
