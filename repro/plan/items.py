"""What a figure may ask for: cells (pre-train, then IMP), subsets, barriers, branches, warm-up, gradient agreement.

Each item gives the path of its artifact below a results folder. `repro.plan.steps` has the commands.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from repro.data.user_numbers import split_key
from repro.errors import UsageError
from repro.protocol import Protocol
from repro.recipes.pruning import Pruning


@dataclass(frozen=True)
class Subset:
    """Images to pre-train on.

    Arguments:
        kind: 'easy', 'hard' or 'random'; size: M.
        score: what easy and hard are ranked by: 'el2n', 'forgetting', …; 'lmc', which are the barriers of all data at
            t*; or a user's file ('mine.csv'; see `repro.stages.select`).
        balanced: class balance of easy and hard; None is the protocol's choice. Random ones are balanced.
        like: a random subset with the class histogram of this one, in place of a balanced one.
        permuted: a control, for which the scores are first permuted among the images.
    """

    kind: str
    size: int
    score: str = "el2n"
    balanced: bool | None = None
    like: "Subset | None" = None
    permuted: bool = False

    @property
    def ranked(self) -> bool:
        return self.kind != "random"

    @property
    def own_scores(self) -> bool:
        """Whether a user's file ranks it. A file has an ending, and the name of a score has none."""
        return self.ranked and Path(self.score).suffix != ""

    def is_balanced(self, protocol: Protocol) -> bool:
        if not self.ranked:
            return self.like is None
        return protocol.balanced if self.balanced is None else self.balanced

    def name(self, protocol: Protocol, noise: float = 0.0, labels: str = "") -> str:
        """File stem: 'easy3200', 'random256-like-easy256-unbalanced', 'easy2048-noise0.5', 'easy2048-labels-human'."""
        parts = [f"{self.kind}{self.size}"]
        if self.score == "lmc":  # with more parents the mean over them is another score
            parts.append(f"lmc{protocol.replicates}")
        elif self.score != "el2n":
            file, key = split_key(self.score)
            parts.append(file.stem + (f"-{key.replace('/', '-')}" if key else ""))
        if self.ranked and self.is_balanced(protocol) != protocol.balanced:
            parts.append("balanced" if self.balanced else "unbalanced")
        if self.like:
            parts.append(f"like-{self.like.name(protocol)}")
        if self.permuted:
            parts.append("permuted")
        return "-".join([*parts, *_marks(noise, labels)])


def _marks(noise: float, labels: str) -> list[str]:
    """The part of a file stem that tells of other labels: the share of noise, or the name of the file or of its key."""
    if labels:
        file, key = split_key(labels)
        return [f"labels-{(key or file.stem).replace('/', '-')}"]
    return [f"noise{noise:g}"] if noise else []


@dataclass(frozen=True)
class Cell:
    """One condition on one data set: a way to pre-train, then IMP.

    Arguments:
        condition: its role in figures and claims: 'all_tstar', 'all_tstar_half', 'all_t0', 'all_t' (another rewind
            step), 'random', 'easy', 'hard', 'lmc', 'forgetting', 'easy_balanced' …
        t: rewind step.
        subset: images to pre-train on; None is all data.
        noise: share of randomised labels in scoring and pre-training.
        replicates, levels: None is the protocol's.
        labels: file of labels for scoring and pre-training, such as human ones (``--labels``).
        pruning: by what criterion, and what a level goes on from; the paper's way by default. The runs of another way
            have its mark behind the condition: 'easy-rewind-learning-rate'.

    Raises UsageError where both noise and labels are given.
    """

    condition: str
    protocol: Protocol
    t: int
    subset: Subset | None = None
    noise: float = 0.0
    replicates: int | None = None
    levels: int | None = None
    labels: str = ""
    pruning: Pruning = Pruning()

    def __post_init__(self):
        if self.noise and self.labels:
            raise UsageError(f"a Cell has noise (={self.noise}) and labels (={self.labels}): give one of them")

    @property
    def promised(self) -> int:
        """Replicates the figure promises."""
        return self.protocol.replicates if self.replicates is None else self.replicates

    @property
    def depth(self) -> int:
        """Pruning levels after the dense one."""
        return self.protocol.levels if self.levels is None else self.levels

    @property
    def size(self) -> int:
        return self.subset.size if self.subset else 0

    @property
    def name(self) -> str:
        """File stem: 'easy3200-t200', 'all-t400', 'all-noise0.5-t20', 'all-t400-rewind-learning-rate'."""
        return f"{self.images}-t{self.t}{self.pruning.mark}"

    @property
    def role(self) -> str:
        """Its condition in tables. Pruned otherwise, it has none of the paper's, so no claim is judged on it."""
        return f"{self.condition}{self.pruning.mark}"

    @property
    def images(self) -> str:
        """The images and labels in its file stem: 'easy3200', 'all-noise0.5'."""
        if self.subset:
            return self.subset.name(self.protocol, self.noise, self.labels)
        return "-".join(["all", *_marks(self.noise, self.labels)])

    def path(self, results: Path, kind: str = "imp") -> Path:
        """Path of an artifact that the cell makes or uses: 'scores', 'subset', 'pretrain', 'imp' or 'barrier'."""
        folder = results / self.protocol.folder
        if kind == "scores":
            return folder / f"{'-'.join(['scores', *_marks(self.noise, self.labels)])}.h5"
        if kind == "subset":
            return folder / f"subset-{self.images}.h5"
        if kind == "pretrain":  # the same however it is pruned
            return folder / f"pretrain-{self.images}-t{self.t}.h5"
        return folder / f"{kind}-{self.name}.h5"


@dataclass(frozen=True)
class Chosen:
    """A subset on which nothing is trained; figures show which images it holds."""

    protocol: Protocol
    subset: Subset
    noise: float = 0.0
    replicates: int | None = None
    labels: str = ""

    @property
    def cell(self) -> Cell:
        """A cell with this subset, whose condition is the kind of images."""
        return Cell(self.subset.kind, self.protocol, 0, self.subset, self.noise, self.replicates, labels=self.labels)

    def path(self, results: Path) -> Path:
        return self.cell.path(results, "subset")


@dataclass(frozen=True)
class Branch:
    """A control: the runs of a cell with its masks shuffled within their layers."""

    condition: str
    cell: Cell
    mask: str = "shuffled"

    @property
    def protocol(self) -> Protocol:
        return self.cell.protocol

    @property
    def role(self) -> str:
        return f"{self.condition}{self.cell.pruning.mark}"

    def path(self, results: Path) -> Path:
        return results / self.protocol.folder / f"branch-{self.cell.name}-{self.mask}.h5"


@dataclass(frozen=True)
class Barrier:
    """Loss barriers between children of a cell's rewind points. The cell's own dense runs count as children, too."""

    cell: Cell

    @property
    def protocol(self) -> Protocol:
        return self.cell.protocol

    @property
    def alphas(self) -> int | None:
        """Points on the line; None is the ends and the middle. Figure 1 draws the line of all data, with eleven."""
        return None if self.cell.subset else 11

    def path(self, results: Path) -> Path:
        return self.cell.path(results, "barrier")


@dataclass(frozen=True)
class WarmupSweep:
    """The learning-rate warm-up study of Figure 6, for a protocol that has one."""

    protocol: Protocol

    @property
    def subsets(self) -> list[Subset]:
        study = self.protocol.warmup
        balance = {"easy": study.balanced_easy, "random": None, "hard": study.balanced_hard}
        return [Subset(kind, size, balanced=balance[kind]) for kind in balance for size in study.sizes]

    def path(self, results: Path) -> Path:
        return results / self.protocol.folder / "warmup.h5"


@dataclass(frozen=True)
class Gradients:
    """Agreement of mini-batch gradients in the first 2 t* steps, on a subset; None is all data."""

    protocol: Protocol
    subset: Subset | None = None
    replicates: int | None = None

    @property
    def promised(self) -> int:
        return self.protocol.replicates if self.replicates is None else self.replicates

    @property
    def steps(self) -> int:
        return 2 * self.protocol.t_star

    @property
    def every(self) -> int:
        return max(1, self.protocol.t_star // 20)

    def path(self, results: Path) -> Path:
        name = self.subset.name(self.protocol) if self.subset else "all"
        return results / self.protocol.folder / f"gradients-{name}.h5"


Item = Cell | Chosen | Branch | Barrier | WarmupSweep | Gradients


def resize(
    p: Protocol, *, replicates: int | None = None, levels: int | None = None, seed: int | None = None
) -> Protocol:
    """The protocol with other numbers of replicates (the same in every figure) or levels, or another base seed."""
    changed = {}
    if replicates is not None:
        study = p.warmup and replace(p.warmup, replicates=replicates)
        changed |= {"replicates": replicates, "more_replicates": None, "warmup": study}
    if levels is not None:
        swept = tuple(level for level in p.sweep_levels if level <= levels) or (levels,)
        changed |= {"levels": levels, "barrier_level": min(levels, p.barrier_level), "sweep_levels": swept}
    return replace(p, **changed, **({} if seed is None else {"seed": seed}))
