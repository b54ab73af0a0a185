"""What a plan costs: trainings, images, FLOPs, and time on this machine, measured by doing the plan's work for 20 s.

A step's time is that of its training images, dense or sparse, of the images it measures networks on, and of starting
its process. One network of the plan is measured, the one that takes most of it; the others count by their FLOPs.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from repro.errors import UsageError
from repro.plan import Step, as_jobs
from repro.protocol import Protocol

SENSIBLE_HOURS = 12.0
WORTH_MEASURING = 2e13  # FLOPs; a plan of fewer takes minutes anywhere
CALIBRATION = 20.0  # seconds, of which starting a process and warming up take some
IMAGES = 9984  # of the training set measured on: full batches of 64, 128, 256 and more
SPARSE = 0.1  # share of the weights left in the second of the two measurements of training


@dataclass(frozen=True)
class Speed:
    """What one process does with one network, in images a second: dense training, training with a tenth of the weights,
    and measuring networks (forward alone). start: seconds until a process is at work. device: its name."""

    dense: float
    sparse: float
    forward: float
    start: float
    device: str

    def seconds(self, step: Step) -> float:
        """Of a step of this network. An image takes a time that is linear in the share of the weights that is left."""
        slope = (1 / self.dense - 1 / self.sparse) / (1 - SPARSE)
        return step.images * (1 / self.dense - slope * (1 - step.density)) + step.evaluated / self.forward


@dataclass(frozen=True)
class Prediction:
    """Seconds of work of all processes together, and on the clock with ``jobs`` of them at once.

    Processes are taken in the order of the rules by whoever is free; that some wait for others is left out.
    """

    network: str
    speed: Speed
    work: float
    clock: float
    jobs: int

    def __str__(self) -> str:
        rates = f"trains {self.speed.dense:,.0f} images/s dense"
        if abs(self.speed.sparse / self.speed.dense - 1) > 0.1:
            rates += f", {self.speed.sparse:,.0f} with {SPARSE:.0%} of the weights"
        at_once = f"{self.jobs} processes at once, taken not to slow each other" if self.jobs > 1 else "one process"
        return (
            f"about {_spoken(self.clock)} here with {at_once}, on one {self.speed.device}: {self.network} was just "
            f"measured ({rates}, and measures {self.speed.forward:,.0f} images/s; a process starts in "
            f"{self.speed.start:.1f} s), and other networks are taken to run at the same rate of FLOPs"
        )


def _spoken(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:,.{int(seconds < 36_000)}f} hours"


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


def total_flops(todo: list[Step]) -> int:
    """FLOPs of all trainings of the steps."""
    return sum(step.images * flops_per_image(step.network, step.protocol) for step in todo)


def predict(todo: list[Step], *, jobs: int, device: str = "auto",
            measure: Callable[[str, Protocol, str], Speed] | None = None) -> Prediction:  # fmt: skip
    """The time the steps would take here. measure: gives the speed of a network; `calibrate` by default."""
    shares: dict[tuple[str, Protocol], int] = {}
    for step in todo:
        key = step.network, step.protocol
        shares[key] = shares.get(key, 0) + total_flops([step])
    network, protocol = max(shares, key=shares.get)
    speed = (measure or calibrate)(network, protocol, device)
    unit = flops_per_image(network, protocol)
    busy = [0.0] * jobs
    for job in as_jobs(todo):
        work = sum(speed.seconds(step) * flops_per_image(step.network, step.protocol) / unit for step in job.steps)
        busy[busy.index(min(busy))] += speed.start + work
    return Prediction(network, speed, sum(busy), max(busy), jobs)


def calibrate(network: str, protocol: Protocol, device: str = "auto", seconds: float = CALIBRATION) -> Speed:
    """Measured here and now, in one process, on noise, with the engine and the cohort that the steps would have."""
    import numpy as np
    import torch

    from repro.data import ImageSet
    from repro.nets.cohort import choose_engine
    from repro.stages.common import COHORT_LIMIT, Machine, Trainer
    from repro.train.evaluate import EVALUATION_BATCH, predict
    from repro.train.loop import Job, train
    from repro.train.stepper import STEPS

    ends = time.monotonic() + seconds
    start = _start_up()
    size, count = protocol.image_size, IMAGES
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, protocol.in_chans), dtype=torch.uint8, generator=noise)
    labels = torch.randint(0, protocol.num_classes, (count,), generator=noise)
    everything, grey = np.arange(count), (0.5,) * protocol.in_chans
    data = ImageSet("noise", images, labels, tuple(map(str, range(protocol.num_classes))), (), grey, grey, "")
    training = protocol.training if network == protocol.network else protocol.scoring.training
    trainer = Trainer(data, network, training, Machine(device=device))
    replicas = min(COHORT_LIMIT, protocol.replicates)
    engine = choose_engine("auto", network, replicas=replicas, device=trainer.device, precision=training.precision)
    replicas = 1 if engine == "serial" else replicas  # one after the other, each costs the same
    vectors = [trainer.initial(0, r) for r in range(replicas)]
    dense = torch.ones(trainer.layout.num_prunable, dtype=torch.bool)
    sparse = torch.rand(len(dense), generator=noise) < SPARSE

    def trains(mask: torch.Tensor) -> Callable[[int], int]:
        def steps(k: int) -> int:
            jobs = [Job(vector, everything, 0, k, 0, r, mask=mask, lr_scale=0.0) for r, vector in enumerate(vectors)]
            train(jobs, training, cohort_of=trainer.cohort, batcher=trainer.batcher, labels=trainer.labels)
            return k * training.batch_size * replicas

        return steps

    def evaluates(k: int) -> int:
        for _ in range(k):
            predict(trainer.cohort(replicas), trainer.batcher, [everything[:EVALUATION_BATCH]] * replicas)
        return k * EVALUATION_BATCH * replicas

    work = [trains(dense), trains(sparse), evaluates]
    for each in work:  # the first time, memory is taken and kernels are loaded, and a GPU records its steps
        each(1)
        if trainer.device.type == "cuda":
            each(STEPS)
    left = max(1.0, ends - time.monotonic())
    rates = [_rate(each, left / len(work)) for each in work]
    name = "CPU"
    if trainer.device.type == "cuda":
        name = torch.cuda.get_device_name(trainer.device)
    elif not torch.cuda.is_available():
        name = "CPU (PyTorch sees no GPU)"
    return Speed(*rates, start=start, device=name)


def _rate(work: Callable[[int], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Images a second of work(k), which does k rounds and returns their images: ever more rounds, until time is up."""
    images, elapsed, rounds = 0, 0.0, 1
    while elapsed < seconds:
        began = clock()
        images += work(rounds)
        took = clock() - began
        elapsed += took
        rounds = max(1, min(2 * rounds, int(rounds * (seconds - elapsed) / max(took, 1e-9))))
    return images / elapsed


def _start_up() -> float:
    """Seconds until another process of the program has what it needs to train."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import repro.cli, repro.stages, repro.nets.program"], check=True)
    return time.perf_counter() - began


def report(name: str, steps: list[Step], todo: list[Step], prediction: Prediction | None = None) -> str:
    """One line per missing step, the totals, and the time they would take here."""
    if not todo:
        return f"{name}: all {len(steps)} artifacts are complete, nothing to do"
    lines = [f"{name}: {len(steps) - len(todo)} of {len(steps)} artifacts are complete; to make:"]
    width = max(len(str(step.target)) for step in todo)
    for step in todo:
        lines.append(f"  {step.target!s:{width}}  {step.networks:5,} trainings  {step.images:15,} images")
    networks, images, flops = sum(step.networks for step in todo), sum(step.images for step in todo), total_flops(todo)
    lines.append(f"in all {networks:,} trainings, {images:,} images, {flops:.2g} FLOPs")
    if prediction:
        if prediction.clock > 2 * 3600:
            hours = flops / 1e13 / 3600
            hours = f"{hours:,.0f}" if hours > 10 else f"{hours:.2g}"
            lines.append(f"{hours} GPU-hours at 10 TFLOP/s sustained (arithmetic, not measured)")
        lines.append(str(prediction))
    return "\n".join(lines)


def worth_measuring(todo: list[Step]) -> bool:
    """Whether there is enough to do for anybody to wait 20 s for a prediction."""
    return total_flops(todo) > WORTH_MEASURING


def require_sensible(prediction: Prediction | None, *, yes: bool) -> None:
    """Raises UsageError when the steps would take longer than anybody wants and ``yes`` was not given."""
    if prediction and not yes and prediction.clock > SENSIBLE_HOURS * 3600:
        hours = f"{prediction.clock / 3600:,.0f} hours"
        raise UsageError(f"this would take about {hours} here: add YES=1 (or --yes) to do it all the same")
