"""How many weights two masks share, against two independent random masks of the same layer densities.

The overlap of masks is 2 |A ∩ B| / (|A| + |B|) (Dice 1945): of two masks that keep as many weights, the share of one
that the other keeps as well. It is linear in the number of shared weights, so its mean by chance has a closed form: in
a layer of n weights of which a and b are kept at random, the shared ones are hypergeometric, with mean a b / n and
variance a b (n - a) (n - b) / (n² (n - 1)).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Weights of layers, float64 [L] each: how many there are, kept by one mask, by the other, and by both."""

    weights: np.ndarray
    a: np.ndarray
    b: np.ndarray
    both: np.ndarray

    @property
    def whole(self) -> "tuple[float, float, float]":
        """(overlap, its mean by chance, its standard deviation by chance) of all layers together; NaN of no weight."""
        kept = (self.a + self.b).sum()
        if not kept:
            return np.nan, np.nan, np.nan
        mean, variance = self._by_chance()
        return 2 * self.both.sum() / kept, 2 * mean.sum() / kept, 2 * float(np.sqrt(variance.sum())) / kept

    def of(self, layer: int) -> "Overlap":
        """One layer alone."""
        return Overlap(*(each[layer : layer + 1] for each in (self.weights, self.a, self.b, self.both)))

    def _by_chance(self) -> tuple[np.ndarray, np.ndarray]:
        n, a, b = self.weights, self.a, self.b
        return a * b / n, a * b * (n - a) * (n - b) / (n**2 * np.maximum(n - 1, 1))


def overlap(a: np.ndarray, b: np.ndarray, sizes: Sequence[int]) -> Overlap:
    """The `Overlap` of two masks, bool [P], whose layers have ``sizes`` weights each, in order, that sum to P."""
    ends = np.cumsum([0, *sizes])[:-1]
    counted = (np.add.reduceat(mask.astype(np.float64), ends) for mask in (a, b, a & b))
    return Overlap(np.array(sizes, np.float64), *counted)
