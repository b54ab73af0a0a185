"""Which variants are timed together: a group is one set of turns, and its first variant is the baseline of its ratios."""

import os
from dataclasses import dataclass, replace

import torch

from repro.bench.variants import PLAIN, Variant
from repro.engines import ENGINES, choose
from repro.errors import UsageError
from repro.protocol import CIFAR10, DIGITS, Protocol

REPLICAS = (2, 4, 8, 16)
SPARSE = 0.1  # share of weights left at about level 10
TIMM = "resnet10t"  # a small network of timm
LEVELS = (0, 5, 10, 15)
SIZES = (256, 1437, 10_000, 50_000)


@dataclass(frozen=True)
class Group:
    """Variants measured in turns, ``rounds`` times, each turn about ``seconds``."""

    title: str
    variants: tuple[Variant, ...]
    rounds: int
    seconds: float


def title_of(protocol: Protocol) -> str:
    size, batch = protocol.image_size, protocol.training.batch_size
    return f"{protocol.network}, {size}×{size}×{protocol.in_chans}, batch {batch}"


def engines_of(protocol: Protocol, device: str, precision: str) -> list[str]:
    """The engines that train this network on this device; those that refuse it, and 'auto', are left out."""
    found = []
    for engine in ENGINES:
        if engine == "auto" or (engine == "graph" and device != "cuda"):
            continue
        try:
            choose(engine, protocol.network, image_size=protocol.image_size, in_chans=protocol.in_chans,
                   num_classes=protocol.num_classes, density=1.0, device=torch.device(device), precision=precision)  # fmt: skip
        except UsageError:
            continue
        found.append(engine)
    return sorted(found, key=lambda engine: (engine != "serial", ENGINES.index(engine)))


def comparisons(device: str, *, quick: bool, compiled: bool) -> list[Group]:
    """The groups of the main table: plain script, our loop with one network, and cohorts in every engine."""
    if quick:
        return [*_cohorts(DIGITS, device, (2,), (1.0, SPARSE), ("fp32",), rounds=2, seconds=0.1, images=1437),
                *_cohorts(CIFAR10, device, (1,), (1.0,), ("bf16",), rounds=2, seconds=0.1)]  # fmt: skip
    replicas = (1, *REPLICAS)
    timm = replace(CIFAR10, network=TIMM)
    if device == "cuda":
        return [
            *_cohorts(CIFAR10, device, replicas, (1.0,), ("fp32", "bf16"), rounds=3, seconds=0.5, compiled=True),
            *_cohorts(CIFAR10, device, (8,), (SPARSE,), ("fp32", "bf16"), rounds=3, seconds=0.5),
            *_cohorts(DIGITS, device, (8,), (1.0,), ("fp32",), rounds=3, seconds=0.3, images=1437),
            *_cohorts(timm, device, (1, 8), (1.0,), ("fp32", "bf16"), rounds=3, seconds=0.5),
        ]
    both = ("fp32", "bf16")
    return [
        *_cohorts(DIGITS, device, replicas, (1.0,), ("fp32",), rounds=5, seconds=0.4, images=1437),
        *_cohorts(DIGITS, device, (1, 8), (SPARSE,), ("fp32",), rounds=5, seconds=0.4, images=1437),
        *_cohorts(CIFAR10, device, (1,), (1.0,), both, rounds=5, seconds=1.0, compiled=compiled),
        *_cohorts(CIFAR10, device, (2, 4), (1.0,), both, rounds=3, seconds=1.0),
        *_cohorts(CIFAR10, device, (1, 4), (SPARSE,), both, rounds=3, seconds=1.0),
        # A step of these takes seconds, and more of the sparse engine, which is for narrow networks.
        *_cohorts(CIFAR10, device, (8, 16), (1.0,), both, rounds=3, seconds=1.0, without=("sparse",)),
        *_cohorts(timm, device, (1,), (1.0,), both, rounds=3, seconds=1.0),
    ]


def _cohorts(protocol: Protocol, device: str, replicas: tuple[int, ...], densities: tuple[float, ...],
             precisions: tuple[str, ...], *, rounds: int, seconds: float, compiled: bool = False,
             images: int = Variant.images, without: tuple[str, ...] = ()) -> list[Group]:  # fmt: skip
    """A group for each R and density: the plain script, then every engine in every precision."""
    groups = []
    for density in densities:
        for r in replicas:
            common = dict(replicas=r, density=density, images=images)
            variants = [Variant(protocol, PLAIN, density=density, images=images)]
            for precision in precisions:
                engines = [e for e in engines_of(protocol, device, precision) if e not in without]
                variants += [Variant(protocol, engine, precision=precision, **common) for engine in engines]
                if compiled and r == 1:
                    variants.append(Variant(protocol, "serial", precision=precision, compiled=True, **common))
            title = f"{title_of(protocol)}, R = {r}, {100 * density:.3g} % of the weights"
            groups.append(Group(title, tuple(variants), rounds, seconds))
    return groups


def growth(device: str, *, quick: bool) -> list[Group]:
    """How the cost grows with levels, images and cores; with R it is read off the main table."""
    rounds, seconds = (2, 0.1) if quick else (5, 0.4)
    demo = Variant(DIGITS, "auto", 2 if quick else 8, images=1437)
    levels, sizes = (LEVELS[:2], SIZES[:2]) if quick else (LEVELS, SIZES)
    title = f"{title_of(DIGITS)}, R = {demo.replicas}"
    groups = [
        Group(f"levels: {title}, weights left after so many levels", tuple(
            replace(demo, density=0.8**n, label=f"level {n}: {100 * 0.8**n:.3g} %") for n in levels), rounds, seconds),
        Group(f"images: {title}, training sets of so many images", tuple(
            replace(demo, images=size, label=f"{size:,} images") for size in sizes), rounds, seconds),
    ]  # fmt: skip
    if device == "cpu" and len(os.sched_getaffinity(0)) > 1:
        starts = [(title, demo)]
        if not quick:
            starts.append((f"{title_of(CIFAR10)}, R = 1", Variant(CIFAR10, "serial", precision="bf16")))
        for name, start in starts:
            cores = (start, replace(start, processes=2), replace(start, threads=2))
            groups.append(Group(f"cores: {name}", cores, rounds, max(seconds, 0.5)))
    return groups
