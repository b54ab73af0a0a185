"""Training steps from static buffers, several to a call, for a GPU to replay without the host.

A step of a small network is hundreds of small kernels, and launching them takes longer than running them. Here the
steps read everything that changes (indices, crops, learning rates) from tensors that stay where they are, so a CUDA
graph can record K of them once and replay them with one launch. Networks of the ``graph`` engine are recorded on a
stream each, between a fork and a join, so that small ones overlap. On a CPU the same function just runs.

Before a recording is used, its result is compared with that of eager steps; if they differ, or recording fails, the
cohort falls back to its eager engine with a warning.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data import Batcher
from repro.nets.cohort import Cohort
from repro.nets.update import updates_for
from repro.train.schedule import Training

STEPS = 10
"""K: steps that one recording makes."""
WARM_UPS = 3  # eager steps before a recording, at least, in which libraries choose algorithms, compile and allocate
CHECK_RATE = 0.1  # learning rate of the step that is compared
# Largest relative difference allowed. At the same weights, gradients of ResNets 8 to 56 by grouped and by ordinary
# convolutions differed by 1e-6 in float32 and by up to 1e-2 in bfloat16 (on a CPU; a GPU has more algorithms to choose
# from). A weight decay that is forgotten differs by 6e-4 and more, TF32 by 1e-3, a wrong mask, rate or batch by 0.1.
TOLERANCE = {"fp64": 1e-9, "fp32": 3e-4, "bf16": 0.1}


@dataclass
class Block:
    """Static buffers of K steps with batches of B: to be filled before `Stepper.advance`, and read after it.

    index: int64 [K, R, B]; offsets: three of that shape, or None without augmentation; rates: [K, R];
    losses: [K, R], mean cross-entropies; logits: [K, R, B, classes], before the update, None unless asked for.
    """

    index: Tensor
    offsets: tuple[Tensor, ...] | None
    rates: Tensor
    losses: Tensor
    logits: Tensor | None
    run: Callable[[], None] | None = None


class Stepper:
    """Static steps of one cohort on one image set. Use `stepper_of`.

    ``targets`` int64 [R, N] holds the labels trained on.
    """

    def __init__(self, cohort: Cohort, batcher: Batcher, training: Training, images: int):
        self.cohort, self.batcher, self.augment = cohort, batcher, training.augment
        self.targets = torch.zeros(cohort.replicas, images, dtype=torch.int64, device=cohort.device)
        numbers = [(entry.size, cohort.replicas) for entry in cohort.layout.parameters]
        replicas = torch.arange(cohort.replicas, dtype=torch.int32)
        self.owner = torch.cat([replicas.repeat_interleave(size) for size, _ in numbers]).to(cohort.device)
        self.updates = updates_for(cohort.device, cohort.dtype)
        self.constants = dict(factor=training.momentum, weight_decay=training.weight_decay, nesterov=training.nesterov)
        self._blocks: dict[tuple, Block] = {}

    def block(self, steps: int, batch: int, *, logits: bool) -> Block:
        """The buffers for so many steps with batches of this size; made once."""
        if (key := (steps, batch, logits)) not in self._blocks:
            cohort = self.cohort
            shape = (steps, cohort.replicas, batch)
            index = torch.zeros(shape, dtype=torch.int64, device=cohort.device)
            offsets = None
            if self.augment:
                offsets = (torch.zeros_like(index), torch.zeros_like(index), torch.zeros_like(index, dtype=torch.bool))
            rates, losses = torch.zeros(2, *shape[:2], dtype=cohort.dtype, device=cohort.device)
            seen = rates.new_zeros(*shape, cohort.num_classes) if logits else None
            self._blocks[key] = Block(index, offsets, rates, losses, seen)
        return self._blocks[key]

    def advance(self, block: Block) -> bool:
        """Train the steps in the block. False when the cohort had to fall back: then nothing was trained."""
        if block.run is None and not self._prepare(block):
            return False
        block.run()
        return True

    # --- the steps ----------------------------------------------------------------------------------------------

    def _steps(self, block: Block) -> None:
        for k in range(len(block.index)):
            self._step(block, k)

    def _step(self, block: Block, k: int) -> None:
        """One step by tensor operations alone: nothing here may wait for the device or depend on its numbers."""
        cohort, (images, labels) = self.cohort, self._batch(block, k)
        logits = None if block.logits is None else block.logits[k]
        cohort.gradients.zero_()
        branches = _branches(cohort)
        if cohort.together:
            with branches[0]:
                seen = cohort.forward(images)
                each = F.cross_entropy(seen.flatten(0, 1).to(cohort.dtype), labels.flatten(), reduction="none")
                losses = each.view(labels.shape).mean(1)
                _set_gradients(losses.sum(), cohort.modules[0])
                _keep(losses, block.losses[k], seen, logits)
        else:
            for r, (module, branch) in enumerate(zip(cohort.modules, branches)):
                with branch:
                    seen = cohort.forward_one(module, images[r])
                    loss = F.cross_entropy(seen.to(cohort.dtype), labels[r])
                    _set_gradients(loss, module)
                    _keep(loss, block.losses[k, r], seen, None if logits is None else logits[r])
        _join(cohort)
        with torch.no_grad():
            self.updates[0](cohort.weights, cohort.gradients, cohort.momentum, cohort.mask, block.rates[k], self.owner,
                            **self.constants)  # fmt: skip

    def _batch(self, block: Block, k: int) -> tuple[Tensor, Tensor]:
        """Images [R, B, H, W, C] and labels [R, B] of a step."""
        offsets = block.offsets and tuple(part[k] for part in block.offsets)
        images = self.batcher.normalise(self.batcher.gather(block.index[k], offsets), self.cohort.dtype)
        return images, self.targets.gather(1, block.index[k])

    # --- recording, comparing -----------------------------------------------------------------------------------

    def _prepare(self, block: Block) -> bool:
        """Record the block and compare it; without the update's fused kernel if it does not work with it."""
        while True:
            failure = self._attempt(block)
            if failure is None:
                return True
            if len(self.updates) == 1:
                self.cohort.fall_back(f"engine {self.cohort.engine} {failure}")
                return False
            print(f"warning: the fused update {failure}: trying the plain one", file=sys.stderr)
            self.updates = self.updates[1:]

    def _attempt(self, block: Block) -> str | None:
        """Record and compare, and put everything back as it was. What went wrong, if anything did."""
        cohort = self.cohort
        state = (cohort.weights, cohort.momentum, cohort.buffers, block.rates, self.targets)
        kept = [tensor.clone() for tensor in state]
        try:
            run = self._record(block) if cohort.device.type == "cuda" else lambda: self._steps(block)
            for tensor, before in zip(state, kept):
                tensor.copy_(before)
            difference = self._difference(block, run)
        except Exception as error:  # of CUDA, cuDNN, Triton or the network: eager training needs none of what failed
            if torch.OutOfMemoryError in (
                type(error),
                type(error.__context__),
            ):  # a recording ends with an error of its own
                raise torch.OutOfMemoryError(str(error)) from error
            return f"failed ({' '.join(str(error).split())[:200]})"
        finally:
            for tensor, before in zip(state, kept):
                tensor.copy_(before)
        if not difference <= TOLERANCE[cohort.precision]:
            return (f"differs from eager training by {difference:.1e} (relatively), more than "
                    f"{TOLERANCE[cohort.precision]:.0e}")  # fmt: skip
        block.run = run
        return None

    def _record(self, block: Block) -> Callable[[], None]:
        """A CUDA graph of the block's steps. They are run beforehand, so weights and buffers have to be put back."""
        stream = _streams(self.cohort.device)[0]
        with torch.cuda.stream(torch.cuda.current_stream()):  # a failed recording leaves its own stream behind
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(-(-WARM_UPS // len(block.index))):
                    self._steps(block)  # every step of it: kernels are compiled for the alignment of their arguments
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=_pool(), stream=stream):
                    self._steps(block)
            except BaseException:
                _abandon_pool()
                raise
        return graph.replay

    def _difference(self, block: Block, run: Callable[[], None]) -> float:
        """How far the block's steps are from eager ones on the same batches, relatively.

        Only the last step has a learning rate, another for each replica: at weights that have moved, rounding is
        amplified a thousandfold. Labels are moved by one class, for networks that know theirs have no gradient to
        compare. Losses, momentum, batch-norm statistics and the change of the weights are compared, of every replica.
        """
        cohort, constants = self.cohort, self.constants
        rates = torch.zeros(block.rates.shape, dtype=cohort.dtype)
        rates[-1] = CHECK_RATE * torch.arange(1, cohort.replicas + 1) / cohort.replicas
        self.targets.add_(1).remainder_(cohort.num_classes)
        before, twin, losses = cohort.weights.clone(), cohort.twin(), []
        for k in range(len(rates)):
            loss = twin.step(*self._batch(block, k), rates[k].tolist(), momentum=constants["factor"],
                             weight_decay=constants["weight_decay"], nesterov=constants["nesterov"])  # fmt: skip
            losses.append(loss)
        block.rates.copy_(rates)
        run()
        found, wanted = (
            (each.by_replica(each.weights - before), each.by_replica(each.momentum),
             each.by_replica(each.buffers, buffers=True))
            for each in (cohort, twin)
        )  # fmt: skip
        return max(_apart(a, b) for a, b in [(block.losses.t(), torch.stack(losses, 1)), *zip(found, wanted)])


def stepper_of(cohort: Cohort, batcher: Batcher, training: Training, images: int) -> Stepper:
    """The cohort's stepper for these images and constants of SGD; what it has recorded is kept."""
    key = (batcher, images, training.augment, training.momentum, training.weight_decay, training.nesterov)
    if cohort.stepper is None or cohort.stepper[0] != key:
        cohort.stepper = None  # its memory first
        cohort.stepper = key, Stepper(cohort, batcher, training, images)
    return cohort.stepper[1]


def _set_gradients(loss: Tensor, module: torch.nn.Module) -> None:
    """The gradients of the loss, copied to where the parameters' ``grad`` lie by as few kernels as there can be."""
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = [(parameter.grad, gradient) for parameter, gradient in zip(parameters, found) if gradient is not None]
    for alike in (True, False):  # tensors laid out alike are copied together
        chosen = [pair for pair in pairs if (pair[0].stride() == pair[1].stride()) == alike]
        if chosen:
            torch._foreach_copy_(*map(list, zip(*chosen)))


def _keep(loss: Tensor, losses: Tensor, seen: Tensor, logits: Tensor | None) -> None:
    losses.copy_(loss.detach())
    if logits is not None:
        logits.copy_(seen.detach())


def _branches(cohort: Cohort) -> list:
    """A context for each module: a stream that has waited for the current one.

    Never the stream that records: PyTorch frees its cuBLAS workspace with the first recording that is thrown away.
    """
    if cohort.device.type != "cuda":
        return [nullcontext()] * len(cohort.modules)
    streams = _side_streams(cohort)
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    return [torch.cuda.stream(stream) for stream in streams]


def _join(cohort: Cohort) -> None:
    if cohort.device.type == "cuda":
        for stream in _side_streams(cohort):
            torch.cuda.current_stream().wait_stream(stream)


def _side_streams(cohort: Cohort) -> list:
    streams = _streams(cohort.device)[1:]
    return [streams[r % len(streams)] for r in range(len(cohort.modules))]


@cache
def _streams(device: torch.device) -> list:
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


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Largest relative difference of a row, in the L2 norm. Rows that are not finite have to be so in both."""
    found, wanted = found.double(), wanted.double()
    finite = wanted.isfinite().all(1)
    if not torch.equal(finite, found.isfinite().all(1)):
        return float("inf")
    found, wanted = found[finite], wanted[finite]
    share = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-30)
    return max(share.tolist(), default=0.0)
