"""The training recipe: SGD with a learning rate that falls at milestones."""

from bisect import bisect_right
from dataclasses import dataclass

from repro.errors import UsageError

PRECISIONS = ("fp32", "bf16", "fp64")
LARGEST = (2 - 2**-23) * 2.0**127  # the largest number of single precision


@dataclass(frozen=True)
class Training:
    """How a network is trained to the end (protocol section 1).

    Steps are counted from the random initialisation, pre-training included: a run that starts at step t begins with the
    learning rate of step t and trains ``steps - t`` steps (protocol section 4). border: black pixels added on every
    side before the random crop of ``augment`` (section 6).

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

    def lr_at(self, step: int) -> float:
        """Learning rate of the update number ``step`` (from 0): x0.1 at each milestone passed."""
        return self.lr * 0.1 ** bisect_right(self.milestones, step)
