"""How a level of IMP is made from the one before: which weights go, and what the others go on from."""

import re
from dataclasses import dataclass, replace

from repro.errors import UsageError
from repro.recipes.artifacts import DEFAULTS
from repro.usercode import is_path, pinned

CRITERIA = ("magnitude", "layerwise", "random", "erk", "snip", "synflow", "grasp")
POINTS = ("trained", "rewind-point", "initialisation")
REWINDS = ("weights", "learning-rate", "none")
BLIND = ("random", "erk")
"""Criteria that look at no weight."""


@dataclass(frozen=True)
class Pruning:
    """Which weights a level removes, and what its training starts from.

    Arguments:
        criterion: what the weights are ranked by (`repro.train.criteria`): 'magnitude' over the whole network, as in
            the paper; 'layerwise', magnitude with the same share in every layer; 'random'; 'erk', random with
            Erdős–Rényi-kernel densities; 'snip', 'synflow', 'grasp'; or a user's function, ``FILE.py:NAME``.
        at: the weights that are ranked: 'trained', those at the end of the level before, of which a share is removed;
            'rewind-point' or 'initialisation', from whose dense network every level is pruned at once, to as many
            weights as IMP leaves (without rewinding weights, from that network with the mask of the level before). None
            is 'trained' for magnitudes and a user's function, else 'rewind-point'.
        batches: mini-batches of training images for the gradients of 'snip', 'grasp' and a user's function; None is 1.
        keep_dense: patterns of layers that are never pruned, such as 'fc' or 'conv1*'.
        rewind: what a level goes back to: 'weights' (Frankle et al. 2020, the paper's), 'learning-rate' (Renda et al.
            2020: weights go on, the schedule is that from step t again) or 'none' (both go on, at the last rate).
        finetune_steps: of each pruned level with rewind 'none'; None is as many as with the others, steps - t.

    Raises UsageError for values that cannot be, or that say nothing about this criterion.
    """

    criterion: str = "magnitude"
    at: str | None = None
    batches: int | None = None
    keep_dense: tuple[str, ...] = ()
    rewind: str = "weights"
    finetune_steps: int | None = None

    def __post_init__(self):
        if self.criterion not in CRITERIA and not is_path(self.criterion):
            known = ", ".join(CRITERIA)
            lower = self.criterion.strip().lower()
            advice = f"try {lower}" if lower in CRITERIA else f"choose {known} or FILE.py:NAME"
            raise UsageError(f"unknown pruning criterion {self.criterion!r}: {advice}")
        for name, value, allowed in (("point to prune at", self.at, POINTS), ("rewind", self.rewind, REWINDS)):
            if value is not None and value not in allowed:
                raise UsageError(f"unknown {name} {value!r}: choose {', '.join(allowed)}")
        if self.at and self.criterion in BLIND:
            raise UsageError(f"--prune-at {self.at}, but {self.criterion} looks at no weight: leave --prune-at out")
        if self.batches is not None and not self.needs_data:
            raise UsageError(f"--batches {self.batches}, but {self.criterion} needs no images: leave --batches out")
        if self.batches is not None and self.batches < 1:
            raise UsageError(f"batches (={self.batches}) must be at least 1: try --batches 1")
        if self.finetune_steps is not None and self.rewind != "none":
            raise UsageError(
                f"--finetune-steps {self.finetune_steps}, but --rewind {self.rewind} trains to the end of the "
                "schedule: leave it out, or give --rewind none"
            )
        if self.finetune_steps is not None and self.finetune_steps < 1:
            raise UsageError(f"finetune steps (={self.finetune_steps}) must be at least 1")
        if isinstance(self.keep_dense, str):  # a tuple of letters otherwise
            raise UsageError(
                f"keep_dense (={self.keep_dense!r}) must be a tuple of patterns: try ({self.keep_dense!r},)"
            )
        at = None if self.criterion in BLIND else self.at or self._usual_point
        batches = (self.batches or 1) if self.needs_data else None
        given = {"at": at, "batches": batches, "keep_dense": tuple(sorted(set(self.keep_dense)))}
        for name, value in (given | {"criterion": pinned(self.criterion, "pruning criterion")}).items():
            object.__setattr__(self, name, value)

    def before(self, steps: int) -> "Pruning":
        """This one at a rewind point ``steps`` before the end of the schedule: as many ``finetune_steps`` say nothing,
        and are left out, because they are what None is."""
        return replace(self, finetune_steps=None) if self.finetune_steps == steps else self

    @property
    def own(self) -> bool:
        """Whether the criterion is a user's function."""
        return is_path(self.criterion)

    @property
    def needs_data(self) -> bool:
        return self.own or self.criterion in ("snip", "grasp")

    @property
    def needs_level_before(self) -> bool:
        """Whether a level is made from the one before, which must not have diverged then: its mask is a part of that
        one's, because weights that were pruned cannot go on."""
        return self.at == "trained" or self.rewind != "weights"

    @property
    def _usual_point(self) -> str:
        return "trained" if self.own or self.criterion in ("magnitude", "layerwise") else "rewind-point"

    @property
    def fields(self) -> dict:
        """The recipe fields that tell it from the paper's way, in JSON types."""
        said = self._said | {"keep_dense": list(self.keep_dense)}
        return {name: value for name, value in said.items() if value not in (None, DEFAULTS.get(name))}

    @property
    def options(self) -> dict:
        """The options of imp for all that it would not do by itself."""
        usual = Pruning(self.criterion)._said | {"pruning": "magnitude"}
        return {name: value for name, value in self._said.items() if value != usual[name]}

    @property
    def _said(self) -> dict:
        """By the names of options, which are those of recipe fields, too."""
        plan = {"pruning": self.criterion, "prune_at": self.at, "batches": self.batches, "keep_dense": self.keep_dense}
        return plan | {"rewind": self.rewind, "finetune_steps": self.finetune_steps}

    @property
    def mark(self) -> str:
        """Its part of a file stem: '-snip', '-keep_dense-fc', '-rewind-learning-rate'; '' for the paper's way."""
        parts = []
        for name, value in self.options.items():
            parts += [] if name == "pruning" else [name]
            parts += value if isinstance(value, tuple) else [str(value).partition("@")[0]]
        return "".join(f"-{re.sub(r'[^0-9A-Za-z_.-]', '_', part)}" for part in parts)
