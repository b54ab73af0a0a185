"""Scores of training examples that need more than a network's logits: forgetting events and GraNd."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from repro.data import Batcher
from repro.engines import Report

CHUNK = 256  # examples whose gradients are taken together
CHUNK_NUMBERS = {"cpu": 2**24, "cuda": 2**28}  # in their gradients; on a CPU, ResNet-18 was fastest one at a time


class Forgetting:
    """Counts forgetting events while a cohort trains (Toneva et al., ICLR 2019): an observer of `repro.train.loop`.

    An event is an example that was classified correctly when it was last presented and is not now: as augmented for
    training, before the update, with the batch's own statistics.

    Arguments:
        labels: int64 [J, N], or [N] for all jobs: the labels that are trained on.
        jobs: J.

    ``state``, all [J, N]: ``seen`` and ``forgotten`` uint16 counts, ``last`` and ``learned`` bool: correct when last
    presented, and ever.
    """

    def __init__(self, labels: Tensor, jobs: int):
        self.labels = labels.cpu().expand(jobs, -1).numpy()
        kinds = {"seen": np.uint16, "forgotten": np.uint16, "last": np.bool_, "learned": np.bool_}
        self.state = {name: np.zeros(self.labels.shape, dtype) for name, dtype in kinds.items()}

    def __call__(self, step: int, rows: list[int], index: Tensor, logits: Tensor) -> None:
        """Take a block of steps into account; no example is twice in a batch. A GPU is waited for once."""
        jobs, right = np.asarray(rows)[:, None], logits.argmax(3).cpu().numpy()
        state = self.state
        for batch, found in zip(index.cpu().numpy(), right):
            at = jobs, batch
            correct = found == self.labels[at]
            state["seen"][at] += 1
            state["forgotten"][at] += state["last"][at] & ~correct
            state["last"][at] = correct
            state["learned"][at] |= correct

    def score(self, job: int, index: np.ndarray) -> np.ndarray:
        """Forgetting score of the examples of an index, float32: events, or for examples never learned one more than
        any of them was presented. The literature counts those as infinite: the order is the same, the mean over
        networks stays finite.
        """
        seen, forgotten, learned = (self.state[name][job, index] for name in ("seen", "forgotten", "learned"))
        return np.where(learned, forgotten, seen.max(initial=0) + 1.0).astype(np.float32)


def gradient_norms(
    network: nn.Module, batcher: Batcher, index: np.ndarray, labels: Tensor, *, report: Report = None
) -> Tensor:
    """GraNd of one network: L2 norm of each example's gradient of the cross-entropy by all parameters, [n] on the CPU.

    Paul et al. 2021, Definition 2.1, not its last-layer shortcut. Images are not augmented. Batch norm uses running
    statistics whatever mode the recipe scores in: with those of a batch, an example has no gradient of its own.

    Arguments:
        network: one network in evaluation mode, on the batcher's device.
        index: int64 [n] dataset indices; ``labels``: int64 [n], the labels trained on.
    """
    weights = {name: value.detach() for name, value in network.named_parameters()}
    buffers = dict(network.named_buffers())
    dtype = next(iter(weights.values())).dtype

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, {**weights, **buffers}, (image.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    numbers = sum(value.numel() for value in weights.values())
    size = max(1, min(CHUNK, CHUNK_NUMBERS[batcher.device.type] // numbers))
    rows = torch.from_numpy(index).to(batcher.device)
    squares = []
    for part, label in zip(rows.split(size), labels.to(batcher.device).split(size)):
        images = batcher.normalise(batcher.gather(part), dtype).permute(0, 3, 1, 2)
        found = gradients(weights, images, label)
        squares.append(sum(g.flatten(1).square().sum(1) for g in found.values()).cpu())
        if report:
            report(len(part))
    return torch.cat(squares).sqrt()
