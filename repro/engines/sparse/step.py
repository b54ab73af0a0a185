"""A network's training steps, and its evaluation: images are fetched, the plan's tables carried out, the loss taken."""

import math

from repro.engines.sparse.compiled import compiled, entry, inline
from repro.engines.sparse.convolution import convolve, convolve_back
from repro.engines.sparse.lanes import (
    L,
    W,
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
    rows_summed,
    store,
    sub,
    where_above,
)
from repro.engines.sparse.layers import CONVOLVE, MAKE
from repro.engines.sparse.pointwise import (
    before_batch,
    clear,
    finish,
    make,
    norm_gradients,
    pool,
    pool_back,
    running,
    statistics,
    sums_with,
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


@compiled
def smooth(arena, a, blocks, batch, labels, smoothing):
    """What label smoothing (Szegedy et al. 2016) adds to the mean cross-entropy; its gradient is added to that of the
    logits in the activation ``a``, which `loss_and_gradient` has written.

    A share ``smoothing`` of each target is spread over all classes: the loss gains that share of the label's logit less
    the mean of all logits.
    """
    gain, classes = 0.0, a.channels
    for block in range(blocks):
        source, gradient = a.place + block * a.block, a.gradient + block * a.gradient_block
        for b in range(min(L, batch - block * L)):
            label = labels[block * L + b]
            own = arena[source + label * a.plane + b]
            for k in range(classes):
                gain += own - arena[source + k * a.plane + b]
                arena[gradient + k * a.plane + b] -= smoothing / (classes * batch)
            arena[gradient + label * a.plane + b] += smoothing / batch
    return smoothing * gain / (classes * batch)


@inline
def copy_logits(arena, a, source, count, logits, start):
    """The logits of ``count`` images of a block to rows of logits from ``start`` on."""
    for b in range(count):
        for k in range(a.channels):
            logits[start + b, k] = arena[source + k * a.plane + b]


@compiled
def forward(tables, lists, room, vector, batch, by_batch, momentum):
    """From the images in the arena to the logits in the output activation.

    by_batch: batch norm by the batch's statistics, else by the running ones. momentum: of the running statistics, -1
    for each layer's own.
    """
    blocks, ragged = (batch + L - 1) // L, batch % L != 0
    for b in range(L):
        room.lanes[b] = 1 if not ragged or b < batch % L else 0
    for k in range(len(tables.forward)):
        step = tables.forward[k]
        if step.what == CONVOLVE:
            c = tables.convolutions[step.which]
            stats = room.stats[step.which]
            eps, own = tables.constants[step.which, 0], tables.constants[step.which, 1]
            if not by_batch:
                running(c, stats, vector, eps)
            before_batch(c, stats, vector)
            convolve(c, tables.activations[c.source], step, step.which, blocks, ragged, tables, lists, room)
            if by_batch:
                area = c.rows * c.columns
                moves = own if momentum < 0 else momentum
                statistics(room.s1, room.s2, c, stats, vector, batch * area, (blocks * L - batch) * area, eps, moves)
        else:
            a = tables.activations[step.which]
            for block in range(blocks):
                if step.what == MAKE:
                    make(room.arena, a, block, 0, a.height, room.stats, room.lanes, ragged and block == blocks - 1)
                else:
                    pool(room.arena, a, tables.activations[a.source], block)


@inline
def norms_of(a, blocks, tables, room):
    """Once the gradient of a join is complete: those of its terms' batch norms or biases."""
    n = len(tables.convolutions)
    if 0 <= a.x and a.x_stats < n:
        c = tables.convolutions[a.x_stats]
        norm_gradients(c, room.s1, room.s2, room.stats[a.x_stats], room.gradient, room.totals[a.x_stats])
    if 0 <= a.y and a.y_stats < n:
        sums_with(room.arena, a, blocks, room.s2)
        c = tables.convolutions[a.y_stats]
        norm_gradients(c, room.s1, room.s2, room.stats[a.y_stats], room.gradient, room.totals[a.y_stats])


@compiled
def backward(tables, lists, room, batch):
    """From the gradient of the logits to those of all parameters: of the taps in lanes, of the others in a vector."""
    blocks, ragged = (batch + L - 1) // L, batch % L != 0
    for k in range(len(tables.backward)):
        step = tables.backward[k]
        if step.what == CONVOLVE:
            c = tables.convolutions[step.which]
            a = tables.activations[c.source]
            convolve_back(c, a, step, step.which, batch, blocks, ragged, tables, lists, room)
        else:
            a = tables.activations[step.which]
            if step.what == MAKE:
                clear(room.s1, a.channels * L)
                clear(room.s2, a.channels * L)
                finish(
                    room.arena,
                    a,
                    blocks,
                    step.beside,
                    step.beside_block,
                    step.more,
                    step.more_block,
                    step.into,
                    step.into_block,
                    step.final,
                    room.s1,
                    room.s2,
                )
            else:
                source, beside, into = tables.activations[a.source], step.beside, step.into
                pool_back(room.arena, a, source, blocks, beside, step.beside_block, into, step.into_block)
        if step.final:
            norms_of(a, blocks, tables, room)


@compiled
def update_taps(w, m, sums, keep, count, rate, factor, decay, nesterov):
    """Masked SGD of the slots, W at a time. Where ``keep`` is 0, nothing changes."""
    f, d, r = fill(w, factor, W), fill(w, decay, W), fill(w, -rate, W)
    for t in range(0, count, W):
        a = load(w, t, W)
        g = mul(load(keep, t, W), fma(d, a, rows_summed(sums, t * W, W)))
        b = fma(f, load(m, t, W), g)
        store(m, t, b)
        if nesterov:
            b = fma(f, b, g)
        store(w, t, fma(r, b, a))


@inline
def update_others(free, vector, velocity, gradient, rate, factor, decay, nesterov):
    for i in range(len(free)):
        p = free[i]
        g = gradient[p] + decay * vector[p]
        velocity[p] = factor * velocity[p] + g
        vector[p] -= rate * (g + factor * velocity[p] if nesterov else velocity[p])


@entry
def advance(
    images,
    index,
    dy,
    dx,
    flip,
    augment,
    labels,
    rates,
    factor,
    decay,
    nesterov,
    smoothing,
    learn,
    by_batch,
    tables,
    lists,
    room,
    vector,
    velocity,
    losses,
    logits,
):
    """K steps of one network: training steps, or batches to evaluate (one function, to be compiled once).

    index, dy, dx, flip: [K, B]; labels [N]; rates, losses [K]; logits [K, B, classes], or [K, 0, classes] if unwanted.
    vector, velocity: the network's numbers and momentum, which are changed.
    learn: train with learning rates ``rates``; else they are the momenta of the running statistics, which are changed
    where batch norm goes by_batch; dy, dx, flip, labels, velocity and losses are not read then.
    """
    batch, slots, one = index.shape[1], len(lists.place), 0 * factor + 1
    blocks = (batch + L - 1) // L
    output = tables.activations[tables.output]
    for t in range(len(room.w)):
        room.w[t] = room.m[t] = 0  # also behind the last slot, for weights that are not kept
    for t in range(slots):
        if lists.place[t] >= 0:
            room.w[t] = vector[lists.place[t]]
            if learn:
                room.m[t] = velocity[lists.place[t]]
    for k in range(len(index)):
        pixels, border, scale, shift = images.pixels, images.border, images.scale, images.shift
        fetch(pixels, border, index[k], dy, dx, flip, k, augment, scale, shift, room.arena, tables.activations[0])
        if not learn:
            forward(tables, lists, room, vector, batch, by_batch, rates[k])
        else:
            for e in range(len(lists.origin)):
                room.back[e] = room.w[lists.origin[e]]
            forward(tables, lists, room, vector, batch, True, -one)
        if logits.shape[1]:
            for block in range(blocks):
                here = min(L, batch - block * L)
                copy_logits(room.arena, output, output.place + block * output.block, here, logits[k], block * L)
        if not learn:
            continue
        for b in range(batch):
            room.labels[b] = labels[index[k, b]]
        losses[k] = loss_and_gradient(room.arena, output, blocks, batch, room.labels, room.scores)
        if smoothing > 0:
            losses[k] += smooth(room.arena, output, blocks, batch, room.labels, smoothing)
        clear(room.sums, (slots + W - 1) // W * W * W)
        backward(tables, lists, room, batch)
        update_taps(room.w, room.m, room.sums, lists.keep, slots, rates[k], factor, decay, nesterov)
        update_others(tables.free, vector, velocity, room.gradient, rates[k], factor, decay, nesterov)
    if learn:
        for t in range(slots):
            if lists.place[t] >= 0:
                vector[lists.place[t]], velocity[lists.place[t]] = room.w[t], room.m[t]
