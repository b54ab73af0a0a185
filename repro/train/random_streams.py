"""Addressed randomness, and the data order that is drawn from it.

Every draw comes from a stream named by (seed, replicate, purpose, address), and no stream is continued from where other
work left it. So the order of execution, an interruption, the make-up of a cohort and the number of workers change
nothing, and replicates of different conditions are paired: they share initialisation and data order.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher, Passes
from repro.recipes.training import Training

SEED_BITS = 63


def _digest(seed: int, replicate: int, purpose: str, address: tuple[int, ...]) -> int:
    text = ",".join([str(int(seed)), str(int(replicate)), purpose, *map(str, map(int, address))])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(seed: int, replicate: int, purpose: str, *address: int) -> np.random.Generator:
    """A NumPy generator (Philox, 128-bit key) for this address; equal addresses give equal draws."""
    return np.random.Generator(np.random.Philox(key=_digest(seed, replicate, purpose, address)))


def torch_stream(seed: int, replicate: int, purpose: str, *address: int) -> torch.Generator:
    """A CPU torch generator for this address, for initialisers that take one."""
    generator = torch.Generator()
    return generator.manual_seed(_digest(seed, replicate, purpose, address) % 2**SEED_BITS)


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
        """Write the batches of k steps from ``step`` on, all of size B, to ``index`` and ``offsets``, each [k, B]."""
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


def plain_batches(
    subset: np.ndarray, size: int, count: int, seed: int, replicate: int, purpose: str, address: int
) -> np.ndarray:
    """Dataset indices of ``count`` full batches, int64 [count, size], pass by pass over ``subset``, each pass in an
    order of its own."""
    passes = Passes(len(subset), size, drop_last=True)
    places = [passes.locate(batch) for batch in range(count)]
    orders = {n: stream(seed, replicate, purpose, address, n).permutation(len(subset)) for n, _ in places}
    return np.stack([subset[orders[n][rows]] for n, rows in places])


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device of a tensor in main memory, which is not waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
