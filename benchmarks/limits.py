"""What a step needs, counted, and what a core or a GPU can do, measured."""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.nets import create, layout_of
from repro.protocol import Protocol


def multiply_adds(network: nn.Module, image_size: int, in_chans: int, mask: Tensor | None = None) -> int:
    """Multiply-adds of one image of a training step with weights that are kept and pixels inside of the image.

    A convolution or linear layer is gone through forward, for the gradient of its weights and, unless it reads the
    images, for the gradient of its input. Nothing else is counted: normalisation, rectifiers, pooling, the update.

    Arguments:
        mask: bool [num_prunable], in the order of `repro.nets.layout_of`; None is dense.
    """
    counted = 0
    layout = layout_of(network)
    if mask is None:
        mask = torch.ones(layout.num_prunable, dtype=torch.bool)
    kept = {e.name: mask[e.offset : e.offset + e.size].view(e.shape).long() for e in layout.prunable}

    def count(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            nonlocal counted
            taps = kept[f"{name}.weight".lstrip(".")]
            if isinstance(module, nn.Conv2d):
                rows, columns = (
                    _places(module, axis, inputs[0].shape[2 + axis], output.shape[2 + axis]) for axis in (0, 1)
                )
                taps = taps.sum((0, 1)) * rows[:, None] * columns
            counted += int(taps.sum()) * (3 if inputs[0].requires_grad else 2)

        return hook

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(count(name)) for name, module in layers]
    training = network.training
    try:
        network.eval()(torch.zeros(1, in_chans, image_size, image_size))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return counted


def _places(layer: nn.Conv2d, axis: int, size: int, count: int) -> Tensor:
    """At how many of ``count`` places each of the kernel's rows (columns) lies inside of ``size`` pixels, [kernel]."""
    kernel, stride, padding, dilation = (
        getattr(layer, name)[axis] for name in ("kernel_size", "stride", "padding", "dilation")
    )
    at = torch.arange(count)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return ((at >= 0) & (at < size)).sum(0)


def multiply_and_add(count: int) -> Callable[[int], None]:
    """A function that does k times ``count`` float32 multiply-adds in registers alone: nothing is loaded or stored."""
    from repro.engines.sparse.compiled import compiled
    from repro.engines.sparse.lanes import W, add, fill, fma, total

    @compiled
    def spin(like, rounds, factor, term):
        """Twelve sums, as two units with a latency of four or five cycles need, in 16 registers with the constants."""
        x, y = fill(like, factor, W), fill(like, term, W)
        a, b, c, d = fill(like, 1, W), fill(like, 2, W), fill(like, 3, W), fill(like, 4, W)
        e, f, g, h = fill(like, 5, W), fill(like, 6, W), fill(like, 7, W), fill(like, 8, W)
        i, j, k, m = fill(like, 9, W), fill(like, 10, W), fill(like, 11, W), fill(like, 12, W)
        for _ in range(rounds):
            a, b, c, d = fma(a, x, y), fma(b, x, y), fma(c, x, y), fma(d, x, y)
            e, f, g, h = fma(e, x, y), fma(f, x, y), fma(g, x, y), fma(h, x, y)
            i, j, k, m = fma(i, x, y), fma(j, x, y), fma(k, x, y), fma(m, x, y)
        a, b, c = add(add(a, b), add(c, d)), add(add(e, f), add(g, h)), add(add(i, j), add(k, m))
        return total(add(add(a, b), c))

    like, half = np.zeros(W, np.float32), np.float32(0.5)
    return lambda steps: spin(like, steps * (count // (12 * W)), half, half)


def gpu_limits() -> dict:
    """{"copy": bytes read and written a second, "fp32", "bf16", "tf32": FLOPs a second of matrix products}, medians.

    On random numbers: a copy of equal ones compresses, and products of zeros take less power and run at a higher clock.
    """
    source = torch.rand(2**28, device="cuda")
    target = torch.empty_like(source)
    found = {"copy": _rate(lambda: target.copy_(source), 8 * source.numel())}
    n = 8192
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("tf32", torch.float32)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a = torch.randn(n, n, device="cuda").to(dtype)
        found[name] = _rate(lambda a=a: a @ a, 2 * n**3)
    return found


def _rate(work: Callable, amount: float) -> float:
    rates = []
    for _ in range(9):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        rates.append(amount / (time.perf_counter() - began))
    return median(rates[2:])  # the first ones warm up


def traffic_per_image(protocol: Protocol) -> int:
    """Numbers read and written in main memory for an image of a training step, if nothing is fused or in a cache.

    Forward, by the numbers of a layer's input and output: convolution, linear layer and pooling read the input and
    write the output; batch norm reads the input twice (statistics, then values) and writes; a rectifier reads and
    writes; adding a residual reads two and writes one. Backward is taken as twice the forward. Weights are left out:
    a batch shares them.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        read, written = inputs[0].numel(), output.numel()
        total += 3 * read if isinstance(module, nn.BatchNorm2d) else read + written

    class Functions(TorchDispatchMode):
        """Rectifiers and sums, which need not be modules."""

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            nonlocal total
            each = {"relu": 2, "relu_": 2, "add": 3, "add_": 3}.get(function.overloadpacket.__name__, 0)
            total += each and each * arguments[0].numel()
            return function(*arguments, **(options or {}))

    counted = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    with torch.device("meta"), torch.no_grad(), Functions():
        net = create(protocol.network, num_classes=protocol.num_classes, in_chans=protocol.in_chans).eval()
        for module in net.modules():
            if isinstance(module, counted):
                module.register_forward_hook(count)
        net(torch.empty(1, protocol.in_chans, protocol.image_size, protocol.image_size))
    return 3 * total
