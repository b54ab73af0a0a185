"""Convolutions that skip pruned weights, and batch norm, for narrow networks on a CPU, compiled by Numba.

R convolutions side by side, with the images of a batch innermost: activations are [1, R*C, H, W*B], so one weight
multiplies whole rows of W*B numbers, and a weight that is zero costs nothing. Sums are taken over four weights at a
time, which reads and writes the output a quarter as often. What a replica computes does not depend on who sits beside
it, to the last bit. The gradient of a weight that is exactly zero is not computed but 0: masked SGD zeroes a pruned weight again
whatever its gradient is, and a kept one is never exactly zero from a continuous initialisation on.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

_compiled = njit(fastmath={"contract", "reassoc", "nsz", "arcp"}, cache=True, error_model="numpy", nogil=True)


@_compiled
def pad(x, padded, stride, pad):
    """x [N, S, S, B] into the inside of padded [N, S+2*pad, stride, columns, B]: columns apart by their remainder."""
    side, batch = x.shape[1], x.shape[3]
    for n in range(len(x)):
        for row in range(side):
            for column in range(side):
                into = padded[n, row + pad, (column + pad) % stride, (column + pad) // stride]
                image = x[n, row, column]
                for t in range(batch):
                    into[t] = image[t]


@_compiled
def unpad(padded, x, stride, pad):
    """The inverse of `pad`: the inside of padded into x."""
    side, batch = x.shape[1], x.shape[3]
    for n in range(len(x)):
        for row in range(side):
            for column in range(side):
                image = padded[n, row + pad, (column + pad) % stride, (column + pad) // stride]
                into = x[n, row, column]
                for t in range(batch):
                    into[t] = image[t]


@_compiled
def _taps_by_output(weight, geometry, first, offsets, values, places):
    """List one replica's nonzero weights [O, I, K, K] by output channel: offset of its input in the padded images,
    value and place; ``first`` [O + 1] tells where each channel's begin."""
    channel, line, batch, stride = geometry
    outs, ins, kernel = weight.shape[0], weight.shape[1], weight.shape[2]
    tap = 0
    for o in range(outs):
        first[o] = tap
        for i in range(ins):
            for ky in range(kernel):
                for kx in range(kernel):
                    if weight[o, i, ky, kx] != 0:
                        offsets[tap] = i * channel + ky * line + kx % stride * (line // stride) + kx // stride * batch
                        values[tap] = weight[o, i, ky, kx]
                        places[tap] = ((o * ins + i) * kernel + ky) * kernel + kx
                        tap += 1
    first[outs] = tap


@_compiled
def forward(padded, weight, out, geometry, first, offsets, values, places):
    """out [R, O, S, S*B] from padded [R, …] and weight [R, O, I, K, K]."""
    line, stride, n = geometry[1], geometry[3], out.shape[3]
    for r in range(len(weight)):
        _taps_by_output(weight[r], geometry, first, offsets, values, places)
        images = padded[r]
        for y in range(out.shape[2]):  # rows outermost: what three rows of all channels hold stays in the cache
            for o in range(out.shape[1]):
                row = out[r, o, y]
                row[:] = 0
                tap, last, shift = first[o], first[o + 1], y * stride * line
                while tap + 4 <= last:
                    v0, v1, v2, v3 = values[tap], values[tap + 1], values[tap + 2], values[tap + 3]
                    a = images[shift + offsets[tap] : shift + offsets[tap] + n]
                    b = images[shift + offsets[tap + 1] : shift + offsets[tap + 1] + n]
                    c = images[shift + offsets[tap + 2] : shift + offsets[tap + 2] + n]
                    d = images[shift + offsets[tap + 3] : shift + offsets[tap + 3] + n]
                    for t in range(n):
                        row[t] += (v0 * a[t] + v1 * b[t]) + (v2 * c[t] + v3 * d[t])
                    tap += 4
                while tap < last:
                    v0, a = values[tap], images[shift + offsets[tap] : shift + offsets[tap] + n]
                    for t in range(n):
                        row[t] += v0 * a[t]
                    tap += 1


@_compiled
def backward_weight(gradient, padded, weight, out, geometry, first, offsets, values, places):
    """Add the gradient of every weight that is not zero to out [R, O*I*K*K]; gradient is that of out [R, O, S, S*B]."""
    line, stride, n = geometry[1], geometry[3], gradient.shape[3]
    zero = values.dtype.type(0)
    for r in range(len(weight)):
        _taps_by_output(weight[r], geometry, first, offsets, values, places)
        images, sums = padded[r], out[r]
        for y in range(gradient.shape[2]):
            for o in range(gradient.shape[1]):
                row = gradient[r, o, y]
                tap, last, shift = first[o], first[o + 1], y * stride * line
                while tap + 4 <= last:
                    s0, s1, s2, s3 = zero, zero, zero, zero
                    a = images[shift + offsets[tap] : shift + offsets[tap] + n]
                    b = images[shift + offsets[tap + 1] : shift + offsets[tap + 1] + n]
                    c = images[shift + offsets[tap + 2] : shift + offsets[tap + 2] + n]
                    d = images[shift + offsets[tap + 3] : shift + offsets[tap + 3] + n]
                    for t in range(n):
                        s0 += row[t] * a[t]
                        s1 += row[t] * b[t]
                        s2 += row[t] * c[t]
                        s3 += row[t] * d[t]
                    sums[places[tap]] += s0
                    sums[places[tap + 1]] += s1
                    sums[places[tap + 2]] += s2
                    sums[places[tap + 3]] += s3
                    tap += 4
                while tap < last:
                    s0, a = zero, images[shift + offsets[tap] : shift + offsets[tap] + n]
                    for t in range(n):
                        s0 += row[t] * a[t]
                    sums[places[tap]] += s0
                    tap += 1


@_compiled
def backward_input(gradient, weight, padded, geometry, first, outputs, values):
    """Add to padded [R, …], zeroed, the gradient of the padded images; gradient is that of out [R, O, S, S*B]."""
    channel, line, batch, stride = geometry
    outs, ins, kernel = weight.shape[1], weight.shape[2], weight.shape[3]
    n = gradient.shape[3]
    for r in range(len(weight)):
        tap = group = 0
        for i in range(ins):
            for ky in range(kernel):
                for kx in range(kernel):
                    first[group] = tap
                    for o in range(outs):
                        if weight[r, o, i, ky, kx] != 0:
                            outputs[tap], values[tap] = o, weight[r, o, i, ky, kx]
                            tap += 1
                    group += 1
        first[group] = tap
        images = padded[r]
        for y in range(gradient.shape[2]):
            group = 0
            for i in range(ins):
                for ky in range(kernel):
                    for kx in range(kernel):
                        at = (
                            i * channel
                            + (y * stride + ky) * line
                            + kx % stride * (line // stride)
                            + kx // stride * batch
                        )
                        into = images[at : at + n]
                        tap, last = first[group], first[group + 1]
                        group += 1
                        while tap + 4 <= last:
                            v0, v1, v2, v3 = values[tap], values[tap + 1], values[tap + 2], values[tap + 3]
                            a, b = gradient[r, outputs[tap], y], gradient[r, outputs[tap + 1], y]
                            c, d = gradient[r, outputs[tap + 2], y], gradient[r, outputs[tap + 3], y]
                            for t in range(n):
                                into[t] += (v0 * a[t] + v1 * b[t]) + (v2 * c[t] + v3 * d[t])
                            tap += 4
                        while tap < last:
                            v0, a = values[tap], gradient[r, outputs[tap], y]
                            for t in range(n):
                                into[t] += v0 * a[t]
                            tap += 1


@_compiled
def normalise(x, residual, weight, bias, eps, rectify, out, mean, var, running_mean, running_var, momentum):
    """out [C, N] = normalised x [C, N] + residual ([C, N], or [0, 0] for none), rectified or not; mean and (biased) var
    [C]; the running ones move on. A channel of a narrow network lies in the first-level cache, where all passes are."""
    n = x.shape[1]
    zero = x.dtype.type(0)
    for c in range(len(x)):
        row, into = x[c], out[c]
        total = zero
        for t in range(n):
            total += row[t]
        centre = x.dtype.type(total / n)
        total = zero
        for t in range(n):
            total += (row[t] - centre) * (row[t] - centre)
        mean[c], var[c] = centre, total / n
        running_mean[c] += momentum * (centre - running_mean[c])
        running_var[c] += momentum * (total / (n - 1) - running_var[c])
        scale = weight[c] * x.dtype.type(1 / np.sqrt(var[c] + eps))
        shift = bias[c] - centre * scale
        if len(residual):
            more = residual[c]
            for t in range(n):
                into[t] = row[t] * scale + shift + more[t]
        else:
            for t in range(n):
                into[t] = row[t] * scale + shift
        if rectify:
            for t in range(n):
                into[t] = zero if into[t] <= zero else into[t]  # NaN stays NaN


@_compiled
def denormalise(gradient, x, out, weight, mean, var, eps, rectify, dx, rectified, dweight, dbias):
    """Gradients dx [C, N] of x and ``rectified`` [C, N] of the residual; those of weight and bias [C] are added to."""
    n = x.shape[1]
    zero = x.dtype.type(0)
    for c in range(len(x)):
        row, outcome, g, into, passed = x[c], out[c], gradient[c], dx[c], rectified[c]
        centre, inverse = mean[c], x.dtype.type(1 / np.sqrt(var[c] + eps))
        for t in range(n):
            passed[t] = zero if rectify and outcome[t] <= zero else g[t]
        total, along = zero, zero
        for t in range(n):
            total += passed[t]
            along += passed[t] * (row[t] - centre)
        along *= inverse
        dbias[c] += total
        dweight[c] += along
        scale = weight[c] * inverse
        a, b = total / n, along / n * inverse
        for t in range(n):
            into[t] = scale * (passed[t] - a - (row[t] - centre) * b)


class SparseConv2d(nn.Conv2d):
    """R convolutions (groups = R, no bias) of images with the batch innermost: [1, R*I, S, S*B] -> [1, R*O, S2, S2*B].

    Padding is half the kernel. CPU, float32 or float64, for evaluation: training is `repro.nets.program`.
    """

    def forward(self, x: Tensor) -> Tensor:
        channels, side = x.shape[1:3]
        kernel, batch, stride = self.kernel_size[0], x.shape[3] // side, self.stride[0]
        width = side + kernel // 2 * 2
        columns, new_side = -(-width // stride), (width - kernel) // stride + 1
        padded = x.new_zeros(channels, width, stride, columns, batch)
        pad(x.contiguous().view(channels, side, side, batch).numpy(), padded.numpy(), stride, kernel // 2)
        w = self.weight.detach().view(self.groups, -1, *self.weight.shape[1:])
        out = x.new_empty(1, len(self.weight), new_side, new_side * batch)
        line = stride * columns * batch
        forward(padded.view(self.groups, -1).numpy(), w.numpy(), out.view(self.groups, -1, *out.shape[2:]).numpy(),
                (width * line, line, batch, stride), *scratch(w[0]))  # fmt: skip
        return out


def scratch(w: Tensor):
    """Room for one replica's nonzero weights [O, I, K, K]: where groups begin, offsets, values, places."""
    taps = w.numel()
    whole = torch.empty(3, taps + 2, dtype=torch.int64).numpy()
    return whole[0], whole[1], w.new_empty(taps).numpy(), whole[2]
