"""What trained networks say about images: logits of a cohort, and the measures taken from them."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data import Batcher
from repro.nets.cohort import Cohort

EVALUATION_BATCH = 1000  # protocol section 7: it matters only where batch norm uses batch statistics
BATCH_NORM_MODES = ("running", "batch")


@torch.no_grad()
def predict(
    cohort: Cohort,
    batcher: Batcher,
    index: list[np.ndarray],
    *,
    batch_norm: str = "running",
    report: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Logits of un-augmented images: for replica r a float32 tensor [len(index[r]), K] on the CPU.

    Arguments:
        index: one int64 array of dataset indices per replica; lengths may differ (folds do, by one).
        batch_norm: 'running' (evaluation mode) or 'batch': statistics of each batch of 1000 images in the order
            given, as the published scores were computed (protocol section 7). Running statistics are left alone.
        report: called after each batch with the number of images since the last call.
    """
    longest = max(map(len, index))
    padded = np.stack([np.concatenate([rows, np.repeat(rows[-1:], longest - len(rows))]) for rows in index])
    rows = torch.from_numpy(padded).to(batcher.device)
    buffers = cohort.buffers.clone()
    cohort.train(batch_norm == "batch")
    parts = []
    for chunk in rows.split(EVALUATION_BATCH, 1):
        parts.append(cohort.forward(batcher.normalise(batcher.gather(chunk), cohort.dtype)).float())
        if report:
            report(chunk.numel())
    cohort.train()
    cohort.buffers.copy_(buffers)
    logits = torch.cat(parts, 1).cpu()  # one copy at the end: until then, a GPU is not waited for
    return [each[: len(rows)] for each, rows in zip(logits, index)]


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
