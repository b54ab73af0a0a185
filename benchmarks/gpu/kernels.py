"""Kernels: how many a GPU starts in a second, which a step has, and prototypes that would be fewer or faster."""

import os
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from benchmarks.gpu.run import Impossible, Run
from benchmarks.variants import noise, training_cohort
from repro.data import Batcher
from repro.engines import Sgd
from repro.engines.recording import side_streams
from repro.nets import create, initialise

# Kernels by what their names contain; the first that fits counts.
KINDS = {
    "copy or set": ("memcpy", "memset"),
    "gradient of weights": ("wgrad",),
    "gradient of input": ("dgrad",),
    "layout": ("nchwtonhwc", "nhwctonchw", "transpose"),
    "batch norm": ("batch_norm", "bn_", "moments", "normalise"),
    "convolution": ("conv", "fprop", "xmma", "implicit", "cutlass", "cudnn"),
    "matrix product": ("gemm", "cublas", "splitk"),
    "foreach": ("multi_tensor",),
    "update": ("masked_sgd", "_update"),
    "index": ("index", "gather"),
    "cast or copy": ("copy_kernel", "direct_copy"),
    "softmax or loss": ("softmax", "nll"),
    "reduction": ("reduce",),
    "elementwise": ("elementwise",),
}


def launch(run: Run) -> None:
    """Kernels a second in a graph, by parallel branches and by the bytes that each touches."""
    for numbers in (2**5, 2**19):
        for branches in (1, 4, 16):
            with run.attempt(f"{branches} branches of {numbers} numbers"):
                each = 400 // branches
                vectors = [torch.randn(numbers, device="cuda") for _ in range(branches)]
                streams = side_streams(torch.device("cuda"), branches)

                def work(vectors=vectors, streams=streams, each=each) -> None:
                    _side_by_side(streams, [lambda v=v: [v.add_(1) for _ in range(each)] for v in vectors])

                took = run.time(run.recorded(work)) / (branches * each)
                run.row("launches", bytes=4 * numbers, branches=branches, us_a_kernel=1e6 * took)


def _side_by_side(streams: list, works: list[Callable]) -> None:
    """Each work on its stream, between a fork and a join; one after the other without streams."""
    if not streams:
        for work in works:
            work()
        return
    for stream, work in zip(streams, works):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
    for stream in streams:
        torch.cuda.current_stream().wait_stream(stream)


def profile(run: Run) -> None:
    """The kernels of a step of the graph engine: how many of each kind, and how long they take."""
    for replicas, precision in ((1, "bf16"), (1, "fp32"), (4, "bf16")):
        variant = run.variant("graph", replicas, precision)
        with run.attempt(variant.what):
            training = replace(variant.protocol.training, precision=precision)
            cohort, go = training_cohort(variant, noise(variant.protocol, 4096), training, run.device)
            go(cohort.steps_at_once)
            graphs = [static.graph for static in cohort.statics.values() if static.graph is not None]
            if not graphs:
                raise Impossible(f"the steps of {variant.what} could not be recorded")
            of_step = _profiled(graphs[0].replay, cohort.steps_at_once)
            run.row("profile", replicas=replicas, precision=precision, **of_step)


def _profiled(work: Callable, steps: int) -> dict:
    """Per step: kernels, their summed time and the time in which any runs (us), and [count, us] by kind."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    work()
    with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    events = [each for each in seen.events() if each.device_type.name == "CUDA"]
    spans = sorted((each.time_range.start, each.time_range.end) for each in events)
    kinds: dict[str, list[float]] = {}
    for each in events:
        count = kinds.setdefault(kind_of(each.name), [0.0, 0.0])
        count[0] += 1 / steps
        count[1] += (each.time_range.end - each.time_range.start) / steps
    kernels = sum(count for kind, (count, _) in kinds.items() if kind != "copy or set")
    summed = sum(end - start for start, end in spans) / steps
    return dict(kernels=kernels, summed_us=summed, busy_us=covered(spans) / steps, kinds=kinds)


def kind_of(name: str) -> str:
    """The kind of a kernel of this name."""
    return next((kind for kind, words in KINDS.items() if any(word in name.lower() for word in words)), "other")


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals, sorted by their start."""
    total, reach = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total


# --- prototypes -------------------------------------------------------------------------------------------------------


def _require_triton(run: Run) -> None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise Impossible("Triton is not installed") from error
    if run.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise Impossible("without a GPU, Triton's kernels need its interpreter: TRITON_INTERPRET=1")


def checks(run: Run) -> None:
    """The prototypes against PyTorch in float64."""
    _require_triton(run)
    from benchmarks.gpu.checks import differences

    for what, (apart, limit) in differences(run.device, tiny=run.tiny).items():
        run.row("checks", what=what, apart=apart, limit=limit, right=apart <= limit)


def prototypes(run: Run) -> None:
    """Steps of the graph engine, and the same with shadow weights, without and with fused batch norms."""
    _require_triton(run)
    for replicas in (2,) if run.tiny else (4, 16, 1):
        for what in ("as it is", "shadow weights", "shadow weights, fused norms"):
            if run.left < 10 and not run.tiny:
                run.save(left_out=f"from {what} R = {replicas} on: no time was left")
                return
            with run.attempt(f"{what}, R = {replicas}"):
                run.row("prototypes", what=what, replicas=replicas, **_steps(run, what, replicas))


def _steps(run: Run, what: str, replicas: int) -> dict:
    """Images a second of recorded steps in bfloat16, with their kernels; the losses show that it is the same work."""
    p = run.protocol
    device, size, side = torch.device(run.device), p.training.batch_size, p.image_size
    data, sgd = noise(p, 8 * size), Sgd(0.9, 1e-4, False)
    batcher = Batcher(data.images, data.mean, data.std, augment=False, device=device)
    nets = [
        initialise(create(p.network, num_classes=10, in_chans=3), torch.Generator().manual_seed(r))
        for r in range(replicas)
    ]
    nets = [net.to(device).train() for net in nets]
    index = torch.arange(replicas * size, device=device).view(replicas, size) % len(data.images)
    labels, rate = data.labels.to(device)[index], torch.tensor(1e-3, device=device)
    losses = torch.zeros(replicas, device=device)
    if what == "as it is":
        from repro.engines import Block
        from repro.engines.graph import GraphCohort

        shape = dict(num_classes=10, in_chans=3, image_size=side, device=device, precision="bf16")
        cohort = GraphCohort(p.network, replicas=replicas, **shape)
        cohort.load(torch.stack([cohort.layout.flatten(net.cpu()) for net in nets]))
        cohort._mode(training=True)
        block = Block(index[None], None, torch.full((1, replicas), 1e-3, device=device))

        def step() -> None:
            with cohort._statically():
                cohort._step(block, 0, batcher, labels, sgd, losses, None)
    else:
        from benchmarks.gpu.shadow_weights import ShadowedNetwork

        shadowed = [ShadowedNetwork(net, fused="fused" in what) for net in nets]
        streams = side_streams(device, replicas) if run.device == "cuda" else []

        def one(r: int, images: torch.Tensor) -> None:
            loss = F.cross_entropy(shadowed[r](images[r].permute(0, 3, 1, 2)).float(), labels[r])
            shadowed[r].step(loss, rate, sgd)
            losses[r].copy_(loss.detach())

        def step() -> None:
            images = batcher.normalise(batcher.gather(index), torch.bfloat16)
            _side_by_side(streams, [lambda r=r: one(r, images) for r in range(replicas)])

    step()
    first = losses.tolist()
    replay = run.recorded(step)
    took = run.time(replay)
    row = dict(images_s=replicas * size / took, us_a_step=1e6 * took, first_loss=first[0])
    if run.device == "cuda":
        row |= {k: v for k, v in _profiled(replay, 1).items() if k != "summed_us"}
    return row


def convolutions(run: Run) -> None:
    """The 3×3 convolutions of ResNet-20's stages for R networks: cuDNN on R streams, and one kernel of ours."""
    _require_triton(run)
    batch = 2 if run.tiny else 128
    for replicas in (2,) if run.tiny else (4, 16, 1):
        for channels, side in ((16, 4),) if run.tiny else ((16, 32), (32, 16), (64, 8)):
            if run.left < 5 and not run.tiny:
                run.save(left_out=f"from {channels} channels R = {replicas} on: no time was left")
                return
            with run.attempt(f"{channels} channels, R = {replicas}"):
                for what, (cudnn, ours) in _convolutions(run, replicas, batch, channels, side).items():
                    took = {"cudnn_us": run.time(run.recorded(cudnn)), "ours_us": run.time(run.recorded(ours))}
                    took = {name: 1e6 * seconds for name, seconds in took.items()}
                    run.row("convolutions", of=what, replicas=replicas, channels=channels, side=side, **took)


def _convolutions(run: Run, replicas: int, batch: int, channels: int, side: int) -> dict[str, tuple]:
    from benchmarks.gpu.convolution import convolve, turned, weight_gradient

    dtype = torch.float32 if run.device == "cpu" else torch.bfloat16  # the interpreter's products of bfloat16 are wrong
    x, g = (torch.randn(replicas, batch, side, side, channels, device=run.device, dtype=dtype) for _ in range(2))
    weights = torch.randn(replicas, 9, channels, channels, device=run.device, dtype=dtype)
    back = turned(weights)
    images, errors = ([each.permute(0, 3, 1, 2) for each in part] for part in (x, g))  # with channels last
    kernels = [each.view(3, 3, channels, channels).permute(3, 2, 0, 1) for each in weights]
    kernels = [each.contiguous(memory_format=torch.channels_last) for each in kernels]
    streams = side_streams(torch.device("cuda"), replicas) if run.device == "cuda" else []
    geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    backward = torch.ops.aten.convolution_backward

    def each(work: Callable[[int], object]) -> Callable[[], None]:
        return lambda: _side_by_side(streams, [lambda r=r: work(r) for r in range(replicas)])

    def gradient(r: int, mask: list[bool]):
        return backward(errors[r], images[r], kernels[r], None, *geometry, mask)

    return {
        "forward": (each(lambda r: F.conv2d(images[r], kernels[r], padding=1)), lambda: convolve(x, weights)),
        "input": (each(lambda r: gradient(r, [True, False, False])), lambda: convolve(g, back)),
        "weights": (each(lambda r: gradient(r, [False, True, False])), lambda: weight_gradient(x, g)),
    }
