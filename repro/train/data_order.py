"""Data order and augmentation of one job, drawn once per pass over its subset, from addressed streams."""

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher, Passes
from repro.recipes.training import Training
from repro.train.random_streams import stream


class DataOrder:
    """Batches of one job over one of its subsets.

    Arguments:
        subset: int64 [M] dataset indices.
        address: (seed, replicate) of the random streams; ``role``: prefix of their names.
    """

    def __init__(self, subset: np.ndarray, address: tuple[int, int], role: str, training: Training, batcher: Batcher):
        self.subset, self.address, self.role, self.batcher = subset, address, role, batcher
        self.augment = training.augment
        self.passes = Passes(len(subset), training.batch_size, training.drop_last)
        self.drawn = -1  # number of the pass whose order is at hand
        self.index: Tensor | None = None
        self.offsets: tuple[Tensor, ...] | None = None

    def size(self, step: int) -> int:
        """Images in the batch of a step."""
        rows = self.passes.locate(step)[1]
        return rows.stop - rows.start

    def batches(self, step: int, index: Tensor, offsets: tuple[Tensor, ...] | None) -> None:
        """Writes the batches of the steps from ``step`` on to ``index`` [k, B] and ``offsets``: all of size B."""
        count, size, done = *index.shape, 0
        while done < count:
            number, rows = self.passes.locate(step + done)
            self._draw(number)
            many = min(count - done, (len(self.subset) - rows.start) // size)  # as many as the pass still has
            rows = slice(rows.start, rows.start + many * size)
            for source, target in zip((self.index, *(self.offsets or ())), (index, *(offsets or ()))):
                target[done : done + many].copy_(source[rows].view(many, size))
            done += many

    def _draw(self, number: int) -> None:
        if number == self.drawn:
            return
        order = stream(*self.address, self.role + "order", number).permutation(len(self.subset))
        self.index = send(torch.from_numpy(self.subset[order]), self.batcher.device)
        if self.augment:
            drawn = self.batcher.draw(stream(*self.address, self.role + "augment", number), len(order))
            self.offsets = tuple(send(torch.from_numpy(array), self.batcher.device) for array in drawn)
        self.drawn = number


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor from main memory on the device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
