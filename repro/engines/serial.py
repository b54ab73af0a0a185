"""The reference: ordinary PyTorch modules, one after the other at each step. Any network, any device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repro.data import Batcher
from repro.engines.cohort import EVALUATION_BATCH, Block, Cohort, Report, Sgd


class SerialCohort(Cohort):
    """A `Cohort` of R modules. Their parameters and float buffers are views of ``state``.

    Results may differ in rounding between numbers of PyTorch's threads.
    """

    engine = "serial"

    def __init__(self, network: str, **how):
        super().__init__(network, **how)
        self.gradients = torch.zeros_like(self.momentum[:, : self.layout.num_trained])
        self.modules = [self._attached(r) for r in range(self.replicas)]
        self.parameters = [[p for p in module.parameters() if p.requires_grad] for module in self.modules]

    def _attached(self, r: int) -> nn.Module:
        """A module whose tensors are views of row ``r``."""
        module = self.module().to(device=self.device, dtype=self.dtype)
        for part in module.modules():
            if isinstance(part, _BatchNorm) and part.momentum is not None:
                part.num_batches_tracked = None  # nobody reads it, and counting is a kernel for each norm and step
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        for entry in self.layout.entries:
            at = slice(entry.offset, entry.offset + entry.size)
            tensors[entry.name].data = self.state[r, at].view(entry.shape)
            if entry.offset < self.layout.num_trained:
                tensors[entry.name].grad = self.gradients[r, at].view(entry.shape)
        return module

    def train(
        self, block: Block, batcher: Batcher, targets: Tensor, sgd: Sgd, *, logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        return self._eager(block, batcher, block.labels(targets), sgd, logits=logits)

    def _eager(
        self, block: Block, batcher: Batcher, labels: Tensor, sgd: Sgd, *, logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See `train`, with the labels [K, R, B] of the block."""
        self._mode(training=True)
        losses = self.state.new_empty(block.rates.shape)
        seen = self.state.new_empty(*block.index.shape, self.num_classes) if logits else None
        for k in range(len(block)):
            self._step(block, k, batcher, labels[k], sgd, losses[k], None if seen is None else seen[k])
        return losses, seen

    def _step(
        self, block: Block, k: int, batcher: Batcher, labels: Tensor, sgd: Sgd, losses: Tensor, logits: Tensor | None
    ) -> None:
        """Step ``k`` of a block, by tensor operations alone: a CUDA graph cannot wait for numbers of the device.

        ``labels`` are [R, B]; ``losses`` [R] and ``logits`` [R, B, num_classes] are written to.
        """
        images = block.images(k, batcher, self.dtype)
        self.gradients.zero_()
        for r, branch in enumerate(self._fork()):  # only one network's activations are kept at a time
            with branch:
                scores = self._forward(self.modules[r], images[r])
                loss = F.cross_entropy(scores.to(self.dtype), labels[r], label_smoothing=sgd.label_smoothing)
                set_gradients(loss, self.parameters[r])
                losses[r].copy_(loss.detach())
                if logits is not None:
                    logits[r].copy_(scores.detach())
        self._join()
        with torch.no_grad():
            self._update(block.rates[k], sgd)

    def _fork(self) -> list[AbstractContextManager]:
        """A context for each replica's forward and backward pass."""
        return [nullcontext()] * self.replicas

    def _join(self) -> None:
        """Wait for what was done in the contexts of `_fork`."""

    def _update(self, rates: Tensor, sgd: Sgd) -> None:
        self._sgd(masked_sgd, self.masks, rates, sgd)

    def _sgd(self, update: Callable, masks: Tensor | None, rates: Tensor, sgd: Sgd) -> None:
        """A function as `masked_sgd`, of the parameters that are trained."""
        trained = self.layout.num_trained
        update(self.weights[:, :trained], self.gradients, self.momentum[:, :trained], masks, rates, sgd)

    def _mode(self, *, training: bool) -> None:
        for module in self.modules:
            module.train(training)

    def _forward(self, module: nn.Module, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of one replica's normalised images [B, H, W, C]."""
        # weights that were cast outside a CUDA graph would be stale inside: no cache
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False):
            return module(images.permute(0, 3, 1, 2))

    def _batches(self, batcher: Batcher, index: Tensor, report: Report):
        """Logits [R, B, num_classes], for one `EVALUATION_BATCH` of every replica's images after the other."""
        for chunk in index.to(self.device).split(EVALUATION_BATCH, 1):
            images = (batcher.normalise(batcher.gather(rows), self.dtype) for rows in chunk)
            yield torch.stack([self._forward(module, each) for module, each in zip(self.modules, images)])
            if report:
                report(chunk.numel())

    @torch.no_grad()
    def predict(self, batcher: Batcher, index: Tensor, *, batch_norm: str = "running", report: Report = None) -> Tensor:
        buffers = self.buffers.clone()
        self._mode(training=batch_norm == "batch")
        logits = [each.float() for each in self._batches(batcher, index, report)]
        self.buffers.copy_(buffers)
        return torch.cat(logits, 1).cpu()  # one copy at the end: until then, a GPU is not waited for

    @torch.no_grad()
    def recalibrate(self, batcher: Batcher, index: Tensor, report: Report = None) -> None:
        parts = (part for module in self.modules for part in module.modules())
        norms = [part for part in parts if isinstance(part, _BatchNorm) and part.running_mean is not None]
        momenta = [norm.momentum for norm in norms]
        self._mode(training=True)
        try:
            for norm in norms:
                norm.running_mean.zero_()
                norm.running_var.fill_(1)
                norm.momentum = 1.0
            for number, _ in enumerate(self._batches(batcher, index, report), 1):
                for norm in norms:  # as PyTorch does where momentum is None, but without a counter on a GPU
                    norm.momentum = 1 / (number + 1)
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum


def set_gradients(loss: Tensor, parameters: list[Tensor]) -> None:
    """The gradients of the loss, copied to where the parameters' ``grad`` lie by as few kernels as there can be."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = [(parameter.grad, gradient) for parameter, gradient in zip(parameters, found) if gradient is not None]
    for alike in (True, False):  # tensors laid out alike are copied together
        chosen = [pair for pair in pairs if (pair[0].stride() == pair[1].stride()) == alike]
        if chosen:
            torch._foreach_copy_(*map(list, zip(*chosen)))


def masked_sgd(
    weights: Tensor, gradients: Tensor, momentum: Tensor, masks: Tensor | None, rates: Tensor, sgd: Sgd
) -> None:
    """One update in place. ``gradients`` is used up. The reference for `repro.engines.triton_update`.

    Pruned weights are set back to zero after the update, so neither momentum nor weight decay can revive them.

    Arguments:
        weights, gradients, momentum: floating [R, P], contiguous along P.
        masks: bool [R, m] with m <= P, for the first m weights of each row; None is dense.
        rates: [R] learning rates.
    """
    gradients.add_(weights, alpha=sgd.weight_decay)
    momentum.mul_(sgd.momentum).add_(gradients)
    change = gradients.add_(momentum, alpha=sgd.momentum) if sgd.nesterov else momentum
    weights.addcmul_(change, rates.neg().unsqueeze(1))
    if masks is not None:
        weights[:, : masks.shape[1]].mul_(masks)
