"""The training recipe: SGD, its learning rate by the step, and its loss."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from repro.errors import UsageError

PRECISIONS = ("fp32", "bf16", "fp64")
SCHEDULES = ("step", "cosine", "linear", "constant")
LARGEST = (2 - 2**-23) * 2.0**127  # the largest number of single precision


@dataclass(frozen=True)
class Training:
    """How a network is trained to the end (protocol section 1).

    Steps are counted from the random initialisation, pre-training included: a run that starts at step t begins with the
    learning rate of step t and trains ``steps - t`` steps (protocol section 4).

    Arguments:
        milestones: steps at which the rate falls to a tenth, with schedule 'step' alone.
        border: black pixels added on every side before the random crop of ``augment`` (section 6).
        schedule: 'step'; 'cosine' (Loshchilov and Hutter 2017, without restarts) or 'linear', both to 0 at step
            ``steps``; 'constant'.
        warmup_steps: steps over which the rate first rises linearly, from 0 at step 0 (Goyal et al. 2017). Cosine and
            linear fall from there on; milestones are counted from step 0 all the same.
        label_smoothing: share of the target that all classes have in common (Szegedy et al. 2016), as
            ``torch.nn.functional.cross_entropy`` takes it. Losses that are measured are without.

    Raises UsageError for values that cannot be trained with.
    """

    steps: int
    batch_size: int
    lr: float
    milestones: tuple[int, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    drop_last: bool = True
    augment: bool = True
    precision: str = "fp32"
    border: int = 4
    schedule: str = "step"
    warmup_steps: int = 0
    label_smoothing: float = 0.0

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} (={getattr(self, name)}) must be at least 1")
        if self.border < 0:
            raise UsageError(f"border (={self.border}) must be 0 or a number of pixels: try 4, as published")
        if not 0 < self.lr <= LARGEST:
            raise UsageError(f"lr (={self.lr}) must be a positive finite number of single precision: try 0.1")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum (={self.momentum}) must be at least 0 and below 1")
        if list(self.milestones) != sorted(self.milestones) or min(self.milestones, default=1) < 1:
            raise UsageError(f"milestones (={self.milestones}) must be steps from 1 on, and ascend")
        if not 0 <= self.weight_decay <= LARGEST:
            raise UsageError(
                f"weight decay (={self.weight_decay}) must be 0 or a positive finite number of single "
                "precision: try 1e-4"
            )
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {self.precision!r}: choose {', '.join(PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"unknown schedule {self.schedule!r}: choose {', '.join(SCHEDULES)}")
        if self.milestones and self.schedule != "step":
            raise UsageError(
                f"milestones (={self.milestones}) are of schedule 'step': leave them out of {self.schedule!r}, whose "
                "rate does not fall by them"
            )
        if not 0 <= self.warmup_steps < self.steps:
            raise UsageError(
                f"warm-up steps (={self.warmup_steps}) must be at least 0 and below the {self.steps} steps of the "
                "training"
            )
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label smoothing (={self.label_smoothing}) must be at least 0 and below 1: try 0.1")

    def lr_at(self, step: int, warmup: int | None = None) -> float:
        """Learning rate of the update number ``step`` (from 0). warmup: in place of ``warmup_steps``."""
        warmup = self.warmup_steps if warmup is None else warmup
        rising = min(1.0, step / warmup) if warmup else 1.0
        return self.lr * self._fallen(step, warmup) * rising

    def _fallen(self, step: int, warmup: int) -> float:
        """What the schedule leaves of the rate."""
        if self.schedule == "step":
            return 0.1 ** bisect_right(self.milestones, step)
        if self.schedule == "constant":
            return 1.0
        share = max(0, step - warmup) / (self.steps - warmup)
        return 1 - share if self.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
