"""gradients: how far the gradients of mini-batches agree while training on easy or all data (protocol section 13)."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from repro.data import Passes
from repro.engines import Block, Sgd
from repro.errors import RunError, UsageError
from repro.recipes.artifacts import piece_name
from repro.recipes.training import Training
from repro.stages.artifact_writer import Growing
from repro.stages.beginning import begin
from repro.stages.common import Machine, Result
from repro.stages.first_look import advice
from repro.stages.progress import FORWARD, images_between, images_of, place
from repro.stages.trainer import Trained, Trainer
from repro.train import evaluate
from repro.train.job import Job, Progress
from repro.train.random_streams import stream


def gradients(
    out: str | Path,
    *,
    dataset: str | None = None,
    subset: str | Path | None = None,
    t: int,
    every: int = 10,
    batches: int = 16,
    replicates: int,
    network: str | None = None,
    training: Training | None = None,
    normalization: str | None = None,
    seed: int | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Pre-train as `repro.stages.pretrain` does, and measure the mini-batch gradients on the way.

    At step 0, every ``every`` steps and after step t, the gradients of ``batches`` mini-batches are compared with their
    mean: cosine similarity, averaged over the batches. Each counts in the mean, so unrelated gradients have
    1/sqrt(batches), not 0. The training goes on as if nothing had been measured.

    Arguments:
        dataset, subset, t, network, training, normalization, seed: as for `repro.stages.pretrain`.
        every: steps between measurements.
        batches: mini-batches per measurement, at least 2, of the training's batch size, without augmentation, drawn
            pass by pass over the images trained on, with a new order at each measurement. All parameters count, without
            weight decay; batch norm uses batch statistics.

    Written: for each (replicate, step) ``replicate_r/step_s/cosines`` (float64 [batches]) and a row: replicate, step,
    cosine (their mean), acc (test accuracy; chance when diverged), diverged, engine; after the last step
    ``replicate_r/step_t/weights``, which are those of the rewind point.

    Raises UsageError where pretrain does, and for a subset below one batch.
    """
    start = begin(
        dataset=dataset,
        subset=subset,
        t=t,
        replicates=replicates,
        network=network,
        training=training,
        normalization=normalization,
        seed=seed,
        machine=machine,
    )
    training = start.training
    if every < 1:
        raise UsageError(f"steps between measurements (={every}) must be at least 1: try --every 10")
    if batches < 2:
        raise UsageError(f"batches per measurement (={batches}) must be at least 2: try --batches 16")
    fields = start.fields | {"every": every, "batches": batches}
    with Growing(out, "gradients", fields, start.inputs, machine) as cell:
        trainer = Trainer(start.data, start.network, training, machine)
        if (size := len(start.images(0))) < training.batch_size:
            raise UsageError(
                f"a subset of {size} images has no full batch of {training.batch_size} to measure: "
                "choose a larger --size or a smaller --batch-size"
            )
        work = _Gradients(cell, trainer, [*range(0, t, every), t])
        if machine.dry_run:
            wanted = [_piece(r, step) for r in range(replicates) for step in work.steps]
            return cell.preview(wanted)
        missing = [r for r in range(replicates) if any(_piece(r, step) not in cell.rows for step in work.steps)]
        for r in missing:
            work.expect(r, len(start.images(r)))
        for rows in trainer.chunks(missing, lambda r: trainer.cohort_key(start.images(r))):
            where = place("network", replicates - len(missing), len(rows), replicates)
            work.run([start.job(trainer, r) for r in rows], where)
            missing = missing[len(rows) :]
        return cell.finish(
            order=["replicate", "step"],
            extra=start.labels.arrays(replicates),
            lines=work.summary(),
            **trainer.provenance,
            seed=start.seed,
        )


def _piece(replicate: int, step: int) -> str:
    return piece_name(replicate=replicate, step=step)


class _Gradients:
    """One gradients command: trains from measurement to measurement."""

    def __init__(self, cell: Growing, trainer: Trainer, steps: list[int]):
        self.cell, self.trainer, self.steps = cell, trainer, steps
        self.data, self.training, self.batches = trainer.data, trainer.training, cell.recipe["batches"]

    def expect(self, replicate: int, images: int) -> None:
        """What is to be done for a replicate that trains on so many images, for the progress line."""
        measured = self.batches * self.training.batch_size + FORWARD * len(self.data.split(replicate)[1])
        for before, step in zip([0, *self.steps], self.steps):
            if (piece := _piece(replicate, step)) not in self.cell.rows:
                work = images_between(self.training, images, before, step) + measured
                self.cell.ticker.expect({piece: work})

    def run(self, jobs: list[Job], where: str) -> None:
        """Train and measure one cohort. What is measured goes to the work folder together with a checkpoint."""
        names = [piece_name(replicate=job.replicate) for job in jobs]
        state, fresh, every = self.cell.checkpoint(names), {}, self.trainer.machine.checkpoint_seconds
        saved = time.monotonic()

        def keep(state: Progress) -> None:
            nonlocal saved
            if fresh:
                self.cell.add(fresh)
                fresh.clear()
            self.cell.save_checkpoint(names)(state)
            saved = time.monotonic()

        self.cell.ticker.begin(where, jobs, self.training, self._behind(jobs, state.step if state else 0))
        watch = self.cell.curves and self.cell.curves.watch(names, jobs)
        for step in self.steps:
            if state and state.step > step:
                continue
            trained = self.trainer.run(
                [_until(job, step) for job in jobs],
                resume=state,
                checkpoint=keep,
                checkpoint_seconds=every,
                report=self.cell.ticker,
                watch=watch,
            )
            state = trained.state
            fresh |= self._measure(trained)
            if step < self.steps[-1] and time.monotonic() - saved > every:
                keep(state)
        self.cell.add(fresh)

    def _behind(self, jobs: list[Job], step: int) -> int:
        """Images that the jobs have been trained on at ``step`` since the last measurement that is kept; below 0 where
        they are trained up to it again."""
        behind = 0
        for job in jobs:
            kept = [s for s in self.steps if _piece(job.replicate, s) in self.cell.rows]
            behind += images_of(self.training, job, step) - images_of(self.training, job, max(kept, default=0))
        return behind

    def _measure(self, trained: Trained) -> dict:
        """The pieces of this step that are missing."""
        jobs, step = trained.jobs, trained.state.step
        missing = [j for j, job in enumerate(jobs) if _piece(job.replicate, step) not in self.cell.rows]
        if not missing:
            return {}
        tests = [self.data.split(job.replicate)[1].numpy() for job in jobs]
        (logits,) = self.trainer.measure(trained, tests, report=self.cell.ticker.measured)
        cosines = self._cosines(trained)
        pieces = {}
        for j in missing:
            correct = evaluate.correct(logits[j], self.data.labels[tests[j]])
            row = {
                "replicate": jobs[j].replicate,
                "step": step,
                "cosine": cosines[j].mean().item(),
                "acc": self.trainer.accuracy(trained, j, correct),
                "diverged": bool(trained.diverged[j]),
                "engine": trained.engines[j],
            }
            arrays = {"cosines": cosines[j].numpy()}
            if step == self.steps[-1]:
                arrays["weights"] = trained.vectors[j].numpy()
            pieces[_piece(jobs[j].replicate, step)] = (arrays, row)
        return pieces

    def _cosines(self, trained: Trained) -> torch.Tensor:
        """Cosine similarity of each batch's gradient with the mean of all, float64 [R, batches], on the CPU."""
        each = self._gradients(trained)
        mean = sum(each) / len(each)
        dots = torch.stack([_dots(gradient, mean) for gradient in each], 1)
        norms = torch.stack([_dots(gradient, gradient).sqrt() for gradient in each], 1)
        return (dots / (norms * _dots(mean, mean).sqrt()[:, None])).cpu()

    def _gradients(self, trained: Trained) -> list[torch.Tensor]:
        """Of each batch that is measured, [R, num_parameters]."""
        jobs, own = trained.jobs, self.trainer.labels
        cohort = self.trainer.cohort(len(jobs), self.trainer.engine())
        evaluate.load(cohort, trained.vectors)
        cohort.load_masks(None)  # a weight that is zero by chance has a gradient too
        cohort.load_momentum(torch.zeros(len(jobs), cohort.layout.num_parameters))
        labels = torch.stack([own if job.labels is None else job.labels.to(own.device) for job in jobs])
        still = torch.zeros(1, len(jobs), dtype=cohort.dtype, device=cohort.device)
        only = Sgd(momentum=0.0, weight_decay=0.0, nesterov=False)  # a step's momentum is then its gradient
        found = []
        for index in self._index(jobs, trained.state.step).to(cohort.device).unbind(1):
            # running statistics move, but only here: training goes on from its own state
            cohort.train(Block(index[None], None, still), self.trainer.batcher, labels, only)
            self.cell.ticker.measured(index.numel(), work=1)
            found.append(cohort.momentum_vectors())
        return found

    def _index(self, jobs: list[Job], step: int) -> torch.Tensor:
        """Dataset indices of the measured batches, int64 [R, batches, B]."""
        rows = []
        for job in jobs:
            passes = Passes(len(job.subset), self.training.batch_size, drop_last=True)
            needed = -(-self.batches // passes.steps_per_pass)
            orders = [
                stream(job.seed, job.replicate, "gradients.order", step, number).permutation(len(job.subset))
                for number in range(needed)
            ]
            places = [passes.locate(batch) for batch in range(self.batches)]
            rows.append(np.stack([job.subset[orders[number][place]] for number, place in places]))
        return torch.from_numpy(np.stack(rows))

    def summary(self) -> tuple[str, ...]:
        """A line per measured step. Raises RunError when every replicate diverged."""
        table = self.cell.table()
        bad = sorted(set(table.replicate[table.diverged]))
        if len(bad) == table.replicate.nunique():
            raise RunError(
                f"all replicates of {self.cell.path.stem} diverged (loss not finite): {self._advice(table)} "
                "and pass --force"
            )
        lines = [" step  cosine similarity  test accuracy"]
        for step, rows in table.groupby("step"):
            lines.append(
                f"{step:5d}  {rows.cosine.mean():17.4f}  {rows.acc.mean():.4f} ± {rows.acc.std(ddof=0):.4f} "
                f"(n={len(rows)})"
            )
        if bad:
            lines.append(f"warning: replicates {bad} diverged: {self._advice(table)}")
        return tuple(lines)

    def _advice(self, table: pd.DataFrame) -> str:
        return advice(table.step[table.diverged].min(), 0, self.training.lr)


def _until(job: Job, stop: int) -> Job:
    return Job(job.vector, job.subset, 0, stop, job.seed, job.replicate, labels=job.labels)


def _dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products [R], summed in float64, of the rows of two [R, n]."""
    return (a * b).sum(1, dtype=torch.float64)
