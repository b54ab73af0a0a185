"""score: EL2N of every training image, the mean error norm of K networks (paper, Definition 2.1; Paul et al. 2021)."""

from pathlib import Path

import numpy as np

from repro.errors import RunError, UsageError
from repro.protocol import Scoring, protocol
from repro.stages.common import Machine, Result, Trainer, open_data, require_replicates, ticker, training_fields
from repro.stages.growing import Growing
from repro.train import evaluate
from repro.train.loop import NEVER, Job, train
from repro.train.streams import stream

RELIABLE = 0.7  # below this rank correlation between half-ensembles, a ranking is mostly noise


def score(
    out: str | Path,
    *,
    dataset: str,
    scoring: Scoring | None = None,
    normalization: str | None = None,
    replicates: int | None = None,
    seed: int | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Train K networks on all training images and write their EL2N scores to ``out``.

    Arguments:
        dataset: name for `repro.data.load`.
        scoring: network, training, K and batch-norm mode; the data set's protocol when None. Networks are trained for
            ``scoring.training.steps`` steps.
        replicates: how many replicates the scores are for. It matters only for a data set with folds, where replicate
            r trains and tests on fold r mod F: K networks are trained for each fold in use.

    Written: ``fold_f/network_k/el2n`` float32 [n] of each network, ``fold_f/el2n`` their mean, ``fold_f/index`` int64
    [n] the dataset indices scored. Printed: the Spearman correlation between the mean scores of half-ensembles, with a
    warning below 0.7.
    """
    recipe = protocol(dataset)
    require_replicates(recipe.replicates if replicates is None else replicates)
    scoring = scoring or recipe.scoring
    training, count = scoring.training, scoring.networks
    if count < 1:
        raise UsageError(f"number of scoring networks (={count}) must be at least 1")
    if scoring.batch_norm not in evaluate.BATCH_NORM_MODES:
        raise UsageError(f"unknown batch norm mode {scoring.batch_norm!r}: choose running or batch")
    seed = recipe.seed if seed is None else seed
    normalization = normalization or recipe.normalization
    data = open_data(dataset, normalization, machine)
    folds = range(min(len(data.splits), recipe.replicates if replicates is None else replicates))
    fields = {
        "dataset": data.name, "data_sha256": data.checksum, "normalization": normalization, "score": "el2n",
        "network": scoring.network, "networks": count, "batch_norm": scoring.batch_norm, "seed": seed,
        **training_fields(training),
    }  # fmt: skip
    with Growing(out, "score", fields, {}, machine) as cell:
        wanted = [(f, k) for f in folds for k in range(count)]
        trainer = Trainer(data, scoring.network, training, machine)
        if machine.dry_run:
            names = [f"fold_{f}/network_{k}" for f, k in wanted]
            return cell.preview(names, steps=training.steps, batch_size=training.batch_size)
        todo = [(f, k) for f, k in wanted if f"fold_{f}/network_{k}" not in cell.rows]
        for chunk in trainer.chunks(
            todo,
            lambda row: (
                len(data.splits[row[0]][0])
                if scoring.batch_norm == "batch"
                else trainer.batch_key(data.splits[row[0]][0])
            ),
        ):
            pieces = [f"fold_{f}/network_{k}" for f, k in chunk]
            pools = [data.splits[f][0].numpy() for f, _ in chunk]
            jobs = [
                Job(trainer.initial(seed, k, f"score{f}."), pool, 0, training.steps, seed, k, role=f"score{f}.")
                for (f, k), pool in zip(chunk, pools)
            ]
            with ticker(f"score {Path(out).stem}, {len(chunk)} networks", training.steps) as tick:
                state = train(
                    jobs, training, cohort_of=trainer.cohort, batcher=trainer.batcher, labels=trainer.labels,
                    resume=cell.checkpoint(pieces), checkpoint=cell.save_checkpoint(pieces),
                    checkpoint_seconds=machine.checkpoint_seconds, report=tick,
                )  # fmt: skip
            if (state.diverged_at != NEVER).any():
                first = int(np.argmax(state.diverged_at != NEVER))
                cell.drop_checkpoint()
                raise RunError(
                    f"scoring network {pieces[first]} diverged (loss not finite at step {state.diverged_at[first]}): "
                    f"a score needs all {count} networks: lower --lr (={training.lr})"
                )
            cohort = trainer.cohort(len(chunk))
            cohort.load(state.vectors.to(cohort.device))
            logits = evaluate.predict(cohort, trainer.batcher, pools, batch_norm=scoring.batch_norm)
            new = {}
            for j, (f, k) in enumerate(chunk):
                truth = data.labels[pools[j]]
                row = {
                    "fold": f, "network": k, "train_acc": evaluate.correct(logits[j], truth).double().mean().item(),
                    "seconds": state.seconds / len(chunk),
                }  # fmt: skip
                new[pieces[j]] = ({"el2n": evaluate.error_norms(logits[j], truth).numpy()}, row)
            cell.add(new)
        extra, lines = {}, []
        for f in range(len(data.splits)):
            if any(f"fold_{f}/network_{k}" not in cell.rows for k in range(count)):
                continue  # not asked for, or begun by a run that was interrupted
            scores = np.stack([cell.arrays[f"fold_{f}/network_{k}/el2n"] for k in range(count)])
            extra |= {f"fold_{f}/el2n": scores.mean(0), f"fold_{f}/index": data.splits[f][0].numpy()}
            if count >= 2:
                lines.append(_reliability(f, scores, seed))
        return cell.finish(
            order=["fold", "network"], extra=extra, lines=tuple(lines), device=str(trainer.device),
            engine="/".join(sorted(trainer.engines)), seed=seed,
        )  # fmt: skip


def half_ensemble_correlation(scores: np.ndarray, rng: np.random.Generator, splits: int = 20) -> float:
    """Mean Spearman correlation between the mean scores of two halves of the networks, over random halvings.

    Arguments:
        scores: [K, n], one row a network, K at least 2 (for odd K one network is left out at a time).
    """
    from scipy.stats import spearmanr  # slow to import, and only this function needs it

    found = []
    for _ in range(splits):
        order = rng.permutation(len(scores))
        half = len(scores) // 2
        found.append(spearmanr(scores[order[:half]].mean(0), scores[order[half : 2 * half]].mean(0)).statistic)
    return float(np.mean(found))


def _reliability(fold: int, scores: np.ndarray, seed: int) -> str:
    rho = half_ensemble_correlation(scores, stream(seed, fold, "halves"))
    text = f"fold {fold}: rank correlation between half-ensembles {rho:.2f} (K={len(scores)})"
    if rho < RELIABLE:
        text += f"; warning: below {RELIABLE}, the ranking is mostly noise: more networks, longer, or a lower rate"
    return text
