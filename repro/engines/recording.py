"""CUDA graphs of training steps: how they are recorded, and about how many kernels they have."""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

WARM_UPS = 3  # eager steps before a recording, at least: libraries choose algorithms, compile and allocate in them


def record(steps: Callable[[], None], count: int, device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of ``steps``, which makes ``count`` training steps. To record them runs them too."""
    stream = streams(device)[0]
    with torch.cuda.stream(torch.cuda.current_stream()):  # a failed recording leaves its own stream behind
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(-(-WARM_UPS // count)):
                steps()  # every step of it: kernels are compiled for the alignment of their arguments
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with uncollected():
            try:
                with torch.cuda.graph(graph, pool=_pool(), stream=stream):
                    steps()
            except BaseException:
                _abandon_pool()
                raise
    return graph


class uncollected(AbstractContextManager):
    """No garbage collection inside, but one before.

    A collection may free tensors and graphs of an earlier cohort. While a graph is recorded, freeing is recorded or not
    permitted.
    """

    def __enter__(self) -> None:
        gc.collect()
        self.enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_) -> None:
        if self.enabled:
            gc.enable()


def side_streams(device: torch.device, count: int) -> list:
    """A stream for each of ``count`` branches of a recording, some for several.

    Never the stream that records: PyTorch frees its cuBLAS workspace with the first recording that is thrown away.
    """
    others = streams(device)[1:]
    return [others[branch % len(others)] for branch in range(count)]


@cache
def streams(device: torch.device) -> list:
    """The streams of all recordings of the process: PyTorch has 32, and memory is shared only between equal ones."""
    return [torch.cuda.Stream(device) for _ in range(32)]


@cache
def _pool() -> tuple[int, int]:
    """The memory pool that all recordings share: they are never replayed at the same time."""
    return torch.cuda.graph_pool_handle()


def _abandon_pool() -> None:
    """Leave the pool of a failed recording: PyTorch before 2.12 keeps it marked as being recorded to."""
    try:
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), _pool())
    except RuntimeError:
        pass  # PyTorch ended it itself
    _pool.cache_clear()


def kernels_of(module: nn.Module, shape: tuple[int, ...]) -> int:
    """About how many kernels a GPU runs for a forward and backward pass of a classifier, counted on a CPU in float32.

    Arguments:
        shape: of a batch of images.
    """
    images, labels = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)
    with _Count() as counted:
        F.cross_entropy(module(images), labels).backward()
    return counted.kernels


class _Count(TorchDispatchMode):
    """Counts a kernel for each operation inside but views. A convolution's backward pass has two, one a gradient."""

    def __init__(self):
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if not function.is_view and function not in _NO_KERNEL:
            self.kernels += 2 if function is torch.ops.aten.convolution_backward.default else 1
        return function(*arguments, **(options or {}))


_NO_KERNEL = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.detach.default,
}
