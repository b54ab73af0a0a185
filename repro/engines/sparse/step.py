"""A network's training steps, and its evaluation: the plan's tables carried out."""

from repro.engines.sparse.batch import copy_logits, fetch, loss_and_gradient
from repro.engines.sparse.compiled import compiled, entry, inline
from repro.engines.sparse.convolution import convolve, convolve_back
from repro.engines.sparse.lanes import L, W, fill, fma, load, mul, rows_summed, store
from repro.engines.sparse.order import CONVOLVE, MAKE
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
                pool_back(
                    room.arena,
                    a,
                    tables.activations[a.source],
                    blocks,
                    step.beside,
                    step.beside_block,
                    step.into,
                    step.into_block,
                )
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
        fetch(
            images.pixels,
            images.border,
            index[k],
            dy,
            dx,
            flip,
            k,
            augment,
            images.scale,
            images.shift,
            room.arena,
            tables.activations[0],
        )
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
        clear(room.sums, (slots + W - 1) // W * W * W)
        backward(tables, lists, room, batch)
        update_taps(room.w, room.m, room.sums, lists.keep, slots, rates[k], factor, decay, nesterov)
        update_others(tables.free, vector, velocity, room.gradient, rates[k], factor, decay, nesterov)
    if learn:
        for t in range(slots):
            if lists.place[t] >= 0:
                vector[lists.place[t]], velocity[lists.place[t]] = room.w[t], room.m[t]
