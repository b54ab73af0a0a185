"""What imp and branch share: levels of sparse networks that are trained to the end, and what is kept of them."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from repro.data import ImageSet
from repro.recipes.artifacts import piece_name, training_of
from repro.stages.artifact_writer import ArtifactWriter
from repro.stages.inputs import Init, require_idle
from repro.stages.machine import Machine
from repro.stages.trained import Network, advice, divergence
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.job import NEVER, Job


def piece_of(replicate: int, level: int) -> str:
    return piece_name(replicate=replicate, level=level)


def level_of(piece: str) -> int:
    return int(piece.rpartition("_")[2])


class Levels:
    """Trains the (replicate, level) rows of one command and keeps, for each, in ``writer``:

    mask: np.packbits of the prunable weights; weights: float32, in the order of the layout; test_correct: np.packbits,
    per example; train_margin: float16 per example; with level 0 ``rewind_weights``, what it started from. And a row of
    the table.
    """

    def __init__(self, writer: ArtifactWriter, data: ImageSet, machine: Machine, init: Init):
        self.writer, self.data = writer, data
        self.recipe = writer.recipe
        self.training = training_of(self.recipe)
        self.trainer = Trainer(data, self.recipe["network"], self.training, machine, init)
        self.layout = self.trainer.layout
        for source in writer.inputs.values():
            require_idle(source, self.layout)

    def expect(self, rows: list[tuple[int, int]]) -> None:
        """Tell the progress line all (replicate, level) of the command."""
        self.last = max(level for _, level in rows)
        jobs = {piece_of(*row): self.job(*row) for row in rows if piece_of(*row) not in self.writer.rows}
        self.trainer.expect(self.writer, jobs, "train", "test")

    def span(self, level: int) -> tuple[int, int]:
        """First and last step of a level: to the end, with the clock at the recipe's t (protocol section 4)."""
        return self.recipe["t"], self.training.steps

    def job(self, replicate: int, level: int, weights: Tensor | None = None, mask: Tensor | None = None) -> Job:
        """Training of a level on all training images."""
        images = self.data.split(replicate)[0].numpy()
        return Job(weights, images, *self.span(level), self.recipe["seed"], replicate, mask=mask)

    def cohorts(self, jobs: dict[str, Job]) -> Iterator[tuple[dict[str, Job], str]]:
        """As `Trainer.cohorts`, with the place in the command given in levels."""
        for cohort, _ in self.trainer.cohorts(jobs, len(jobs)):
            span = sorted(set(map(level_of, cohort)))
            levels = f"levels {span[0]}-{span[-1]}" if span[1:] else f"level {span[0]}"
            yield cohort, f"{levels} of {self.last} ({len(cohort)} network{'s' * (len(cohort) > 1)})"

    def kept(self, network: Network) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and row of a level that was trained."""
        job, on_train = network.job, network.on["train"]
        arrays = {
            "mask": np.packbits(job.mask.numpy()),
            "weights": network.vector.numpy(),
            "test_correct": np.packbits(network.on["test"].correct.numpy()),
            "train_margin": evaluate.margins(on_train.logits, on_train.labels).half().numpy(),
        }
        level, remaining = level_of(network.piece), int(job.mask.sum())
        if level == 0:
            arrays["rewind_weights"] = job.vector.numpy()
        row = {"replicate": job.replicate, "level": level, "remaining": remaining}
        row |= {"density": remaining / self.layout.num_prunable, "diverged": network.diverged}
        row |= network.columns("acc", "loss", "train_acc", "train_loss", "diverged_at", "seconds", "engine")
        return arrays, row

    def add_lost(self, rows: Iterable[tuple[int, int]]) -> None:
        """Keep levels that have no mask, because the network it is taken from diverged. Their accuracy is chance."""
        nothing = {name: float("nan") for name in ("loss", "train_acc", "train_loss", "density")}
        nothing |= {"acc": 1 / self.data.num_classes, "diverged_at": NEVER, "seconds": 0.0, "engine": ""}
        nothing |= {"remaining": 0, "diverged": True}
        if new := {piece_of(r, level): ({}, {"replicate": r, "level": level, **nothing}) for r, level in rows}:
            self.writer.add(new)

    def unpack(self, packed: np.ndarray) -> Tensor:
        """A kept mask as bool [num_prunable]."""
        return torch.from_numpy(np.unpackbits(packed, count=self.layout.num_prunable).astype(bool))

    def summary(self) -> tuple[str, ...]:
        """A line per level, and on what they begin as. Raises RunError when everything diverged."""
        table = self.writer.table()
        diverged = table[table.diverged]
        hint = advice(diverged.diverged_at[diverged.diverged_at != NEVER].min(), self.recipe["t"], self.training.lr)
        hint += " of its pretrain command" * hint.startswith("lower")
        name, counted = self.writer.path.stem, " and count as chance"
        warning = divergence(name, diverged, hint, all_lost=len(diverged) == len(table), then=counted)
        others = self.layout.num_parameters - self.layout.num_prunable  # biases and batch norm, which are never pruned
        lines = ["level  weights left  of all parameters  test accuracy"]
        for level, rows in table.groupby("level"):
            spread = f"{rows.acc.mean():.4f} ± {rows.acc.std(ddof=0):.4f} (n={len(rows)})"
            whole = (rows.remaining[rows.remaining > 0].mean() + others) / self.layout.num_parameters
            lines.append(f"{level:5d}  {100 * rows.density.mean():10.2f} %  {100 * whole:15.2f} %  {spread}")
        return *lines, *self.trainer.alike, *warning
