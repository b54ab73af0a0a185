"""A convolution of a whole batch, forward and backward: band by band, each with what it reads made just before."""

from repro.engines.sparse.compiled import inline
from repro.engines.sparse.gather import gather_backward, gather_forward, next_part
from repro.engines.sparse.lanes import L, W
from repro.engines.sparse.pointwise import MEAN, clear, make, norm_back
from repro.engines.sparse.weigh import weigh

ROWS = 8  # of X that are done before the next ones, so that what is made for them stays in the second-level cache


@inline
def rows_wanted(c, a, end):
    """Rows of the activation that rows of X up to ``end`` read; all of them at the end."""
    if end == c.rows:
        return a.height
    return max(0, min(a.height, (end - 1) * c.sy - c.py + c.ky))


@inline
def convolve(c, a, step, number, blocks, ragged, tables, lists, room):
    """X of a whole batch, and its sums; the rows of the activation are made on the way if nobody made them."""
    arena, together = room.arena, lists.four[number]
    taps = (lists.first, lists.offset[lists.entries[number] :], room.w[lists.slots[number] :])
    extra, sums = (room.stats[number, MEAN], c.streamed), (room.s1, room.s2)
    clear(room.s1, c.channels * L)
    clear(room.s2, c.channels * L)
    for block in range(blocks):
        source, into = a.place + block * a.block, c.x + block * c.x_block
        y = ready = 0
        while y < c.rows:
            end = next_part(y, ROWS, c.rows)
            wanted = rows_wanted(c, a, end)
            if step.make and wanted > ready:
                make(arena, a, block, ready, wanted, room.stats, room.lanes, ragged and block == blocks - 1)
                ready = wanted
            gather_forward(together, arena, tables.passes[number], (y, end), source, into, taps, extra, sums)
            y = end


@inline
def convolve_back(c, a, step, number, batch, blocks, ragged, tables, lists, room):
    """Gradients of a convolution's weights and, where it is wanted, of what it read."""
    arena, gradient, d = room.arena, tables.activations[c.activation], tables.spare_gradient
    taps = (lists.first, lists.offset[lists.entries[number] :])
    weights, groups = room.sums[lists.slots[number] * W :], lists.groups[number]
    stats, totals, count = room.stats[number], room.totals[number], batch * c.rows * c.columns
    if step.final:
        clear(room.s1, a.channels * L)
        clear(room.s2, a.channels * L)
    for block in range(blocks):
        source, into, last = a.place + block * a.block, step.into + block * step.into_block, block == blocks - 1
        beside = step.beside + block * step.beside_block if step.beside >= 0 else -1
        act = source if step.final and a.rectified else -1
        x = a.x + block * a.x_block if step.final else -1
        y = ready = done = 0
        while y < c.rows:
            end = next_part(y, ROWS, c.rows)
            norm_back(arena, c, gradient, block, y, end, d, count, stats, totals, room.lanes, ragged and last)
            whole = a.height if end == c.rows else max(done, min(a.height, end * c.sy - c.py))
            wanted = max(whole, rows_wanted(c, a, end))
            if step.make and wanted > ready:
                make(arena, a, block, ready, wanted, room.stats, room.lanes, ragged and last)
                ready = wanted
            weigh(lists.four[number], arena, tables.passes[number], (y, end), source, d, taps, weights, groups)
            if step.into >= 0:
                for which in range(c.back, c.back + c.classes):
                    back = tables.passes[which]
                    stride, rest = back.down // (a.width * L), back.start // (a.width * L)
                    rows = (done - rest + stride - 1) // stride, (whole - rest + stride - 1) // stride
                    entries, values = lists.offset[lists.entries[which] :], room.back[lists.slots[which] :]
                    gather_backward(
                        lists.four[which],
                        arena,
                        back,
                        rows,
                        d,
                        into,
                        (lists.first, entries, values),
                        (beside, act, x),
                        (room.s1, room.s2),
                    )
                done = whole
            y = end
