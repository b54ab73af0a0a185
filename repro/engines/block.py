"""What an engine is given: a block of training steps, and the constants of SGD."""

from dataclasses import dataclass

from torch import Tensor

from repro.data import Batcher


@dataclass
class Block:
    """K training steps of R replicas with batches of B images.

    index: int64 [K, R, B] rows of the image set.
    offsets: (dy, dx, flip) of `repro.data.Batcher.gather`, each [K, R, B], or None without augmentation.
    rates: [K, R] learning rates, in the cohort's dtype.
    """

    index: Tensor
    offsets: tuple[Tensor, Tensor, Tensor] | None
    rates: Tensor

    def __len__(self) -> int:
        """K."""
        return len(self.index)

    def steps(self, rows: slice) -> "Block":
        """Some of the steps, as views."""
        return Block(self.index[rows], self.offsets and tuple(part[rows] for part in self.offsets), self.rates[rows])

    def batch(self, k: int, batcher: Batcher, targets: Tensor, dtype) -> tuple[Tensor, Tensor]:
        """Images [R, B, H, W, C] in ``dtype`` and labels int64 [R, B] of step ``k``; ``targets`` are [R, N] or [N]."""
        index = self.index[k]
        images = batcher.gather(index, self.offsets and tuple(part[k] for part in self.offsets))
        labels = targets[index] if targets.ndim == 1 else targets.gather(1, index)
        return batcher.normalise(images, dtype), labels


@dataclass(frozen=True)
class Sgd:
    """Constants of SGD. Weight decay is coupled and covers all parameters, dampening is 0 (protocol section 1)."""

    momentum: float
    weight_decay: float
    nesterov: bool
