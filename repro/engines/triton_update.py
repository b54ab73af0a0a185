"""`repro.engines.serial.masked_sgd` in one pass over memory: a Triton kernel, for CUDA and float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from repro.engines.cohort import Sgd

BLOCK = 1024


@triton.jit
def _masked_sgd(
    weights,
    gradients,
    momentum,
    masks,
    rates,
    weights_row,
    gradients_row,
    momentum_row,
    masks_row,
    n,
    m,
    factor,
    weight_decay,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < n
    weights += row * weights_row
    gradients += row * gradients_row
    momentum += row * momentum_row
    weight = tl.load(weights + at, mask=there, other=0.0)
    gradient = tl.load(gradients + at, mask=there, other=0.0) + weight_decay * weight
    change = factor * tl.load(momentum + at, mask=there, other=0.0) + gradient
    tl.store(momentum + at, change, mask=there)
    if NESTEROV:
        change = gradient + factor * change
    keep = tl.load(masks + row * masks_row + at, mask=at < m, other=1).to(tl.float32)
    tl.store(weights + at, (weight - tl.load(rates + row) * change) * keep, mask=there)


def triton_masked_sgd(
    weights: Tensor, gradients: Tensor, momentum: Tensor, masks: Tensor, rates: Tensor, sgd: Sgd
) -> None:
    """See `repro.engines.serial.masked_sgd`; ``masks`` cannot be None."""
    replicas, n = weights.shape
    rows = [tensor.stride(0) for tensor in (weights, gradients, momentum, masks)]
    _masked_sgd[(triton.cdiv(n, BLOCK), replicas)](
        weights,
        gradients,
        momentum,
        masks.view(torch.uint8),
        rates,
        *rows,
        n,
        masks.shape[1],
        sgd.momentum,
        sgd.weight_decay,
        NESTEROV=sgd.nesterov,
        BLOCK=BLOCK,
    )
