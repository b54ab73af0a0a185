"""The two ends of a step: images out of the image set, and the loss."""

import math

from repro.engines.sparse.compiled import compiled, inline
from repro.engines.sparse.lanes import (
    L,
    add,
    div,
    fill,
    fma,
    load,
    mul,
    number,
    power_of_two,
    put,
    rounded,
    store,
    sub,
    where_above,
)

LOG2E = 1 / math.log(2)
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440054690583e-4
FACTORIALS = tuple(1 / math.factorial(n) for n in range(14))


@compiled
def fetch(images, border, index, dy, dx, flip, k, augment, scale, shift, arena, a):
    """Normalised images of a batch to the arena; zeros behind the last one.

    images: uint8 [N, side + 2 border, side + 2 border, C]. Where ``augment``, crops by dy[k] and dx[k],
    mirrored by flip[k]; else the middle. scale, shift [C].
    """
    channels, wide = images.shape[3], images.shape[2]
    flat, each = images.reshape(-1), images.shape[1] * wide * channels
    for n in range((len(index) + L - 1) // L * L):
        into = a.place + n // L * a.block + n % L
        if n >= len(index):
            for c in range(channels):
                for i in range(a.height * a.width):
                    put(arena, into + c * a.plane + i * L, 0)
            continue
        y0, x0, step = border, border, channels
        if augment:
            y0, x0 = dy[k, n], dx[k, n]
            if flip[k, n]:
                x0, step = x0 + a.width - 1, -channels
        for y in range(a.height):
            start = index[n] * each + ((y0 + y) * wide + x0) * channels
            for c in range(channels):
                here = into + c * a.plane + y * a.width * L
                factor, less = scale[c], shift[c]
                for x in range(a.width):
                    put(arena, here + x * L, number(flat, start + x * step + c) * factor + less)


@inline
def exponential(arena, x):
    """e to the power of x, for x up to 0: a power of two times a polynomial, exact to rounding in float64 too."""
    lowest = fill(arena, -80, L)
    bounded = where_above(x, lowest, x, lowest)
    n = rounded(mul(bounded, fill(arena, LOG2E, L)))
    r = fma(n, fill(arena, -LN2_LOW, L), fma(n, fill(arena, -LN2_HIGH, L), bounded))
    value = fill(arena, FACTORIALS[13], L)
    for k in range(12, -1, -1):
        value = fma(value, r, fill(arena, FACTORIALS[k], L))
    value = mul(value, power_of_two(n))
    return where_above(x, lowest, value, fill(arena, 0, L))


@compiled
def loss_and_gradient(arena, a, blocks, batch, labels, scores):
    """Mean cross-entropy of the logits in the activation ``a``; their gradient goes to where ``a`` has its own.

    labels [batch]; scores: room for the logits of a block.
    """
    loss, classes = 0.0, a.channels
    for block in range(blocks):
        here = min(L, batch - block * L)
        source, gradient = a.place + block * a.block, a.gradient + block * a.gradient_block
        most = load(arena, source, L)
        for k in range(1, classes):
            found = load(arena, source + k * a.plane, L)
            most = where_above(found, most, found, most)
        sum_ = fill(arena, 0, L)
        for k in range(classes):
            power = exponential(arena, sub(load(arena, source + k * a.plane, L), most))
            store(scores, k * L, power)
            sum_ = add(sum_, power)
        share = div(fill(arena, 1 / batch, L), sum_)
        for k in range(classes):
            store(arena, gradient + k * a.plane, mul(load(scores, k * L, L), share))
        store(scores, 0, sum_)
        store(scores, L, most)
        for b in range(here):
            n = block * L + b
            label = labels[n]
            loss += math.log(scores[b]) + (scores[L + b] - arena[source + label * a.plane + b])
            arena[gradient + label * a.plane + b] -= 1 / batch
        for b in range(here, L):
            for k in range(classes):
                arena[gradient + k * a.plane + b] = 0
    return loss / batch


@inline
def copy_logits(arena, a, source, count, logits, start):
    """The logits of ``count`` images of a block to rows of logits from ``start`` on."""
    for b in range(count):
        for k in range(a.channels):
            logits[start + b, k] = arena[source + k * a.plane + b]
