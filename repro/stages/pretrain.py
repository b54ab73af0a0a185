"""pretrain: train the dense network for t steps on a subset; its weights are the rewind point (paper, Algorithm 1)."""

from pathlib import Path

from repro.data import Passes
from repro.errors import RunError
from repro.recipes.artifacts import piece_name
from repro.recipes.training import Training
from repro.stages.artifact_writer import Growing
from repro.stages.beginning import begin
from repro.stages.common import Machine, Result
from repro.stages.first_look import advice
from repro.stages.progress import FORWARD, images_between, place
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.job import NEVER


def pretrain(
    out: str | Path,
    *,
    dataset: str | None = None,
    subset: str | Path | None = None,
    t: int,
    replicates: int,
    network: str | None = None,
    training: Training | None = None,
    normalization: str | None = None,
    seed: int | None = None,
    label_noise: float = 0.0,
    noise_draw: str = "shared",
    labels: str | Path | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Pre-train ``replicates`` networks for ``t`` steps and write their weights and batch-norm statistics to ``out``.

    Arguments:
        dataset: name for `repro.data.load`; taken from ``subset`` when that is given.
        subset: subset artifact to train on; None is all training images. The subset is passed over as often as t
            steps need (paper, section 3).
        t: rewind step; 0 keeps the random initialisation.
        network, training, normalization, seed: the data set's protocol when None.
        label_noise, noise_draw, labels: train on other labels; see `repro.stages.labels.labels_in_use`. A ``subset``
            has its own, which are taken over. Test accuracy is by the data set's labels.

    Raises UsageError for a t beyond the schedule, a subset of other images or of fewer replicates.
    """
    start = begin(
        dataset=dataset,
        subset=subset,
        t=t,
        replicates=replicates,
        network=network,
        training=training,
        normalization=normalization,
        seed=seed,
        machine=machine,
        label_noise=label_noise,
        noise_draw=noise_draw,
        labels=labels,
    )
    data, training = start.data, start.training
    with Growing(out, "pretrain", start.fields, start.inputs, machine) as cell:
        trainer = Trainer(data, start.network, training, machine)
        Passes(len(start.images(0)), training.batch_size, training.drop_last)  # complains of a subset below one batch
        if machine.dry_run:
            wanted = [piece_name(replicate=r) for r in range(replicates)]
            return cell.preview(wanted, steps=t, batch_size=training.batch_size)
        missing = [r for r in range(replicates) if piece_name(replicate=r) not in cell.rows]
        for r in missing:
            work = images_between(training, len(start.images(r)), 0, t) + FORWARD * len(data.split(r)[1])
            cell.ticker.expect({piece_name(replicate=r): work})
        for rows in trainer.chunks(missing, lambda r: trainer.cohort_key(start.images(r))):
            pieces = [piece_name(replicate=r) for r in rows]
            jobs = [start.job(trainer, r) for r in rows]
            where = place("network", replicates - len(cell.ticker.pending), len(rows), replicates)
            trained = trainer.train(cell, jobs, pieces, where)
            tests = [data.split(r)[1].numpy() for r in rows]
            (logits,) = trainer.measure(trained, tests, report=cell.ticker.measured)
            new = {}
            for j, r in enumerate(rows):
                truth = data.labels[tests[j]]
                row = {
                    "replicate": r,
                    "acc": trainer.accuracy(trained, j, evaluate.correct(logits[j], truth)),
                    "loss": evaluate.losses(logits[j], truth).double().mean().item(),
                    "diverged_at": int(trained.diverged_at[j]),
                    "seconds": trained.seconds,
                    "engine": trained.engines[j],
                }
                new[pieces[j]] = ({"weights": trained.vectors[j].numpy()}, row)
            cell.add(new)
        table = cell.table()
        diverged = table.replicate[table.diverged_at != NEVER]
        if len(diverged) == len(table):
            raise RunError(
                f"all replicates of {Path(out).stem} diverged (loss not finite from step {table.diverged_at.min()}): "
                f"{advice(table.diverged_at.min(), 0, training.lr)} and pass --force"
            )
        lines = [
            f"test accuracy after {t} steps: {table.acc.mean():.4f} ± {table.acc.std(ddof=0):.4f} (n={len(table)})"
        ]
        if len(diverged):
            bad = ", ".join(map(str, diverged))
            hint = advice(min(table.diverged_at[diverged.index]), 0, training.lr)
            lines.append(f"warning: replicates {bad} diverged (loss not finite): {hint}")
        return cell.finish(
            order=["replicate"],
            extra=start.labels.arrays(int(cell.table().replicate.max()) + 1),
            lines=tuple(lines),
            **trainer.provenance,
            seed=start.seed,
        )
