"""Predictions of trained networks: the logits of a cohort, and the measures taken from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data import Batcher
from repro.engines import Cohort, Report

BATCH_NORM_MODES = ("running", "batch")


def load(cohort: Cohort, vectors: Sequence[Tensor]) -> None:
    """Load networks [layout.size] each, to be measured. Weights that are zero, as pruned ones are, count as pruned."""
    rows = torch.stack(list(vectors))
    cohort.load(rows)
    cohort.load_masks(rows[:, : cohort.layout.num_prunable] != 0)


def predict(
    cohort: Cohort, batcher: Batcher, index: list[np.ndarray], *, batch_norm: str = "running", report: Report = None
) -> list[Tensor]:
    """Logits of un-augmented images: for replica r a float32 tensor [len(index[r]), K] on the CPU. Changes no state.

    Arguments:
        index: one int64 array of dataset indices per replica; lengths may differ (folds do, by one).
        batch_norm: 'running' (evaluation mode) or 'batch': statistics of each batch of 1000 images in the order
            given, as the published scores were computed (protocol section 7).
    """
    longest = max(map(len, index))
    padded = np.stack([np.concatenate([rows, np.repeat(rows[-1:], longest - len(rows))]) for rows in index])
    logits = cohort.predict(batcher, torch.from_numpy(padded), batch_norm=batch_norm, report=report)
    return [each[: len(rows)] for each, rows in zip(logits, index)]


@dataclass(frozen=True)
class Predictions:
    """Logits float32 [n, K] of one network, and the labels int64 [n] of the same images."""

    logits: Tensor
    labels: Tensor

    @property
    def correct(self) -> Tensor:
        """bool [n]; see `correct`."""
        return correct(self.logits, self.labels)

    @property
    def accuracy(self) -> float:
        return self.correct.double().mean().item()

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return losses(self.logits, self.labels).double().mean().item()


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example [n], in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each example is classified correctly, bool [n]; never for a network whose logits are not finite."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the true class minus the largest other logit, [n]."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own.squeeze(1) - others.amax(1)


def error_norms(logits: Tensor, labels: Tensor) -> Tensor:
    """EL2N of one network: L2 norm of softmax minus one-hot label, [n] (paper, Definition 2.1)."""
    return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).norm(dim=1)
