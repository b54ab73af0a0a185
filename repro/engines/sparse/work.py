"""The compiled code's arguments: a plan's tables, and the work arrays of a thread."""

import numpy as np

from repro.engines.sparse.lanes import L, W
from repro.engines.sparse.plan import Plan
from repro.engines.sparse.step import Lists, Room, Tables

ALIGNMENT = 4096


def tables_of(plan: Plan, free: np.ndarray, dtype) -> Tables:
    """free: places of the trained parameters that are no taps."""
    return Tables(plan.passes, plan.convolutions, plan.activations, plan.forward, plan.backward,
                  plan.constants.astype(dtype), free, plan.spare_gradient, plan.output)


def arena_of(size: int, dtype) -> np.ndarray:
    """Zeros that begin at a page."""
    raw = np.zeros(size * np.dtype(dtype).itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * np.dtype(dtype).itemsize].view(dtype)


def room_of(plan: Plan, lists: list[Lists], parameters: int, batch: int, dtype) -> Room:
    """Work arrays for steps, or evaluation, of any network of these lists, one at a time. parameters: how many it has."""
    slots = -(-max(len(each.place) for each in lists) // W) * W + W
    backs = max(len(each.origin) for each in lists)
    wide = plan.wide * L
    return Room(
        arena_of(plan.size, dtype), np.zeros(slots, dtype), np.zeros(slots, dtype), np.zeros(backs, dtype),
        arena_of(slots * W, dtype), _statistics(plan, dtype), arena_of(wide, dtype), arena_of(wide, dtype),
        np.zeros(parameters, dtype), np.zeros((len(plan.convolutions), plan.wide), dtype),
        arena_of(max(2, plan.wide) * L, dtype), np.zeros(batch, np.int64), arena_of(L, dtype),
    )  # fmt: skip


def _statistics(plan: Plan, dtype) -> np.ndarray:
    stats = np.zeros((len(plan.convolutions) + 1, 5, plan.wide), dtype)
    stats[-1, 2] = 1  # an activation that is a term: taken as it is
    return stats
