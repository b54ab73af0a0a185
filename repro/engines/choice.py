"""Which engine trains a network: by rule, never by timing, so that equal commands give equal bits."""

from functools import cache

import torch
from torch import nn

from repro.engines.cohort import Cohort
from repro.engines.graph import GraphCohort
from repro.engines.serial import SerialCohort
from repro.errors import UsageError, say_once
from repro.nets import create as create_network
from repro.nets.check import undisturbed

ENGINES = ("auto", "graph", "sparse", "serial")

# On a CPU, `auto` takes `serial` for networks that are all of this, and `sparse` for others (docs/performance.md).
DENSE = {"fp32": 0.6, "fp64": 0.6, "bf16": 0.22}  # share of the prunable weights kept: more than
WIDE = 16  # channels of the first convolution: at least
LARGE = 32  # side of the images in pixels: at least


def choose(asked: str, network: str, *, density: float, device: torch.device, precision: str, **shape: int) -> str:
    """The engine that trains a network, where ``asked`` may be 'auto'.

    Arguments:
        density: share of the prunable weights kept.
        precision: see `Cohort`. On a CPU without instructions for bfloat16 dense networks are `sparse`, too.
        shape: num_classes, in_chans and image_size, as for `Cohort`.

    Raises UsageError for 'sparse' on another device than a CPU, or with a layer that it does not have. With 'auto', the
    layer is named on stderr, once a process.
    """
    if asked not in ("auto", "sparse"):
        return asked
    if asked == "sparse":
        if device.type != "cpu":
            raise UsageError(f"--engine sparse needs a CPU, not {device.type}: use --engine graph")
        if obstacle := _obstacle(network, **shape):
            raise UsageError(f"--engine sparse cannot train {network!r}, which has {obstacle}: use --engine serial")
        return "sparse"
    if device.type == "cuda":
        return "graph"  # expected to be the fastest, not measured yet
    dense = density > DENSE[precision] and shape["image_size"] >= LARGE and _width(network, **shape) >= WIDE
    if dense and (precision != "bf16" or torch.cpu._is_avx512_bf16_supported()):
        return "serial"
    if obstacle := _obstacle(network, **shape):
        say_once(f"{network} has {obstacle}, which engine sparse cannot train: it is trained by engine serial")
        return "serial"
    return "sparse"


def create(engine: str, network: str, *, precision: str = "fp32", **how) -> Cohort:
    """A cohort of an engine that `choose` gave; the arguments are those of `Cohort`.

    The sparse engine computes in float32 where bf16 is asked for.
    """
    if engine == "sparse":
        from repro.engines.sparse import SparseCohort  # Numba takes a second to import

        return SparseCohort(network, **how, precision="fp32" if precision == "bf16" else precision)
    return {"serial": SerialCohort, "graph": GraphCohort}[engine](network, **how, precision=precision)


@cache
def _obstacle(network: str, *, num_classes: int, in_chans: int, image_size: int) -> str | None:
    """What the sparse engine cannot have of a network, in a phrase; None where it can train it."""
    from repro.engines.sparse import unsupported  # Numba takes a second to import

    return unsupported(_network(network, num_classes, in_chans), image_size, in_chans)


@cache
def _width(network: str, *, num_classes: int, in_chans: int, image_size: int) -> int:
    """Channels of the first convolution; 0 without one."""
    modules = _network(network, num_classes, in_chans).modules()
    return next((module.out_channels for module in modules if isinstance(module, nn.Conv2d)), 0)


def _network(network: str, num_classes: int, in_chans: int) -> nn.Module:
    with undisturbed():  # modules initialise themselves from the global generator
        return create_network(network, num_classes=num_classes, in_chans=in_chans)
