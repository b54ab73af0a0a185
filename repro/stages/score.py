"""score: how easy every training image is to learn, by EL2N and other scores, the mean over K networks.

EL2N is the paper's (Definition 2.1; Paul et al. 2021). Margin, forgetting events (Toneva et al. 2019) and GraNd (Paul
et al. 2021) are taken from the same networks.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from repro.errors import RunError, UsageError
from repro.protocol import Scoring, protocol
from repro.recipes.artifacts import training_fields
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import data_fields, init_of, network_fields, open_data, require_replicates
from repro.stages.labels import Labels, labels_in_use
from repro.stages.machine import Machine
from repro.stages.ranking import SCORES
from repro.stages.trained import Network, advice
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.job import Job
from repro.train.random_streams import stream
from repro.train.scores import Forgetting, gradient_norms
from repro.usercode import pinned

LEARNED = 0.99  # above this mean training accuracy, a score is no longer early (paper, section 3)
RELIABLE = 0.7  # below this rank correlation between half-ensembles, a ranking is mostly noise


@checked
def score(
    out: str | Path,
    *,
    dataset: str,
    scoring: Scoring | None = None,
    normalization: str | None = None,
    replicates: int | None = None,
    scale: str | None = None,
    seed: int | None = None,
    label_noise: float = 0.0,
    noise_draw: str = "shared",
    labels: str | Path | None = None,
    grand: bool = False,
    init: str | Path = "paper",
    machine: Machine = Machine(),
) -> Result:
    """Train K networks on all training images and write the images' scores to ``out``.

    Arguments:
        dataset: name for `repro.data.load`.
        scoring: network, training, K and batch-norm mode; the protocol's when None. Networks are trained for
            ``scoring.training.steps`` steps.
        scale: of the protocol; None is the data set's own.
        replicates: how many replicates the scores are for. It matters for a data set with folds, where replicate r
            trains and tests on fold r mod F: K networks are trained for each fold in use. With a noise draw for each
            replicate, they are trained for each replicate.
        label_noise, noise_draw, labels: train and score on other labels; see `repro.stages.labels.labels_in_use`.
        grand: score by the full gradient norm too, which takes a backward pass for each image and network.
        init: what the K networks begin as; see `repro.stages.inputs.init_of`.

    Written: ``fold_f/network_k/el2n`` float32 [n] of each network, likewise ``margin``, ``forgetting`` and ``grand``
    (see `repro.train`), ``fold_f/el2n`` … their means, ``fold_f/index`` int64 [n] the dataset indices scored, and
    ``fold_f/half_correlation``, the Spearman correlation between the mean EL2N of half-ensembles, which is printed
    with a warning below 0.7, and beside it the mean training accuracy, with one above 0.99. With a noise draw for each
    replicate, ``replicate_r`` stands in place of ``fold_f``.
    """
    recipe = protocol(dataset, scale)
    replicates = recipe.replicates if replicates is None else replicates
    require_replicates(replicates)
    scoring = scoring or recipe.scoring
    scoring = replace(scoring, network=pinned(scoring.network))
    if scoring.networks < 1:
        raise UsageError(f"number of scoring networks (={scoring.networks}) must be at least 1")
    if scoring.batch_norm not in evaluate.BATCH_NORM_MODES:
        raise UsageError(f"unknown batch norm mode {scoring.batch_norm!r}: choose running or batch")
    seed = recipe.seed if seed is None else seed
    normalization = normalization or recipe.normalization
    data = open_data(dataset, normalization, machine)
    used = labels_in_use(data, label_noise=label_noise, noise_draw=noise_draw, labels=labels, seed=seed)
    fields = data_fields(data, normalization) | network_fields(data, scoring.network)
    fields |= {"networks": scoring.networks, "batch_norm": scoring.batch_norm, "seed": seed, "grand": grand}
    begun = init_of(init, data, scoring.network, seed)
    fields |= used.fields | begun.fields | training_fields(scoring.training)
    with ArtifactWriter(out, "score", fields, {}, machine) as writer:
        trainer = Trainer(data, scoring.network, scoring.training, machine, begun)
        run = _Ensembles(writer, trainer, scoring, used, replicates)
        if machine.dry_run:
            steps, batch_size = scoring.training.steps, scoring.training.batch_size
            return writer.preview(run.wanted, steps=steps, batch_size=batch_size)
        run.train()
        extra, lines = run.summary()
        return writer.finish(
            order=[run.unit, "network"], extra=extra, lines=(*lines, *trainer.alike), **trainer.provenance, seed=seed
        )


class _Ensembles:
    """The networks of one score command: K for each group of replicates that share images and labels.

    A group is a fold or, with labels of its own, a replicate; ``unit`` says which.
    """

    def __init__(self, writer: ArtifactWriter, trainer: Trainer, scoring: Scoring, labels: Labels, replicates: int):
        self.writer, self.trainer, self.scoring, self.labels = writer, trainer, scoring, labels
        self.replicates, self.seed, self.grand = replicates, writer.recipe["seed"], writer.recipe["grand"]
        folds = len(trainer.data.splits)
        self.unit, groups = ("replicate", replicates) if labels.per_replicate else ("fold", min(folds, replicates))
        self.wanted = {piece: (g, k) for g in range(groups) for k, piece in enumerate(self.pieces(g))}

    def pieces(self, group: int) -> list[str]:
        """The names of a group's networks."""
        return [f"{self.unit}_{group}/network_{k}" for k in range(self.scoring.networks)]

    def pool(self, group: int) -> np.ndarray:
        """Dataset indices, int64 [n], of the images that a group trains on and scores."""
        return self.trainer.data.split(group)[0].numpy()

    def job(self, group: int, k: int) -> Job:
        """Training from the initialisation on, with streams of the group's own."""
        labels, steps = self.labels.for_job(group), self.scoring.training.steps
        return Job(None, self.pool(group), 0, steps, self.seed, k, labels=labels, role=f"score{group}.")

    def cohort_key(self, job: Job) -> tuple:
        """As `Trainer.cohort_key`; with batch statistics for pools of one length, since padding would enter them."""
        by_batch = self.scoring.batch_norm == "batch"
        if by_batch:
            self.trainer.require_batches(len(job.subset), scoring=True)
        return self.trainer.cohort_key(job), len(job.subset) if by_batch else 0

    def train(self) -> None:
        """Train the networks that are not kept yet, and keep the scores of each cohort.

        Raises RunError for a network that diverged: the mean needs all of them.
        """
        writer, trainer = self.writer, self.trainer
        jobs = {piece: self.job(*at) for piece, at in self.wanted.items() if piece not in writer.rows}
        trainer.expect(writer, jobs, "subset", more=float(self.grand))
        for cohort, where in trainer.cohorts(jobs, len(self.wanted), self.cohort_key):
            truth = torch.stack([torch.from_numpy(self.labels.of(self.wanted[piece][0])) for piece in cohort])
            forgetting = Forgetting(truth, len(cohort))
            trained = trainer.train(writer, cohort, where, observe=forgetting)
            networks = trainer.measure(trained, "subset", batch_norm=self.scoring.batch_norm)
            if lost := next((network for network in networks if network.diverged), None):
                self._fail(
                    f"{lost.piece} diverged (loss not finite at step {lost.diverged_at}): a score needs all "
                    f"{self.scoring.networks} networks: {advice(lost.diverged_at, 0, self.scoring.training.lr)}"
                )
            if self.grand:
                writer.save_checkpoint(list(cohort))(trained.state)  # gradients can take as long as the training
            scores = [forgetting.score(j, network.job.subset) for j, network in enumerate(networks)]
            writer.add({network.piece: self.kept(network, each) for network, each in zip(networks, scores)})

    def kept(self, network: Network, forgetting: np.ndarray) -> tuple[dict[str, np.ndarray], dict]:
        """The scores of the images by one network, and its row. Raises RunError for one that is not finite."""
        seen, (group, k) = network.on["subset"], self.wanted[network.piece]
        arrays = {
            "el2n": evaluate.error_norms(seen.logits, seen.labels).numpy(),
            "margin": evaluate.margins(seen.logits, seen.labels).numpy(),
            "forgetting": forgetting,
        }
        if self.grand:
            arrays["grand"] = _grand(self.trainer, network, lambda images: self.writer.ticker.measured(images, work=1))
        if odd := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
            lower = f"lower --lr (={self.scoring.training.lr})"
            self._fail(f"{network.piece} gives {' and '.join(odd)} scores that are not finite: {lower}")
        row = {self.unit: group, "network": k, "train_acc": seen.accuracy}
        return arrays, row | network.columns("seconds", "engine")

    def _fail(self, what: str) -> NoReturn:
        self.writer.drop_checkpoint()
        raise RunError(f"scoring network {what}")

    def summary(self) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """The arrays of each group whose networks are all there (means, index, half correlation), and a line on it."""
        rows, arrays = self.writer.rows, self.writer.arrays
        groups = sorted({row[self.unit] for row in rows.values()})
        extra, lines = self.labels.arrays(max(self.replicates, groups[-1] + 1)), []  # as many as an earlier run had
        for g in groups:
            name, pieces = f"{self.unit}_{g}", self.pieces(g)
            if any(piece not in rows for piece in pieces):
                continue  # begun by a run that was interrupted
            extra[f"{name}/index"] = self.pool(g)
            for score in SCORES:
                each = [arrays.get(f"{piece}/{score}") for piece in pieces]
                if all(values is not None for values in each):  # not GraNd, or made before there were other scores
                    extra[f"{name}/{score}"] = np.stack(each).mean(0)
            said = []
            if len(pieces) >= 2:
                scores = np.stack([arrays[f"{piece}/el2n"] for piece in pieces])
                rho = half_ensemble_correlation(scores, stream(self.seed, g, "halves"))
                extra[f"{name}/half_correlation"] = np.float64(rho)
                said = _reliable(rho)
            said += _early(np.mean([rows[piece]["train_acc"] for piece in pieces]))
            lines.append(f"{self.unit} {g} (K={len(pieces)}): {'; '.join(said)}")
        return extra, tuple(lines)


def _grand(trainer: Trainer, network: Network, report: Callable[[int], None]) -> np.ndarray:
    """GraNd of the images that a network was trained on, float32 [n]."""
    module, labels = trainer.module(network.vector), network.on["subset"].labels
    return gradient_norms(module, trainer.batcher, network.job.subset, labels, report=report).float().numpy()


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
    """The mean training accuracy of a group's networks in words, with a warning where it is high."""
    said = [f"mean training accuracy {accuracy:.4f}"]
    if accuracy > LEARNED:
        said.append(f"warning: above {LEARNED}, scored after the images were learned: score earlier, by fewer --steps")
    return said


def _reliable(rho: float) -> list[str]:
    """The correlation between a group's half-ensembles in words, with a warning where it is low."""
    said = [f"rank correlation between half-ensembles {rho:.2f}"]
    if np.isnan(rho):
        said.append("warning: half of the networks score all images alike, so there is no ranking: train them longer")
    elif rho < RELIABLE:
        said.append(f"warning: below {RELIABLE}, the ranking is mostly noise: more networks, longer, or a lower rate")
    return said
