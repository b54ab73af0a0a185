"""Training steps from static buffers, several to a call, for a GPU to replay without the host.

A step of a small network is hundreds of small kernels, and launching them takes longer than running them. Here the
steps read everything that changes (indices, crops, learning rates) from tensors that stay where they are, so a CUDA
graph can record K of them once and replay them with one launch. Networks are recorded on a stream each, between a fork
and a join, so that small ones overlap. On a CPU the same steps run unrecorded.

Before a recording is used, its result is compared with that of the `serial` engine. If they differ, or recording fails,
the cohort goes on as `serial`, with a warning.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from repro.data import Batcher
from repro.engines.cohort import Block, Sgd
from repro.engines.serial import SerialCohort, masked_sgd

CHECK_RATE = 0.1  # learning rate of the step that is compared
# Largest relative difference allowed. At the same weights, gradients of ResNets 8 to 56 by two algorithms for
# convolutions differed by 1e-6 in float32 and by up to 1e-2 in bfloat16 (on a CPU; a GPU has more algorithms to choose
# from). A weight decay that is forgotten differs by 6e-4 and more, TF32 by 1e-3, a wrong mask, rate or batch by 0.1.
TOLERANCE = {"fp64": 1e-9, "fp32": 3e-4, "bf16": 0.1}


@dataclass
class _Static:
    """Buffers that stay where they are: a block, its losses [K, R], its logits if asked for; and what trains it."""

    batcher: Batcher
    sgd: Sgd
    block: Block
    losses: Tensor
    logits: Tensor | None
    run: Callable[[], None] | None = None


class GraphCohort(SerialCohort):
    """A `Cohort` whose steps are recorded, ``steps_at_once`` of them or one, and replayed.

    ``engine`` of the instance becomes 'serial' when it has to fall back.
    """

    engine = "graph"
    steps_at_once = 10

    def __init__(self, network: str, **how):
        super().__init__(network, **how)
        self.how = how
        self.kept = torch.ones(self.replicas, self.layout.num_prunable, dtype=torch.bool, device=self.device)
        self.updates = updates_for(self.device, self.dtype)
        self.statics: dict[tuple, _Static] = {}
        self.targets = torch.zeros(self.replicas, 0, dtype=torch.int64, device=self.device)

    def load_masks(self, masks: Tensor | None) -> None:
        super().load_masks(masks)
        self.kept.fill_(True) if self.masks is None else self.kept.copy_(self.masks)  # recordings read it there

    def train(
        self, block: Block, batcher: Batcher, targets: Tensor, sgd: Sgd, *, logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if self.engine == "graph" and not batcher.resident:
            self._fall_back(
                f"needs the images in the memory of {self.device}, where they take more than half of what is free"
            )
        if self.engine != "graph":
            return super().train(block, batcher, targets, sgd, logits=logits)
        self._mode(training=True)
        parts = []
        for rows in _cut(len(block), self.steps_at_once):
            static = self._static(block.steps(rows), batcher, targets, sgd, logits)
            if static is None:  # fallen back
                parts.append(super().train(block.steps(slice(rows.start, None)), batcher, targets, sgd, logits=logits))
                break
            static.run()
            parts.append((static.losses.clone(), None if static.logits is None else static.logits.clone()))
        losses, seen = zip(*parts)
        return torch.cat(losses), torch.cat(seen) if logits else None

    def release(self) -> None:
        super().release()
        self._forget()

    # --- static steps -------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Drop the recordings and the labels, with their memory."""
        self.statics.clear()
        self.targets = self.targets.new_zeros(self.replicas, 0)

    def _static(self, block: Block, batcher: Batcher, targets: Tensor, sgd: Sgd, logits: bool) -> _Static | None:
        """Buffers with this block, ready to run. They are made once for each form of block, images and constants.

        None where the cohort had to fall back: then nothing was trained.
        """
        if self.targets.shape[1] != targets.shape[-1]:
            self._forget()
            self.targets = self.targets.new_zeros(self.replicas, targets.shape[-1])
        self.targets.copy_(targets)
        key = batcher, sgd, tuple(block.index.shape), block.offsets is None, logits
        if key not in self.statics:
            losses = torch.zeros_like(block.rates)
            seen = losses.new_zeros(*block.index.shape, self.num_classes) if logits else None
            offsets = block.offsets and tuple(map(torch.zeros_like, block.offsets))
            own = Block(torch.zeros_like(block.index), offsets, torch.zeros_like(block.rates))
            self.statics[key] = _Static(batcher, sgd, own, losses, seen)
        static = self.statics[key]
        _copy(block, static.block)
        return static if static.run or self._prepare(static) else None

    def _steps(self, static: _Static) -> None:
        for k in range(len(static.block)):
            seen = None if static.logits is None else static.logits[k]
            self._step(static.block, k, static.batcher, self.targets, static.sgd, static.losses[k], seen)

    def _update(self, rates: Tensor, sgd: Sgd) -> None:
        self._sgd(self.updates[0], self.kept, rates, sgd)

    def _fork(self) -> list[AbstractContextManager]:
        if self.device.type != "cuda" or self.engine != "graph":
            return super()._fork()
        branches = side_streams(self.device, self.replicas)
        for branch in branches:
            branch.wait_stream(torch.cuda.current_stream())
        return [torch.cuda.stream(branch) for branch in branches]

    def _join(self) -> None:
        if self.device.type == "cuda" and self.engine == "graph":
            for branch in side_streams(self.device, self.replicas):
                torch.cuda.current_stream().wait_stream(branch)

    # --- recording, comparing -----------------------------------------------------------------------------------

    def _fall_back(self, reason: str) -> None:
        """Give static steps up, and go on from the same numbers as `serial`."""
        print(f"warning: engine graph {reason}: training goes on with engine serial instead of graph", file=sys.stderr)
        self.engine, self.updates = "serial", [masked_sgd]
        self._forget()

    def _prepare(self, static: _Static) -> bool:
        """Record and compare; without the update's own kernel if it does not work with it. False: fallen back."""
        while True:
            failure = self._attempt(static)
            if failure is None:
                return True
            if len(self.updates) == 1:
                self._fall_back(failure)
                return False
            print(f"warning: the update kernel {failure}: trying the plain one", file=sys.stderr)
            self.updates = self.updates[1:]

    def _attempt(self, static: _Static) -> str | None:
        """Record and compare, and put everything back as it was. Returns what went wrong, or None."""
        state = (self.state, self.momentum, static.block.rates, self.targets)
        kept = [tensor.clone() for tensor in state]

        def steps() -> None:
            self._steps(static)

        try:
            run = record(steps, len(static.block), self.device) if self.device.type == "cuda" else steps
            for tensor, before in zip(state, kept):
                tensor.copy_(before)
            difference = self._difference(static, run)
        except Exception as error:  # of CUDA, cuDNN, Triton or the network: eager training needs none of what failed
            # a recording that runs out of memory ends with an error of its own
            if torch.OutOfMemoryError in (type(error), type(error.__context__)):
                raise torch.OutOfMemoryError(str(error)) from error
            return f"failed ({' '.join(str(error).split())[:200]})"
        finally:
            for tensor, before in zip(state, kept):
                tensor.copy_(before)
        if not difference <= TOLERANCE[self.precision]:
            return (
                f"differs from eager training by {difference:.1e} (relatively), more than "
                f"{TOLERANCE[self.precision]:.0e}"
            )
        static.run = run
        return None

    def _difference(self, static: _Static, run: Callable[[], None]) -> float:
        """How far the static steps are from those of `serial` on the same batches, relatively.

        Only the last step has a learning rate, another for each replica: at weights that have moved, rounding is
        amplified a thousandfold. Labels are moved by one class, since a network that has learned its labels has no
        gradient to compare. Compared are losses, momentum, batch-norm statistics and the change of the weights, of
        every replica.
        """
        static.block.rates.zero_()
        static.block.rates[-1] = CHECK_RATE * torch.arange(1, self.replicas + 1) / self.replicas
        self.targets.add_(1).remainder_(self.num_classes)
        before, twin = self.weights.clone(), self._twin()
        wanted, _ = twin.train(static.block, static.batcher, self.targets, static.sgd)
        run()
        pairs = (
            (static.losses.t(), wanted.t()),
            (self.weights - before, twin.weights - before),
            (self.momentum, twin.momentum),
            (self.buffers, twin.buffers),
        )
        return max(_apart(mine, its) for mine, its in pairs)

    def _twin(self) -> SerialCohort:
        """A `SerialCohort` with the same numbers."""
        twin = SerialCohort(self.network, **self.how)
        twin.load(self.state)
        twin.load_momentum(self.momentum)
        twin.load_masks(self.masks)
        return twin


def _cut(steps: int, size: int) -> list[slice]:
    """``size`` steps each while there are so many, then one each: two recordings serve blocks of any length."""
    whole = steps - steps % size
    return [*(slice(k, k + size) for k in range(0, whole, size)), *(slice(k, k + 1) for k in range(whole, steps))]


def _copy(source: Block, target: Block) -> None:
    offsets = zip(target.offsets or (), source.offsets or ())
    for there, here in [(target.index, source.index), (target.rates, source.rates), *offsets]:
        there.copy_(here)


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Largest relative difference of a row, in the L2 norm. Rows that are not finite have to be so in both."""
    found, wanted = found.double(), wanted.double()
    finite = wanted.isfinite().all(1)
    if not torch.equal(finite, found.isfinite().all(1)):
        return float("inf")
    found, wanted = found[finite], wanted[finite]
    share = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-30)
    return max(share.tolist(), default=0.0)


def updates_for(device: torch.device, dtype: torch.dtype) -> list[Callable]:
    """Functions that do the work of `masked_sgd` on the device, the fastest first; the last is the reference."""
    if device.type == "cuda" and dtype == torch.float32:
        try:
            from repro.engines.triton_update import triton_masked_sgd
        except ImportError:  # PyTorch for CUDA brings Triton along on Linux only
            return [masked_sgd]
        return [triton_masked_sgd, masked_sgd]
    return [masked_sgd]


WARM_UPS = 3  # eager steps before a recording, at least: libraries choose algorithms, compile and allocate in them


def record(steps: Callable[[], None], count: int, device: torch.device) -> Callable[[], None]:
    """A function that replays ``steps``, which makes ``count`` training steps. To record them runs them too."""
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
