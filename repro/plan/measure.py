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
IMAGES = 9984  # in the training set of noise: a multiple of the batch sizes 64, 128 and 256
SPARSE = 0.1  # share of the weights in the second measurement of training, after the dense one
START = 3.0  # seconds that a process takes to start on a CPU, where nothing is measured (docs/performance.md)


@dataclass(frozen=True)
class Speed:
    """What one process does with one network.

    Arguments:
        dense, sparse: images a second in training, with all weights and with a tenth of them.
        forward: images a second where networks are measured, forward alone.
        start: seconds until a process is at work, with recording its steps on a GPU.
        device: its name.
        measured: False for a speed that somebody assumed.
        how: what trained, in words.
    """

    dense: float
    sparse: float
    forward: float
    start: float
    device: str
    measured: bool = True
    how: str = ""

    def seconds(self, step: Step) -> float:
        """Seconds of a step of this network. The time of an image is taken to be linear in the share of the weights."""
        slope = (1 / self.dense - 1 / self.sparse) / (1 - SPARSE)
        return step.images * (1 / self.dense - slope * (1 - step.density)) + step.evaluated / self.forward


def assumed(rate: float) -> Speed:
    """A speed of ``rate`` images a second, pruned or dense, and three times that where networks are measured."""
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
    """FLOPs of one image forward and backward: those of three forward passes, with two for a multiply-add."""
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


def calibrate(
    network: str, protocol: Protocol, device: str = "auto", replicas: int = 4, seconds: float | None = None
) -> Speed:
    """Measures the speed of a network here and now, in one process.

    It trains on noise, with the engine that the steps would have.

    Arguments:
        replicas: the size of the cohort that most of the steps train; with `serial` each network costs the same.
        seconds: about how long to measure; None is `CALIBRATION`.
    """
    import numpy as np
    import torch

    from repro.data import ImageSet
    from repro.engines import EVALUATION_BATCH
    from repro.stages.machine import Machine
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
    replicas = 1 if engine == "serial" else min(trainer.most, replicas)
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
    began, on_gpu = time.monotonic(), trainer.device.type == "cuda"
    for each in work:  # the first call takes memory, loads kernels and records the steps of a GPU
        each(1)
        each(cohort.steps_at_once)
        if on_gpu and each is work[0]:
            start += time.monotonic() - began
    left = max(1.0, ends - time.monotonic())
    rates = [_rate(each, left / len(work)) for each in work]
    name = "CPU"
    if on_gpu:
        name = torch.cuda.get_device_name(trainer.device)
    elif not torch.cuda.is_available():
        name = "CPU (PyTorch sees no GPU)"
    together = f"{replicas} networks at once" if replicas > 1 else "one network"
    engines = " and ".join(sorted(trainer.engines))
    return Speed(*rates, start=start, device=name, how=f"{together} by engine {engines}")


def _rate(work: Callable[[int], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Images a second of ``work(k)``, which does k rounds and returns their images. Rounds double until time is up."""
    images, elapsed, rounds = 0, 0.0, 1
    while elapsed < seconds:
        began = clock()
        images += work(rounds)
        took = clock() - began
        elapsed += took
        rounds = max(1, min(2 * rounds, int(rounds * (seconds - elapsed) / max(took, 1e-9))))
    return images / elapsed


def _start_up() -> float:
    """Seconds until another process has imported what it needs to train."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import repro.cli, repro.stages, numba"], check=True)
    return time.perf_counter() - began
