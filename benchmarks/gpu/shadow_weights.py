"""Prototype: bfloat16 copies of the weights, with channels last, that one kernel updates with their float32 masters.

Under autocast every step casts the weights to bfloat16 and lays them out anew, and copies their gradients: 110 of 427
kernels of ResNet-20. Here the network's weights are the copies, and the update writes them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.gpu.batch_norm import norm_add
from repro.engines import Sgd

BLOCK = 1024


@triton.jit
def _update(
    master,
    shadow,
    shadow_gradient,
    gradient,
    momentum,
    mask,
    rate,
    shadows,
    n,
    factor,
    weight_decay,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The first ``shadows`` of n numbers have a shadow and a gradient of its type, the others a float32 gradient."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    shadowed, there = at < shadows, at < n
    weight = tl.load(master + at, mask=there, other=0.0)
    change = tl.load(shadow_gradient + at, mask=shadowed, other=0.0).to(tl.float32)
    change += tl.load(gradient + at - shadows, mask=there & (at >= shadows), other=0.0)
    change += weight_decay * weight
    moved = factor * tl.load(momentum + at, mask=there, other=0.0) + change
    tl.store(momentum + at, moved, mask=there)
    if NESTEROV:
        moved = change + factor * moved
    weight = (weight - tl.load(rate) * moved) * tl.load(mask + at, mask=there, other=0).to(tl.float32)
    tl.store(master + at, weight, mask=there)
    tl.store(shadow + at, weight.to(shadow.dtype.element_ty), mask=shadowed)


class ShadowedNetwork:
    """A module whose weights, but those of batch norms, are shadows.

    Master, momentum and mask are flat: first ``shadowed``, then ``plain`` parameters, convolutions' with channels last.

    Arguments:
        module: a `repro.nets.resnet.CifarResNet` on its device, in float32 and training mode; its parameters are moved.
        fused: whether batch norm, residual and rectifier are `norm_add`; else PyTorch's.
        dtype: of the shadows.
    """

    def __init__(self, module: nn.Module, *, fused: bool, dtype: torch.dtype = torch.bfloat16):
        self.module, self.fused = module, fused
        norms = {id(p) for part in module.modules() if isinstance(part, _BatchNorm) for p in part.parameters()}
        parameters = list(module.parameters())
        self.shadowed = [p for p in parameters if id(p) not in norms]
        self.plain = [p for p in parameters if id(p) in norms]
        everything = [*self.shadowed, *self.plain]
        self.master = torch.cat([p.detach().permute(_order(p)).flatten() for p in everything])
        self.momentum = torch.zeros_like(self.master)
        self.mask = torch.ones_like(self.master, dtype=torch.uint8)
        shadows = sum(p.numel() for p in self.shadowed)
        self.shadow = self.master[:shadows].to(dtype)
        self.shadow_gradient = torch.zeros_like(self.shadow)
        self.gradient = torch.zeros_like(self.master[shadows:])
        self.into = [views(self.shadow_gradient, self.shadowed), views(self.gradient, self.plain)]
        values = [*views(self.shadow, self.shadowed), *views(self.master[shadows:], self.plain)]
        for parameter, value in zip(everything, values):
            parameter.data = value

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W] in the shadows' type, with channels last."""
        if not self.fused:
            return self.module(x)
        net = self.module
        x = norm_add(net.bn, net.conv(x))
        for block in net.blocks:
            y = norm_add(block.bn1, block.conv1(x))
            if len(block.shortcut):
                x = norm_add(block.shortcut[1], block.shortcut[0](x), relu=False)
            x = norm_add(block.bn2, block.conv2(y), x)
        return net.fc(x.mean((2, 3)))

    def step(self, loss: Tensor, rate: Tensor, sgd: Sgd) -> None:
        """One update by the gradients of the loss; ``rate`` is a number on the device."""
        found = torch.autograd.grad(loss, [*self.shadowed, *self.plain])
        for there, part in zip(self.into, (found[: len(self.shadowed)], found[len(self.shadowed) :])):
            torch._foreach_copy_(there, list(part))
        n, shadows = self.master.numel(), self.shadow.numel()
        _update[(triton.cdiv(n, BLOCK),)](
            self.master,
            self.shadow,
            self.shadow_gradient,
            self.gradient,
            self.momentum,
            self.mask,
            rate,
            shadows,
            n,
            sgd.momentum,
            sgd.weight_decay,
            NESTEROV=sgd.nesterov,
            BLOCK=BLOCK,
        )


def _order(p: Tensor) -> tuple[int, ...]:
    """The dimensions as they lie in memory."""
    return (0, 2, 3, 1) if p.ndim == 4 else tuple(range(p.ndim))


def views(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Consecutive parts of ``flat`` in the shapes of tensors, convolutions' with channels last."""
    found, start = [], 0
    for p in like:
        order = _order(p)
        part = flat[start : start + p.numel()].view([p.shape[k] for k in order])
        found.append(part.permute([order.index(k) for k in range(p.ndim)]))
        start += p.numel()
    return found
