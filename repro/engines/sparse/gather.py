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
def begin_forward(arena, shift, beside, at):
    return fill(arena, -shift, L)


@inline
def end_forward(arena, into, at, value, streamed, act, x, p, q):
    """Keep X; add to the sums of X and of its square."""
    if streamed:
        stream(arena, into + at, value)
    else:
        store(arena, into + at, value)
    return add(p, value), fma(value, value, q)


@inline
def begin_backward(arena, shift, beside, at):
    value = fill(arena, 0, L)
    if beside >= 0:
        value = load(arena, beside + at, L)
    return value


@inline
def end_backward(arena, into, at, value, streamed, act, x, p, q):
    """Keep the gradient where the activation ``act`` is not 0; add to the sums of it and of it times ``x``."""
    if act >= 0:
        zero = fill(arena, 0, L)
        value = where_above(load(arena, act + at, L), zero, value, zero)
    store(arena, into + at, value)
    if x >= 0:
        q = fma(value, load(arena, x + at, L), q)
    return add(p, value), q


# --- the passes ---------------------------------------------------------------------------------------------


def _make(begin, end):
    @compiled
    def gather(arena, shape, source, into, y0, y1, first, offset, value, shift, beside, streamed, act, x, s1, s2):
        """Rows y0 to y1 of a pass over a block of images, four pixels at once where they have all taps.

        source, into, beside, act, x: places of the block in the arena; -1 for none.
        shift [channels]: what X is less. s1, s2: sums in lanes, added to.
        """
        ky, kx, sy, sx = shape.ky, shape.kx, shape.sy, shape.sx
        step, down = sx * L, sy * shape.width * L
        xa, xb = inside(shape.width, kx, sx, shape.px, shape.columns)
        yb = 0
        top = y0
        while top < y1:
            bottom = next_part(top, BAND, y1)
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
                        under = row + shape.down
                        v = left
                        while v < right:
                            at, from_ = row + v * shape.step, base + v * step
                            z = begin(arena, number(shift, o), beside, at)
                            if v < xa or v >= xb:  # some of the kernel's columns: a run for each of its rows
                                source_x = v * sx - shape.px
                                c0, c1 = kept(kx, source_x, shape.width)
                                many, run, run_end = k1 - k0, g0 + k0 * kx + c0, g0 + k0 * kx + c1
                            else:
                                many, run, run_end = 1, g0 + k0 * kx, g0 + k1 * kx
                                if v + 1 < min(right, xb):
                                    if pair:
                                        b = begin(arena, number(shift, o), beside, at + shape.step)
                                        c = begin(arena, number(shift, o), beside, at + shape.down)
                                        d = begin(arena, number(shift, o), beside, at + shape.down + shape.step)
                                        z, b, c, d = sum_square(
                                            arena, from_, step, down, offset, value,
                                            number(first, run), number(first, run_end), z, b, c, d,
                                        )  # fmt: skip
                                        p, q = end(arena, into, at, z, streamed, act, x, p, q)
                                        p, q = end(arena, into, at + shape.step, b, streamed, act, x, p, q)
                                        at += shape.down
                                        p, q = end(arena, into, at, c, streamed, act, x, p, q)
                                        p, q = end(arena, into, at + shape.step, d, streamed, act, x, p, q)
                                        v += 2
                                        continue
                                    b = begin(arena, number(shift, o), beside, at + shape.step)
                                    z, b = sum_two(arena, from_, step, offset, value, number(first, run),
                                                   number(first, run_end), z, b)
                                    p, q = end(arena, into, at, z, streamed, act, x, p, q)
                                    p, q = end(arena, into, at + shape.step, b, streamed, act, x, p, q)
                                    v += 2
                                    continue
                            if pair:
                                b = begin(arena, number(shift, o), beside, at + shape.down)
                                for k in range(many):
                                    z, b = sum_two(arena, from_, down, offset, value, number(first, run + k * kx),
                                                   number(first, run_end + k * kx), z, b)
                                p, q = end(arena, into, at, z, streamed, act, x, p, q)
                                p, q = end(arena, into, at + shape.down, b, streamed, act, x, p, q)
                            else:
                                for k in range(many):
                                    z = sum_one(arena, from_, offset, value, number(first, run + k * kx),
                                                number(first, run_end + k * kx), z)
                                p, q = end(arena, into, at, z, streamed, act, x, p, q)
                            v += 1
                        y += 2 if pair else 1
                    store(s1, o * L, p)
                    store(s2, o * L, q)
                left = right
            top = bottom

    return gather


def _make_four(begin, end):
    @compiled
    def gather_four(arena, shape, source, into, y0, y1, first, offset, value, shift, beside, streamed, act, x, s1, s2):
        """The same for lists whose taps hold a weight for each of four channels, some of them 0."""
        ky, kx, sy, sx = shape.ky, shape.kx, shape.sy, shape.sx
        xa, xb = inside(shape.width, kx, sx, shape.px, shape.columns)
        for y in range(y0, y1):
            source_y = y * sy - shape.py
            k0, k1 = kept(ky, source_y, shape.height)
            base = source + (source_y * shape.width - shape.px) * L
            left = 0
            while left < shape.columns:
                right = next_part(left, TILE, shape.columns)
                for o in range(0, shape.channels, TOGETHER):
                    g0 = shape.first + o // TOGETHER * ky * kx
                    row = o * shape.plane + shape.start + y * shape.down
                    for v in range(left, right):
                        many, run, run_end = 1, g0 + k0 * kx, g0 + k1 * kx
                        if v < xa or v >= xb:
                            source_x = v * sx - shape.px
                            c0, c1 = kept(kx, source_x, shape.width)
                            many, run, run_end = k1 - k0, g0 + k0 * kx + c0, g0 + k0 * kx + c1
                        at, from_, plane = row + v * shape.step, base + v * sx * L, shape.plane
                        a = begin(arena, number(shift, o), beside, at)
                        b = begin(arena, number(shift, o + 1), beside, at + plane)
                        c = begin(arena, number(shift, o + 2), beside, at + 2 * plane)
                        d = begin(arena, number(shift, o + 3), beside, at + 3 * plane)
                        for k in range(many):
                            t0, t1 = number(first, run + k * kx), number(first, run_end + k * kx)
                            a, b, c, d = sum_channels(arena, from_, offset, value, t0, t1, a, b, c, d)
                        keep(end, arena, into, at, a, streamed, act, x, s1, s2, o)
                        keep(end, arena, into, at + plane, b, streamed, act, x, s1, s2, o + 1)
                        keep(end, arena, into, at + 2 * plane, c, streamed, act, x, s1, s2, o + 2)
                        keep(end, arena, into, at + 3 * plane, d, streamed, act, x, s1, s2, o + 3)
                left = right

    @inline
    def keep(end, arena, into, at, value, streamed, act, x, s1, s2, o):
        p, q = end(arena, into, at, value, streamed, act, x, load(s1, o * L, L), load(s2, o * L, L))
        store(s1, o * L, p)
        store(s2, o * L, q)

    return gather_four


gather_forward, gather_backward = _make(begin_forward, end_forward), _make(begin_backward, end_backward)
gather_four_forward, gather_four_backward = (
    _make_four(begin_forward, end_forward),
    _make_four(begin_backward, end_backward),
)
