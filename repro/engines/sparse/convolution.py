"""A convolution of a whole batch, forward and backward: band by band, each with what it reads made just before."""

from repro.engines.sparse.compiled import inline
from repro.engines.sparse.gather import (
    gather_backward,
    gather_forward,
    gather_four_backward,
    gather_four_forward,
    next_part,
)
from repro.engines.sparse.lanes import L, W
from repro.engines.sparse.pointwise import MEAN, clear, make, norm_back
from repro.engines.sparse.weigh import weigh, weigh_four

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
    arena, p = room.arena, tables.passes[number]
    offset, value = lists.offset[lists.entries[number] :], room.w[lists.slots[number] :]
    less = room.stats[number, MEAN]
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
            if lists.four[number]:
                gather_four_forward(
                    arena,
                    p,
                    source,
                    into,
                    y,
                    end,
                    lists.first,
                    offset,
                    value,
                    less,
                    -1,
                    c.streamed,
                    -1,
                    -1,
                    room.s1,
                    room.s2,
                )
            else:
                gather_forward(
                    arena,
                    p,
                    source,
                    into,
                    y,
                    end,
                    lists.first,
                    offset,
                    value,
                    less,
                    -1,
                    c.streamed,
                    -1,
                    -1,
                    room.s1,
                    room.s2,
                )
            y = end


@inline
def convolve_back(c, a, step, number, batch, blocks, ragged, tables, lists, room):
    """Gradients of a convolution's weights and, where it is wanted, of what it read."""
    arena, p, gradient = room.arena, tables.passes[number], tables.activations[c.activation]
    offset, sums = lists.offset[lists.entries[number] :], room.sums[lists.slots[number] * W :]
    count = batch * c.rows * c.columns
    act = x = -1
    if step.final:
        clear(room.s1, a.channels * L)
        clear(room.s2, a.channels * L)
    for block in range(blocks):
        source, into, beside = a.place + block * a.block, step.into + block * step.into_block, -1
        if step.beside >= 0:
            beside = step.beside + block * step.beside_block
        if step.final:
            x = a.x + block * a.x_block
            if a.rectified:
                act = source
        y = ready = done = 0
        while y < c.rows:
            end = next_part(y, ROWS, c.rows)
            last = ragged and block == blocks - 1
            norm_back(
                arena,
                c,
                gradient,
                block,
                y,
                end,
                tables.spare_gradient,
                count,
                room.stats[number],
                room.totals[number],
                room.lanes,
                last,
            )
            whole = a.height if end == c.rows else max(done, min(a.height, end * c.sy - c.py))
            wanted = max(whole, rows_wanted(c, a, end))
            if step.make and wanted > ready:
                make(arena, a, block, ready, wanted, room.stats, room.lanes, last)
                ready = wanted
            if lists.four[number]:
                weigh_four(
                    arena, p, source, tables.spare_gradient, y, end, lists.first, offset, sums, lists.groups[number]
                )
            else:
                weigh(arena, p, source, tables.spare_gradient, y, end, lists.first, offset, sums, lists.groups[number])
            if step.into >= 0:
                for which in range(c.back, c.back + c.classes):
                    back = tables.passes[which]
                    strides = back.down // (a.width * L)
                    rest = back.start // (a.width * L)
                    y0, y1 = (done - rest + strides - 1) // strides, (whole - rest + strides - 1) // strides
                    entries, value = lists.offset[lists.entries[which] :], room.back[lists.slots[which] :]
                    if lists.four[which]:
                        gather_four_backward(
                            arena,
                            back,
                            tables.spare_gradient,
                            into,
                            y0,
                            y1,
                            lists.first,
                            entries,
                            value,
                            room.s1,
                            beside,
                            0,
                            act,
                            x,
                            room.s1,
                            room.s2,
                        )
                    else:
                        gather_backward(
                            arena,
                            back,
                            tables.spare_gradient,
                            into,
                            y0,
                            y1,
                            lists.first,
                            entries,
                            value,
                            room.s1,
                            beside,
                            0,
                            act,
                            x,
                            room.s1,
                            room.s2,
                        )
                done = whole
            y = end
