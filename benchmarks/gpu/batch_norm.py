"""Prototype: batch norm, residual and rectifier in two Triton kernels each way, for activations with channels last.

PyTorch takes three kernels forward (batch norm, sum, rectifier) and as many backward, or more, each through memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

SPLITS = 64  # programs that sum over the rows of a channel, at most; a power of two
NUMBERS = 4096  # that a program holds at once
CHANNELS = 64  # of a program, at most


@triton.jit
def _moments(x, running, sums, count, share, C: tl.constexpr, ROWS: tl.constexpr, CS: tl.constexpr, S: tl.constexpr):
    """sums [2 S + 1, C]: of x - running over the rows of each split, of the squares, and running as it was."""
    split, channel = tl.program_id(0), tl.program_id(1) * CS + tl.arange(0, CS)
    centre = tl.load(running + channel)
    linear, square = tl.zeros([CS], tl.float32), tl.zeros([CS], tl.float32)
    for start in range(0, share, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < share) & (split * share + row < count)
        at = (split * share + row)[:, None] * C + channel[None, :]
        value = tl.load(x + at, mask=inside[:, None], other=0.0).to(tl.float32) - centre[None, :]
        value = tl.where(inside[:, None], value, 0.0)
        linear += tl.sum(value, 0)
        square += tl.sum(value * value, 0)
    tl.store(sums + split * C + channel, linear)
    tl.store(sums + (S + split) * C + channel, square)
    if split == 0:
        tl.store(sums + 2 * S * C + channel, centre)


@triton.jit
def _normalise(
    x,
    residual,
    y,
    sums,
    weight,
    bias,
    saved,
    running_mean,
    running_var,
    count,
    momentum,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CS: tl.constexpr,
    S: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """y, and saved [2, C]: mean and one over the deviation."""
    channel, split = tl.program_id(1) * CS + tl.arange(0, CS), tl.arange(0, S)
    offset = tl.sum(tl.load(sums + split[:, None] * C + channel[None, :]), 0) / count
    square = tl.sum(tl.load(sums + (S + split)[:, None] * C + channel[None, :]), 0) / count
    variance = tl.maximum(square - offset * offset, 0.0)
    mean = tl.load(sums + 2 * S * C + channel) + offset
    inverse = 1.0 / tl.sqrt(variance + eps)
    scale, shift = tl.load(weight + channel) * inverse, tl.load(bias + channel)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at, inside = row[:, None] * C + channel[None, :], (row < count)[:, None]
    value = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :] + shift[None, :]
    if RESIDUAL:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(saved + channel, mean)
        tl.store(saved + C + channel, inverse)
        before = tl.load(running_var + channel)
        unbiased = variance * (count / (count - 1.0))
        tl.store(running_var + channel, before + momentum * (unbiased - before))
        before = tl.load(running_mean + channel)
        tl.store(running_mean + channel, before + momentum * (mean - before))


@triton.jit
def _gradient_moments(
    gy,
    y,
    x,
    saved,
    sums,
    count,
    share,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CS: tl.constexpr,
    S: tl.constexpr,
    RELU: tl.constexpr,
):
    """sums [2 S, C]: of the gradient behind the rectifier over each split, and of its product with the normalised x."""
    split, channel = tl.program_id(0), tl.program_id(1) * CS + tl.arange(0, CS)
    mean, inverse = tl.load(saved + channel)[None, :], tl.load(saved + C + channel)[None, :]
    plain, product = tl.zeros([CS], tl.float32), tl.zeros([CS], tl.float32)
    for start in range(0, share, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = ((row < share) & (split * share + row < count))[:, None]
        at = (split * share + row)[:, None] * C + channel[None, :]
        gradient = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            gradient = tl.where(tl.load(y + at, mask=inside, other=0.0).to(tl.float32) > 0, gradient, 0.0)
        normal = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean) * inverse
        plain += tl.sum(gradient, 0)
        product += tl.sum(gradient * normal, 0)  # the gradient is 0 outside
    tl.store(sums + split * C + channel, plain)
    tl.store(sums + (S + split) * C + channel, product)


@triton.jit
def _gradients(
    gy,
    y,
    x,
    saved,
    weight,
    sums,
    gx,
    gresidual,
    parameters,
    count,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CS: tl.constexpr,
    S: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """gx, gresidual, and parameters [2, C]: the gradients of weight and bias."""
    channel, split = tl.program_id(1) * CS + tl.arange(0, CS), tl.arange(0, S)
    plain = tl.sum(tl.load(sums + split[:, None] * C + channel[None, :]), 0)
    product = tl.sum(tl.load(sums + (S + split)[:, None] * C + channel[None, :]), 0)
    mean, inverse = tl.load(saved + channel), tl.load(saved + C + channel)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at, inside = row[:, None] * C + channel[None, :], (row < count)[:, None]
    gradient = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        gradient = tl.where(tl.load(y + at, mask=inside, other=0.0).to(tl.float32) > 0, gradient, 0.0)
    if RESIDUAL:
        tl.store(gresidual + at, gradient.to(gresidual.dtype.element_ty), mask=inside)
    normal = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * inverse[None, :]
    gradient -= (plain / count)[None, :] + normal * (product / count)[None, :]
    gradient *= (tl.load(weight + channel) * inverse)[None, :]
    tl.store(gx + at, gradient.to(gx.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(parameters + channel, product)
        tl.store(parameters + C + channel, plain)


def _grids(x: Tensor) -> tuple[int, tuple, tuple, dict]:
    """(rows of x, grid of the sums, grid of the values, constants of all kernels)."""
    channels = x.shape[1]
    count, block = x.numel() // channels, min(channels, CHANNELS)
    rows, columns = NUMBERS // block, triton.cdiv(channels, block)
    splits = min(SPLITS, triton.next_power_of_2(triton.cdiv(count, 32)))
    constants = dict(C=channels, ROWS=rows, CS=block, S=splits)
    return count, (splits, columns), (triton.cdiv(count, rows), columns), constants


class _NormAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, residual, relu, momentum, eps):
        assert x.is_contiguous(memory_format=torch.channels_last)
        count, over_sums, over_values, constants = _grids(x)
        splits, channels = constants["S"], constants["C"]
        sums = torch.empty(2 * splits + 1, channels, device=x.device)
        saved = torch.empty(2, channels, device=x.device)
        y = torch.empty_like(x)
        _moments[over_sums](x, running_mean, sums, count, triton.cdiv(count, splits), **constants)
        form = dict(RESIDUAL=residual is not None, RELU=relu)
        other = x if residual is None else residual.contiguous(memory_format=torch.channels_last)
        _normalise[over_values](
            x, other, y, sums, weight, bias, saved, running_mean, running_var, count, momentum, eps, **constants, **form
        )
        ctx.save_for_backward(x, y, weight, saved)
        ctx.form = form
        return y

    @staticmethod
    def backward(ctx, gy):
        x, y, weight, saved = ctx.saved_tensors
        gy, form = gy.contiguous(memory_format=torch.channels_last), ctx.form
        count, over_sums, over_values, constants = _grids(x)
        sums = torch.empty(2 * constants["S"], constants["C"], device=x.device)
        gx, parameters = torch.empty_like(x), torch.empty_like(saved)
        gresidual = torch.empty_like(x) if form["RESIDUAL"] else None
        share = triton.cdiv(count, constants["S"])
        _gradient_moments[over_sums](gy, y, x, saved, sums, count, share, RELU=form["RELU"], **constants)
        there = gx if gresidual is None else gresidual
        _gradients[over_values](gy, y, x, saved, weight, sums, gx, there, parameters, count, **constants, **form)
        return gx, *parameters, None, None, gresidual, None, None, None


def norm_add(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None = None, *, relu: bool = True) -> Tensor:
    """relu(norm(x) + residual) in training mode, of x [B, C, H, W] with channels last, in float32 or bfloat16.

    The norm's parameters and statistics are float32; C is a power of two. Sums are taken about the running mean.
    """
    statistics = norm.running_mean, norm.running_var
    return _NormAdd.apply(x, norm.weight, norm.bias, *statistics, residual, relu, norm.momentum, norm.eps)
