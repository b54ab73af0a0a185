"""What the device could do: copy bandwidth and matrix rate, measured, and what a training step asks of both, counted."""

import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.bench.timing import summary
from repro.bench.variants import PLAIN, Variant
from repro.cost import flops_per_image
from repro.nets import create
from repro.protocol import Protocol

BYTES = {"fp32": 4, "bf16": 2}


def limits(device: str, quick: bool) -> dict:
    """Copy bandwidth in GB/s (bytes read and written) and matrix rates in TFLOP/s, by one thread on a CPU.

    Summaries over repetitions: {"copy": …, "matrix": {"fp32": …, "bf16": …, with CUDA "tf32": …}}.
    """
    torch.set_num_threads(1)
    on_gpu = device == "cuda"
    count = 2 if quick else 7
    numbers = 2**28 if on_gpu else 2**24 if quick else 2**26  # float32: 1 GiB; far more than a CPU's cache
    source = torch.ones(numbers, device=device)
    target = torch.zeros_like(source)
    copy = _repeat(lambda: target.copy_(source), device, count, 8 * numbers / 1e9)
    n = 8192 if on_gpu else 512 if quick else 2048
    matrix = {}
    for name, dtype, tf32 in (("fp32", torch.float32, False), ("bf16", torch.bfloat16, False),
                              *([("tf32", torch.float32, True)] if on_gpu else [])):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.randn(n, n, device=device).to(dtype)
        matrix[name] = _repeat(lambda a=a: a @ a, device, count, 2 * n**3 / 1e12)
    return {"copy": copy, "matrix": matrix}


def _repeat(work: Callable, device: str, count: int, amount: float) -> dict:
    """`summary` of amount per second."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    rates = []
    for _ in range(count + 2):
        sync()
        began = time.perf_counter()
        work()
        sync()
        rates.append(amount / (time.perf_counter() - began))
    return summary(rates[2:])  # the first ones warm up


@cache
def traffic_per_image(network: str, protocol: Protocol) -> int:
    """Numbers read and written in main memory for one image of a training step, if nothing is fused or stays in a cache.

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
        net = create(network, num_classes=protocol.num_classes, in_chans=protocol.in_chans).eval()
        for module in net.modules():
            if isinstance(module, counted):
                module.register_forward_hook(count)
        net(torch.empty(1, protocol.in_chans, protocol.image_size, protocol.image_size))
    return 3 * total


def bounds(variant: Variant, found: dict) -> dict:
    """Images/s at most: by the matrix rate of the variant's precision, and by the copy bandwidth (unfused layers).

    A limit is the best that was measured. The plain script on a GPU may use TF32 convolutions, as PyTorch does by default.
    """
    network, protocol = variant.protocol.network, variant.protocol
    matrix = found["matrix"]
    name = "tf32" if variant.engine == PLAIN and "tf32" in matrix else variant.precision
    traffic = traffic_per_image(network, protocol) * BYTES[variant.precision]
    return {
        "compute": matrix[name]["max"] * 1e12 / flops_per_image(network, protocol),
        "traffic": found["copy"]["max"] * 1e9 / traffic,
        "flops_per_image": flops_per_image(network, protocol),
        "bytes_per_image": traffic,
    }


def kernels(variant: Variant, steps: int) -> dict:
    """On a GPU: CUDA kernels of one step, their summed time and the step's wall time, from torch.profiler."""
    from torch.profiler import ProfilerActivity, profile

    from repro.bench.variants import build

    run, engine = build(variant, "cuda")
    run(steps)
    walls = []
    for _ in range(3):  # the profiler slows the host down, so the clock is read without it
        torch.cuda.synchronize()
        began = time.perf_counter()
        run(steps)
        torch.cuda.synchronize()
        walls.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run(steps)
        torch.cuda.synchronize()
    events = [
        (event.name, event.device_type.name, event.time_range.elapsed_us())
        for event in profiled.events()
        if not getattr(event, "is_user_annotation", False)
    ]
    return {"engine": engine, **kernel_summary(events, steps, statistics.median(walls))}


def kernel_summary(events: list[tuple[str, str, float]], steps: int, wall: float) -> dict:
    """Per step, from events (name, device type, microseconds) of ``steps`` steps that took ``wall`` seconds.

    Kernels on several streams may overlap: then their summed time exceeds the time in which the GPU was busy.
    """
    on_gpu = [(name, elapsed) for name, where, elapsed in events if where == "CUDA"]
    ours = [elapsed for name, elapsed in on_gpu if not name.startswith(("Memcpy", "Memset"))]
    return {
        "kernels": len(ours) / steps,
        "copies": (len(on_gpu) - len(ours)) / steps,
        "busy_us": sum(elapsed for _, elapsed in on_gpu) / steps,
        "wall_us": 1e6 * wall / steps,
    }
