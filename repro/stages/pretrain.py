"""pretrain: train the dense network for t steps on a subset; its weights are the rewind point (paper, Algorithm 1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet, Passes
from repro.errors import UsageError
from repro.protocol import protocol
from repro.recipes.artifacts import array_name, piece_name, training_fields
from repro.recipes.training import Training
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import Init, data_fields, data_of, init_of, network_fields, open_data, require_replicates
from repro.stages.labels import Labels, labels_in_use
from repro.stages.machine import Machine
from repro.stages.trained import advice, divergence
from repro.stages.trainer import Trainer
from repro.train.job import NEVER, Job
from repro.usercode import pinned


@checked
def pretrain(
    out: str | Path,
    *,
    dataset: str | None = None,
    subset: str | Path | None = None,
    t: int | None = None,
    replicates: int | None = None,
    scale: str | None = None,
    network: str | None = None,
    training: Training | None = None,
    normalization: str | None = None,
    seed: int | None = None,
    label_noise: float = 0.0,
    noise_draw: str = "shared",
    labels: str | Path | None = None,
    init: str | Path = "paper",
    machine: Machine = Machine(),
) -> Result:
    """Pre-train ``replicates`` networks for ``t`` steps and write their weights and batch-norm statistics to ``out``.

    Arguments:
        dataset: name for `repro.data.load`; taken from ``subset`` when that is given.
        subset: subset artifact to train on; None is all training images. The subset is passed over as often as t
            steps need (paper, section 3).
        t: rewind step; 0 keeps the initialisation. None is the protocol's t*.
        replicates, network, training, normalization, seed: the protocol's when None.
        scale: of the protocol; None is the data set's own.
        label_noise, noise_draw, labels: train on other labels; see `repro.stages.labels.labels_in_use`. A ``subset``
            has its own, which are taken over. Test accuracy is by the data set's labels.
        init: what networks begin as; see `repro.stages.inputs.init_of`. A line of the result says so where all begin
            with the same weights.

    Raises UsageError for a t beyond the schedule, a subset of other images or of fewer replicates.
    """
    used = {"label_noise": label_noise, "noise_draw": noise_draw, "labels": labels}
    asked = dataset, subset, t, replicates, scale, network, training, normalization, seed
    start = begin(*asked, init, machine, **used)
    training = start.training
    with ArtifactWriter(out, "pretrain", start.fields, start.inputs, machine) as writer:
        trainer = Trainer(start.data, start.network, training, machine, start.init)
        Passes(len(start.images(0)), training.batch_size, training.drop_last)  # raises for a subset below one batch
        wanted = {piece_name(replicate=r): r for r in range(start.replicates)}
        if machine.dry_run:
            return writer.preview(wanted, steps=start.t, batch_size=training.batch_size)
        jobs = {piece: start.job(r) for piece, r in wanted.items() if piece not in writer.rows}
        trainer.expect(writer, jobs, "test")
        for cohort, where in trainer.cohorts(jobs, len(wanted)):
            trained = trainer.train(writer, cohort, where)
            new = {}
            for network in trainer.measure(trained, "test"):
                row = {"replicate": network.job.replicate}
                row |= network.columns("acc", "loss", "diverged_at", "seconds", "engine")
                new[network.piece] = {"weights": network.vector.numpy()}, row
            writer.add(new)
        table = writer.table()
        diverged = table[table.diverged_at != NEVER]
        hint = advice(diverged.diverged_at.min(), 0, training.lr)
        warning = divergence(writer.path.stem, diverged, hint, all_lost=len(diverged) == len(table))
        accuracy = f"{table.acc.mean():.4f} ± {table.acc.std(ddof=0):.4f} (n={len(table)})"
        return writer.finish(
            order=["replicate"],
            extra=start.labels.arrays(int(writer.table().replicate.max()) + 1),
            lines=(f"test accuracy after {start.t} steps: {accuracy}", *trainer.alike, *warning),
            **trainer.provenance,
            seed=start.seed,
        )


@dataclass(frozen=True, eq=False)
class Beginning:
    """A training for t steps, on a subset's images or, without a subset, on all that a replicate trains on."""

    subset: store.Artifact | None
    data: ImageSet
    labels: Labels
    network: str
    training: Training
    seed: int
    t: int
    replicates: int
    normalization: str
    init: Init

    @property
    def fields(self) -> dict:
        """The recipe."""
        return {
            **data_fields(self.data, self.normalization),
            **network_fields(self.data, self.network),
            "t": self.t,
            "seed": self.seed,
            **self.labels.fields,
            **self.init.fields,
            **training_fields(self.training),
        }

    @property
    def inputs(self) -> dict[str, store.Artifact]:
        return {"subset": self.subset} if self.subset else {}

    def images(self, replicate: int) -> np.ndarray:
        """Dataset indices it trains on."""
        return (
            self.subset[array_name("index", replicate=replicate)]
            if self.subset
            else self.data.split(replicate)[0].numpy()
        )

    def job(self, replicate: int) -> Job:
        """Training from the initialisation on."""
        labels = self.labels.for_job(replicate)
        return Job(None, self.images(replicate), 0, self.t, self.seed, replicate, labels=labels)


def begin(
    dataset: str | None,
    subset: str | Path | None,
    t: int | None,
    replicates: int | None,
    scale: str | None,
    network: str | None,
    training: Training | None,
    normalization: str | None,
    seed: int | None,
    init: str | Path,
    machine: Machine,
    **labels,
) -> Beginning:
    """A `Beginning`, with the data set's protocol where None is given.

    Arguments:
        dataset, subset: exactly one of them; a subset brings its data set, normalization and labels.
        init: of `repro.stages.inputs.init_of`.
        labels: label_noise, noise_draw and labels of `repro.stages.labels.labels_in_use`.

    Raises UsageError for a t beyond the schedule, a subset of other images or of fewer replicates.
    """
    chosen = store.read(subset, kind="subset") if subset else None
    recipe = protocol(chosen.recipe["dataset"] if chosen else dataset, scale)
    training = training or recipe.training
    seed = recipe.seed if seed is None else seed
    t = recipe.t_star if t is None else t
    replicates = recipe.replicates if replicates is None else replicates
    require_replicates(replicates, chosen)
    if not 0 <= t <= training.steps:
        raise UsageError(f"step t (={t}) must be between 0 and the {training.steps} steps of the schedule")
    own = chosen.recipe["normalization"] if chosen else recipe.normalization
    if chosen and normalization not in (None, own):
        raise UsageError(f"normalization {normalization!r} differs from the subset's: leave the option out")
    normalization = normalization or own
    data = data_of(chosen, machine) if chosen else open_data(dataset, normalization, machine)
    used = labels_in_use(data, source=chosen, seed=seed, **labels)
    network = pinned(network or recipe.network)
    begun = init_of(init, data, network, seed)
    return Beginning(chosen, data, used, network, training, seed, t, replicates, normalization, begun)
