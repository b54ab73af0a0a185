"""What training from an initialisation begins with: images, labels, recipe. pretrain and gradients share it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet
from repro.errors import UsageError
from repro.protocol import protocol
from repro.recipes.artifacts import array_name, training_fields
from repro.recipes.training import Training
from repro.stages.common import Machine, data_of, open_data, require_replicates
from repro.stages.labels import Labels, labels_in_use
from repro.stages.networks import network_fields
from repro.stages.trainer import Trainer
from repro.train.job import Job
from repro.usercode import pinned


@dataclass(frozen=True, eq=False)
class Beginning:
    """Training for t steps, on a subset's images or (subset None) on all that a replicate trains on."""

    subset: store.Artifact | None
    data: ImageSet
    labels: Labels
    network: str
    training: Training
    seed: int
    t: int
    normalization: str

    @property
    def fields(self) -> dict:
        """For the recipe."""
        return {
            "dataset": self.data.name,
            "data_sha256": self.data.checksum,
            "normalization": self.normalization,
            **network_fields(self.data, self.network),
            "t": self.t,
            "seed": self.seed,
            **self.labels.fields,
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

    def job(self, trainer: Trainer, replicate: int) -> Job:
        return Job(
            trainer.initial(self.seed, replicate),
            self.images(replicate),
            0,
            self.t,
            self.seed,
            replicate,
            labels=self.labels.for_job(replicate),
        )


def begin(
    *,
    dataset: str | None,
    subset: str | Path | None,
    t: int,
    replicates: int,
    network: str | None,
    training: Training | None,
    normalization: str | None,
    seed: int | None,
    machine: Machine,
    **labels,
) -> Beginning:
    """A `Beginning`, with the data set's protocol where None is given.

    Arguments:
        dataset, subset: exactly one of them; a subset brings its data set, normalization and labels.
        labels: label_noise, noise_draw and labels of `repro.stages.labels.labels_in_use`.

    Raises UsageError for a t beyond the schedule, a subset of other images or of fewer replicates.
    """
    chosen = store.read(subset, kind="subset") if subset else None
    recipe = protocol(chosen.recipe["dataset"] if chosen else dataset)
    training = training or recipe.training
    seed = recipe.seed if seed is None else seed
    require_replicates(replicates, chosen)
    if not 0 <= t <= training.steps:
        raise UsageError(f"step t (={t}) must be between 0 and the {training.steps} steps of the schedule")
    own = chosen.recipe["normalization"] if chosen else recipe.normalization
    if chosen and normalization not in (None, own):
        raise UsageError(f"normalization {normalization!r} differs from the subset's: leave the option out")
    normalization = normalization or own
    data = data_of(chosen, machine) if chosen else open_data(dataset, normalization, machine)
    used = labels_in_use(data, source=chosen, seed=seed, **labels)
    return Beginning(chosen, data, used, pinned(network or recipe.network), training, seed, t, normalization)
