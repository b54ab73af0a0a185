"""Onset of linear mode connectivity over a sweep of rewind steps (paper, section 2)."""

from collections.abc import Sequence

import pandas as pd

CONNECTED = 0.02
"""A 0-1 barrier below this counts as zero (paper, section 2, after Draxler, Garipov and Frankle et al.)."""


def onset(t: Sequence[int], error_barrier: Sequence[float], threshold: float = CONNECTED) -> int | None:
    """The smallest step of the sweep at which, and at all later ones of it, the mean barrier is below ``threshold``.

    Arguments:
        t: rewind step of each row. The rows of a step (parents, pairs) are averaged.
        error_barrier: 0-1 barrier of each row, a fraction: the maximum over alpha. NaN (a diverged pair) is left out,
            and a step with NaN alone is not connected.

    Returns None where the last step of the sweep is not connected, and for an empty sweep.
    """
    means = pd.Series(list(error_barrier), index=list(t), dtype=float).groupby(level=0).mean().sort_index()
    found = None
    for step, mean in reversed(list(means.items())):
        if not mean < threshold:
            break
        found = int(step)
    return found
