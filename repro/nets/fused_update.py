"""`repro.nets.update.masked_sgd` in one pass over memory: a Triton kernel, for CUDA and float32."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _masked_sgd(weights, gradients, momentum, mask, rates, owner, n, m, factor, weight_decay,
                NESTEROV: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < n
    weight = tl.load(weights + at, mask=there, other=0.0)
    gradient = tl.load(gradients + at, mask=there, other=0.0) + weight_decay * weight
    change = factor * tl.load(momentum + at, mask=there, other=0.0) + gradient
    tl.store(momentum + at, change, mask=there)
    if NESTEROV:
        change = gradient + factor * change
    rate = tl.load(rates + tl.load(owner + at, mask=there, other=0))
    keep = tl.load(mask + at, mask=at < m, other=1.0)
    tl.store(weights + at, (weight - rate * change) * keep, mask=there)


def fused_masked_sgd(weights: Tensor, gradients: Tensor, momentum: Tensor, mask: Tensor, rates: Tensor, owner: Tensor,
                     *, factor: float, weight_decay: float, nesterov: bool) -> None:  # fmt: skip
    """See `repro.nets.update.masked_sgd`."""
    n = weights.numel()
    _masked_sgd[(triton.cdiv(n, BLOCK),)](weights, gradients, momentum, mask, rates, owner, n, mask.numel(), factor,
                                          weight_decay, NESTEROV=nesterov, BLOCK=BLOCK)  # fmt: skip
