"""imp: train, prune, rewind, and again: iterative magnitude pruning from a rewind point (paper, Algorithm 1).

Other criteria than magnitude, and other ways to go on than rewinding the weights, are options.
"""

from pathlib import Path

import torch
from torch import Tensor

from repro import store
from repro.data import ImageSet
from repro.errors import RunError, UsageError, say_once
from repro.recipes.artifacts import array_name
from repro.recipes.pruning import Pruning
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import Init, data_of, require_init, require_replicates, require_steps_left
from repro.stages.machine import Machine
from repro.stages.pruned_levels import Levels, piece_of
from repro.stages.pruning import Pruner
from repro.train.job import NEVER
from repro.train.prune import count_to_prune


@checked
def imp(
    out: str | Path,
    rewind_point: str | Path,
    *,
    levels: int,
    replicates: int | None = None,
    prune_fraction: float = 0.2,
    pruning: Pruning = Pruning(),
    machine: Machine = Machine(),
) -> Result:
    """Iterative pruning of every replicate of ``rewind_point`` for ``levels`` levels after the dense one.

    Network, training recipe and seed are those of the rewind point. Every level starts from its weights and
    batch-norm statistics, with zero momentum and the clock at t (protocol section 4), and trains on the data set's own
    labels. ``pruning`` may say otherwise.

    Arguments:
        rewind_point: pretrain artifact.
        replicates: the first so many of the rewind point; None is all.
        prune_fraction: share of the surviving weights removed per level.
        pruning: by what criterion, and what a level goes on from.

    What is kept of every (replicate, level): see `repro.stages.pruned_levels.Levels`. `repro.reading.networks` loads it
    into networks again, `repro.stages.branch` retrains it with another mask or other weights.
    """
    parent = store.read(rewind_point, kind="pretrain")
    replicates = len(parent.table()) if replicates is None else replicates
    require_replicates(replicates, parent)
    if levels < 0:
        raise UsageError(f"levels (={levels}) must be 0 (dense training alone) or more")
    if not 0 < prune_fraction < 1:
        raise UsageError(f"prune fraction (={prune_fraction}) must be above 0 and below 1")
    require_steps_left(parent.path, parent.recipe)
    if pruning.at == "initialisation" and parent.recipe.get("init") == "file":
        raise UsageError(
            f"--prune-at initialisation, but {parent.path} does not keep the numbers of the file that it began with: "
            "give --prune-at rewind-point, and a rewind point of -t 0"
        )
    data = data_of(parent, machine)
    if pruning.at == "initialisation":
        require_init(parent, data)
    pruning = pruning.before(parent.recipe["steps"] - parent.recipe["t"])
    recipe = {**parent.recipe, "prune_fraction": prune_fraction, **pruning.fields}
    with ArtifactWriter(out, "imp", recipe, {"pretrain": parent}, machine) as writer:
        run = _Imp(writer, parent, data, machine, pruning)
        run.require_levels(levels)
        run.say_of_rate(levels)
        wanted = [(r, level) for r in range(replicates) for level in range(levels + 1)]
        if machine.dry_run:
            steps = recipe["steps"] - recipe["t"] if pruning.finetune_steps is None else 0  # 0: levels differ
            return writer.preview([piece_of(*row) for row in wanted], steps=steps, batch_size=recipe["batch_size"])
        begun = next((r for r in range(replicates) if not run.gone(r)), None)
        if begun is not None:
            run.pruner.try_once(run.rewind_weights(begun))
        run.expect(wanted)
        run.iterate(replicates, levels)
        return writer.finish(
            order=["replicate", "level"], lines=run.summary(), **run.trainer.provenance, seed=parent.recipe["seed"]
        )


class _Imp(Levels):
    """Iterative pruning of the replicates of one rewind point."""

    def __init__(
        self, writer: ArtifactWriter, parent: store.Artifact, data: ImageSet, machine: Machine, pruning: Pruning
    ):
        super().__init__(writer, data, machine, Init(writer.recipe.get("init", "paper")))
        self.parent, self.pruning = parent, pruning
        self.pruner = Pruner(pruning, self.recipe["prune_fraction"], self.trainer, self.recipe["seed"])
        self.dense = torch.ones(self.layout.num_prunable, dtype=torch.bool)
        self.diverged_at = parent.table().set_index("replicate").diverged_at

    def iterate(self, replicates: int, levels: int) -> None:
        """Train, measure, prune, rewind, and again (paper, Algorithm 1), with all replicates side by side.

        Whatever is kept already is not trained again: every replicate goes on after its last level.
        """
        while todo := [(r, level) for r in range(replicates) if (level := self.next_level(r)) <= levels]:
            jobs, lost = {}, []
            for replicate, level in todo:
                if level and self.lost(replicate, level):
                    lost.append((replicate, level))
                    continue
                mask = self.prune(replicate, level) if level else self.dense
                weights = self.start(replicate, level)
                jobs[piece_of(replicate, level)] = self.job(replicate, level, weights, mask)
            self.add_lost(lost)
            for cohort, where in self.cohorts(jobs):
                trained = self.trainer.train(self.writer, cohort, where)
                networks = self.trainer.measure(trained, "train", "test")
                self.writer.add({network.piece: self.kept(network) for network in networks})

    def prune(self, replicate: int, level: int) -> Tensor:
        """The mask of a level: k + 1 = ceil(fraction * weights left) + 1 more weights go (protocol section 3)."""
        mask = self.trained(replicate, level - 1)[1] if self.pruning.needs_level_before else self.dense
        if self.pruning.at == "trained":
            ranked = self.trained(replicate, level - 1)[0]
        elif self.pruning.at == "initialisation":
            ranked = self.trainer.initial(self.recipe["seed"], replicate)
        else:
            ranked = self.rewind_weights(replicate)
        return self.pruner.mask(replicate, level, ranked, mask)

    def start(self, replicate: int, level: int) -> Tensor:
        """What a level starts from, [layout.size], before its mask."""
        rewound = not level or self.pruning.rewind == "weights"
        return self.rewind_weights(replicate) if rewound else self.trained(replicate, level - 1)[0]

    def span(self, level: int) -> tuple[int, int]:
        """The schedule from step t on; without rewinding, a pruned level's steps follow those of the one before."""
        t, end = super().span(level)
        if level and self.pruning.rewind == "none":
            steps = self.pruning.finetune_steps or end - t
            return end + (level - 1) * steps, end + level * steps
        return t, end

    def say_of_rate(self, levels: int) -> None:
        """Warn where the rate that pruned levels are trained at has all but gone, as at the end of a cosine."""
        rate = self.training.lr_at(self.training.steps - 1)
        if levels and self.pruning.rewind == "none" and rate < self.training.lr / 1000:
            say_once(
                f"warning: --rewind none trains pruned levels at the schedule's last rate, {rate:.2g} of --lr "
                f"{self.training.lr:g}, which changes next to nothing: give --rewind learning-rate, or a rewind point "
                "of another --schedule"
            )

    def next_level(self, replicate: int) -> int:
        """The first level of a replicate that is not kept."""
        level = 0
        while piece_of(replicate, level) in self.writer.rows:
            level += 1
        return level

    def lost(self, replicate: int, level: int) -> bool:
        """Whether a pruned level has nothing to be pruned by, or to go on from, because that diverged."""
        if self.pruning.needs_level_before and self.diverged(replicate, level - 1):
            return True
        return self.pruning.at == "rewind-point" and self.gone(replicate)

    def gone(self, replicate: int) -> bool:
        """Whether the rewind point diverged."""
        diverged = bool(self.diverged_at[replicate] != NEVER)
        return diverged or not bool(self.rewind_weights(replicate).isfinite().all())

    def diverged(self, replicate: int, level: int) -> bool:
        return bool(self.writer.rows[piece_of(replicate, level)]["diverged"])

    def trained(self, replicate: int, level: int) -> tuple[Tensor, Tensor]:
        """A level at the end of its training, [layout.size], and its mask, [num_prunable]."""
        kept = {name: self.writer.arrays[f"{piece_of(replicate, level)}/{name}"] for name in ("weights", "mask")}
        return torch.from_numpy(kept["weights"]), self.unpack(kept["mask"])

    def rewind_weights(self, replicate: int) -> Tensor:
        """The weights that level 0 started from, kept because the parent may be recomputed on another machine."""
        kept = self.writer.arrays.get(f"{piece_of(replicate, 0)}/rewind_weights")
        return torch.from_numpy(self.parent[array_name("weights", replicate=replicate)] if kept is None else kept)

    def require_levels(self, levels: int) -> None:
        """Raises UsageError, before anything is trained, for levels that would leave no weight."""
        total = remaining = int(self.pruner.free.sum())
        for level in range(1, levels + 1):
            try:
                remaining -= count_to_prune(remaining, self.recipe["prune_fraction"])
            except RunError:
                raise UsageError(
                    f"{levels} levels, but level {level} would remove the last {remaining} of "
                    f"{total} weights: ask for --levels {level - 1} or fewer"
                ) from None
