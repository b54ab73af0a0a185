"""warmup: raise the learning rate over w steps on a subset, then train on all data (paper, section 5 and Figure 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet, Passes
from repro.errors import UsageError
from repro.protocol import protocol
from repro.recipes.artifacts import array_name, training_fields, warmed_up
from repro.recipes.training import Training
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import data_fields, data_of, init_of, network_fields, open_data, require_replicates
from repro.stages.machine import Machine
from repro.stages.trained import Network, advice
from repro.stages.trainer import Trainer
from repro.train.job import Job
from repro.usercode import pinned

ALL = "all"  # name and kind of the baseline, which warms up on all training images


@checked
def warmup(
    out: str | Path,
    *,
    dataset: str | None = None,
    subsets: Sequence[str | Path] = (),
    steps: Sequence[int] | None = None,
    replicates: int | None = None,
    scale: str | None = None,
    network: str | None = None,
    training: Training | None = None,
    normalization: str | None = None,
    seed: int | None = None,
    init: str | Path = "paper",
    machine: Machine = Machine(),
) -> Result:
    """Train to the end with every warm-up in ``steps``, on every subset and on all images, and measure the networks.

    The learning rate rises linearly from 0 at step 0 to the recipe's at step w. Until then a network is trained on the
    subset, from then on with all training images; weights, batch-norm statistics, momentum and clock go on as they are
    (protocol section 10). All conditions share a replicate's initialisation and random streams: they are paired.

    Arguments:
        dataset: name for `repro.data.load`; that of the first subset when None.
        subsets: subset artifacts; each is a condition with the name of its file. All training images always are one.
        steps: the w's, each above 0 and below the steps of the training. The sweep can grow by more of them.
        replicates, network, training, normalization, seed: the protocol's when None.
        scale: of the protocol; None is the data set's own.
        init: what networks begin as; see `repro.stages.inputs.init_of`.

    Written: for each (subset, w, replicate) ``<subset>/w<w>/replicate_r/test_correct`` (np.packbits of one bit per test
    image) and a row: subset, kind, size (0 for all), w, replicate, acc, loss (test) and train_loss (of all training
    images without augmentation, nats), diverged, diverged_at, seconds, engine. A network that diverged
    (`repro.stages.trainer.Trained`) counts as chance, 1/classes: that is a result, and its neighbours are trained on
    undisturbed.

    Raises UsageError for a w that does not fit, and for a subset of other images, of fewer replicates, with noisy
    labels, or with the name of another.
    """
    chosen = _named([store.read(path, kind="subset") for path in subsets])
    first = next(iter(chosen.values()), None)
    if first is None and dataset is None:
        raise UsageError("a warm-up needs --dataset, or a subset artifact to take it from")
    recipe = protocol(dataset or first.recipe["dataset"], scale)
    if recipe.warmup is None and (training is None or steps is None):
        raise UsageError(
            f"the protocol of {recipe.dataset} has no warm-up: give the steps, batch size, learning rate "
            "and milestones of the training, and the steps of the warm-up"
        )
    training = training or recipe.warmup.training
    steps = sorted(set(recipe.warmup.steps if steps is None else steps))
    if replicates is None:
        replicates = recipe.warmup.replicates if recipe.warmup else recipe.replicates
    if training.warmup_steps:
        raise UsageError(f"warm-up steps (={training.warmup_steps}) of the training: give them as steps of the sweep")
    network = pinned(network or recipe.network)
    seed = recipe.seed if seed is None else seed
    require_replicates(replicates)
    if not steps:
        raise UsageError("no steps of warm-up to sweep over: give at least one")
    for w in steps:
        if not 0 < w < training.steps:
            raise UsageError(
                f"{w} steps of warm-up must be above 0 and below the {training.steps} steps of the training"
            )
    if first:
        normalization = normalization or first.recipe["normalization"]
    normalization = normalization or recipe.normalization
    data = open_data(dataset, normalization, machine) if dataset else data_of(first, machine)
    for subset in chosen.values():
        _check(subset, data, normalization, replicates)
    begun = init_of(init, data, network, seed)
    fields = {
        **data_fields(data, normalization),
        **network_fields(data, network),
        "seed": seed,
        **begun.fields,
        **training_fields(training),
    }
    conditions = [_Condition(name, w, r) for name in (ALL, *chosen) for w in steps for r in range(replicates)]
    with ArtifactWriter(out, "warmup", fields, chosen, machine) as writer:
        trainer = Trainer(data, network, training, machine, begun)
        sweep = _Sweep(writer, trainer, chosen, conditions)
        for name in (ALL, *chosen):  # raises for a subset below one batch
            Passes(len(sweep.images(name, 0)), training.batch_size, training.drop_last)
        if machine.dry_run:
            wanted = [condition.piece for condition in conditions]
            return writer.preview(wanted, steps=training.steps, batch_size=training.batch_size)
        jobs = {each.piece: sweep.job(each) for each in conditions if each.piece not in writer.rows}
        trainer.expect(writer, jobs, "train", "test")
        for cohort, where in trainer.cohorts(jobs, len(conditions)):
            trained = trainer.train(writer, cohort, where)
            writer.add({each.piece: sweep.kept(each) for each in trainer.measure(trained, "train", "test")})
        return writer.finish(
            order=["kind", "size", "subset", "w", "replicate"],
            lines=(*sweep.summary(), *trainer.alike),
            **trainer.provenance,
            seed=seed,
        )


@dataclass(frozen=True)
class _Condition:
    """One network of the sweep."""

    subset: str
    w: int
    replicate: int

    @property
    def piece(self) -> str:
        return warmed_up(self.subset, self.w, self.replicate)


def _named(subsets: list[store.Artifact]) -> dict[str, store.Artifact]:
    """Subsets by the stem of their file, which names their pieces. Raises UsageError for a name that is taken."""
    named: dict[str, store.Artifact] = {}
    for subset in subsets:
        name = subset.path.stem
        if name in (ALL, "table"):
            raise UsageError(f"{subset.path}: the name {name!r} is taken in the artifact, rename the file")
        if name in named:
            raise UsageError(
                f"{named[name].path} and {subset.path} would both be called {name!r}: give each once, in files of "
                "different names"
            )
        named[name] = subset
    return named


def _check(subset: store.Artifact, data: ImageSet, normalization: str, replicates: int) -> None:
    own = subset.recipe
    if own["data_sha256"] != data.checksum:
        raise UsageError(
            f"{subset.path} is a subset of {own['dataset']} (sha256 {own['data_sha256'][:12]}…), not of "
            f"{data.name} as here ({data.checksum[:12]}…): give subsets of the same images"
        )
    if own["normalization"] != normalization:
        raise UsageError(
            f"normalization {normalization!r}, but {subset.path} has {own['normalization']!r}: leave the "
            "option out, and give subsets of one normalization"
        )
    if own.get("label_noise", 0) or own.get("labels_sha256", ""):
        raise UsageError(
            f"{subset.path} was chosen with other labels than the data set's own, and warm-up is on clean "
            "labels: select a subset without label noise"
        )
    require_replicates(replicates, subset)


class _Sweep:
    """One warmup command: the job of each condition, and what is kept of its network."""

    def __init__(self, writer: ArtifactWriter, trainer: Trainer, subsets: dict, conditions: list[_Condition]):
        self.writer, self.trainer, self.subsets = writer, trainer, subsets
        self.data, self.training = trainer.data, trainer.training
        self.conditions = {each.piece: each for each in conditions}

    def images(self, name: str, replicate: int) -> np.ndarray:
        """int64 dataset indices of the warm-up."""
        if name == ALL:
            return self.data.split(replicate)[0].numpy()
        return self.subsets[name][array_name("index", replicate=replicate)]

    def job(self, each: _Condition) -> Job:
        """Training to the end: on the subset for w steps, from then on with all training images."""
        images, then = (self.images(name, each.replicate) for name in (each.subset, ALL))
        steps, seed = self.training.steps, self.writer.recipe["seed"]
        return Job(None, images, 0, steps, seed, each.replicate, warmup=each.w, then=then)

    def kept(self, network: Network) -> tuple[dict, dict]:
        """Arrays and row of a condition."""
        each = self.conditions[network.piece]
        source = self.subsets[each.subset].recipe if each.subset != ALL else {"subset": ALL, "size": 0}
        row = {"subset": each.subset, "kind": source["subset"], "size": source["size"]}
        row |= {"w": each.w, "replicate": each.replicate}
        row |= network.columns("acc", "loss", "train_loss", "diverged", "diverged_at", "seconds", "engine")
        return {"test_correct": np.packbits(network.on["test"].correct.numpy())}, row

    def summary(self) -> tuple[str, ...]:
        table = self.writer.table()
        width = max(len("subset"), *table.subset.str.len())
        lines = [f"{'subset':<{width}}  kind     size      w  test accuracy"]
        for (kind, size, name, w), rows in table.groupby(["kind", "size", "subset", "w"]):
            lost = f", {rows.diverged.sum()} diverged" if rows.diverged.any() else ""
            spread = f"{rows.acc.mean():.4f} ± {rows.acc.std(ddof=0):.4f} (n={len(rows)}{lost})"
            lines.append(f"{name:<{width}}  {kind:<6} {size or '':>6}  {w:>5}  {spread}")
        if table.diverged.any():
            hint = advice(table.diverged_at[table.diverged].min(), 0, self.training.lr)
            lines.append(
                f"warning: {table.diverged.sum()} of {len(table)} networks diverged and count as chance "
                f"({1 / self.data.num_classes:g}): where that is not what you study, {hint}"
            )
        return tuple(lines)
