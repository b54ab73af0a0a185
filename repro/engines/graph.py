"""Training steps from static buffers, several to a call, for a GPU to replay without the host.

A step of a small network is hundreds of small kernels, and launching them takes longer than running them. Here the
steps read everything that changes (indices, crops, labels, learning rates) from tensors that stay where they are, so a
CUDA graph can record K of them once and replay them with one launch. Networks are recorded on a stream each, between a
fork and a join, so that small ones overlap. On a CPU the same steps run unrecorded.

Before a recording is used, it is compared with the `serial` engine. If they differ, or recording fails, the steps are
trained as `serial` trains them, with a warning.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from repro.data import Batcher
from repro.engines.cohort import Block, Sgd
from repro.engines.comparison import apart, check_rates, distrust_norms, one_line, right_updates, updates_for, without
from repro.engines.recording import kernels_of, record, side_streams
from repro.engines.serial import SerialCohort
from repro.errors import say_once
from repro.nets.check import undisturbed

KERNELS = 3000  # in a graph, about: launching it is cheap then, and recording it takes seconds
MOST_STEPS = 50  # in a graph: a block has no more
TRIES = 3  # blocks at which a recording may differ from eager steps, before the steps of its form stay eager
# Largest relative differences allowed. Two algorithms for convolutions on a CPU differed in float32 by 3e-6 in the
# first two and by 0.02 in gradients (on digits, where many inputs of rectifiers are 0 but for rounding), in bfloat16 by
# 7e-5 and 0.03; a GPU has more of them. TF32 changes the first two by 1e-3, a wrong mask, rate or batch the others by
# more than 0.06.
COMPARED = ("losses", "batch-norm statistics", "gradients", "updates")
TOLERANCE = {"fp64": (1e-9, 1e-9, 0.05, 0.05), "fp32": (1e-5, 1e-5, 0.05, 0.05), "bf16": (1e-2, 1e-2, 0.2, 0.2)}
ROUNDING = 5  # or as many times as `serial` in float32 differs from float64: some very sparse networks amplify rounding


@dataclass
class _Static:
    """Buffers that stay where they are: a block, its labels [K, R, B], losses [K, R], its logits if asked for.

    graph: the recording, on a GPU. trusted: whether it was found equal to eager steps; tries: blocks left to do so.
    """

    batcher: Batcher
    sgd: Sgd
    block: Block
    labels: Tensor
    losses: Tensor
    logits: Tensor | None
    graph: "torch.cuda.CUDAGraph | None" = None
    trusted: bool = False
    tries: int = TRIES

    def fill(self, block: Block, labels: Tensor) -> None:
        """Copy a block into the buffers."""
        own = self.block
        offsets = zip(own.offsets or (), block.offsets or ())
        for there, here in [(own.index, block.index), (own.rates, block.rates), (self.labels, labels), *offsets]:
            there.copy_(here)


class GraphCohort(SerialCohort):
    """A `Cohort` whose steps are recorded, ``steps_at_once`` of them or one, and replayed.

    ``engine`` of the instance says how the networks were trained since they were loaded: 'graph', 'serial' where it had
    to be, or 'graph/serial'.
    """

    engine = "graph"

    def __init__(self, network: str, **how):
        super().__init__(network, **how)
        self.how = how
        self.kept = torch.ones(self.replicas, self.layout.num_prunable, dtype=torch.bool, device=self.device)
        self.updates = updates_for(self.device, self.dtype)
        self.statics: dict[tuple, _Static] = {}
        self.used: set[str] = set()
        self.norms_compared = self.warned = False
        self.static = False  # whether the steps being made are static ones

    @cached_property
    def steps_at_once(self) -> int:
        """K, such that a graph of K steps of R networks has about `KERNELS`."""
        return max(1, min(MOST_STEPS, KERNELS // (self.replicas * self.kernels)))

    @cached_property
    def kernels(self) -> int:
        """About how many kernels a forward and backward pass of one network has."""
        shape = 2, self.in_chans, self.image_size, self.image_size
        with undisturbed():
            return kernels_of(self.module().train(), shape)

    def load(self, vectors: Tensor) -> None:
        super().load(vectors)
        self.used.clear()

    def load_masks(self, masks: Tensor | None) -> None:
        super().load_masks(masks)
        self.kept.fill_(True) if self.masks is None else self.kept.copy_(self.masks)  # recordings read it there

    def train(
        self, block: Block, batcher: Batcher, targets: Tensor, sgd: Sgd, *, logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if batcher.resident:
            labels, cuts = block.labels(targets), _cut(len(block), self.steps_at_once)
            parts = (self._advance(block.steps(cut), batcher, labels[cut], sgd, logits) for cut in cuts)
            losses, seen = zip(*parts)
            found = torch.cat(losses), torch.cat(seen) if logits else None
        else:
            say_once(
                f"warning: engine graph needs the images in the memory of {self.device}, where they take more than "
                "half of what is free: training goes on with engine serial instead of graph"
            )
            self.used.add("serial")
            found = super().train(block, batcher, targets, sgd, logits=logits)
        self.engine = "/".join(sorted(self.used))
        return found

    def release(self) -> None:
        super().release()
        self.statics.clear()  # the recordings, with their memory

    # --- static steps -------------------------------------------------------------------------------------------

    def _advance(
        self, block: Block, batcher: Batcher, labels: Tensor, sgd: Sgd, logits: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Losses and logits of a block's steps, static ones where they are known to be right, else eager ones."""
        self._mode(training=True)
        static = self._static(block, batcher, labels, sgd, logits)
        good = static.trusted or self._compare(static)
        self.used.add("graph" if good else "serial")
        if not good:
            return self._eager(block, batcher, labels, sgd, logits=logits)
        self._run(static)
        return static.losses.clone(), None if static.logits is None else static.logits.clone()

    def _static(self, block: Block, batcher: Batcher, labels: Tensor, sgd: Sgd, logits: bool) -> _Static:
        """Buffers with this block. They are made once for each form of block, images and constants."""
        key = batcher, sgd, tuple(block.index.shape), block.offsets is None, logits
        if key not in self.statics:
            losses = torch.zeros_like(block.rates)
            seen = losses.new_zeros(*block.index.shape, self.num_classes) if logits else None
            offsets = block.offsets and tuple(map(torch.zeros_like, block.offsets))
            own = Block(torch.zeros_like(block.index), offsets, torch.zeros_like(block.rates))
            self.statics[key] = _Static(batcher, sgd, own, torch.zeros_like(labels), losses, seen)
        self.statics[key].fill(block, labels)
        return self.statics[key]

    def _run(self, static: _Static) -> None:
        self._steps(static) if static.graph is None else static.graph.replay()

    def _steps(self, static: _Static) -> None:
        with self._statically():
            for k in range(len(static.block)):
                seen = None if static.logits is None else static.logits[k]
                self._step(static.block, k, static.batcher, static.labels[k], static.sgd, static.losses[k], seen)

    @contextmanager
    def _statically(self) -> Iterator[None]:
        """Steps inside take a stream for each network, and the update that reads the masks where they stay."""
        self.static = True
        try:
            yield
        finally:
            self.static = False

    def _update(self, rates: Tensor, sgd: Sgd) -> None:
        if self.static:
            self._sgd(self.updates[0], self.kept, rates, sgd)
        else:
            super()._update(rates, sgd)

    def _fork(self) -> list[AbstractContextManager]:
        if self.device.type != "cuda" or not self.static:
            return super()._fork()
        branches = side_streams(self.device, self.replicas)
        for branch in branches:
            branch.wait_stream(torch.cuda.current_stream())
        return [torch.cuda.stream(branch) for branch in branches]

    def _join(self) -> None:
        if self.device.type == "cuda" and self.static:
            for branch in side_streams(self.device, self.replicas):
                torch.cuda.current_stream().wait_stream(branch)

    # --- recording, comparing -----------------------------------------------------------------------------------

    def _compare(self, static: _Static) -> bool:
        """Record the steps if they are not, and compare them at this block. Everything is put back as it was.

        A recording that differs is compared again at later blocks, `TRIES` times: networks that are about to diverge
        amplify rounding. One that failed is not made again.
        """
        if not static.tries:
            return False
        state = (self.state, self.momentum, static.block.rates, static.labels)
        kept = [tensor.clone() for tensor in state]
        first, static.tries = static.tries == TRIES, static.tries - 1
        try:
            if first:
                self._record(static)
            for tensor, before in zip(state, kept):
                tensor.copy_(before)
            failure = self._difference(static)
        except Exception as error:  # of CUDA, cuDNN, Triton or the network: eager training needs none of what failed
            # a recording that runs out of memory ends with an error of its own
            if torch.OutOfMemoryError in (type(error), type(error.__context__)):
                raise torch.OutOfMemoryError(str(error)) from error
            failure, static.tries = f"failed ({one_line(error)})", 0
        finally:
            for tensor, before in zip(state, kept):
                tensor.copy_(before)
        static.trusted = failure is None
        if failure and not self.warned:
            print(f"warning: engine graph {failure}: engine serial trains these steps instead", file=sys.stderr)
            self.warned = True
        return static.trusted

    def _record(self, static: _Static) -> None:
        """Record the steps, on a GPU, with the first update that is right and can be recorded."""
        began, steps = time.monotonic(), len(static.block)
        self._compare_norms(static)
        self.updates = right_updates(self.updates, self.weights, self.kept, static.sgd)
        while self.device.type == "cuda" and static.graph is None:
            try:
                static.graph = record(lambda: self._steps(static), steps, self.device)
            except Exception as error:
                if len(self.updates) == 1 or isinstance(error, torch.OutOfMemoryError):
                    raise
                self.updates = without(self.updates, f"failed ({one_line(error)})")
        if static.graph is not None:
            what = f"{steps} steps of {self.replicas} networks, about {steps * self.replicas * self.kernels:,} kernels"
            print(f"engine graph recorded {what}, in {time.monotonic() - began:.1f} s", file=sys.stderr)

    def _compare_norms(self, static: _Static) -> None:
        """See `distrust_norms`; once, on a GPU."""
        if self.norms_compared or self.device.type != "cuda":
            return
        self.norms_compared = True
        images = static.block.images(0, static.batcher, self.dtype)
        with self._statically():
            wrong = distrust_norms(self.modules, lambda net: self._forward(net, images[0]), self._fork, self._join)
        if wrong:
            layers = f"{', '.join(wrong)} with {self.replicas} networks side by side"
            print(
                f"warning: cuDNN's batch norm is not that of float64 in {layers}: PyTorch's is taken", file=sys.stderr
            )

    def _difference(self, static: _Static) -> str | None:
        """How the static steps differ from those of `serial` on the same batches; None if they do not.

        Only the last step has a learning rate, another for each replica: at weights that have moved, rounding is
        amplified a thousandfold. Labels are moved by one class, since a network that has learned its labels has no
        gradient to compare. Momentum starts at 0, and so is the gradients' sum. A rectifier whose input is nearly 0 may
        be on or off, which changes losses by nothing and gradients by a few percent: those are compared loosely here,
        and updates tightly by `right_updates`.
        """
        static.block.rates.zero_()
        static.block.rates[-1] = check_rates(self.weights)
        static.labels.add_(1).remainder_(self.num_classes)
        self.momentum.zero_()
        start, weights = self.state.clone(), self.weights.clone()
        self._run(static)
        mine = static.losses.t(), self.buffers, self._kept(self.momentum), self.weights - weights
        its = self._by_serial(static, start, self.precision)
        differences, limits = list(map(apart, mine, its)), TOLERANCE[self.precision]
        if self.precision == "fp32" and any((d > limit).any() for d, limit in zip(differences, limits)):
            rounding = map(apart, its, self._by_serial(static, start, "fp64"))
            limits = [(ROUNDING * r).clamp_min(limit) for r, limit in zip(rounding, limits)]
        for what, difference, limit in zip(COMPARED, differences, limits):
            if not (difference <= limit).all():
                return f"differs from eager training in its {what} by {difference.max():.1e} (relatively)"
        return None

    def _by_serial(self, static: _Static, start: Tensor, precision: str) -> tuple[Tensor, ...]:
        """What `COMPARED` names, of `serial` in a precision that starts with these numbers and no momentum."""
        twin = SerialCohort(self.network, **self.how | {"precision": precision})
        twin.load(start)
        twin.load_masks(self.masks)
        weights, block = twin.weights.clone(), static.block
        block = Block(block.index, block.offsets, block.rates.to(twin.dtype))
        losses, _ = twin._eager(block, static.batcher, static.labels, static.sgd)
        return losses.t(), twin.buffers, self._kept(twin.momentum), twin.weights - weights

    def _kept(self, momentum: Tensor) -> Tensor:
        """Momentum [R, P] with 0 for pruned weights, where it means nothing."""
        prunable = self.layout.num_prunable
        return torch.cat([momentum[:, :prunable] * self.kept, momentum[:, prunable:]], 1)


def _cut(steps: int, size: int) -> list[slice]:
    """``size`` steps each while there are so many, then one each: two recordings serve blocks of any length."""
    whole = steps - steps % size
    return [*(slice(k, k + size) for k in range(0, whole, size)), *(slice(k, k + 1) for k in range(whole, steps))]
