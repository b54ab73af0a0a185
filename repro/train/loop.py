"""The one training loop: jobs in, trained networks out, in a cohort, with a step checkpoint.

A job is one network's stretch of training, from a step to a step. Jobs of a cohort may differ in everything but the
architecture and the optimizer's constants: weights, mask, subset, labels, learning rate, first and last step.
"""

import gc
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher
from repro.engines import Cohort
from repro.errors import RunError
from repro.recipes.training import Training
from repro.train.job import NEVER, Job, Observer, Progress
from repro.train.keeper import Keeper
from repro.train.runner import Runner

__all__ = ["NEVER", "Job", "Observer", "Progress", "train"]

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
        observe: called for each step, after its block; its state is saved with checkpoints and restored when resuming.
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
    most = len(jobs)  # that fit into the memory together, as far as is known
    for begin, end, rows in _segments(jobs, state.step):
        while begin < end:
            keeper.keep(state)
            parts = _parts(rows, most)
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
            if state is None:  # not in the handler: there the exception holds what it ran out of memory with
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
    if cohort is None or not cohort.too_large:  # else it was said before
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


def _parts(rows: list[int], most: int) -> list[list[int]]:
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
