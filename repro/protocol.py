"""What the paper fixed, as frozen dataclasses: one protocol per data set and scale.

Each quirk of the published code is a named field whose default made the published figure; README, "Deviations and
unknowns", says where nothing is known. Sections refer to the extracted facts of the published runs.
"""

from dataclasses import dataclass, replace

from repro.errors import UsageError
from repro.train.schedule import Training

SCALES = ("demo", "small", "paper")


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
class Protocol:
    """One data set's experiment.

    Arguments:
        t_star: the rewind step at which all data gives a matching initialisation (section 1); half of it is t*/2.
        subset_size: M of Figure 2; ``sizes``: the sweep of Figure 3 (section 8).
        balanced: whether the easiest and hardest subsets are class-balanced. Random ones always are (section 7).
        prune_fraction: of the surviving weights, per level (section 3).
        levels: pruning levels after the dense one; replicates: networks per curve.
        normalization: 'dataset' or 'imagenet' constants (section 6).
        image_size, in_chans, num_classes, train_images, folds: the data, for `repro.plan`, which opens none.
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
    balanced: bool = False
    prune_fraction: float = 0.2
    normalization: str = "dataset"
    seed: int = 0
    image_size: int = 32
    in_chans: int = 3
    num_classes: int = 10
    train_images: int = 50000
    folds: int = 1


# Published with the open_lth code base: it keeps the last partial batch and uses ImageNet constants (sections 0, 6).
_CIFAR = Training(steps=62400, milestones=(31200, 46800), batch_size=128, lr=0.1, drop_last=False)
_SCORE = Training(steps=7800, batch_size=128, lr=0.1, weight_decay=5e-4, nesterov=True)
_CINIC = Training(steps=31250, milestones=(15625, 23440), batch_size=256, lr=0.1)
_DIGITS = Training(steps=440, milestones=(220, 330), batch_size=64, lr=1.0, augment=False)

CIFAR10 = Protocol(
    dataset="cifar10", scale="paper", network="cifar_resnet20", training=_CIFAR,
    scoring=Scoring("lowres_resnet18", _SCORE), t_star=400, subset_size=3200,
    sizes=(256, 512, 1024, 2048, 3200, 6400, 12800, 25600), levels=16, replicates=4, normalization="imagenet",
)  # fmt: skip
CIFAR100 = Protocol(
    dataset="cifar100", scale="paper", network="cifar_resnet32", training=_CIFAR,
    scoring=Scoring("lowres_resnet50", _SCORE), t_star=800, subset_size=2048,
    sizes=(256, 512, 1024, 2048, 3200, 6400), levels=16, replicates=4, normalization="imagenet",
    num_classes=100,
)  # fmt: skip
CINIC10 = Protocol(
    dataset="cinic10", scale="paper", network="cifar_resnet56", training=_CINIC,
    scoring=Scoring("cifar_resnet56", replace(_CINIC, steps=8000, milestones=())), t_star=800, subset_size=51200,
    sizes=(12800, 25600, 51200, 102400), levels=12, replicates=4, train_images=180000,
)  # fmt: skip
# The schedule of CIFAR10 divided by 10: it proves the plumbing on a GPU and verifies no published number.
SMALL = replace(
    CIFAR10, scale="small", training=replace(_CIFAR, steps=6240, milestones=(3120, 4680)),
    scoring=Scoring("cifar_resnet20", replace(_SCORE, steps=780)), t_star=40, subset_size=3200, sizes=(256, 1024, 3200),
    levels=10, replicates=2,
)  # fmt: skip
# Real images of scikit-learn. README, "The demo", lists the configurations tried before this one was frozen.
DIGITS = Protocol(
    dataset="digits", scale="demo", network="cifar_resnet14_w4", training=_DIGITS,
    scoring=Scoring("cifar_resnet14_w4", replace(_DIGITS, steps=880, lr=0.1, milestones=()), batch_norm="running"),
    t_star=20, subset_size=256, sizes=(256,), levels=10, replicates=8, balanced=True, seed=1,
    image_size=8, in_chans=1, train_images=1437, folds=5,
)  # fmt: skip

_PROTOCOLS = {(p.dataset, p.scale): p for p in (CIFAR10, CIFAR100, CINIC10, SMALL, DIGITS)}


def protocol(dataset: str, scale: str | None = None) -> Protocol:
    """The protocol of a data set; without a scale the largest one defined for it.

    A data set of the user's own (a folder of images) gets CIFAR-10's recipe with its own name.
    Raises UsageError for a scale the data set does not have.
    """
    found = [p for p in _PROTOCOLS.values() if p.dataset == dataset and scale in (None, p.scale)]
    if found:
        return max(found, key=lambda p: SCALES.index(p.scale))
    scales = [p.scale for p in _PROTOCOLS.values() if p.dataset == dataset]
    if scales:
        raise UsageError(f"no scale {scale!r} for {dataset}: choose {' or '.join(scales)}")
    if scale is not None:
        raise UsageError(
            f"no scale {scale!r} for {dataset}: leave --scale out, and choose --steps and the rest yourself"
        )
    return replace(CIFAR10, dataset=dataset, normalization="dataset")


def datasets_at(scale: str) -> list[Protocol]:
    """The protocols of a scale, in the order of the paper's panels. Raises UsageError for an unknown scale."""
    found = [p for p in _PROTOCOLS.values() if p.scale == scale]
    if not found:
        raise UsageError(f"unknown scale {scale!r}: choose one of {', '.join(SCALES)}")
    return found
