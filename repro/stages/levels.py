"""What imp and branch share: levels of sparse networks trained to the end, how they are measured, what is kept."""

from abc import ABC, abstractmethod

import numpy as np
import pandas as pd
import torch

from repro.data import ImageSet
from repro.errors import RunError
from repro.recipes.artifacts import piece_name, training_of
from repro.stages.artifact_writer import Growing
from repro.stages.common import Machine
from repro.stages.first_look import advice
from repro.stages.networks import require_idle
from repro.stages.progress import FORWARD, images_between
from repro.stages.trainer import Trained, Trainer
from repro.train import evaluate
from repro.train.job import NEVER, Job


def piece_of(replicate: int, level: int) -> str:
    return piece_name(replicate=replicate, level=level)


class Levels(ABC):
    """Trains the (replicate, level) rows of one command and keeps, for each, in ``cell``:

    mask: np.packbits of the prunable weights; weights: float32, in the order of the layout; test_correct: np.packbits,
    per example; train_margin: float16 per example; with level 0 ``rewind_weights``, what it started from. And a row of
    the table.
    """

    def __init__(self, cell: Growing, data: ImageSet, machine: Machine):
        self.cell, self.data, self.machine = cell, data, machine
        self.recipe = cell.recipe
        self.training = training_of(self.recipe)
        self.trainer = Trainer(data, self.recipe["network"], self.training, machine)
        self.layout = self.trainer.layout
        for source in cell.inputs.values():
            require_idle(source, self.layout)

    def expect(self, rows: list[tuple[int, int]]) -> None:
        """All (replicate, level) of the command; its progress is told by those that are missing."""
        self.last = max(level for _, level in rows)
        for row in rows:
            if piece_of(*row) not in self.cell.rows:
                train_index, test_index = self.data.split(row[0])
                work = images_between(self.training, len(train_index), self.recipe["t"], self.training.steps)
                work += FORWARD * (len(train_index) + len(test_index))
                self.cell.ticker.expect({piece_of(*row): work})

    def unpack(self, packed: np.ndarray) -> torch.Tensor:
        """A kept mask as bool [num_prunable]."""
        return torch.from_numpy(np.unpackbits(packed, count=self.layout.num_prunable).astype(bool))

    @abstractmethod
    def mask(self, replicate: int, level: int) -> torch.Tensor:
        """The mask a level trains with, bool [num_prunable]."""

    def chunks(self, rows: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """(replicate, level) in cohorts."""
        return self.trainer.chunks(
            rows, lambda row: self.trainer.cohort_key(self.data.split(row[0])[0], self.mask(*row))
        )

    def job(self, replicate: int, weights: torch.Tensor, mask: torch.Tensor) -> Job:
        """Training to the end on all training images, with the clock at the recipe's t (protocol section 4)."""
        images = self.data.split(replicate)[0].numpy()
        return Job(weights, images, self.recipe["t"], self.training.steps, self.recipe["seed"], replicate, mask=mask)

    def train(self, rows: list[tuple[int, int]], jobs: list[Job]) -> None:
        """Train one job per (replicate, level) as one cohort, evaluate them, and keep them."""
        pieces = [piece_of(*row) for row in rows]
        span = sorted({level for _, level in rows})
        levels = f"levels {span[0]}-{span[-1]}" if span[1:] else f"level {span[0]}"
        where = f"{levels} of {self.last} ({len(rows)} network{'s' * (len(rows) > 1)})"
        self.cell.add(self._measure(rows, self.trainer.train(self.cell, jobs, pieces, where)))

    def _measure(self, rows: list[tuple[int, int]], trained: Trained) -> dict:
        splits = [[index.numpy() for index in self.data.split(r)] for r, _ in rows]
        on_train, on_test = self.trainer.measure(trained, *zip(*splits), report=self.cell.ticker.measured)
        jobs, pieces = trained.jobs, {}
        for j, (r, level) in enumerate(rows):
            train_labels, test_labels = (self.data.labels[index] for index in splits[j])
            correct = evaluate.correct(on_test[j], test_labels)
            arrays = {
                "mask": np.packbits(jobs[j].mask.numpy()),
                "weights": trained.vectors[j].numpy(),
                "test_correct": np.packbits(correct.numpy()),
                "train_margin": evaluate.margins(on_train[j], train_labels).half().numpy(),
            }
            if level == 0:
                arrays["rewind_weights"] = jobs[j].vector.numpy()
            row = self._row(r, level, int(jobs[j].mask.sum()), bool(trained.diverged[j]))
            row |= {
                "acc": self.trainer.accuracy(trained, j, correct),
                "loss": evaluate.losses(on_test[j], test_labels).double().mean().item(),
                "train_acc": evaluate.correct(on_train[j], train_labels).double().mean().item(),
                "train_loss": evaluate.losses(on_train[j], train_labels).double().mean().item(),
                "diverged_at": int(trained.diverged_at[j]),
                "seconds": trained.seconds,
                "engine": trained.engines[j],
            }
            pieces[piece_of(r, level)] = (arrays, row)
        return pieces

    def _row(self, replicate: int, level: int, remaining: int, diverged: bool) -> dict:
        density = remaining / self.layout.num_prunable
        return {
            "replicate": replicate,
            "level": level,
            "remaining": remaining,
            "density": density,
            "diverged": diverged,
        }

    def add_lost(self, rows: list[tuple[int, int]]) -> None:
        """Levels without a mask, because what it is taken from diverged: they count as chance, with nothing kept."""
        if not rows:
            return
        nothing = {name: float("nan") for name in ("loss", "train_acc", "train_loss", "density")}
        nothing |= {"acc": 1 / self.data.num_classes, "diverged_at": NEVER, "seconds": 0.0, "engine": ""}
        self.cell.add({piece_of(r, level): ({}, self._row(r, level, 0, True) | nothing) for r, level in rows})

    def summary(self) -> tuple[str, ...]:
        """A line per level. Raises RunError when everything diverged."""
        table = self.cell.table()
        if table.diverged.all():
            raise RunError(
                f"all replicates of {self.cell.path.stem} diverged (loss not finite from step "
                f"{table.diverged_at.max()}): {self._advice(table)}, with --force"
            )
        lines = ["level  weights left  test accuracy"]
        for level, rows in table.groupby("level"):
            spread = f"{rows.acc.mean():.4f} ± {rows.acc.std(ddof=0):.4f} (n={len(rows)})"
            lines.append(f"{level:5d}  {100 * rows.density.mean():10.2f} %  {spread}")
        bad = sorted(set(table.replicate[table.diverged]))
        if bad:
            lines.append(f"warning: replicates {bad} diverged and count as chance: {self._advice(table)}")
        return tuple(lines)

    def _advice(self, table: pd.DataFrame) -> str:
        found = advice(table.diverged_at[table.diverged_at != NEVER].min(), self.recipe["t"], self.training.lr)
        return f"{found} of its pretrain command" if found.startswith("lower") else found
