"""gradients: how far the gradients of mini-batches agree while training on easy or all data (protocol section 13)."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from repro.engines import Block, Sgd
from repro.errors import UsageError
from repro.recipes.artifacts import piece_name
from repro.recipes.training import Training
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.machine import Machine
from repro.stages.pretrain import begin
from repro.stages.progress import FORWARD, images_between, images_of
from repro.stages.trained import Trained, advice, divergence
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.job import Job, Progress
from repro.train.random_streams import plain_batches


@checked
def gradients(
    out: str | Path,
    *,
    dataset: str | None = None,
    subset: str | Path | None = None,
    t: int | None = None,
    every: int = 10,
    batches: int = 16,
    replicates: int | None = None,
    scale: str | None = None,
    network: str | None = None,
    training: Training | None = None,
    normalization: str | None = None,
    seed: int | None = None,
    init: str | Path = "paper",
    machine: Machine = Machine(),
) -> Result:
    """Pre-train as `repro.stages.pretrain` does, and measure the mini-batch gradients on the way.

    At step 0, every ``every`` steps and after step t, the gradients of ``batches`` mini-batches are compared with their
    mean: cosine similarity, averaged over the batches. Each counts in the mean, so unrelated gradients have
    1/sqrt(batches), not 0. The training goes on as if nothing had been measured.

    Arguments:
        dataset, subset, t, replicates, scale, network, training, normalization, seed, init: as for
            `repro.stages.pretrain`.
        every: steps between measurements.
        batches: mini-batches per measurement, at least 2, of the training's batch size, without augmentation, drawn
            pass by pass over the images trained on, with a new order at each measurement. All parameters count, without
            weight decay; batch norm uses batch statistics.

    Written: for each (replicate, step) ``replicate_r/step_s/cosines`` (float64 [batches]) and a row: replicate, step,
    cosine (their mean), acc (test accuracy; chance when diverged), diverged, engine; after the last step
    ``replicate_r/step_t/weights``, which are those of the rewind point.

    Raises UsageError where pretrain does, and for a subset below one batch.
    """
    start = begin(dataset, subset, t, replicates, scale, network, training, normalization, seed, init, machine)
    training, t, replicates = start.training, start.t, start.replicates
    if every < 1:
        raise UsageError(f"steps between measurements (={every}) must be at least 1: try --every 10")
    if batches < 2:
        raise UsageError(f"batches per measurement (={batches}) must be at least 2: try --batches 16")
    fields = start.fields | {"every": every, "batches": batches}
    with ArtifactWriter(out, "gradients", fields, start.inputs, machine) as writer:
        trainer = Trainer(start.data, start.network, training, machine, start.init)
        if (size := len(start.images(0))) < training.batch_size:
            raise UsageError(
                f"a subset of {size} images has no full batch of {training.batch_size} to measure: "
                "choose a larger --size or a smaller --batch-size"
            )
        work = _Gradients(writer, trainer, [*range(0, t, every), t])
        if machine.dry_run:
            wanted = [_piece(r, step) for r in range(replicates) for step in work.steps]
            return writer.preview(wanted)
        missing = [r for r in range(replicates) if any(_piece(r, step) not in writer.rows for step in work.steps)]
        for r in missing:
            work.expect(r, len(start.images(r)))
        jobs = {piece_name(replicate=r): start.job(r) for r in missing}
        for cohort, where in trainer.cohorts(jobs, replicates):
            work.run([trainer.started(job) for job in cohort.values()], where)
        return writer.finish(
            order=["replicate", "step"],
            extra=start.labels.arrays(replicates),
            lines=(*work.summary(), *trainer.alike),
            **trainer.provenance,
            seed=start.seed,
        )


def _piece(replicate: int, step: int) -> str:
    return piece_name(replicate=replicate, step=step)


class _Gradients:
    """One gradients command: trains from measurement to measurement."""

    def __init__(self, writer: ArtifactWriter, trainer: Trainer, steps: list[int]):
        self.writer, self.trainer, self.steps = writer, trainer, steps
        self.data, self.training, self.batches = trainer.data, trainer.training, writer.recipe["batches"]

    def expect(self, replicate: int, images: int) -> None:
        """What is to be done for a replicate that trains on so many images, for the progress line."""
        measured = self.batches * self.training.batch_size + FORWARD * len(self.data.split(replicate)[1])
        for before, step in zip([0, *self.steps], self.steps):
            if (piece := _piece(replicate, step)) not in self.writer.rows:
                work = images_between(self.training, images, before, step) + measured
                self.writer.ticker.expect({piece: work})

    def run(self, jobs: list[Job], where: str) -> None:
        """Train and measure one cohort. What is measured goes to the work folder together with a checkpoint."""
        names = [piece_name(replicate=job.replicate) for job in jobs]
        state, fresh, every = self.writer.checkpoint(names), {}, self.trainer.machine.checkpoint_seconds
        saved = time.monotonic()

        def keep(state: Progress) -> None:
            nonlocal saved
            if fresh:
                self.writer.add(fresh)
                fresh.clear()
            self.writer.save_checkpoint(names)(state)
            saved = time.monotonic()

        self.writer.ticker.begin(where, jobs, self.training, self._behind(jobs, state.step if state else 0))
        watch = self.writer.curves and self.writer.curves.watch(names, jobs)
        for step in self.steps:
            if state and state.step > step:
                continue
            trained = self.trainer.run(
                [replace(job, stop=step) for job in jobs],
                resume=state,
                checkpoint=keep,
                checkpoint_seconds=every,
                report=self.writer.ticker,
                watch=watch,
            )
            state = trained.state
            fresh |= self._measure(trained)
            if step < self.steps[-1] and time.monotonic() - saved > every:
                keep(state)
        self.writer.add(fresh)

    def _behind(self, jobs: list[Job], step: int) -> int:
        """Images that the jobs have been trained on at ``step`` since the last measurement that is kept; below 0 where
        they are trained up to it again."""
        behind = 0
        for job in jobs:
            kept = [s for s in self.steps if _piece(job.replicate, s) in self.writer.rows]
            behind += images_of(self.training, job, step) - images_of(self.training, job, max(kept, default=0))
        return behind

    def _measure(self, trained: Trained) -> dict:
        """The pieces of this step that are missing."""
        step = trained.state.step
        if all(_piece(job.replicate, step) in self.writer.rows for job in trained.jobs):
            return {}
        trained.report = self.writer.ticker.measured
        networks, cosines = self.trainer.measure(trained, "test"), self._cosines(trained)
        pieces = {}
        for network, each in zip(networks, cosines):
            piece = _piece(network.job.replicate, step)
            if piece in self.writer.rows:
                continue
            row = {"replicate": network.job.replicate, "step": step, "cosine": each.mean().item()}
            arrays = {"cosines": each.numpy()}
            if step == self.steps[-1]:
                arrays["weights"] = network.vector.numpy()
            pieces[piece] = arrays, row | network.columns("acc", "diverged", "engine")
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
        # a step's momentum is then its gradient
        only = Sgd(0.0, 0.0, nesterov=False, label_smoothing=self.training.label_smoothing)
        found = []
        for index in self._index(jobs, trained.state.step).to(cohort.device).unbind(1):
            # running statistics move, but only here: training goes on from its own state
            cohort.train(Block(index[None], None, still), self.trainer.batcher, labels, only)
            self.writer.ticker.measured(index.numel(), work=1)
            found.append(cohort.momentum_vectors())
        return found

    def _index(self, jobs: list[Job], step: int) -> torch.Tensor:
        """Dataset indices of the measured batches, int64 [R, batches, B]."""
        size, purpose = self.training.batch_size, "gradients.order"
        rows = [plain_batches(j.subset, size, self.batches, j.seed, j.replicate, purpose, step) for j in jobs]
        return torch.from_numpy(np.stack(rows))

    def summary(self) -> tuple[str, ...]:
        """A line per measured step. Raises RunError when every replicate diverged."""
        table = self.writer.table()
        diverged = table[table.diverged]
        hint = advice(diverged.step.min(), 0, self.training.lr)
        all_lost = diverged.replicate.nunique() == table.replicate.nunique()
        warning = divergence(self.writer.path.stem, diverged, hint, all_lost=all_lost)
        lines = [" step  cosine similarity  test accuracy"]
        for step, rows in table.groupby("step"):
            lines.append(
                f"{step:5d}  {rows.cosine.mean():17.4f}  {rows.acc.mean():.4f} ± {rows.acc.std(ddof=0):.4f} "
                f"(n={len(rows)})"
            )
        return *lines, *warning


def _dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products [R], summed in float64, of the rows of two [R, n]."""
    return (a * b).sum(1, dtype=torch.float64)
