"""The compiled code's arguments: a plan's tables, the lists of a network's kept weights, a thread's work arrays.

A forward list is sorted by (output channel, ky, kx, input channel), a backward one by (input channel, ky and kx
descending within their class, output channel). An entry is an offset from the pixel where the kernel begins. Where most
weights are kept, an entry holds the weights of four channels, and those that are not kept are 0. A weight's slot is its
place in the forward lists: weights, momentum and gradients are kept in that order while a network trains.
"""

from collections import namedtuple

import numpy as np

from repro.engines.sparse.gather import TOGETHER
from repro.engines.sparse.lanes import L, W
from repro.engines.sparse.layers import Convolution, Layers, plane
from repro.engines.sparse.plan import Plan, kernel_of_class
from repro.nets import Layout

Tables = namedtuple("Tables", "passes convolutions activations forward backward constants free spare_gradient output")
"""Of a plan (`repro.engines.sparse.plan.Plan`); free int64: places of the trained parameters that are no taps."""
Lists = namedtuple("Lists", "first offset entries slots four groups place keep origin")
"""The taps of one network (`repro.engines.sparse.arguments`)."""
Room = namedtuple("Room", "arena w m back sums stats s1 s2 gradient totals scores labels lanes")
"""Work arrays of one thread: weights and momentum of the slots; weights of the backward lists; sums of gradients
[slots, W]; statistics [convolutions + 1, 5, channels]; two sums in lanes; gradient of the other parameters; sums of
gradients [convolutions, channels]; logits of a block; labels; 1 for a lane with an image in the last block."""
Images = namedtuple("Images", "pixels border scale shift")
"""uint8 [N, side + 2 border, side + 2 border, C], and what makes them normalised floats, [C]."""

ALIGNMENT = 4096


def tables_of(plan: Plan, free: np.ndarray, dtype) -> Tables:
    """free: places of the trained parameters that are no taps."""
    same = {name: getattr(plan, name) for name in Tables._fields if name != "free"}
    return Tables(**same | {"free": free, "constants": plan.constants.astype(dtype)})


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


FOUR_ABOVE = 0.6  # density of a layer from which taps of four channels together are faster (docs/performance.md)
GROUP_BYTES = 2**18  # of sums of gradients that are gone over at a time


def list_taps(layers: Layers, layout: Layout, plan: Plan, mask: np.ndarray, dtype) -> Lists:
    """The lists of one network with a mask, bool [layout.num_prunable]. Idle weights are kept, and keep their value."""
    mask = np.concatenate([mask, np.ones(layout.num_parameters - layout.num_prunable, bool)])
    convolutions = [layer for layer in layers.all if isinstance(layer, Convolution)]
    offsets = {entry.name: entry.offset for entry in layout.entries}
    first = np.zeros(plan.runs, np.int32)
    entries, slots, four = (np.zeros(len(plan.passes), np.int64) for _ in range(3))
    groups = np.zeros(len(convolutions), np.int64)
    offset, place, origin = _Pieces(), _Pieces(), _Pieces()
    slot_of = np.full(layout.num_parameters, -1, np.int64)
    weights = []
    for n, layer in enumerate(convolutions):
        shape = (layer.shape[0], layers.all[layer.source].shape[0], *layer.kernel)
        start = offsets[layer.weight]
        numbers = start + np.arange(np.prod(shape)).reshape(shape)
        numbers = np.where(mask[numbers], numbers, -1)
        weights.append(numbers)
        entries[n], slots[n] = offset.size, place.size
        row, source = plan.passes[n], layers.all[layer.source].shape
        four[n], runs, (_, y, x, i), found = _sorted(numbers.transpose(0, 2, 3, 1))
        first[row["first"] : row["first"] + len(runs)] = runs
        offset.add(i * plane(source) + (y * source[2] + x) * L)
        there = found >= 0
        slot_of[found[there]] = place.size + np.flatnonzero(there)
        place.add(found)
        groups[n] = min(shape[0], 1 + len(found) * W * np.dtype(dtype).itemsize // GROUP_BYTES)
    for n, (layer, numbers) in enumerate(zip(convolutions, weights)):
        classes = list(np.ndindex(layer.stride))
        for which, rest in enumerate(classes, plan.convolutions[n]["back"]):
            (y0, _), (x0, _) = (
                kernel_of_class(layer.kernel[a], layer.stride[a], layer.padding[a], rest[a]) for a in (0, 1)
            )
            part = numbers[:, :, y0 :: layer.stride[0], x0 :: layer.stride[1]][:, :, ::-1, ::-1]
            entries[which], slots[which] = offset.size, origin.size
            row = plan.passes[which]
            four[which], runs, (_, y, x, o), found = _sorted(part.transpose(1, 2, 3, 0))
            first[row["first"] : row["first"] + len(runs)] = runs
            offset.add(o * plane(layer.shape) + (y * layer.shape[2] + x) * L)
            origin.add(np.where(found >= 0, slot_of[found], place.size))  # behind the last slot there are zeros
    placed = place.all()
    keep = np.zeros(-(-len(placed) // W) * W, dtype)
    keep[: len(placed)] = (placed >= 0) & (placed < layout.num_trained)
    return Lists(first, offset.all(np.int32), entries, slots, four, groups, placed, keep, origin.all(np.int32))


def _sorted(numbers: np.ndarray) -> tuple[bool, np.ndarray, tuple[np.ndarray, ...], np.ndarray]:
    """The entries of a list over ``numbers`` [target channels, ky, kx, source channels] of weights, -1 not kept.

    Returns whether four channels are together; the runs' first entries, one more at the end; the indices of each entry;
    the weights, four for each entry in that case.
    """
    kept = numbers >= 0
    together = bool(kept.size and len(kept) % TOGETHER == 0 and kept.mean() > FOUR_ABOVE)
    if together:
        numbers = numbers.reshape(-1, TOGETHER, *numbers.shape[1:])
        kept = (numbers >= 0).any(1)
    runs = np.concatenate([[0], kept.sum(3).cumsum()])
    at = np.nonzero(kept)
    if together:
        found = numbers[at[0], :, at[1], at[2], at[3]].reshape(-1)
    else:
        found = numbers[at]
    return together, runs, at, found


class _Pieces:
    """Arrays that will be one."""

    def __init__(self):
        self.pieces: list[np.ndarray] = []
        self.size = 0

    def add(self, piece: np.ndarray) -> None:
        self.pieces.append(piece)
        self.size += len(piece)

    def all(self, dtype=np.int64) -> np.ndarray:
        """The whole, with one entry more: an empty list has an address too."""
        return np.concatenate([*self.pieces, [0]])[:-1].astype(dtype) if self.pieces else np.zeros(0, dtype)
