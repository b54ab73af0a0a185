"""Prototype: 3×3 convolutions of R networks in one kernel, as implicit matrix products.

cuDNN has no convolution whose weights differ by image; a grouped one over R networks is slow in both directions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 128  # output pixels of a program
SPLITS = 32  # programs that share the sum over pixels of a gradient


@triton.jit
def _source(row, tap, count, H, W, HO, WO, STRIDE: tl.constexpr):
    """(row of the input under a tap of output rows, whether it is inside of the image)."""
    column, line, image = row % WO, row // WO % HO, row // (WO * HO)
    y, x = line * STRIDE + tap // 3 - 1, column * STRIDE + tap % 3 - 1
    return (image * H + y) * W + x, (row < count) & (y >= 0) & (y < H) & (x >= 0) & (x < W)


@triton.jit
def _forward(
    x, weights, y, count, H, W, HO, WO, CI: tl.constexpr, CO: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr
):
    network = tl.program_id(1).to(tl.int64)
    row, source, target = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, CI), tl.arange(0, CO)
    x += network * (count // (HO * WO)) * H * W * CI
    weights += network * 9 * CI * CO
    total = tl.zeros([ROWS, CO], tl.float32)
    for tap in tl.static_range(9):
        at, inside = _source(row, tap, count, H, W, HO, WO, STRIDE)
        tile = tl.load(x + at[:, None] * CI + source[None, :], mask=inside[:, None], other=0.0)
        kernel = tl.load(weights + (tap * CI + source[:, None]) * CO + target[None, :])
        total = tl.dot(tile, kernel, total, input_precision="ieee")
    place = y + network * count * CO + row[:, None] * CO + target[None, :]
    tl.store(place, total.to(y.dtype.element_ty), mask=(row < count)[:, None])


@triton.jit
def _weights(
    x,
    gradient,
    sums,
    count,
    share,
    H,
    W,
    HO,
    WO,
    CI: tl.constexpr,
    CO: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """sums [S, R, 9, CI, CO]: of input times gradient over the output rows of each split."""
    split, tap, network = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    source, target = tl.arange(0, CI), tl.arange(0, CO)
    x += network * (count // (HO * WO)) * H * W * CI
    gradient += network * count * CO
    total = tl.zeros([CI, CO], tl.float32)
    for start in range(0, share, ROWS):
        row = split * share + start + tl.arange(0, ROWS)
        own = start + tl.arange(0, ROWS) < share
        at, inside = _source(row, tap, count, H, W, HO, WO, STRIDE)
        tile = tl.load(x + at[None, :] * CI + source[:, None], mask=(own & inside)[None, :], other=0.0)
        error = tl.load(gradient + row[:, None] * CO + target[None, :], mask=(own & (row < count))[:, None], other=0.0)
        total = tl.dot(tile, error, total, input_precision="ieee")
    place = ((split * tl.num_programs(2) + network) * 9 + tap) * CI
    tl.store(sums + (place + source[:, None]) * CO + target[None, :], total)


def convolve(x: Tensor, weights: Tensor, stride: int = 1, *, rows: int = ROWS, warps: int = 4) -> Tensor:
    """Outputs [R, B, HO, WO, CO] of inputs [R, B, H, W, CI] and weights [R, 9, CI, CO], with a border of one zero.

    CI and CO are powers of two from 16 on. The gradient of the input at stride 1 is a convolution, too: `turned`.
    """
    replicas, batch, height, width, source = x.shape
    target, lines, columns = weights.shape[3], -(-height // stride), -(-width // stride)
    count = batch * lines * columns
    y = x.new_empty(replicas, batch, lines, columns, target)
    shape = height, width, lines, columns
    constants = dict(CI=source, CO=target, STRIDE=stride, ROWS=rows, num_warps=warps)
    _forward[(triton.cdiv(count, rows), replicas)](x, weights, y, count, *shape, **constants)
    return y


def turned(weights: Tensor) -> Tensor:
    """The weights [R, 9, CO, CI] with which `convolve` takes the output's gradient to the input's, at stride 1."""
    return weights.flip(1).transpose(2, 3).contiguous()


def weight_gradient(
    x: Tensor, gradient: Tensor, stride: int = 1, *, splits: int = SPLITS, rows: int = ROWS, warps: int = 4
) -> Tensor:
    """The gradient of the weights, float32 [R, 9, CI, CO], of an output's gradient [R, B, HO, WO, CO]."""
    replicas, batch, height, width, source = x.shape
    lines, columns, target = gradient.shape[2:]
    count = batch * lines * columns
    sums = torch.empty(splits, replicas, 9, source, target, device=x.device)
    shape = triton.cdiv(count, splits), height, width, lines, columns
    constants = dict(CI=source, CO=target, STRIDE=stride, ROWS=rows, num_warps=warps)
    _weights[(splits, 9, replicas)](x, gradient, sums, count, *shape, **constants)
    return sums.sum(0)
