"""Convolutions over kept taps, forward, and backward to the input.

A tap is a weight that is kept. The taps of an output channel are sorted by (ky, kx, input channel), so those inside the
image at any pixel are one run of the list, or one for each ky at a border: there is no padding.

Both directions are the same sum: each pixel of the target gathers, over its taps, pixels of the source. Forward, the
source is an activation and the target is X. Backward, the source is the gradient of X; pixels of the target whose
coordinates leave the same rest after division by the stride have the same taps, and each such class is a `PASS` of its
own (`repro.engines.sparse.plan`). What comes before and after the sum differs.
"""

from repro.engines.sparse.compiled import compiled, inline
from repro.engines.sparse.lanes import L, add, fill, fma, load, number, store, stream, where_above

TILE = 8  # columns done for all channels before the next ones: what they read stays in the first-level cache
BAND = 2  # rows done for all channels before the next ones
TOGETHER = 4  # target channels that `gather_four` sums at once


@inline
def next_part(start, size, end):
    """End of the rows (columns) from ``start`` on that are done together: the first part has one more, so that pairs,
    which begin at the second row, are not parted."""
    stop = start + size + (1 if start == 0 else 0)
    return end if stop + 1 >= end else stop


@inline
def inside(size, kernel, stride, padding, count):
    """(first, end) of the target rows (columns), out of ``count``, whose whole kernel lies inside the source."""
    first = min(count, max(0, (padding + stride - 1) // stride))
    return first, max(first, min(count, (size + padding - kernel) // stride + 1))


@inline
def kept(kernel, start, size):
    """(first, end) of the kernel's rows (columns) that lie inside the source when it starts at ``start``."""
    first = min(kernel, max(0, -start))
    return first, max(first, min(kernel, size - start))


@inline
def runs_at(shape, g0, k0, k1, v, whole):
    """The taps of column v of a row that has the kernel's rows k0 to k1: (number of runs, begin, end), the next run's
    begin and end being shape.kx further. ``whole``: all columns of the kernel lie inside, and the runs are one."""
    if whole:
        return 1, g0 + k0 * shape.kx, g0 + k1 * shape.kx
    c0, c1 = kept(shape.kx, v * shape.sx - shape.px, shape.width)
    return k1 - k0, g0 + k0 * shape.kx + c0, g0 + k0 * shape.kx + c1


# --- sums over a run of taps --------------------------------------------------------------------------------


@inline
def sum_one(source, base, offset, value, t0, t1, a):
    for t in range(t0, t1):
        a = fma(fill(source, number(value, t), L), load(source, base + number(offset, t), L), a)
    return a


@inline
def sum_two(source, base, step, offset, value, t0, t1, a, b):
    """Two pixels, ``step`` apart."""
    for t in range(t0, t1):
        w, at = fill(source, number(value, t), L), base + number(offset, t)
        a = fma(w, load(source, at, L), a)
        b = fma(w, load(source, at + step, L), b)
    return a, b


@inline
def sum_square(source, base, step, down, offset, value, t0, t1, a, b, c, d):
    """Two pixels and the two below them: a tap is read once for four."""
    for t in range(t0, t1):
        w, at = fill(source, number(value, t), L), base + number(offset, t)
        a = fma(w, load(source, at, L), a)
        b = fma(w, load(source, at + step, L), b)
        c = fma(w, load(source, at + down, L), c)
        d = fma(w, load(source, at + down + step, L), d)
    return a, b, c, d


@inline
def sum_channels(source, base, offset, value, t0, t1, a, b, c, d):
    """One pixel of four channels with the same taps: a source pixel is read once for four sums."""
    for t in range(t0, t1):
        x = load(source, base + number(offset, t), L)
        a = fma(fill(source, number(value, 4 * t), L), x, a)
        b = fma(fill(source, number(value, 4 * t + 1), L), x, b)
        c = fma(fill(source, number(value, 4 * t + 2), L), x, c)
        d = fma(fill(source, number(value, 4 * t + 3), L), x, d)
    return a, b, c, d


# --- before and after the sum -------------------------------------------------------------------------------


@inline
def begin_forward(arena, extra, o, at):
    return fill(arena, -number(extra[0], o), L)


@inline
def end_forward(arena, extra, into, at, value, p, q):
    """Keep X; add to the sums of X and of its square. extra: what to subtract from X [channels], whether to stream."""
    if extra[1]:
        stream(arena, into + at, value)
    else:
        store(arena, into + at, value)
    return add(p, value), fma(value, value, q)


@inline
def begin_backward(arena, extra, o, at):
    value = fill(arena, 0, L)
    if extra[0] >= 0:
        value = load(arena, extra[0] + at, L)
    return value


@inline
def end_backward(arena, extra, into, at, value, p, q):
    """Keep the gradient where an activation is not 0; add to the sums of it and of it times x.

    extra: places of what is added, of the activation and of x, -1 for none.
    """
    if extra[1] >= 0:
        zero = fill(arena, 0, L)
        value = where_above(load(arena, extra[1] + at, L), zero, value, zero)
    store(arena, into + at, value)
    if extra[2] >= 0:
        q = fma(value, load(arena, extra[2] + at, L), q)
    return add(p, value), q


# --- the passes ---------------------------------------------------------------------------------------------


def _one(begin, end):
    @compiled
    def gather(arena, shape, rows, source, into, taps, extra, sums):
        """Rows of a pass over a block of images, four pixels at once where they have all taps.

        source, into: places of the block in the arena. taps: runs, offsets, weights. sums: two, in lanes, added to.
        """
        first, offset, value = taps
        s1, s2 = sums
        ky, kx, sy, sx = shape.ky, shape.kx, shape.sy, shape.sx
        step, down = sx * L, sy * shape.width * L
        xa, xb = inside(shape.width, kx, sx, shape.px, shape.columns)
        top = rows[0]
        while top < rows[1]:
            bottom = next_part(top, BAND, rows[1])
            left = 0
            while left < shape.columns:
                right = next_part(left, TILE, shape.columns)
                for o in range(shape.channels):
                    g0 = shape.first + o * ky * kx
                    p, q = load(s1, o * L, L), load(s2, o * L, L)
                    y = top
                    while y < bottom:
                        source_y = y * sy - shape.py
                        k0, k1 = kept(ky, source_y, shape.height)
                        pair = k0 == 0 and k1 == ky and y + 1 < bottom and source_y + sy + ky <= shape.height
                        base = source + (source_y * shape.width - shape.px) * L
                        row = o * shape.plane + shape.start + y * shape.down
                        v = left
                        while v < right:
                            at, from_, whole = row + v * shape.step, base + v * step, xa <= v < xb
                            many, run, end_ = runs_at(shape, g0, k0, k1, v, whole)
                            two = whole and v + 1 < min(right, xb)
                            a = begin(arena, extra, o, at)
                            if two:
                                t0, t1 = number(first, run), number(first, end_)
                                b = begin(arena, extra, o, at + shape.step)
                                if pair:
                                    under = at + shape.down
                                    c = begin(arena, extra, o, under)
                                    d = begin(arena, extra, o, under + shape.step)
                                    a, b, c, d = sum_square(arena, from_, step, down, offset, value, t0, t1, a, b, c, d)
                                    p, q = end(arena, extra, into, under, c, p, q)
                                    p, q = end(arena, extra, into, under + shape.step, d, p, q)
                                else:
                                    a, b = sum_two(arena, from_, step, offset, value, t0, t1, a, b)
                                p, q = end(arena, extra, into, at, a, p, q)
                                p, q = end(arena, extra, into, at + shape.step, b, p, q)
                            elif pair:
                                b = begin(arena, extra, o, at + shape.down)
                                for k in range(many):
                                    t0, t1 = number(first, run + k * shape.kx), number(first, end_ + k * shape.kx)
                                    a, b = sum_two(arena, from_, down, offset, value, t0, t1, a, b)
                                p, q = end(arena, extra, into, at, a, p, q)
                                p, q = end(arena, extra, into, at + shape.down, b, p, q)
                            else:
                                for k in range(many):
                                    t0, t1 = number(first, run + k * shape.kx), number(first, end_ + k * shape.kx)
                                    a = sum_one(arena, from_, offset, value, t0, t1, a)
                                p, q = end(arena, extra, into, at, a, p, q)
                            v += 2 if two else 1
                        y += 2 if pair else 1
                    store(s1, o * L, p)
                    store(s2, o * L, q)
                left = right
            top = bottom

    return gather


def _four(begin, end):
    @inline
    def keep(arena, extra, into, at, value, sums, o):
        p, q = end(arena, extra, into, at, value, load(sums[0], o * L, L), load(sums[1], o * L, L))
        store(sums[0], o * L, p)
        store(sums[1], o * L, q)

    @compiled
    def gather(arena, shape, rows, source, into, taps, extra, sums):
        """The same for lists whose taps hold a weight for each of four channels, some of them 0."""
        first, offset, value = taps
        plane = shape.plane
        xa, xb = inside(shape.width, shape.kx, shape.sx, shape.px, shape.columns)
        for y in range(rows[0], rows[1]):
            source_y = y * shape.sy - shape.py
            k0, k1 = kept(shape.ky, source_y, shape.height)
            base = source + (source_y * shape.width - shape.px) * L
            left = 0
            while left < shape.columns:
                right = next_part(left, TILE, shape.columns)
                for o in range(0, shape.channels, TOGETHER):
                    g0 = shape.first + o // TOGETHER * shape.ky * shape.kx
                    row = o * plane + shape.start + y * shape.down
                    for v in range(left, right):
                        many, run, end_ = runs_at(shape, g0, k0, k1, v, xa <= v < xb)
                        at, from_ = row + v * shape.step, base + v * shape.sx * L
                        a, b = begin(arena, extra, o, at), begin(arena, extra, o + 1, at + plane)
                        c, d = begin(arena, extra, o + 2, at + 2 * plane), begin(arena, extra, o + 3, at + 3 * plane)
                        for k in range(many):
                            t0, t1 = number(first, run + k * shape.kx), number(first, end_ + k * shape.kx)
                            a, b, c, d = sum_channels(arena, from_, offset, value, t0, t1, a, b, c, d)
                        keep(arena, extra, into, at, a, sums, o)
                        keep(arena, extra, into, at + plane, b, sums, o + 1)
                        keep(arena, extra, into, at + 2 * plane, c, sums, o + 2)
                        keep(arena, extra, into, at + 3 * plane, d, sums, o + 3)
                left = right

    return gather


def _gather(begin, end):
    one, four = _one(begin, end), _four(begin, end)

    @inline
    def gather(together, arena, shape, rows, source, into, taps, extra, sums):
        if together:
            four(arena, shape, rows, source, into, taps, extra, sums)
        else:
            one(arena, shape, rows, source, into, taps, extra, sums)

    return gather


gather_forward = _gather(begin_forward, end_forward)
gather_backward = _gather(begin_backward, end_backward)
