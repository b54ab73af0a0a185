"""CUDA graphs: recording a function's kernels, on streams and in a memory pool that the process shares."""

from collections.abc import Callable
from functools import cache

import torch

WARM_UPS = 3  # eager steps before a recording, at least, in which libraries choose algorithms, compile and allocate


def record(steps: Callable[[], None], count: int, device: torch.device) -> Callable[[], None]:
    """A function that replays ``steps``, which makes ``count`` training steps. They are run beforehand too."""
    stream = streams(device)[0]
    with torch.cuda.stream(torch.cuda.current_stream()):  # a failed recording leaves its own stream behind
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(-(-WARM_UPS // count)):
                steps()  # every step of it: kernels are compiled for the alignment of their arguments
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=_pool(), stream=stream):
                steps()
        except BaseException:
            _abandon_pool()
            raise
    return graph.replay


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
