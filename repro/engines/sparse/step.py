"""A network's training steps, and its evaluation: the plan's tables carried out."""

from collections import namedtuple

from repro.engines.sparse.batch import copy_logits, fetch, loss_and_gradient
from repro.engines.sparse.compiled import compiled, entry, inline
from repro.engines.sparse.gather import (
    gather_backward,
    gather_forward,
    gather_four_backward,
    gather_four_forward,
    next_part,
)
from repro.engines.sparse.lanes import L, W, fill, fma, load, mul, rows_summed, store
from repro.engines.sparse.order import CONVOLVE, MAKE
from repro.engines.sparse.pointwise import (
    MEAN,
    before_batch,
    clear,
    finish,
    make,
    norm_back,
    norm_gradients,
    pool,
    pool_back,
    running,
    statistics,
    sums_with,
)
from repro.engines.sparse.weigh import weigh, weigh_four

ROWS = 8  # of X that are done before the next ones, so that what is made for them stays in the second-level cache

Tables = namedtuple("Tables", "passes convolutions activations forward backward constants free spare_gradient output")
"""Of a plan (`repro.engines.sparse.plan.Plan`); free int64: places of the trained parameters that are no taps."""
Lists = namedtuple("Lists", "first offset entries slots four groups place keep origin")
"""The taps of one network (`repro.engines.sparse.taps`)."""
Room = namedtuple("Room", "arena w m back sums stats s1 s2 gradient totals scores labels lanes")
"""Work arrays of one thread: weights and momentum of the slots; weights of the backward lists; sums of gradients
[slots, W]; statistics [convolutions + 1, 5, channels]; sums in lanes; gradient of the other parameters; sums of gradients
[convolutions, channels]; logits of a block; labels; 1 for a lane with an image in the last block."""
Images = namedtuple("Images", "pixels border scale shift")
"""uint8 [N, side + 2 border, side + 2 border, C], and what makes them normalised floats, [C]."""


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
                gather_four_forward(arena, p, source, into, y, end, lists.first, offset, value, less, -1, c.streamed,
                                    -1, -1, room.s1, room.s2)
            else:
                gather_forward(arena, p, source, into, y, end, lists.first, offset, value, less, -1, c.streamed, -1, -1,
                               room.s1, room.s2)
            y = end


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
            norm_back(arena, c, gradient, block, y, end, tables.spare_gradient, count, room.stats[number],
                      room.totals[number], room.lanes, last)
            whole = a.height if end == c.rows else max(done, min(a.height, end * c.sy - c.py))
            wanted = max(whole, rows_wanted(c, a, end))
            if step.make and wanted > ready:
                make(arena, a, block, ready, wanted, room.stats, room.lanes, last)
                ready = wanted
            if lists.four[number]:
                weigh_four(arena, p, source, tables.spare_gradient, y, end, lists.first, offset, sums,
                           lists.groups[number])
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
                        gather_four_backward(arena, back, tables.spare_gradient, into, y0, y1, lists.first, entries,
                                             value, room.s1, beside, 0, act, x, room.s1, room.s2)
                    else:
                        gather_backward(arena, back, tables.spare_gradient, into, y0, y1, lists.first, entries, value,
                                        room.s1, beside, 0, act, x, room.s1, room.s2)
                done = whole
            y = end


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
                finish(room.arena, a, blocks, step.beside, step.beside_block, step.more, step.more_block, step.into,
                       step.into_block, step.final, room.s1, room.s2)
            else:
                pool_back(room.arena, a, tables.activations[a.source], blocks, step.beside, step.beside_block,
                          step.into, step.into_block)
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
def advance(images, index, dy, dx, flip, augment, labels, rates, factor, decay, nesterov, learn, by_batch, tables, lists,
            room, vector, velocity, losses, logits):
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
        fetch(images.pixels, images.border, index[k], dy, dx, flip, k, augment, images.scale, images.shift, room.arena,
              tables.activations[0])
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
