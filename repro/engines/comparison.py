"""Whether a GPU computes updates and batch norms rightly: they are compared with a reference before they are used."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repro.engines.cohort import Sgd
from repro.engines.serial import masked_sgd

CHECK_RATE = 0.1  # learning rate of the steps that are compared
UPDATE_TOLERANCE = 1e-6  # relative, of weights and momentum in float32; rounding is a tenth of it
NORM_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative, in the L2 norm: many times their rounding


def apart(found: Tensor, wanted: Tensor) -> Tensor:
    """The relative difference of each row, in the L2 norm, float64 [R]; infinite where one alone is not finite."""
    found, wanted = found.double(), wanted.double()
    finite = wanted.isfinite().all(1)
    share = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-30)
    lost = torch.where(found.isfinite().all(1), torch.inf, 0.0).to(share)
    return torch.where(finite, share.nan_to_num(torch.inf, torch.inf), lost)


def one_line(error: Exception) -> str:
    """The beginning of an error's message."""
    return " ".join(str(error).split())[:200]


def check_rates(like: Tensor) -> Tensor:
    """A learning rate for each row of ``like``, another for each: a mixed-up replica shows."""
    rows = len(like)
    return CHECK_RATE * torch.arange(1, rows + 1, dtype=like.dtype, device=like.device) / rows


def updates_for(device: torch.device, dtype: torch.dtype) -> list[Callable]:
    """Functions that do the work of `masked_sgd` on the device, the fastest first; the last is `masked_sgd`."""
    if device.type == "cuda" and dtype == torch.float32:
        try:
            from repro.engines.triton_update import triton_masked_sgd
        except ImportError:  # PyTorch for CUDA brings Triton along on Linux only
            return [masked_sgd]
        return [triton_masked_sgd, masked_sgd]
    return [masked_sgd]


def without(updates: list[Callable], failure: str) -> list[Callable]:
    """The updates without the first, of which a warning says why."""
    print(f"warning: the update kernel {failure}: the next one is taken", file=sys.stderr)
    return updates[1:]


def right_updates(updates: list[Callable], weights: Tensor, masks: Tensor, sgd: Sgd) -> list[Callable]:
    """The updates from the first on that does what `masked_sgd`, the last, does with equal gradients.

    Arguments:
        weights: [R, P]; masks: bool [R, m]. Neither is changed.
    """
    noise = torch.Generator(weights.device).manual_seed(0)
    shape = dict(generator=noise, dtype=weights.dtype, device=weights.device)
    gradients, momentum = torch.randn(2, *weights.shape, **shape) / 100

    def updated(update: Callable) -> list[Tensor]:
        found = [weights.clone(), gradients.clone(), momentum.clone()]
        update(*found, masks, check_rates(weights), sgd)
        return found[::2]

    wanted = updated(masked_sgd) if len(updates) > 1 else []
    while len(updates) > 1:
        try:
            difference = max(each.max().item() for each in map(apart, updated(updates[0]), wanted))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of Triton or its compiler
            updates = without(updates, f"failed ({one_line(error)})")
            continue
        if difference <= UPDATE_TOLERANCE:
            break
        updates = without(updates, f"differs from the plain one by {difference:.1e} (relatively)")
    return updates


def distrust_norms(
    modules: Sequence[nn.Module],
    run: Callable[[nn.Module], object],
    fork: Callable[[], Sequence[AbstractContextManager]],
    join: Callable[[], None],
) -> list[str]:
    """Take PyTorch's own batch norm where cuDNN's is wrong, and return the names of these layers.

    For activations whose channels lie together cuDNN has a persistent kernel, whose blocks wait for each other. Several
    of it at once, one for each replica, are beyond what it is documented for. So each layer's output and gradient are
    compared with float64 while the replicas run side by side.

    Arguments:
        modules: R networks in training mode.
        run: a forward pass of one network.
        fork: gives a context for each replica; join: waits for what was done in them.
    """
    names = {part: name for name, part in modules[0].named_modules() if isinstance(part, _BatchNorm)}
    wrong: list[str] = []

    def compare(norm: nn.Module, inputs: tuple, _output: Tensor) -> None:
        x, tolerance = inputs[0].detach(), NORM_TOLERANCE.get(inputs[0].dtype)
        if tolerance is None or norm.weight is None:
            return
        wanted = _norm(norm, x.double())
        found = []
        for branch in fork():
            with branch:
                found.append(_norm(norm, x))
        join()
        pairs = (pair for each in found for pair in zip(each, wanted))
        if not all((mine - exact).norm() <= tolerance * exact.norm() for mine, exact in pairs):
            wrong.append(names[norm])

    handles = [norm.register_forward_hook(compare) for norm in names]
    try:
        run(modules[0])
    finally:
        for handle in handles:
            handle.remove()
    for module in modules:
        for name in wrong:
            norm = module.get_submodule(name)
            norm.register_forward_pre_hook(_without_cudnn)
            norm.register_forward_hook(_with_cudnn, always_call=True)
    return wrong


@torch.enable_grad()
def _norm(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(output, gradient of the input) of batch norm by the batch's statistics, in float64. Nothing is updated."""
    x = x.clone().requires_grad_()
    wide = x.dtype == torch.float64
    weight, bias = (p.detach().double() if wide else p.detach() for p in (norm.weight, norm.bias))
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)
    (gradient,) = torch.autograd.grad(y, x, torch.sin(x.detach() * 7 + 1))  # one that is no multiple of the output
    return y.detach().double(), gradient.double()


def _without_cudnn(*_) -> None:
    torch.backends.cudnn.enabled = False


def _with_cudnn(*_) -> None:
    torch.backends.cudnn.enabled = True
