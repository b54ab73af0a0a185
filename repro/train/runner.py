"""Steps of some jobs as one cohort: one after the other, or in blocks of static steps."""

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher
from repro.errors import RunError
from repro.nets.cohort import Cohort
from repro.train.job import NEVER, Job, Observer, Progress
from repro.train.keeper import Keeper
from repro.train.order import Order, send
from repro.train.schedule import Training
from repro.train.stepper import STEPS, Block, Stepper, stepper_of


class Runner:
    """Trains jobs of one list, some of them at a time, with all that their steps need.

    Arguments: those of `repro.train.loop.train`.
    """

    def __init__(self, jobs: list[Job], training: Training, batcher: Batcher, labels: Tensor,
                 report: Callable[[int, int], None] | None, observe: Observer | None,
                 watch: Callable[[int, list[int], Tensor], None] | None):  # fmt: skip
        self.jobs, self.training, self.batcher, self.labels = jobs, training, batcher, labels
        self.report, self.observe, self.watch = report, observe, watch

        def order(job: Job, subset: np.ndarray) -> Order:
            return Order(subset, (job.seed, job.replicate), job.role, training, batcher)

        self.first = [order(job, job.subset) for job in jobs]
        self.later = [one if job.then is None else order(job, job.then) for job, one in zip(jobs, self.first)]

    def train(self, cohort: Cohort, state: Progress, rows: list[int], begin: int, end: int,
              keeper: Keeper | None) -> Progress:  # fmt: skip
        """The state with the jobs ``rows`` trained as one cohort from step ``begin`` to ``end``.

        With a ``keeper``, checkpoints are made in between.
        """
        jobs = [self.jobs[j] for j in rows]
        _load(cohort, state, rows, [job.mask for job in jobs])
        targets = _targets(jobs, self.labels)
        diverged = torch.full((len(rows),), NEVER, device=cohort.device)
        if cohort.static and not self.batcher.resident:
            cohort.fall_back(f"engine {cohort.engine} needs the images in the memory of {cohort.device}, where they "
                             "take more than half of what is free")  # fmt: skip
        if cohort.static:
            stepper = stepper_of(cohort, self.batcher, self.training, self.labels.shape[-1])
            stepper.targets.copy_(targets)
        began, step = time.monotonic(), begin
        while step < end:
            if cohort.static:
                block = self._fill(stepper, rows, step, end)
                if not stepper.advance(block):
                    continue
                losses, index, logits = block.losses, block.index, block.logits
            else:
                losses, index, logits = self._eager_step(cohort, rows, targets, step)
            for k in range(len(index)):
                bad = ~losses[k].isfinite()
                diverged = torch.where(bad & (diverged == NEVER), step + k, diverged)
                if self.observe:
                    self.observe(step + k, rows, index[k], logits[k])
            if self.watch:
                self.watch(step, rows, losses.detach())
            step += len(index)
            if self.report:
                self.report(step, index.numel())
            if keeper and keeper.due and step < end:
                state = _store(cohort, state, rows, diverged, step, began)
                keeper.checkpoint(state)
                began = time.monotonic()
        cohort.used.add(cohort.engine)
        return _store(cohort, state, rows, diverged, end, began)

    def _eager_step(self, cohort: Cohort, rows: list[int], targets: Tensor, step: int) -> tuple:
        """Losses [1, R], index [1, R, B] and logits [1, R, B, K] of one step."""
        batches = [self._order(j, step).batch(step) for j in rows]
        images, label, index = _assemble(self.batcher, batches, targets, cohort.dtype)
        rates = [self.jobs[j].rate(self.training, step) for j in rows]
        losses = cohort.step(images, label, rates, momentum=self.training.momentum,
                             weight_decay=self.training.weight_decay, nesterov=self.training.nesterov)  # fmt: skip
        return losses[None], index[None], cohort.logits[None]

    def _fill(self, stepper: Stepper, rows: list[int], step: int, end: int) -> Block:
        """The next steps in a block: `STEPS` of them if they have batches of one size, else one."""
        size = self._batch_size(rows, step)
        whole = step + STEPS <= end and all(self._batch_size(rows, step + k) == size for k in range(1, STEPS))
        count = STEPS if whole else 1
        block = stepper.block(count, size, logits=self.observe is not None)
        for r, j in enumerate(rows):
            turn = min(max(self.jobs[j].warmup - step, 0), count)  # steps before the job changes its subset
            for order, part, at in (
                (self.first[j], slice(turn), step),
                (self.later[j], slice(turn, None), step + turn),
            ):
                order.batches(at, block.index[part, r], block.offsets and tuple(a[part, r] for a in block.offsets))
        rates = [[self.jobs[j].rate(self.training, step + k) for j in rows] for k in range(count)]
        block.rates.copy_(send(torch.tensor(rates, dtype=block.rates.dtype), block.rates.device))
        return block

    def _order(self, j: int, step: int) -> Order:
        return (self.first if step < self.jobs[j].warmup else self.later)[j]

    def _batch_size(self, rows: list[int], step: int) -> int:
        return _one_size(self._order(j, step).size(step) for j in rows)


def _load(cohort: Cohort, state: Progress, rows: list[int], masks: list[Tensor | None]) -> None:
    cohort.load(state.vectors[rows].to(cohort.device))
    cohort.load_momentum(state.momentum[rows].to(cohort.device))
    dense = torch.ones(cohort.layout.num_prunable, dtype=torch.bool)
    cohort.load_masks(torch.stack([dense if m is None else m.cpu() for m in masks]).to(cohort.device))
    cohort.train()


def _store(cohort: Cohort, state: Progress, rows: list[int], diverged: Tensor, step: int, began: float) -> Progress:
    vectors, momentum, diverged_at = state.vectors.clone(), state.momentum.clone(), state.diverged_at.copy()
    vectors[rows] = cohort.vectors().cpu()
    momentum[rows] = cohort.momentum_vectors().cpu()
    for j, at in zip(rows, diverged.tolist()):
        diverged_at[j] = at if diverged_at[j] == NEVER else diverged_at[j]
    seconds = time.monotonic() - began  # only now has a GPU done all of it
    return Progress(step, vectors, momentum, diverged_at, state.seconds + seconds, state.extra)


def _targets(jobs: list[Job], labels: Tensor) -> Tensor:
    """Labels [N] when all jobs share the data set's own, else [R, N]."""
    if all(job.labels is None for job in jobs):
        return labels
    return torch.stack([labels if job.labels is None else job.labels.to(labels.device) for job in jobs])


def _assemble(batcher: Batcher, batches: list, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Images [R, B, H, W, C] in ``dtype``, labels [R, B] and index [R, B] of one step."""
    _one_size(len(index) for index, _ in batches)
    index = torch.stack([index for index, _ in batches])
    offsets = None
    if batches[0][1] is not None:
        offsets = tuple(torch.stack(parts) for parts in zip(*(offset for _, offset in batches)))
    images = batcher.normalise(batcher.gather(index, offsets), dtype)
    return images, labels[index] if labels.ndim == 1 else labels.gather(1, index), index


def _one_size(sizes: Iterable[int]) -> int:
    """The size of all batches of a step. Raises RunError when they differ."""
    if len(found := set(sizes)) > 1:
        raise RunError(f"batches of one cohort differ in size {sorted(found)}: train those subsets in separate cohorts")
    return found.pop()
