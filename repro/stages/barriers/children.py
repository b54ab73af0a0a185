"""Rewind points, their parents, and the children that are trained from them with data order of their own."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from repro import store
from repro.data import ImageSet
from repro.recipes.artifacts import array_name, piece_name, started_from
from repro.stages.artifact_writer import ArtifactWriter
from repro.stages.barriers.measure import Family, vector
from repro.stages.trainer import Trainer
from repro.train.job import Job

WORK = "children-"


class RewindPoint:
    """A rewind point: an imp or a pretrain artifact."""

    def __init__(self, artifact: store.Artifact):
        self.artifact, self.name, self.recipe = artifact, artifact.path.stem, artifact.recipe
        self.stored = artifact.kind == "imp"
        self.table = artifact.table()
        self.rows = {row["piece"]: row for row in self.table.to_dict("records")}

    @property
    def all_data(self) -> bool:
        """Whether it was pre-trained on all training images with the data set's own labels."""
        origin = self.artifact.inputs["pretrain"] if self.stored else self.artifact.lineage
        noisy = origin.recipe.get("label_noise") or origin.recipe.get("labels_sha256")
        return "subset" not in origin.inputs and not noisy

    def replicates(self, level: int) -> int:
        """How many replicates, counted from 0, have that level."""
        count = 0
        while (piece_name(replicate=count, level=level) if self.stored else piece_name(replicate=count)) in self.rows:
            count += 1
        return count


@dataclass(frozen=True, eq=False)
class Parent:
    """One replicate of a point at one level: what its children start from."""

    point: RewindPoint
    replicate: int
    level: int
    several: bool
    data: ImageSet

    @property
    def prefix(self) -> str:
        return f"{self.point.name}/" * self.several + piece_name(replicate=self.replicate)

    @property
    def split(self) -> tuple[np.ndarray, np.ndarray]:
        train_index, test_index = self.data.split(self.replicate)
        return train_index.numpy(), test_index.numpy()

    @property
    def row(self) -> dict:
        point, t = self.point.name, self.point.recipe["t"]
        return {"point": point, "t": t, "replicate": self.replicate, "level": self.level}

    @cached_property
    def rewind(self) -> torch.Tensor:
        return self._of("level_0/rewind_weights" if self.point.stored else "weights")

    @property
    def start(self) -> torch.Tensor:
        """What the level started from, before its mask."""
        return self._of(started_from(self.point.recipe, self.level)) if self.point.stored else self.rewind

    def _of(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.point.artifact[array_name(name, replicate=self.replicate)])

    @property
    def _stored(self) -> str:
        return piece_name(replicate=self.replicate, level=self.level)

    @property
    def lost(self) -> bool:
        """Whether imp could not make the level's mask, because the level before diverged."""
        return self.point.stored and f"{self._stored}/mask" not in self.point.artifact

    def mask(self, num_prunable: int) -> torch.Tensor | None:
        if not self.level:
            return None
        packed = self.point.artifact[f"{self._stored}/mask"]
        return torch.from_numpy(np.unpackbits(packed, count=num_prunable).astype(bool))

    @cached_property
    def own(self) -> torch.Tensor | None:
        """The level's trained weights out of an imp artifact; None when they diverged."""
        diverged = self.lost or self.point.rows[self._stored]["diverged"]
        return None if diverged else vector(self.point.artifact[f"{self._stored}/weights"])

    @property
    def own_acc(self) -> float:
        return float(self.point.rows[self._stored]["acc"])


class Children:
    """The networks that one command trains, kept in its work folder as soon as their cohort is done."""

    def __init__(self, writer: ArtifactWriter, trainer: Trainer, data: ImageSet):
        self.writer, self.trainer, self.data = writer, trainer, data
        self.there: set[str] = set(writer.arrays)
        if writer.work:
            for name in writer.work.numbered(WORK):
                if loaded := writer.work.load(name):
                    writer.arrays.update(loaded[0])
            self.there = set(writer.arrays)
        elif writer.rows:  # a dry run has read no arrays
            self.there = set(store.read_header(writer.path).keys())

    def untrained(self, lines: Iterable[tuple[Parent, int, int]]) -> list[tuple[Parent, int]]:
        """(parent, child) of every network at the end of a line that is stored nowhere."""
        ends = {(parent, number): None for parent, *pair in lines for number in pair}
        return [
            (parent, number)
            for parent, number in ends
            if not (parent.lost or (parent.point.stored and number == 0))
            and f"{child_name(parent, number)}/weights" not in self.there
        ]

    def train(self, todo: list[tuple[Parent, int]]) -> None:
        """Train those networks, and keep each cohort as soon as it is done."""
        writer, trainer = self.writer, self.trainer
        jobs = {child_name(*child): self.job(*child) for child in todo}
        trainer.expect(writer, jobs, "test")
        for cohort, where in trainer.cohorts(jobs, len(jobs)):
            arrays = {}
            for network in trainer.measure(trainer.train(writer, cohort, where), "test"):
                arrays[f"{network.piece}/weights"] = network.vector.numpy()
                arrays[f"{network.piece}/acc"] = np.array(np.nan if network.diverged else network.acc)
            writer.work.save(writer.work.next_name(WORK), arrays)
            writer.arrays.update(arrays)
            writer.ticker.finish(cohort)
            writer.drop_checkpoint()

    def job(self, parent: Parent, number: int) -> Job:
        """Training to the end from what the level started from, on all images, with data order of the child's own."""
        recipe, mask = parent.point.recipe, parent.mask(self.trainer.layout.num_prunable)
        role = f"child{number}." if number else ""  # without a role, data order and augmentation are imp's
        stretch = recipe["t"], self.trainer.training.steps, recipe["seed"], parent.replicate
        return Job(parent.start, parent.split[0], *stretch, mask=mask, role=role)

    def family(self, parent: Parent, lines: dict[str, tuple[int, int]]) -> Family:
        networks, recorded = {}, {}
        for number in {end for pair in lines.values() for end in pair}:
            if parent.lost:
                networks[number] = None
            elif parent.point.stored and number == 0:
                networks[0], recorded[0] = parent.own, parent.own_acc
            else:
                name = child_name(parent, number)
                recorded[number] = float(self.writer.arrays[f"{name}/acc"])
                diverged = np.isnan(recorded[number])
                networks[number] = None if diverged else vector(self.writer.arrays[f"{name}/weights"])
        title = f"{parent.point.artifact.path}, replicate {parent.replicate}"
        return Family(title, parent.split, networks, recorded, lines, parent.row, parent.rewind)


def child_name(parent: Parent, number: int) -> str:
    return f"{parent.prefix}/child_{number}"
