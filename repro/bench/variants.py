"""What is compared: one way of training one network, and the function that trains so."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from repro.data import ImageSet
from repro.nets import layout_of
from repro.protocol import Protocol
from repro.stages import Machine
from repro.stages.trainer import Trainer
from repro.train.job import Job
from repro.train.prune import random_mask
from repro.train.streams import stream

PLAIN = "plain script"


@dataclass(frozen=True)
class Variant:
    """One row of the benchmark.

    Arguments:
        protocol: network, recipe and shape of the images; the images themselves are noise from a fixed seed.
        engine: `PLAIN`, or an engine of `repro.engines` (or 'auto') under `repro.train.loop.train`.
        replicas: R networks in one cohort; each has its own data order and mask.
        density: share of the prunable weights kept, at random places of the whole network.
        compiled: the modules under torch.compile.
        images: size of the training set.
        processes, threads: so many processes at once, of so many threads each.
        label: what a table calls it, in place of `what`.
    """

    protocol: Protocol
    engine: str = PLAIN
    replicas: int = 1
    precision: str = "fp32"
    density: float = 1.0
    compiled: bool = False
    images: int = 78 * 128
    processes: int = 1
    threads: int = 1
    label: str = ""

    @property
    def images_per_step(self) -> int:
        return self.replicas * self.protocol.training.batch_size

    @property
    def what(self) -> str:
        """'sparse, R = 8, bf16', for a table."""
        if self.label:
            return self.label
        words = [f"torch.compile, {self.engine}" if self.compiled else self.engine]
        words += [f"R = {self.replicas}"] if self.engine != PLAIN else []
        words += [self.precision] if self.precision != "fp32" else []
        if (self.processes, self.threads) != (1, 1):
            plural = "es" if self.processes > 1 else ""
            words.append(f"{self.processes} process{plural} × {self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join(words)


def noise(protocol: Protocol, count: int) -> ImageSet:
    """``count`` uniform random images in the protocol's shape with uniform labels; all are training images."""
    rng = np.random.default_rng(0)
    shape = (count, protocol.image_size, protocol.image_size, protocol.in_chans)
    every = torch.arange(count)
    return ImageSet(
        name="noise", images=torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)),
        labels=torch.from_numpy(rng.integers(0, protocol.num_classes, count)),
        classes=tuple(map(str, range(protocol.num_classes))), splits=((every, every),),
        mean=(0.5,) * protocol.in_chans, std=(0.29,) * protocol.in_chans, checksum="",
    )  # fmt: skip


def masks_of(variant: Variant, num_prunable: int) -> list[torch.Tensor | None]:
    """A mask for each replica, bool [num_prunable], or None for dense ones."""
    if variant.density == 1:
        return [None] * variant.replicas
    kept = torch.arange(num_prunable) < round(variant.density * num_prunable)
    return [random_mask(kept, stream(0, r, "bench")) for r in range(variant.replicas)]


def build(variant: Variant, device: str) -> tuple[Callable[[int], None], str]:
    """(function that trains for so many steps, data loading included; the engine it trains with), in this process."""
    torch.set_num_threads(variant.threads)
    if variant.engine == PLAIN:
        return _plain(variant, device), PLAIN
    training = replace(variant.protocol.training, precision=variant.precision)
    data = noise(variant.protocol, variant.images)
    trainer = Trainer(data, variant.protocol.network, training,
                      Machine(device=device, engine=variant.engine, threads=variant.threads))  # fmt: skip
    masks, index = masks_of(variant, trainer.layout.num_prunable), np.arange(variant.images)
    cohort = trainer.cohort(variant.replicas, trainer.engine(masks[0]))
    if variant.compiled:
        cohort.modules = [torch.compile(module) for module in cohort.modules]
    vectors = [trainer.initial(0, r) for r in range(variant.replicas)]

    def run(steps: int) -> None:
        jobs = [Job(v, index, 0, steps, 0, r, mask=m) for r, (v, m) in enumerate(zip(vectors, masks))]
        trainer.run(jobs)

    return run, cohort.engine


def _plain(variant: Variant, device: str) -> Callable[[int], None]:
    from repro.bench.plain import Pictures, Script
    from repro.nets import create, initialise

    protocol = variant.protocol
    data = noise(protocol, variant.images)
    network = create(protocol.network, num_classes=protocol.num_classes, in_chans=protocol.in_chans)
    initialise(network, torch.Generator().manual_seed(0))
    mask = masks_of(variant, layout_of(network).num_prunable)[0]
    pictures = Pictures(data.images.numpy(), data.labels.tolist(), data.mean, data.std,
                        augment=protocol.training.augment)  # fmt: skip
    # On a GPU such a script has loader processes; on one core they would only be in the way.
    workers = min(8, len(os.sched_getaffinity(0)) - 1) if device == "cuda" else 0
    return Script(network, pictures, protocol.training, mask=mask, device=device, workers=workers).fit
