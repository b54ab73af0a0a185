"""A convolution of a whole batch, forward and backward: band by band, each with what it reads made just before.

The gradient of a kept weight is the sum over pixels and images of the gradient of X times the input. It is summed in W
lanes, which are added up once a step.
"""

from repro.engines.sparse.compiled import compiled, inline
from repro.engines.sparse.gather import (
    BAND,
    TILE,
    TOGETHER,
    gather_backward,
    gather_forward,
    inside,
    kept,
    next_part,
    runs_at,
)
from repro.engines.sparse.lanes import L, W, add, dot, fill, load, number, store
from repro.engines.sparse.pointwise import MEAN, clear, make, norm_back


@inline
def weigh_one(arena, sums, base, offset, t0, t1, a):
    for t in range(t0, t1):
        store(sums, t * W, dot(load(sums, t * W, W), a, load(arena, base + number(offset, t), L)))


@inline
def weigh_two(arena, sums, base, step, offset, t0, t1, a, b):
    zero = fill(arena, 0, W)
    for t in range(t0, t1):
        at = base + number(offset, t)
        found = dot(load(sums, t * W, W), a, load(arena, at, L))
        store(sums, t * W, add(found, dot(zero, b, load(arena, at + step, L))))


@inline
def weigh_square(arena, sums, base, step, down, offset, t0, t1, a, b, c, d):
    zero = fill(arena, 0, W)
    for t in range(t0, t1):
        at = base + number(offset, t)
        above = add(dot(load(sums, t * W, W), a, load(arena, at, L)), dot(zero, b, load(arena, at + step, L)))
        at += down
        below = add(dot(zero, c, load(arena, at, L)), dot(zero, d, load(arena, at + step, L)))
        store(sums, t * W, add(above, below))


@inline
def weigh_channels(arena, sums, base, offset, t0, t1, a, b, c, d):
    """Taps that hold a weight for each of four channels, whose gradients are a to d."""
    for t in range(t0, t1):
        x, at = load(arena, base + number(offset, t), L), 4 * t * W
        store(sums, at, dot(load(sums, at, W), a, x))
        store(sums, at + W, dot(load(sums, at + W, W), b, x))
        store(sums, at + 2 * W, dot(load(sums, at + 2 * W, W), c, x))
        store(sums, at + 3 * W, dot(load(sums, at + 3 * W, W), d, x))


@compiled
def weigh_singly(arena, shape, rows, source, gradient, taps, sums, groups):
    first, offset = taps
    ky, kx, sy, sx = shape.ky, shape.kx, shape.sy, shape.sx
    step, down = sx * L, sy * shape.width * L
    xa, xb = inside(shape.width, kx, sx, shape.px, shape.columns)
    for group in range(groups):
        o0, o1 = group * shape.channels // groups, (group + 1) * shape.channels // groups
        top = rows[0]
        while top < rows[1]:
            bottom = next_part(top, BAND, rows[1])
            left = 0
            while left < shape.columns:
                right = next_part(left, TILE, shape.columns)
                for o in range(o0, o1):
                    g0 = shape.first + o * ky * kx
                    y = top
                    while y < bottom:
                        source_y = y * sy - shape.py
                        k0, k1 = kept(ky, source_y, shape.height)
                        pair = k0 == 0 and k1 == ky and y + 1 < bottom and source_y + sy + ky <= shape.height
                        base = source + (source_y * shape.width - shape.px) * L
                        row = gradient + o * shape.plane + shape.start + y * shape.down
                        v = left
                        while v < right:
                            at, from_, whole = row + v * shape.step, base + v * step, xa <= v < xb
                            many, run, end = runs_at(shape, g0, k0, k1, v, whole)
                            two = whole and v + 1 < min(right, xb)
                            a = load(arena, at, L)
                            if two:
                                t0, t1 = number(first, run), number(first, end)
                                b = load(arena, at + shape.step, L)
                                if pair:
                                    c, d = load(arena, at + shape.down, L), load(arena, at + shape.down + shape.step, L)
                                    weigh_square(arena, sums, from_, step, down, offset, t0, t1, a, b, c, d)
                                else:
                                    weigh_two(arena, sums, from_, step, offset, t0, t1, a, b)
                            elif pair:
                                b = load(arena, at + shape.down, L)
                                for k in range(many):
                                    t0, t1 = number(first, run + k * shape.kx), number(first, end + k * shape.kx)
                                    weigh_two(arena, sums, from_, down, offset, t0, t1, a, b)
                            else:
                                for k in range(many):
                                    t0, t1 = number(first, run + k * shape.kx), number(first, end + k * shape.kx)
                                    weigh_one(arena, sums, from_, offset, t0, t1, a)
                            v += 2 if two else 1
                        y += 2 if pair else 1
                left = right
            top = bottom


@compiled
def weigh_four(arena, shape, rows, source, gradient, taps, sums, groups):
    """The same for lists whose taps hold a weight for each of four channels."""
    first, offset = taps
    plane, fours = shape.plane, shape.channels // TOGETHER
    xa, xb = inside(shape.width, shape.kx, shape.sx, shape.px, shape.columns)
    for group in range(groups):
        o0, o1 = group * fours // groups * TOGETHER, (group + 1) * fours // groups * TOGETHER
        for y in range(rows[0], rows[1]):
            source_y = y * shape.sy - shape.py
            k0, k1 = kept(shape.ky, source_y, shape.height)
            base = source + (source_y * shape.width - shape.px) * L
            left = 0
            while left < shape.columns:
                right = next_part(left, TILE, shape.columns)
                for o in range(o0, o1, TOGETHER):
                    g0 = shape.first + o // TOGETHER * shape.ky * shape.kx
                    row = gradient + o * plane + shape.start + y * shape.down
                    for v in range(left, right):
                        many, run, end = runs_at(shape, g0, k0, k1, v, xa <= v < xb)
                        at, from_ = row + v * shape.step, base + v * shape.sx * L
                        a, b = load(arena, at, L), load(arena, at + plane, L)
                        c, d = load(arena, at + 2 * plane, L), load(arena, at + 3 * plane, L)
                        for k in range(many):
                            t0, t1 = number(first, run + k * shape.kx), number(first, end + k * shape.kx)
                            weigh_channels(arena, sums, from_, offset, t0, t1, a, b, c, d)
                left = right


@inline
def weigh(together, arena, shape, rows, source, gradient, taps, sums, groups):
    """Add the products of rows of the gradient of X with the input to ``sums`` [taps * W].

    shape: the forward pass. source, gradient: places of the block. taps: runs, offsets. groups: how many parts the
    channels are done in, so that the sums of one stay in the second-level cache.
    """
    if together:
        weigh_four(arena, shape, rows, source, gradient, taps, sums, groups)
    else:
        weigh_singly(arena, shape, rows, source, gradient, taps, sums, groups)


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
                    back_taps = lists.first, lists.offset[lists.entries[which] :], room.back[lists.slots[which] :]
                    extra, sums = (beside, act, x), (room.s1, room.s2)
                    gather_backward(lists.four[which], arena, back, rows, d, into, back_taps, extra, sums)
                done = whole
            y = end
