"""The compiled code's arguments: a plan's tables, and the work arrays of a thread."""

from collections import namedtuple

import numpy as np

from repro.engines.sparse.lanes import L, W
from repro.engines.sparse.plan import Plan

Tables = namedtuple("Tables", "passes convolutions activations forward backward constants free spare_gradient output")
"""Of a plan (`repro.engines.sparse.plan.Plan`); free int64: places of the trained parameters that are no taps."""
Lists = namedtuple("Lists", "first offset entries slots four groups place keep origin")
"""The taps of one network (`repro.engines.sparse.taps`)."""
Room = namedtuple("Room", "arena w m back sums stats s1 s2 gradient totals scores labels lanes")
"""Work arrays of one thread: weights and momentum of the slots; weights of the backward lists; sums of gradients
[slots, W]; statistics [convolutions + 1, 5, channels]; two sums in lanes; gradient of the other parameters; sums of
gradients [convolutions, channels]; logits of a block; labels; 1 for a lane with an image in the last block."""
Images = namedtuple("Images", "pixels border scale shift")
"""uint8 [N, side + 2 border, side + 2 border, C], and what makes them normalised floats, [C]."""

ALIGNMENT = 4096


def tables_of(plan: Plan, free: np.ndarray, dtype) -> Tables:
    """free: places of the trained parameters that are no taps."""
    return Tables(
        plan.passes,
        plan.convolutions,
        plan.activations,
        plan.forward,
        plan.backward,
        plan.constants.astype(dtype),
        free,
        plan.spare_gradient,
        plan.output,
    )


def arena_of(size: int, dtype) -> np.ndarray:
    """Zeros that begin at a page."""
    raw = np.zeros(size * np.dtype(dtype).itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * np.dtype(dtype).itemsize].view(dtype)


def room_of(plan: Plan, lists: list[Lists], parameters: int, batch: int, dtype) -> Room:
    """Work arrays for any network of these lists, one at a time. parameters: how many it has."""
    slots = -(-max(len(each.place) for each in lists) // W) * W + W
    backs = max(len(each.origin) for each in lists)
    wide = plan.wide * L
    return Room(
        arena_of(plan.size, dtype),
        np.zeros(slots, dtype),
        np.zeros(slots, dtype),
        np.zeros(backs, dtype),
        arena_of(slots * W, dtype),
        _statistics(plan, dtype),
        arena_of(wide, dtype),
        arena_of(wide, dtype),
        np.zeros(parameters, dtype),
        np.zeros((len(plan.convolutions), plan.wide), dtype),
        arena_of(max(2, plan.wide) * L, dtype),
        np.zeros(batch, np.int64),
        arena_of(L, dtype),
    )


def _statistics(plan: Plan, dtype) -> np.ndarray:
    stats = np.zeros((len(plan.convolutions) + 1, 5, plan.wide), dtype)
    stats[-1, 2] = 1  # an activation that is a term: taken as it is
    return stats
