"""What a plan costs: trainings, images, FLOPs, and time on this machine, measured by training for a few seconds."""

import time
from functools import cache

from repro.errors import UsageError
from repro.plan.steps import Step
from repro.protocol import Protocol

SENSIBLE_HOURS = 12.0
CALIBRATE_IMAGES = 10**8  # plans below this many images take minutes anywhere, and are not worth measuring first


@cache
def flops_per_image(network: str, protocol: Protocol) -> int:
    """FLOPs of one forward and backward pass of one image: three forward passes, two per multiply-add."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from repro.nets import create

    with torch.device("meta"):
        net = create(network, num_classes=protocol.num_classes, in_chans=protocol.in_chans).eval()
        image = torch.empty(1, protocol.in_chans, protocol.image_size, protocol.image_size)
        with FlopCounterMode(display=False) as counter:
            net(image)
    return 3 * counter.get_total_flops()


def images_per_second(protocol: Protocol, *, seconds: float = 5.0) -> float:
    """Measured here and now: the protocol's network trained on noise, with the engine it would use."""
    import numpy as np
    import torch

    from repro.data import Batcher
    from repro.nets import create, initialise, layout_of
    from repro.nets.cohort import Cohort, choose_engine
    from repro.train.loop import Job, train

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = dict(num_classes=protocol.num_classes, in_chans=protocol.in_chans)
    engine = choose_engine(
        "auto", protocol.network, replicas=protocol.replicates, device=device, precision=protocol.training.precision
    )
    replicas = 1 if engine == "serial" else protocol.replicates  # one after the other, each costs the same
    cohort = Cohort(protocol.network, replicas=replicas, engine=engine, device=device,
                    precision=protocol.training.precision, **net)  # fmt: skip
    single = initialise(create(protocol.network, **net), torch.Generator().manual_seed(0))
    vector, batch, size = layout_of(single).flatten(single), protocol.training.batch_size, protocol.image_size
    noise = torch.randint(0, 256, (4 * batch, size, size, protocol.in_chans), dtype=torch.uint8)
    labels = torch.randint(0, protocol.num_classes, (4 * batch,), device=device)
    mean = [0.5] * protocol.in_chans
    batcher = Batcher(noise, mean, mean, augment=protocol.training.augment, device=device)
    images, elapsed, start = 0, 0.0, 0
    while elapsed < seconds:
        steps = 1 if start == 0 else 3
        jobs = [Job(vector, np.arange(4 * batch), start, start + steps, 0, r) for r in range(replicas)]
        began = time.perf_counter()
        train(jobs, protocol.training, cohort_of=lambda _: cohort, batcher=batcher, labels=labels)
        if start:  # the first step warms up
            elapsed += time.perf_counter() - began
            images += steps * batch * replicas
        start += steps
    return images / elapsed


def report(name: str, steps: list[Step], todo: list[Step]) -> str:
    """One line per missing step, the totals, and the hours they would take here."""
    if not todo:
        return f"{name}: all {len(steps)} artifacts are complete, nothing to do"
    lines = [f"{name}: {len(steps) - len(todo)} of {len(steps)} artifacts are complete; to make:"]
    width = max(len(str(step.target)) for step in todo)
    for step in todo:
        lines.append(f"  {step.target!s:{width}}  {step.networks:5,} trainings  {step.images:15,} images")
    networks, images, flops = sum(step.networks for step in todo), sum(step.images for step in todo), total_flops(todo)
    lines.append(f"in all {networks:,} trainings, {images:,} images, {flops:.2g} FLOPs")
    if images > CALIBRATE_IMAGES:
        lines.append(f"{flops / 1e13 / 3600:,.0f} GPU-hours at 10 TFLOP/s sustained (arithmetic, not measured)")
        lines.append(estimate(todo)[0])
    return "\n".join(lines)


def total_flops(todo: list[Step]) -> int:
    """FLOPs of all trainings of the steps."""
    return sum(step.images * flops_per_image(step.network, step.protocol) for step in todo)


@cache
def _measured(protocol: Protocol) -> float:
    return images_per_second(protocol)


def estimate(todo: list[Step]) -> tuple[str, float]:
    """(a sentence, hours): the steps' time here, from the measured speed of one network and everybody's FLOPs."""
    import torch

    protocol = todo[0].protocol
    rate = _measured(protocol)
    speed = rate * flops_per_image(protocol.network, protocol)
    hours = total_flops(todo) / speed / 3600
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (PyTorch sees no GPU)"
    return (
        f"about {hours:,.0f} hours here, on one {device}: {protocol.network} was just measured at {rate:,.0f} images/s, "
        f"{speed / 1e12:.2g} TFLOP/s, and the rest is taken to run at the same rate of FLOPs"
    ), hours


def require_sensible(todo: list[Step], *, yes: bool) -> None:
    """Raises UsageError when the steps would take longer than anybody wants and ``yes`` was not given."""
    if yes or sum(step.images for step in todo) <= CALIBRATE_IMAGES:
        return
    hours = estimate(todo)[1]
    if hours > SENSIBLE_HOURS:
        raise UsageError(f"this would take about {hours:,.0f} hours here: add YES=1 (or --yes) to do it all the same")
