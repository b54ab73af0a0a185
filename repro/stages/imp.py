"""imp: train, prune, rewind, and again: iterative magnitude pruning from a rewind point (paper, Algorithm 1)."""

from pathlib import Path

import numpy as np
import torch

from repro import store
from repro.data import ImageSet
from repro.errors import RunError, UsageError
from repro.recipes.artifacts import array_name
from repro.stages.artifact_writer import Growing
from repro.stages.common import Machine, Result, data_of, require_replicates
from repro.stages.levels import Levels, piece_of
from repro.train.prune import count_to_prune, prune_by_magnitude


def imp(
    out: str | Path,
    rewind_point: str | Path,
    *,
    levels: int,
    replicates: int | None = None,
    prune_fraction: float = 0.2,
    machine: Machine = Machine(),
) -> Result:
    """Iterative pruning of every replicate of ``rewind_point`` for ``levels`` levels after the dense one.

    Network, training recipe and seed are those of the rewind point. Every level starts from its weights and
    batch-norm statistics, with zero momentum and the clock at t (protocol section 4), and trains on the data set's own
    labels.

    Arguments:
        rewind_point: pretrain artifact.
        replicates: the first so many of the rewind point; None is all.
        prune_fraction: share of the surviving weights removed per level.

    What is kept of every (replicate, level): see `repro.stages.levels.Levels`. `repro.reading.networks` loads it into
    networks again, `repro.stages.branch` retrains it with another mask or other weights.
    """
    parent = store.read(rewind_point, kind="pretrain")
    replicates = len(parent.table()) if replicates is None else replicates
    require_replicates(replicates, parent)
    if levels < 0:
        raise UsageError(f"levels (={levels}) must be 0 (dense training alone) or more")
    if not 0 < prune_fraction < 1:
        raise UsageError(f"prune fraction (={prune_fraction}) must be above 0 and below 1")
    if parent.recipe["t"] >= parent.recipe["steps"]:
        raise UsageError(
            f"{parent.path} is trained to the end (t = {parent.recipe['t']} of {parent.recipe['steps']} steps), which "
            "leaves nothing to train after rewinding: pre-train with a smaller -t"
        )
    data = data_of(parent, machine)
    recipe = {**parent.recipe, "prune_fraction": prune_fraction}
    with Growing(out, "imp", recipe, {"pretrain": parent}, machine) as cell:
        run = _Imp(cell, parent, data, machine)
        run.require_levels(levels)
        wanted = [(r, level) for r in range(replicates) for level in range(levels + 1)]
        if machine.dry_run:
            return cell.preview(
                [piece_of(*row) for row in wanted], steps=recipe["steps"] - recipe["t"], batch_size=recipe["batch_size"]
            )
        run.expect(wanted)
        while todo := [(r, level) for r in range(replicates) if (level := run.next_level(r)) <= levels]:
            lost = [row for row in todo if run.is_lost(*row)]
            run.add_lost(lost)
            for chunk in run.chunks([row for row in todo if row not in lost]):
                run.train_level(chunk)
        return cell.finish(
            order=["replicate", "level"], lines=run.summary(), **run.trainer.provenance, seed=parent.recipe["seed"]
        )


class _Imp(Levels):
    """One imp command: which level comes next, and with which mask."""

    def __init__(self, cell: Growing, parent: store.Artifact, data: ImageSet, machine: Machine):
        super().__init__(cell, data, machine)
        self.parent = parent

    def require_levels(self, levels: int) -> None:
        """Raises UsageError, before anything is trained, for levels that would leave no weight."""
        remaining = self.layout.num_prunable
        for level in range(1, levels + 1):
            try:
                remaining -= count_to_prune(remaining, self.recipe["prune_fraction"])
            except RunError:
                raise UsageError(
                    f"{levels} levels, but level {level} would remove the last {remaining} of "
                    f"{self.layout.num_prunable} weights: ask for --levels {level - 1} or fewer"
                ) from None

    def rewind_weights(self, replicate: int) -> np.ndarray:
        """The rewind point its first level started from: the parent may have been made anew, elsewhere, since."""
        kept = self.cell.arrays.get(f"{piece_of(replicate, 0)}/rewind_weights")
        return self.parent[array_name("weights", replicate=replicate)] if kept is None else kept

    def next_level(self, replicate: int) -> int:
        level = 0
        while piece_of(replicate, level) in self.cell.rows:
            level += 1
        return level

    def mask(self, replicate: int, level: int) -> torch.Tensor:
        """Made from the level before it."""
        if level == 0:
            return torch.ones(self.layout.num_prunable, dtype=torch.bool)
        before = piece_of(replicate, level - 1)
        weights = torch.from_numpy(self.cell.arrays[f"{before}/weights"])[: self.layout.num_prunable]
        return prune_by_magnitude(
            weights, self.unpack(self.cell.arrays[f"{before}/mask"]), self.recipe["prune_fraction"]
        )

    def is_lost(self, replicate: int, level: int) -> bool:
        """Whether there is no mask, because the level before diverged."""
        return level > 0 and bool(self.cell.rows[piece_of(replicate, level - 1)]["diverged"])

    def train_level(self, rows: list[tuple[int, int]]) -> None:
        """Train one level of each (replicate, level), and keep it."""
        self.train(
            rows, [self.job(r, torch.from_numpy(self.rewind_weights(r)), self.mask(r, level)) for r, level in rows]
        )
