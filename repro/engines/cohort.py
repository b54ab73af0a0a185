"""What every engine is given, blocks of training steps, and what it offers: R networks advanced together."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from repro.data import Batcher
from repro.nets import Layout, create, layout_of
from repro.nets.check import undisturbed


@dataclass
class Block:
    """K training steps of R replicas with batches of B images.

    index: int64 [K, R, B] rows of the image set.
    offsets: (dy, dx, flip) of `repro.data.Batcher.gather`, each [K, R, B], or None without augmentation.
    rates: [K, R] learning rates, in the cohort's dtype.
    """

    index: Tensor
    offsets: tuple[Tensor, Tensor, Tensor] | None
    rates: Tensor

    def __len__(self) -> int:
        """K."""
        return len(self.index)

    def steps(self, rows: slice) -> "Block":
        """Some of the steps, as views."""
        return Block(self.index[rows], self.offsets and tuple(part[rows] for part in self.offsets), self.rates[rows])

    def labels(self, targets: Tensor) -> Tensor:
        """Labels int64 [K, R, B] of all steps; ``targets`` are [R, N] or [N]."""
        return targets[self.index] if targets.ndim == 1 else targets.expand(len(self), -1, -1).gather(2, self.index)

    def images(self, k: int, batcher: Batcher, dtype: torch.dtype) -> Tensor:
        """Normalised images [R, B, H, W, C] of step ``k`` in ``dtype``."""
        return batcher.normalise(
            batcher.gather(self.index[k], self.offsets and tuple(p[k] for p in self.offsets)), dtype
        )


@dataclass(frozen=True)
class Sgd:
    """Constants of SGD and of its loss. Weight decay is coupled and covers all parameters, dampening is 0 (protocol
    section 1). label_smoothing: as ``torch.nn.functional.cross_entropy`` takes it."""

    momentum: float
    weight_decay: float
    nesterov: bool
    label_smoothing: float = 0.0


EVALUATION_BATCH = 1000  # protocol section 7: it matters only where batch norm uses batch statistics
Report = Callable[[int], None] | None
"""What is called after each batch of a measurement with the number of images since the last call; None for nothing."""


class Cohort(ABC):
    """R networks in flat rows, advanced a block of steps at a time by one engine.

    What a replica computes does not depend on who sits beside it, nor on how its steps are cut into blocks.

    Arguments:
        network: name for `repro.nets.create`.
        replicas: R.
        image_size: side of the images in pixels.
        precision: 'fp32', 'bf16' (autocast; the numbers stay float32) or 'fp64'.
        threads: CPU threads, for engines that manage their own.

    Attributes:
        state: [R, layout.size] parameters, then float buffers: the numbers of the networks.
        momentum: [R, layout.num_parameters].
        masks: bool [R, layout.num_prunable]; None is dense.
        too_large: whether training it took more memory than there is.
    """

    engine: ClassVar[str]
    steps_at_once: int = 1  # blocks of a multiple of this are trained fastest

    def __init__(
        self,
        network: str,
        *,
        replicas: int,
        num_classes: int,
        in_chans: int,
        image_size: int,
        device: torch.device,
        precision: str = "fp32",
        threads: int = 1,
    ):
        self.network, self.replicas, self.device, self.precision = network, replicas, device, precision
        self.num_classes, self.in_chans, self.image_size, self.threads = num_classes, in_chans, image_size, threads
        self.dtype = torch.float64 if precision == "fp64" else torch.float32
        self.layout: Layout = layout_of(self.module())
        self.state = torch.zeros(replicas, self.layout.size, dtype=self.dtype, device=device)
        self.momentum = torch.zeros(replicas, self.layout.num_parameters, dtype=self.dtype, device=device)
        self.masks: Tensor | None = None
        self.too_large = False

    def module(self) -> nn.Module:
        """A new network of the architecture. No random number of the process is drawn."""
        with undisturbed():  # modules initialise themselves from the global generator
            return create(
                self.network, num_classes=self.num_classes, in_chans=self.in_chans, image_size=self.image_size
            )

    @property
    def weights(self) -> Tensor:
        """The parameters, a view [R, layout.num_parameters] of the state."""
        return self.state[:, : self.layout.num_parameters]

    @property
    def buffers(self) -> Tensor:
        """The float buffers, a view of the state."""
        return self.state[:, self.layout.num_parameters :]

    def load(self, vectors: Tensor) -> None:
        """Set all networks from ``vectors`` [R, layout.size]."""
        self.state.copy_(vectors)

    def vectors(self) -> Tensor:
        """A copy of all networks' numbers, [R, layout.size]."""
        return self.state.clone()

    def load_momentum(self, vectors: Tensor) -> None:
        """Set the momentum from [R, layout.num_parameters]."""
        self.momentum.copy_(vectors)

    def momentum_vectors(self) -> Tensor:
        """A copy of the momentum, [R, layout.num_parameters]."""
        return self.momentum.clone()

    def load_masks(self, masks: Tensor | None) -> None:
        """Set the masks from bool [R, layout.num_prunable] and apply them; None is dense."""
        self.masks = None if masks is None or bool(masks.all()) else masks.to(self.device)
        if self.masks is not None:
            self.state[:, : self.layout.num_prunable].mul_(self.masks)

    @abstractmethod
    def train(
        self, block: Block, batcher: Batcher, targets: Tensor, sgd: Sgd, *, logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Train the steps of a block.

        Arguments:
            targets: int64 [R, N] or [N], the labels trained on.
            logits: whether to return logits too.

        Returns losses [K, R], the mean cross-entropy (of smoothed labels) before each update, detached; and the
        logits [K, R, B, num_classes] before the updates, or None.
        """

    @abstractmethod
    def predict(self, batcher: Batcher, index: Tensor, *, batch_norm: str = "running", report: Report = None) -> Tensor:
        """Logits float32 [R, n, num_classes], on the CPU, of un-augmented images. The state is left as it was.

        Arguments:
            index: int64 [R, n] rows of the image set.
            batch_norm: 'running' (evaluation mode) or 'batch': the statistics of each `EVALUATION_BATCH` images in
                the order given, as the published scores were computed (protocol section 7).
        """

    @abstractmethod
    def recalibrate(self, batcher: Batcher, index: Tensor, report: Report = None) -> None:
        """Take the batch-norm statistics anew: one pass in training mode over un-augmented images.

        The statistics are the mean over batches of `EVALUATION_BATCH` in the order given (a cumulative average), the
        last and smaller batch counting as much as the others.

        Arguments: those of `predict`. No row of ``index`` may be padded: padding would enter the statistics.
        """

    def release(self) -> None:
        """Let go of the memory that training takes, because it was too much."""
        self.too_large = True
