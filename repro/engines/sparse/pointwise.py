"""What is done pixel by pixel: batch norm, rectifier, sums, pools, and their gradients.

Each function works on rows of one block of images. Pixels behind the last image of a batch are zeros in every
activation, and so in every gradient.
"""

import math

from repro.engines.sparse.compiled import compiled, inline
from repro.engines.sparse.lanes import L, add, fill, fma, load, mul, store, total, where_above, where_equal

MEAN, INVERSE, SCALE, SHIFT, SLOPE = range(5)
"""Rows of the statistics of a convolution's X, by channel: mean; 1 / std; what X is multiplied by; what is added; the
sum of the gradient times (X - mean)."""


@inline
def clear(sums, count):
    for i in range(0, count, L):
        store(sums, i, fill(sums, 0, L))


@compiled
def statistics(s1, s2, c, stats, vector, count, missing, eps, momentum):
    """From the sums of X and of its square: scale and shift of each channel; the running statistics move on.

    The running mean was subtracted from X, so that one pass is exact enough in float32. missing: lanes without an
    image, whose X is minus the running mean.
    """
    for o in range(c.channels):
        if c.mean < 0:
            stats[SCALE, o] = 1
            stats[SHIFT, o] = vector[c.bias + o] if c.bias >= 0 else 0 * eps
            continue
        before = stats[MEAN, o]  # what was subtracted from X
        centre = (total(load(s1, o * L, L)) + missing * before) / count
        square = (total(load(s2, o * L, L)) - missing * before * before) / count
        var = max(square - centre * centre, 0 * eps)
        stats[INVERSE, o] = 1 / math.sqrt(var + eps)
        running = vector[c.mean + o]
        vector[c.mean + o] = running + momentum * centre
        vector[c.var + o] += momentum * (var * count / (count - 1) - vector[c.var + o])
        affine(c, stats, vector, o, centre)


@inline
def affine(c, stats, vector, o, centre):
    """Scale and shift of a channel whose X has this mean."""
    stats[MEAN, o] = centre
    stats[SCALE, o] = stats[INVERSE, o] * (vector[c.gamma + o] if c.gamma >= 0 else 1)
    beta = vector[c.beta + o] if c.beta >= 0 else 0 * centre
    stats[SHIFT, o] = beta - centre * stats[SCALE, o]


@compiled
def before_batch(c, stats, vector):
    """What is subtracted from a convolution's X: the running mean, minus the bias, which batch norm removes anyway."""
    for o in range(c.channels):
        stats[MEAN, o] = 0
        if c.mean >= 0:
            stats[MEAN, o] = vector[c.mean + o] - (vector[c.bias + o] if c.bias >= 0 else 0 * stats[MEAN, o])


@compiled
def running(c, stats, vector, eps):
    """Scale and shift by the running statistics."""
    for o in range(c.channels):
        if c.mean < 0:
            stats[SCALE, o] = 1
            stats[SHIFT, o] = vector[c.bias + o] if c.bias >= 0 else 0 * eps
        else:
            stats[INVERSE, o] = 1 / math.sqrt(vector[c.var + o] + eps)
            affine(c, stats, vector, o, 0 * eps)


@compiled
def make(arena, a, block, y0, y1, stats, lanes, ragged):
    """Rows y0 to y1 of a join: the sum of its terms, each scaled and shifted, and rectified or not."""
    keep, zero = load(lanes, 0, L), fill(arena, 0, L)
    into, one, two = a.place + block * a.block, a.x + block * a.x_block, a.y + block * a.y_block
    x, y = stats[a.x_stats], stats[a.y_stats]
    for o in range(a.channels):
        begin, end = o * a.plane + y0 * a.width * L, o * a.plane + y1 * a.width * L
        scale, shift = fill(arena, x[SCALE, o], L), fill(arena, x[SHIFT, o], L)
        if a.y >= 0:
            scale_y, shift = fill(arena, y[SCALE, o], L), add(shift, fill(arena, y[SHIFT, o], L))
            for i in range(begin, end, L):
                value = fma(scale_y, load(arena, two + i, L), fma(scale, load(arena, one + i, L), shift))
                if a.rectified:
                    value = where_above(value, zero, value, zero)
                store(arena, into + i, value)
        else:
            for i in range(begin, end, L):
                value = fma(scale, load(arena, one + i, L), shift)
                if a.rectified:
                    value = where_above(value, zero, value, zero)
                store(arena, into + i, value)
        if ragged:
            for i in range(begin, end, L):
                store(arena, into + i, mul(keep, load(arena, into + i, L)))


@compiled
def norm_back(arena, c, g, block, y0, y1, into, count, stats, sums, lanes, ragged):
    """Rows y0 to y1 of the gradient of X, from that of the join ``g`` that it is a term of.

    sums [channels]: of that gradient over the batch.
    """
    x, gradient, keep = c.x + block * c.x_block, g.gradient + block * g.gradient_block, load(lanes, 0, L)
    for o in range(c.channels):
        begin, end = o * c.plane + y0 * c.columns * L, o * c.plane + y1 * c.columns * L
        if c.mean < 0:
            for i in range(begin, end, L):
                store(arena, into + i, load(arena, gradient + i, L))
            continue
        inverse, scale = stats[INVERSE, o], stats[SCALE, o]
        slope = -scale * inverse * inverse * stats[SLOPE, o] / count
        level = -scale * sums[o] / count - stats[MEAN, o] * slope
        p, q, r = fill(arena, scale, L), fill(arena, slope, L), fill(arena, level, L)
        for i in range(begin, end, L):
            value = fma(p, load(arena, gradient + i, L), fma(q, load(arena, x + i, L), r))
            store(arena, into + i, value)
        if ragged:  # lanes without an image have an X, and so a gradient
            for i in range(begin, end, L):
                store(arena, into + i, mul(keep, load(arena, into + i, L)))


@compiled
def finish(arena, a, blocks, beside, beside_block, more, more_block, into, into_block, final, s1, s2):
    """A gradient from one or two contributions; where it is complete, rectified, and its sums with the first term."""
    zero = fill(arena, 0, L)
    for block in range(blocks):
        one, two = beside + block * beside_block, more + block * more_block
        act, x, to = a.place + block * a.block, a.x + block * a.x_block, into + block * into_block
        for o in range(a.channels):
            p, q = load(s1, o * L, L), load(s2, o * L, L)
            for i in range(o * a.plane, o * a.plane + a.height * a.width * L, L):
                value = load(arena, one + i, L)
                if more >= 0:
                    value = add(value, load(arena, two + i, L))
                if final:
                    if a.rectified:
                        value = where_above(load(arena, act + i, L), zero, value, zero)
                    p = add(p, value)
                    if a.x >= 0:
                        q = fma(value, load(arena, x + i, L), q)
                store(arena, to + i, value)
            store(s1, o * L, p)
            store(s2, o * L, q)


@compiled
def sums_with(arena, a, blocks, s2):
    """Sums of a complete gradient times the second term of its join."""
    for o in range(a.channels):
        q = fill(arena, 0, L)
        for block in range(blocks):
            gradient, y = a.gradient + block * a.gradient_block, a.y + block * a.y_block
            for i in range(o * a.plane, o * a.plane + a.height * a.width * L, L):
                q = fma(load(arena, gradient + i, L), load(arena, y + i, L), q)
        store(s2, o * L, q)


@compiled
def norm_gradients(c, s1, s2, stats, vector_gradient, sums):
    """Gradients of batch norm or bias, from the sums of a gradient and of it times X."""
    for o in range(c.channels):
        sums[o] = total(load(s1, o * L, L))
        if c.mean >= 0:
            stats[SLOPE, o] = total(load(s2, o * L, L)) - stats[MEAN, o] * sums[o]
            if c.gamma >= 0:
                vector_gradient[c.gamma + o] = stats[SLOPE, o] * stats[INVERSE, o]
            if c.beta >= 0:
                vector_gradient[c.beta + o] = sums[o]
            if c.bias >= 0:  # the batch norm takes it away again
                vector_gradient[c.bias + o] = 0
        elif c.bias >= 0:
            vector_gradient[c.bias + o] = sums[o]


# --- pools --------------------------------------------------------------------------------------------------


@inline
def window(at, stride, padding, kernel, size):
    """(first, end) of a window's rows (columns) that lie inside the image."""
    start = at * stride - padding
    return max(0, start), min(size, start + kernel)


@compiled
def pool(arena, a, s, block):
    """A pool's activation ``a`` of one block, from that of ``s``."""
    area = fill(arena, 1 / (a.ky * a.kx), L)
    for o in range(a.channels):
        into, channel = a.place + block * a.block + o * a.plane, o - a.lead
        source = s.place + block * s.block + channel * s.plane
        for y in range(a.height):
            y0, y1 = window(y, a.sy, a.py, a.ky, s.height)
            for x in range(a.width):
                x0, x1 = window(x, a.sx, a.px, a.kx, s.width)
                value = fill(arena, 0, L)
                if 0 <= channel < s.channels:
                    if a.kind == 1:
                        value = load(arena, source + (y0 * s.width + x0) * L, L)
                        for v in range(y0, y1):
                            for u in range(x0, x1):
                                found = load(arena, source + (v * s.width + u) * L, L)
                                more = where_above(found, value, found, value)
                                value = where_equal(value, value, more, value)  # NaN stays NaN
                    else:
                        for v in range(y0, y1):
                            for u in range(x0, x1):
                                value = add(value, load(arena, source + (v * s.width + u) * L, L))
                        value = mul(value, area)
                store(arena, into + (y * a.width + x) * L, value)


@compiled
def pool_back(arena, a, s, blocks, beside, beside_block, into, into_block):
    """The gradient of ``s`` that comes through the pool ``a``, plus what is beside. A maximum's first pixel gets it."""
    area, zero = fill(arena, 1 / (a.ky * a.kx), L), fill(arena, 0, L)
    for block in range(blocks):
        to = into + block * into_block
        for i in range(0, s.channels * s.plane, L):
            value = zero
            if beside >= 0:
                value = load(arena, beside + block * beside_block + i, L)
            store(arena, to + i, value)
        for channel in range(s.channels):
            o = channel + a.lead
            source = s.place + block * s.block + channel * s.plane
            gradient = a.gradient + block * a.gradient_block + o * a.plane
            act = a.place + block * a.block + o * a.plane
            for y in range(a.height):
                y0, y1 = window(y, a.sy, a.py, a.ky, s.height)
                for x in range(a.width):
                    x0, x1 = window(x, a.sx, a.px, a.kx, s.width)
                    at = (y * a.width + x) * L
                    rest = load(arena, gradient + at, L)
                    if a.kind != 1:
                        rest = mul(rest, area)
                    most = load(arena, act + at, L)
                    for v in range(y0, y1):
                        for u in range(x0, x1):
                            here = (v * s.width + u) * L
                            share = rest
                            if a.kind == 1:
                                found = load(arena, source + here, L)
                                share = where_equal(found, most, rest, zero)
                                rest = where_equal(found, most, zero, rest)
                            place = to + channel * s.plane + here
                            store(arena, place, add(load(arena, place, L), share))
