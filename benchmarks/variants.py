"""The ways of training a network that are compared, in groups that take turns, and a function for each."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from repro.data import ImageSet
from repro.engines import Block, Cohort, Sgd
from repro.nets import create, initialise, layout_of
from repro.protocol import CIFAR10, DIGITS, Protocol
from repro.recipes.training import Training
from repro.stages import Machine
from repro.stages.trainer import Trainer
from repro.train.loop import MOST_STEPS
from repro.train.prune import random_mask
from repro.train.random_streams import DataOrder, send, stream

PLAIN, SPARSEPROP, PEAK = "plain", "sparseprop", "peak"
DENSITIES = (1.0, 0.4, 0.1, 0.03)  # shares of the prunable weights
MIDDLE = replace(CIFAR10, network="cifar_resnet14_w8", image_size=16)
TOGETHER = 8  # networks of a cohort, where several are measured
IMAGES = 78 * 128  # of a training set, at most
PEAK_STEP = 12 * 2**20  # multiply-adds in whole rounds of twelve vectors, however long these are


@dataclass(frozen=True)
class Variant:
    """One way of training one network.

    Arguments:
        protocol: network, recipe and shape of the images; the images themselves are noise from a fixed seed.
        engine: `PLAIN`, `SPARSEPROP`, or an engine of `repro.engines`; `PEAK` trains nothing, but multiplies and adds
            as fast as a core can.
        density: share of the prunable weights kept, at random places of the whole network.
        replicas: R networks in one cohort; each has its own data order and mask.
    """

    protocol: Protocol
    engine: str = PLAIN
    density: float = 1.0
    precision: str = "fp32"
    replicas: int = 1
    threads: int = 1

    @property
    def per_step(self) -> int:
        """What is counted of a step: images; of `PEAK`, multiply-adds."""
        return PEAK_STEP if self.engine == PEAK else self.replicas * self.protocol.training.batch_size

    @property
    def what(self) -> str:
        """'cifar_resnet20 32×32×3, 10 %: sparse', for a line of progress."""
        p = self.protocol
        words = [self.engine, *[self.precision] * (self.precision != "fp32")]
        words += [f"R = {self.replicas}"] * (self.replicas > 1) + [f"{self.threads} threads"] * (self.threads > 1)
        size = f"{p.image_size}×{p.image_size}×{p.in_chans}"
        return f"{p.network} {size}, {100 * self.density:g} %: {', '.join(words)}"


@dataclass(frozen=True)
class Group:
    """Variants that take turns of about ``seconds``, the most valuable first: the last may be left out."""

    variants: tuple[Variant, ...]
    seconds: float = 0.5


def groups(device: str) -> list[Group]:
    """All that is measured on 'cpu' or 'cuda', the most valuable first.

    Engines that do not use sparsity train dense networks only, since their masks change no time.
    """
    if device == "cuda":
        return [Group(_on_gpu(p, r)) for p, r in ((CIFAR10, TOGETHER), (CIFAR10, 1), (DIGITS, TOGETHER))]
    found = [Group(_on_core(protocol)) for protocol in (DIGITS, MIDDLE, CIFAR10)]
    if len(os.sched_getaffinity(0)) > 1:
        start = Variant(DIGITS, "sparse", replicas=TOGETHER)
        found += [
            Group(tuple(replace(start, protocol=p, density=d, threads=t) for d in (1.0, 0.1) for t in (1, 2)))
            for p in (DIGITS, MIDDLE)
        ]
    return found


def _on_core(protocol: Protocol) -> tuple[Variant, ...]:
    start, sparse = Variant(protocol), Variant(protocol, "sparse")
    found = [start, sparse, replace(sparse, density=0.1), replace(start, engine=PEAK), replace(start, engine="serial")]
    if torch.cpu._is_avx512_bf16_supported():
        found += [replace(start, engine="serial", precision="bf16")]
    densities = [d for d in DENSITIES if d not in (1.0, 0.1)]
    found += [replace(sparse, density=d) for d in densities]
    if importlib.util.find_spec("sparseprop"):
        found += [replace(start, engine=SPARSEPROP, density=d) for d in (0.1, 1.0, *densities)]
    return tuple(found)


def _on_gpu(protocol: Protocol, replicas: int) -> tuple[Variant, ...]:
    ours = [
        Variant(protocol, engine, 1.0, precision, replicas)
        for engine in ("graph", "serial")
        for precision in ("fp32", "bf16")
    ]
    return Variant(protocol), *ours


def noise(protocol: Protocol, count: int) -> ImageSet:
    """``count`` uniform random images in the protocol's shape with uniform labels; all are training images."""
    rng = np.random.default_rng(0)
    shape = (count, protocol.image_size, protocol.image_size, protocol.in_chans)
    every = torch.arange(count)
    return ImageSet(
        name="noise",
        images=torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)),
        labels=torch.from_numpy(rng.integers(0, protocol.num_classes, count)),
        classes=tuple(map(str, range(protocol.num_classes))),
        splits=((every, every),),
        mean=(0.5,) * protocol.in_chans,
        std=(0.29,) * protocol.in_chans,
        checksum="",
    )


def network_of(protocol: Protocol) -> torch.nn.Module:
    network = create(protocol.network, num_classes=protocol.num_classes, in_chans=protocol.in_chans)
    return initialise(network, torch.Generator().manual_seed(0))


def masks_of(variant: Variant, num_prunable: int) -> list[torch.Tensor | None]:
    """A mask for each replica, bool [num_prunable], or None for dense ones."""
    if variant.density == 1:
        return [None] * variant.replicas
    kept = torch.arange(num_prunable) < round(variant.density * num_prunable)
    return [random_mask(kept, stream(0, r, "bench")) for r in range(variant.replicas)]


def build(variant: Variant, device: str) -> tuple[Callable[[int], None], Callable[[], str], int]:
    """(function that trains for so many steps, data loading included; the engine that has trained; how many steps it
    makes at once), in this process."""
    torch.set_num_threads(variant.threads)
    if variant.engine == PEAK:
        from benchmarks.limits import multiply_and_add

        return multiply_and_add(PEAK_STEP), lambda: PEAK, 1
    training = replace(variant.protocol.training, precision=variant.precision, drop_last=True)
    data = noise(variant.protocol, min(IMAGES, variant.protocol.train_images))
    if variant.engine in (PLAIN, SPARSEPROP):
        return _script(variant, data, training, device), lambda: variant.engine, 1
    cohort, run = training_cohort(variant, data, training, device)
    return run, lambda: cohort.engine, cohort.steps_at_once if device == "cuda" else 1


def training_cohort(
    variant: Variant, data: ImageSet, training: Training, device: str
) -> tuple[Cohort, Callable[[int], None]]:
    """A cohort in the middle of its training, and a function that goes on with it: set-up is not timed."""
    trainer = Trainer(
        data, variant.protocol.network, training, Machine(device=device, engine=variant.engine, threads=variant.threads)
    )
    replicas, index = variant.replicas, np.arange(len(data.images))
    masks = masks_of(variant, trainer.layout.num_prunable)
    cohort = trainer.cohort(replicas, trainer.engine(masks[0]))
    cohort.load(torch.stack([trainer.initial(0, r) for r in range(replicas)]))
    cohort.load_masks(None if masks[0] is None else torch.stack(masks))
    orders = [DataOrder(index, (0, r), "", training, trainer.batcher) for r in range(replicas)]
    sgd = Sgd(training.momentum, training.weight_decay, training.nesterov)
    begun = 0

    def block(step: int, count: int) -> Block:
        rows = torch.empty(count, replicas, training.batch_size, dtype=torch.int64, device=trainer.device)
        offsets = None
        if training.augment:
            offsets = torch.empty_like(rows), torch.empty_like(rows), torch.empty_like(rows, dtype=torch.bool)
        for r, order in enumerate(orders):
            order.batches(step, rows[:, r], offsets and tuple(part[:, r] for part in offsets))
        rates = torch.tensor([[training.lr_at(step + k)] * replicas for k in range(count)], dtype=cohort.dtype)
        return Block(rows, offsets, send(rates, trainer.device))

    def run(steps: int) -> None:
        nonlocal begun
        most = max(1, MOST_STEPS // cohort.steps_at_once) * cohort.steps_at_once
        for first in range(0, steps, most):
            count = min(most, steps - first)
            cohort.train(block(begun, count), trainer.batcher, trainer.labels, sgd)
            begun += count

    return cohort, run


def _script(variant: Variant, data: ImageSet, training: Training, device: str) -> Callable[[int], None]:
    from benchmarks import plain

    network = network_of(variant.protocol)
    if variant.engine == SPARSEPROP:
        mask = masks_of(variant, layout_of(network).num_prunable)[0]
        return plain.sparseprop_script(network, mask, data, training).fit
    # On a GPU such a script has loader processes; on one core they would only be in the way.
    workers = min(8, len(os.sched_getaffinity(0)) - 1) if device == "cuda" else 0
    return plain.Script(
        network, plain.loaded(data, training, workers=workers, pinned=device == "cuda"), training, device
    ).fit
