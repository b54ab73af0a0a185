"""score: how easy every training image is to learn, by EL2N and other scores, the mean over K networks.

EL2N is the paper's (Definition 2.1; Paul et al. 2021). Margin, forgetting events (Toneva et al. 2019) and GraNd (Paul
et al. 2021) are taken from the same networks.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from repro.errors import RunError, UsageError
from repro.protocol import Scoring, protocol
from repro.recipes.artifacts import piece_name, training_fields
from repro.stages.artifact_writer import Growing
from repro.stages.common import Machine, Result, open_data, require_replicates
from repro.stages.first_look import advice
from repro.stages.labels import labels_in_use
from repro.stages.networks import network_fields
from repro.stages.progress import FORWARD, images_between, place
from repro.stages.select import SCORES
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.job import Job
from repro.train.random_streams import stream
from repro.train.scores import Forgetting, gradient_norms
from repro.usercode import pinned

LEARNED = 0.99  # above this mean training accuracy, a score is no longer early (paper, section 3)
RELIABLE = 0.7  # below this rank correlation between half-ensembles, a ranking is mostly noise


def score(
    out: str | Path,
    *,
    dataset: str,
    scoring: Scoring | None = None,
    normalization: str | None = None,
    replicates: int | None = None,
    seed: int | None = None,
    label_noise: float = 0.0,
    noise_draw: str = "shared",
    labels: str | Path | None = None,
    grand: bool = False,
    machine: Machine = Machine(),
) -> Result:
    """Train K networks on all training images and write the images' scores to ``out``.

    Arguments:
        dataset: name for `repro.data.load`.
        scoring: network, training, K and batch-norm mode; the data set's protocol when None. Networks are trained for
            ``scoring.training.steps`` steps.
        replicates: how many replicates the scores are for. It matters for a data set with folds, where replicate r
            trains and tests on fold r mod F: K networks are trained for each fold in use. With a noise draw for each
            replicate, they are trained for each replicate.
        label_noise, noise_draw, labels: train and score on other labels; see `repro.stages.labels.labels_in_use`.
        grand: score by the full gradient norm too, which takes a backward pass for each image and network.

    Written: ``fold_f/network_k/el2n`` float32 [n] of each network, likewise ``margin``, ``forgetting`` and ``grand``
    (see `repro.train`), ``fold_f/el2n`` … their means, ``fold_f/index`` int64 [n] the dataset indices scored, and
    ``fold_f/half_correlation``, the Spearman correlation between the mean EL2N of half-ensembles, which is printed
    with a warning below 0.7, and beside it the mean training accuracy, with one above 0.99. With a noise draw for each
    replicate, ``replicate_r`` stands in place of ``fold_f``.
    """
    recipe = protocol(dataset)
    replicates = recipe.replicates if replicates is None else replicates
    require_replicates(replicates)
    scoring = scoring or recipe.scoring
    scoring = replace(scoring, network=pinned(scoring.network))
    training, count = scoring.training, scoring.networks
    if count < 1:
        raise UsageError(f"number of scoring networks (={count}) must be at least 1")
    if scoring.batch_norm not in evaluate.BATCH_NORM_MODES:
        raise UsageError(f"unknown batch norm mode {scoring.batch_norm!r}: choose running or batch")
    seed = recipe.seed if seed is None else seed
    normalization = normalization or recipe.normalization
    data = open_data(dataset, normalization, machine)
    used = labels_in_use(data, label_noise=label_noise, noise_draw=noise_draw, labels=labels, seed=seed)
    fields = {
        "dataset": data.name,
        "data_sha256": data.checksum,
        "normalization": normalization,
        **network_fields(data, scoring.network),
        "networks": count,
        "batch_norm": scoring.batch_norm,
        "seed": seed,
        "grand": grand,
        **used.fields,
        **training_fields(training),
    }
    # networks are trained for each group: a fold, or a replicate with labels of its own
    unit, groups = ("replicate", replicates) if used.per_replicate else ("fold", min(len(data.splits), replicates))
    with Growing(out, "score", fields, {}, machine) as cell:
        wanted = {piece_name(**{unit: g}, network=k): (g, k) for g in range(groups) for k in range(count)}
        trainer = Trainer(data, scoring.network, training, machine)
        if machine.dry_run:
            return cell.preview(wanted, steps=training.steps, batch_size=training.batch_size)

        def pool(group: int) -> np.ndarray:
            return data.split(group)[0].numpy()

        def cohort_key(row: tuple[int, int]) -> tuple:
            images, by_batch = pool(row[0]), scoring.batch_norm == "batch"
            if by_batch:
                trainer.require_batches(len(images), scoring=True)
            # padding would enter the statistics of a batch: pools of one length
            return trainer.cohort_key(images), len(images) if by_batch else 0

        missing = {piece: row for piece, row in wanted.items() if piece not in cell.rows}
        for piece, (g, _) in missing.items():
            images = len(pool(g))  # measured on once, and once more with a backward pass for GraNd
            work = images_between(training, images, 0, training.steps) + (FORWARD + grand) * images
            cell.ticker.expect({piece: work})
        for chunk in trainer.chunks(missing.values(), cohort_key):
            pieces = [piece_name(**{unit: g}, network=k) for g, k in chunk]
            pools = [pool(g) for g, _ in chunk]
            jobs = [
                Job(
                    trainer.initial(seed, k, f"score{g}."),
                    index,
                    0,
                    training.steps,
                    seed,
                    k,
                    labels=used.for_job(g),
                    role=f"score{g}.",
                )
                for (g, k), index in zip(chunk, pools)
            ]
            truth = torch.stack([torch.from_numpy(used.of(g)) for g, _ in chunk])
            forgetting = Forgetting(truth, len(chunk))
            where = place("network", len(wanted) - len(cell.ticker.pending), len(chunk), len(wanted))
            trained = trainer.train(cell, jobs, pieces, where, observe=forgetting)
            (logits,) = trainer.measure(trained, pools, batch_norm=scoring.batch_norm, report=cell.ticker.measured)
            if trained.diverged.any():
                first = int(np.argmax(trained.diverged))
                cell.drop_checkpoint()
                raise RunError(
                    f"scoring network {pieces[first]} diverged (loss not finite at step {trained.diverged_at[first]}): "
                    f"a score needs all {count} networks: {advice(trained.diverged_at[first], 0, training.lr)}"
                )
            if grand:
                cell.save_checkpoint(pieces)(trained.state)  # gradients can take as long as the training
            new = {}
            for j, (g, k) in enumerate(chunk):
                label = truth[j, pools[j]]
                arrays = {
                    "el2n": evaluate.error_norms(logits[j], label).numpy(),
                    "margin": evaluate.margins(logits[j], label).numpy(),
                    "forgetting": forgetting.score(j, pools[j]),
                }
                if grand:
                    norms = gradient_norms(
                        trainer.module(trained.vectors[j]),
                        trainer.batcher,
                        pools[j],
                        label,
                        report=lambda images: cell.ticker.measured(images, work=1),
                    )
                    arrays["grand"] = norms.float().numpy()
                if odd := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
                    cell.drop_checkpoint()
                    raise RunError(
                        f"scoring network {pieces[j]} gives {' and '.join(odd)} scores that are not finite: "
                        f"lower --lr (={training.lr})"
                    )
                row = {
                    unit: g,
                    "network": k,
                    "train_acc": evaluate.correct(logits[j], label).double().mean().item(),
                    "seconds": trained.seconds,
                    "engine": trained.engines[j],
                }
                new[pieces[j]] = (arrays, row)
            cell.add(new)
        groups = sorted({row[unit] for row in cell.rows.values()})
        extra, lines = used.arrays(max(replicates, groups[-1] + 1)), []  # an interrupted run may have had more
        for g in groups:
            if any(f"{unit}_{g}/network_{k}" not in cell.rows for k in range(count)):
                continue  # begun by a run that was interrupted
            extra[f"{unit}_{g}/index"] = pool(g)
            for name in SCORES:
                each = [cell.arrays.get(f"{unit}_{g}/network_{k}/{name}") for k in range(count)]
                if all(values is not None for values in each):  # not GraNd, or made before there were other scores
                    extra[f"{unit}_{g}/{name}"] = np.stack(each).mean(0)
            accuracy = np.mean([cell.rows[f"{unit}_{g}/network_{k}"]["train_acc"] for k in range(count)])
            said = []
            if count >= 2:
                scores = np.stack([cell.arrays[f"{unit}_{g}/network_{k}/el2n"] for k in range(count)])
                rho = half_ensemble_correlation(scores, stream(seed, g, "halves"))
                extra[f"{unit}_{g}/half_correlation"] = np.float64(rho)
                said = _reliable(rho)
            lines.append(f"{unit} {g} (K={count}): {'; '.join([*said, *_early(accuracy)])}")
        return cell.finish(order=[unit, "network"], extra=extra, lines=tuple(lines), **trainer.provenance, seed=seed)


def half_ensemble_correlation(scores: np.ndarray, rng: np.random.Generator, splits: int = 20) -> float:
    """Mean Spearman correlation between the mean scores of two halves of the networks, over random halvings.

    NaN where a half scores all images alike.

    Arguments:
        scores: [K, n], one row a network, K at least 2 (for odd K one network is left out at a time).
    """
    from scipy.stats import spearmanr  # slow to import, and only this function needs it

    found = []
    for _ in range(splits):
        order = rng.permutation(len(scores))
        half = len(scores) // 2
        a, b = scores[order[:half]].mean(0), scores[order[half : 2 * half]].mean(0)
        found.append(spearmanr(a, b).statistic if np.ptp(a) and np.ptp(b) else np.nan)
    return float(np.mean(found))


def _early(accuracy: float) -> list[str]:
    """What is said of the mean training accuracy of a group's networks."""
    said = [f"mean training accuracy {accuracy:.4f}"]
    if accuracy > LEARNED:
        said.append(f"warning: above {LEARNED}, scored after the images were learned: score earlier, by fewer --steps")
    return said


def _reliable(rho: float) -> list[str]:
    """What is said of the correlation between a group's half-ensembles."""
    said = [f"rank correlation between half-ensembles {rho:.2f}"]
    if np.isnan(rho):
        said.append("warning: half of the networks score all images alike, so there is no ranking: train them longer")
    elif rho < RELIABLE:
        said.append(f"warning: below {RELIABLE}, the ranking is mostly noise: more networks, longer, or a lower rate")
    return said
