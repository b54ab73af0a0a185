"""branch: retrain the levels of a stored run with other masks or other weights: the ablations of a ticket."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro import store
from repro.data import ImageSet
from repro.errors import UsageError
from repro.nets import layout_of
from repro.recipes.artifacts import array_name
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import Init, data_of, network_for, require_init, require_replicates, require_steps_left
from repro.stages.machine import Machine
from repro.stages.pruned_levels import Levels, piece_of
from repro.stages.pruning import prunable
from repro.stages.state_dicts import read_mask
from repro.train.prune import random_mask, shuffle_within_layers
from repro.train.random_streams import stream

MASKS = ("own", "shuffled", "random")
WEIGHTS = ("rewound", "reinitialised")
ROLE = "branch."  # of the random streams
TORCH = (".pt", ".pth", ".safetensors")


@checked
def branch(
    out: str | Path,
    run: str | Path,
    *,
    levels: Sequence[int] | None = None,
    mask: str | Path = "own",
    weights: str | Path = "rewound",
    replicates: int | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Train (replicate, level) of ``run`` to the end again with another ``mask`` or other ``weights``.

    Network, training recipe, data order and seed are those of the run; momentum starts at zero. No level depends on
    another one, so all of them are trained together.

    Arguments:
        run: imp artifact.
        levels: pruned levels (1 and on); None is all the run has.
        mask: 'own'; 'shuffled' within each layer; 'random', as many weights anywhere in the network; or a file: an imp
            or branch artifact (its masks of the same replicate and level), a .npy of bool or 0 and 1
            [layout.num_prunable], or a .pt or .safetensors of masks by name (`repro.stages.state_dicts.read_mask`).
        weights: 'rewound', to the run's rewind point, whatever the run itself rewound; 'reinitialised', an
            initialisation of its own random stream, trained from the same step t on, so for as many steps (drawn as in
            the paper where the run began with the weights of a file); or a pretrain or imp artifact, whose rewind point
            it is then, with the clock at that point's t.
        replicates: the first so many of the run; None is all.

    What is kept of every (replicate, level) is what imp keeps (`repro.stages.pruned_levels.Levels`); the weights that
    its levels started from are ``replicate_r/rewind_weights``. A level whose mask is missing, since what it is taken
    from diverged, counts as chance.

    Raises UsageError where mask and weights are both the run's own, and for masks or weights of another data set or
    network, or without a replicate or level that is asked for.
    """
    source = store.read(run, kind="imp")
    data = data_of(source, machine)
    recipe, inputs, fixed = {**source.recipe, "mask": str(mask), "weights": str(weights)}, {"imp": source}, None
    repeats = recipe.pop("rewind", "weights") == "weights"  # a branch has weights of its own to begin with
    recipe.pop("finetune_steps", None)
    if recipe["mask"] not in MASKS:
        if _there(mask, "mask", MASKS).suffix in (".npy", *TORCH):
            fixed = read_mask(mask, layout_of(network_for(data, recipe["network"])))
            digest = hashlib.sha256(np.packbits(fixed.numpy())).hexdigest()
            recipe |= {"mask": "file", "mask_sha256": digest}
        elif (other := _read(mask, ("imp", "branch"), "mask", source)).identity == source.identity:
            recipe["mask"] = "own"
        else:
            recipe["mask"], inputs["masks"] = "file", other
    if recipe["weights"] not in WEIGHTS:
        _there(weights, "weights", WEIGHTS)
        point = _read(weights, ("pretrain", "imp"), "weights", source)
        if point.inputs.get("pretrain", point).identity == source.inputs["pretrain"].identity:
            recipe["weights"] = "rewound"
        else:
            recipe |= {"weights": "point", "t": point.recipe["t"]}
            inputs["point"] = point
    if repeats and (recipe["mask"], recipe["weights"]) == ("own", "rewound"):
        raise UsageError(
            f"the run's own masks and rewound weights would repeat {source.path}: give another --mask (shuffled, "
            "random or a file) or other --weights (reinitialised or a rewind point)"
        )
    require_steps_left(weights, recipe)
    wanted = _wanted(source, levels, replicates)
    if fixed is not None and len({level for _, level in wanted}) > 1:
        raise UsageError(
            f"{mask} is one mask, for which every level would be the same: give the one of --levels that "
            "it is to be compared with"
        )
    with ArtifactWriter(out, "branch", recipe, inputs, machine) as writer:
        work = _Branch(writer, fixed, data, machine)
        work.require(wanted)
        if machine.dry_run:
            steps = recipe["steps"] - recipe["t"]
            return writer.preview([piece_of(*row) for row in wanted], steps=steps, batch_size=recipe["batch_size"])
        work.expect(wanted)
        missing = [row for row in wanted if piece_of(*row) not in writer.rows]
        lost = [row for row in missing if work.is_lost(*row)]
        work.add_lost(lost)
        weights = {r: work.weights(r) for r, _ in missing}
        jobs = {piece_of(r, k): work.job(r, k, weights[r], work.mask(r, k)) for r, k in missing if (r, k) not in lost}
        for cohort, where in work.cohorts(jobs):
            trained = work.trainer.train(writer, cohort, where)
            writer.add({each.piece: work.kept(each) for each in work.trainer.measure(trained, "train", "test")})
        return writer.finish(
            order=["replicate", "level"],
            extra=work.rewind_weights(),
            lines=work.summary(),
            **work.trainer.provenance,
            seed=recipe["seed"],
        )


def _there(path: str | Path, option: str, names: tuple[str, ...]) -> Path:
    if not Path(path).is_file():
        raise UsageError(f"unknown {option} {str(path)!r}: choose {', '.join(names)} or the path of a file")
    return Path(path)


def _read(path: str | Path, kinds: tuple[str, str], option: str, source: store.Artifact) -> store.Artifact:
    """An artifact of one of two kinds, of the same images and network as the run."""
    artifact = store.read(path)
    if artifact.kind not in kinds:
        raise UsageError(
            f"{path} is a {artifact.kind} artifact where --{option} needs one of {' or '.join(kinds)}: "
            "give the path of one"
        )
    for field in ("dataset", "network", "normalization", "data_sha256"):
        if artifact.recipe[field] != source.recipe[field]:
            raise UsageError(
                f"{path} is of {artifact.recipe[field]}, {source.path} of {source.recipe[field]}: "
                f"give --{option} of the same {field}"
            )
    return artifact


def _wanted(source: store.Artifact, levels: Sequence[int] | None, replicates: int | None) -> list[tuple[int, int]]:
    """(replicate, level) that are asked for, level by level, all of which the run has."""
    table = source.table()
    held = len(set(table.replicate))
    replicates = held if replicates is None else replicates
    require_replicates(replicates, source, held)
    there = {(int(level), int(r)) for r, level in zip(table.replicate, table.level)}
    if levels is None:
        wanted = {(level, r) for level, r in there if level and r < replicates}
    else:
        wanted = {(level, r) for level in levels for r in range(replicates)}
    if not wanted:
        raise UsageError(f"{source.path} has no pruned level: run its imp command with --levels 1 or more")
    for level, r in sorted(wanted):
        if level < 1:
            raise UsageError(f"level (={level}) must be 1 or more: level 0 is dense, ask `repro imp` for it")
        if (level, r) not in there:
            raise UsageError(
                f"{source.path} has no level {level} of replicate {r}: ask for other --levels or fewer "
                "--replicates, or run its imp command with more"
            )
    return [(r, level) for level, r in sorted(wanted)]


class _Branch(Levels):
    """One branch command: which mask and which weights each level has."""

    def __init__(self, writer: ArtifactWriter, fixed: Tensor | None, data: ImageSet, machine: Machine):
        how = writer.recipe.get("init", "paper")
        if (how, writer.recipe["weights"]) == ("file", "reinitialised") or "point" in writer.inputs:
            how = "paper"  # nothing begins as that file
        super().__init__(writer, data, machine, Init(how))
        self.fixed, self.source, self.point = fixed, writer.inputs["imp"], writer.inputs.get("point")
        self.masks = writer.inputs.get("masks", self.source)

    def require(self, wanted: list[tuple[int, int]]) -> None:
        """Raises UsageError for a mask or weights that their files do not hold."""
        there = set(self.masks.table().piece)
        for r, level in wanted:
            if piece_of(r, level) not in there:
                raise UsageError(
                    f"{self.masks.path} has no level {level} of replicate {r}: ask for other --levels or "
                    f"fewer --replicates, or run its {self.masks.kind} command with more"
                )
            if self.point and self._key(self.point, r) not in self.point:
                raise UsageError(
                    f"{self.point.path} has no replicate {r}: ask for fewer --replicates, or run its "
                    f"{self.point.kind} command with more"
                )
        if all(self.is_lost(*row) for row in wanted):
            raise UsageError(
                f"{self.masks.path} has no mask for any of these levels, since it diverged: "
                "choose other --levels or another run"
            )

    def is_lost(self, replicate: int, level: int) -> bool:
        """Whether there is no mask, because the level it was to be made from diverged."""
        return self.fixed is None and f"{piece_of(replicate, level)}/mask" not in self.masks

    def mask(self, replicate: int, level: int) -> Tensor:
        """The mask a level trains with, bool [num_prunable]."""
        if self.fixed is not None:
            return self.fixed
        address = self.recipe["seed"], replicate
        stored = self.unpack(self.masks[f"{piece_of(replicate, level)}/mask"])
        if self.recipe["mask"] == "shuffled":
            sizes = [entry.size for entry in self.layout.prunable]
            return shuffle_within_layers(stored, sizes, stream(*address, "shuffle", level))
        if self.recipe["mask"] == "random":
            free, drawn = prunable(self.layout, tuple(self.recipe.get("keep_dense", ()))), stored.clone()
            drawn[free] = random_mask(stored[free], stream(*address, ROLE + "mask", level))
            return drawn
        return stored

    def weights(self, replicate: int) -> Tensor:
        """What a replicate's levels start from, [layout.size], before the mask."""
        kept = self.writer.arrays.get(array_name("rewind_weights", replicate=replicate))
        if kept is not None:  # its source may have been recomputed on another machine
            return torch.from_numpy(kept)
        if self.recipe["weights"] == "reinitialised":
            require_init(self.source, self.data)
            return self.trainer.initial(self.recipe["seed"], replicate, ROLE)
        artifact = self.point or self.source
        return torch.from_numpy(artifact[self._key(artifact, replicate)]).to(self.trainer.dtype)

    @staticmethod
    def _key(artifact: store.Artifact, replicate: int) -> str:
        """Where an artifact keeps a rewind point."""
        return array_name("weights" if artifact.kind == "pretrain" else "level_0/rewind_weights", replicate=replicate)

    def rewind_weights(self) -> dict[str, np.ndarray]:
        replicates = sorted(set(self.writer.table().replicate))
        return {array_name("rewind_weights", replicate=r): self.weights(r).numpy() for r in replicates}
