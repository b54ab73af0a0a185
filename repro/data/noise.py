"""Label noise: labels that are wrong on purpose (paper, Figure 4; protocol section 9)."""

import math

import numpy as np


def corrupt(
    labels: np.ndarray, fraction: float, *, num_classes: int, pool: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A copy of the labels in which ceil(fraction * P) examples of the pool have a random one: int64 [N].

    The random label is uniform over all classes, so about one in `num_classes` of these examples keeps its own, as in
    public open_lth. With one generator state the noise is nested: what 10 % changes, 50 % changes in the same way.

    labels: int [N]. pool: int [P], the examples that may be changed: all that are trained on. fraction: from 0 to 1.
    """
    drawn = rng.integers(0, num_classes, len(pool))
    changed = rng.permutation(len(pool))[: math.ceil(fraction * len(pool))]
    result = np.array(labels, dtype=np.int64)
    result[np.asarray(pool)[changed]] = drawn[changed]
    return result
