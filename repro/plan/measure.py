"""What one process does in a second, measured by doing a plan's work for 20 s; FLOPs and sizes of networks."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from repro.plan.steps import Step
from repro.protocol import Protocol

CALIBRATION = 20.0  # seconds, of which starting a process and warming up take some
IMAGES = 9984  # of the training set measured on: full batches of 64, 128, 256 and more
SPARSE = 0.1  # share of the weights left in the second of the two measurements of training
START = 3.0  # seconds a process takes to start, where nothing is measured: on a CPU (docs/performance.md)


@dataclass(frozen=True)
class Speed:
    """What one process does with one network, in images a second: dense training, training with a tenth of the weights,
    and measuring networks (forward alone). start: seconds until a process is at work. device: its name.
    measured: False for a speed that somebody assumed."""

    dense: float
    sparse: float
    forward: float
    start: float
    device: str
    measured: bool = True

    def seconds(self, step: Step) -> float:
        """Of a step of this network. An image takes a time that is linear in the share of the weights that is left."""
        slope = (1 / self.dense - 1 / self.sparse) / (1 - SPARSE)
        return step.images * (1 / self.dense - slope * (1 - step.density)) + step.evaluated / self.forward


def assumed(rate: float) -> Speed:
    """So many images a second: pruned as dense, and measuring, a third of the work, at three times that."""
    return Speed(rate, rate, 3 * rate, START, "device", measured=False)


@cache
def numbers_of(network: str, protocol: Protocol) -> tuple[int, int]:
    """(prunable weights, all numbers with batch-norm statistics) of a network."""
    import torch

    from repro.nets import create, layout_of

    with torch.device("meta"):
        layout = layout_of(create(network, num_classes=protocol.num_classes, in_chans=protocol.in_chans))
    return layout.num_prunable, layout.size


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


def calibrate(network: str, protocol: Protocol, device: str = "auto", seconds: float | None = None) -> Speed:
    """Measured here and now, in one process, on noise, with the engine and the cohort that the steps would have.

    seconds: to take, about; None is `CALIBRATION`.
    """
    import numpy as np
    import torch

    from repro.data import ImageSet
    from repro.engines import EVALUATION_BATCH
    from repro.stages.common import Machine
    from repro.stages.trainer import Trainer
    from repro.train.evaluate import predict
    from repro.train.job import Job

    ends = time.monotonic() + (CALIBRATION if seconds is None else seconds)
    start = _start_up()
    size, count = protocol.image_size, IMAGES
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, protocol.in_chans), dtype=torch.uint8, generator=noise)
    labels = torch.randint(0, protocol.num_classes, (count,), generator=noise)
    everything, grey = np.arange(count), (0.5,) * protocol.in_chans
    data = ImageSet("noise", images, labels, tuple(map(str, range(protocol.num_classes))), (), grey, grey, "")
    training = protocol.training if network == protocol.network else protocol.scoring.training
    trainer = Trainer(data, network, training, Machine(device=device))
    engine = trainer.engine()
    replicas = 1 if engine == "serial" else min(trainer.most, protocol.replicates)  # there, each costs the same
    vectors = [trainer.initial(0, r) for r in range(replicas)]
    dense = torch.ones(trainer.layout.num_prunable, dtype=torch.bool)
    sparse = torch.rand(len(dense), generator=noise) < SPARSE

    def trains(mask: torch.Tensor) -> Callable[[int], int]:
        def steps(k: int) -> int:
            jobs = [Job(vector, everything, 0, k, 0, r, mask=mask, lr_scale=0.0) for r, vector in enumerate(vectors)]
            trainer.run(jobs)
            return k * training.batch_size * replicas

        return steps

    def evaluates(k: int) -> int:
        for _ in range(k):
            predict(cohort, trainer.batcher, [everything[:EVALUATION_BATCH]] * replicas)
        return k * EVALUATION_BATCH * replicas

    cohort = trainer.cohort(replicas, engine)
    work = [trains(dense), trains(sparse), evaluates]
    for each in work:  # the first time, memory is taken and kernels are loaded, and a GPU records its steps
        each(1)
        each(cohort.steps_at_once)
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
    subprocess.run([sys.executable, "-c", "import repro.cli, repro.stages, numba"], check=True)
    return time.perf_counter() - began
