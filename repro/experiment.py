"""What an experiment is: the fields of a protocol, of its scoring networks and of its warm-up study.

Each quirk of the published code is a named field whose default made the published figure. Sections are
those of docs/protocol.md, the facts of the published runs. The experiments themselves are in `repro.protocol`.
"""

from dataclasses import dataclass

from repro.recipes.training import Training

FULL = ("day", "paper")
"""Those with the published training schedule: their verdicts on the paper's data are verdicts on its claims."""
OWN = "own"
"""The scale of a protocol that is a user's own (`own`): none of `SCALES`, and no verdict is on the paper's claims."""
MOST = 1000
"""Replicates, levels or networks: more are a slip of the keyboard."""
JUDGED = (6, 7, 8, 9, 10)
"""Pruning levels whose mean accuracy is the outcome of a replicate, where a protocol names no others."""


@dataclass(frozen=True)
class Scoring:
    """How EL2N scores are made: K networks trained for ``training.steps`` (protocol section 7).

    Arguments:
        batch_norm: 'batch' scores with the statistics of batches of 1000 images, as the published notebook did;
            'running' is evaluation mode.
    """

    network: str
    training: Training
    networks: int = 10
    batch_norm: str = "batch"


@dataclass(frozen=True)
class Warmup:
    """The learning-rate warm-up study (protocol section 10): subset for w steps, then all data, at a high rate.

    Arguments:
        steps: the sweep of w; sizes: of the subsets; replicates: networks per condition.
        balanced_easy, balanced_hard: whether those subsets are class-balanced (published: easy yes, hard no).
    """

    training: Training
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    replicates: int = 8
    balanced_easy: bool = True
    balanced_hard: bool = False


@dataclass(frozen=True)
class Protocol:
    """One data set's experiment.

    Arguments:
        t_star: the rewind step at which all data gives a matching initialisation (section 1); half of it is t*/2.
        subset_size: M of Figure 2; ``sizes``: the sweep of Figure 3 (section 8) at ``sweep_levels``.
        noise: shares of randomised labels in Figure 4 (section 9), with subsets of ``noise_size``.
        barrier_level: pruning level whose accuracy Figure 5 compares with barriers; ``children``: networks trained from
            a rewind point beside the parent's own run (section 11).
        barrier_all, barrier_subsets: rewind steps of Figure 5, for all data and for subsets of ``barrier_sizes``;
            ``onset_steps``: later ones, not pruned, over which the onset of linear mode connectivity is looked for.
        warmup: the study of Figure 6, where there is one.
        more_replicates: networks per curve outside Figure 2, whose arms decide most primary claims; None is the same.
        balanced: whether the easiest and hardest subsets are class-balanced. Random ones always are (section 7).
        prune_fraction: of the surviving weights, per level (section 3).
        levels: pruning levels after the dense one; replicates: networks per curve.
        judging_levels: those whose mean accuracy is the outcome of a replicate, chosen before the reported runs.
        second_look: the larger number of replicates at which verdicts will be taken once more, to be declared before
            the first run; intervals are of 97.5 % at both looks. None: one look. Artifacts record the replicates that
            they had, never when this was written.
        normalization: 'dataset' or 'imagenet' constants (section 6).
        image_size, in_chans, num_classes, train_images, test_images, folds: the data, for `repro.plan`, which opens
            none.
    """

    dataset: str
    scale: str
    network: str
    training: Training
    scoring: Scoring
    t_star: int
    subset_size: int
    sizes: tuple[int, ...]
    levels: int
    replicates: int
    more_replicates: int | None = None
    second_look: int | None = None
    judging_levels: tuple[int, ...] = JUDGED
    balanced: bool = False
    sweep_levels: tuple[int, ...] = (8, 10, 12)
    noise: tuple[float, ...] = ()
    noise_size: int = 2048
    barrier_level: int = 7
    barrier_all: tuple[int, ...] = ()
    barrier_subsets: tuple[int, ...] = ()
    barrier_sizes: tuple[int, ...] = ()
    onset_steps: tuple[int, ...] = ()
    children: int = 2
    warmup: Warmup | None = None
    prune_fraction: float = 0.2
    normalization: str = "dataset"
    seed: int = 0
    image_size: int = 32
    in_chans: int = 3
    num_classes: int = 10
    train_images: int = 50000
    test_images: int = 10000
    folds: int = 1

    @property
    def all_images(self) -> int:
        return self.train_images + self.test_images

    @property
    def folder(self) -> str:
        """Name of its folder of artifacts."""
        return self.dataset.removeprefix("folder:")

    @property
    def confidence(self) -> float:
        """Of intervals: with two looks each has half of the error."""
        return 0.95 if self.second_look is None else 0.975

    @property
    def full(self) -> bool:
        """Whether it has the published schedule: what is measured may then be set beside the published numbers."""
        return self.scale in FULL
