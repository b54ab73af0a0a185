"""What an experiment is: the fields of a protocol, of its scoring networks and of its warm-up study.

Each quirk of the published code is a named field whose default made the published figure. Sections are those of
docs/protocol.md, which has the facts of the published runs. The values are in `repro.protocol`.
"""

from dataclasses import dataclass

from repro.recipes.training import Training

FULL = ("day", "paper")
"""The scales with the published training schedule: there, a verdict on the paper's data is a verdict on its claim."""
OWN = "own"
"""The scale of a user's own protocol (`repro.protocol.own`). No verdict there is a verdict on a claim of the paper."""
MOST = 1000
"""Replicates, levels or networks at most: a larger number is a typing error."""
JUDGED = (6, 7, 8, 9, 10)
"""Judging levels of a protocol that names no others: pruning levels whose mean accuracy is a replicate's outcome."""


@dataclass(frozen=True)
class Scoring:
    """How EL2N scores are made: by networks that are trained for ``training.steps`` (section 7).

    Arguments:
        networks: K, over which scores are averaged.
        batch_norm: 'batch' scores with the statistics of batches of 1000 images, as the published notebook did;
            'running' scores in evaluation mode.
    """

    network: str
    training: Training
    networks: int = 10
    batch_norm: str = "batch"


@dataclass(frozen=True)
class Warmup:
    """The learning-rate warm-up study (section 10): at a high rate, train on a subset for w steps, then on all data.

    Arguments:
        steps: the values of w.
        sizes: of the subsets.
        replicates: networks per condition.
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
        t_star: t*, the rewind step at which all data gives a matching initialisation (section 1).
        levels: pruning levels after the dense one, which is level 0.
        prune_fraction: share of the surviving weights that each level prunes (section 3).
        replicates: networks per curve. more_replicates: the same outside Figure 2, whose arms decide most primary
            claims; None is ``replicates``.
        subset_size: M of Figure 2. sizes: those of Figure 3 (section 8), which compares them at ``sweep_levels``.
        balanced: whether the easiest and hardest subsets are class-balanced. Random ones always are (section 7).
        noise: shares of randomised labels in Figure 4 (section 9), with subsets of ``noise_size``.
        barrier_all, barrier_subsets: rewind steps of Figure 5, for all data and for subsets of ``barrier_sizes``.
        barrier_level: pruning level whose accuracy Figure 5 compares with barriers.
        children: networks trained from a rewind point beside the parent's own run (section 11).
        onset_steps: later rewind steps, without pruning, for the onset of linear mode connectivity.
        warmup: the study of Figure 6; None where there is none.
        judging_levels: pruning levels whose mean accuracy is a replicate's outcome, chosen before the reported runs.
        second_look: the larger number of replicates at which verdicts are taken once more; None is one look. It has to
            be declared before the first run, because intervals are then of 97.5 % at both looks. An artifact records
            how many replicates it had, but not when this was written.
        normalization: 'dataset' or 'imagenet' constants (section 6).
        init: what networks begin as: 'paper' (section 2) or 'network', as their code draws them.
        image_size, in_chans, num_classes, train_images, test_images, folds: of the data, which `repro.plan` does not
            open.
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
    init: str = "paper"
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
        """Confidence of intervals. With two looks each has half of the error."""
        return 0.95 if self.second_look is None else 0.975

    @property
    def full(self) -> bool:
        """Whether it has the published schedule, so that results may be set beside the published numbers."""
        return self.scale in FULL
