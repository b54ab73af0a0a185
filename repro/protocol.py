"""The protocols, one for each data set and scale, with the values that the paper fixed.

`repro.experiment` says what the fields mean. Sections are those of docs/protocol.md, which has the facts of the
published runs; docs/deviations.md says where nothing is known.
"""

import os
from dataclasses import replace
from pathlib import Path

from repro.data import sized, split_size
from repro.errors import UsageError
from repro.experiment import FULL, JUDGED, OWN, Protocol, Scoring, Warmup  # noqa: F401  (FULL: of other modules)
from repro.recipes.training import Training
from repro.usercode import pinned

SCALES = ("demo", "scores", "small", "cpu", "day", "paper")
"""Sizes of the experiment, the largest last."""

# A line for each part of the study: data, networks, t* and what IMP does, subsets (Figures 2-4), barriers (Figure 5).
# Published with the open_lth code base: it keeps the last partial batch and uses ImageNet constants (sections 0, 6).
_CIFAR = Training(steps=62400, milestones=(31200, 46800), batch_size=128, lr=0.1, drop_last=False)
_SCORE = Training(steps=7800, batch_size=128, lr=0.1, weight_decay=5e-4, nesterov=True)
_CINIC = Training(steps=31250, milestones=(15625, 23440), batch_size=256, lr=0.1)
_WARMUP = Training(steps=7840, milestones=(3920, 5880), batch_size=1024, lr=3.2)

CIFAR10 = Protocol(
    **dict(dataset="cifar10", scale="paper", normalization="imagenet"),
    **dict(network="cifar_resnet20", training=_CIFAR, scoring=Scoring("lowres_resnet18", _SCORE)),
    **dict(t_star=400, levels=16, replicates=4),
    **dict(subset_size=3200, sizes=(256, 512, 1024, 2048, 3200, 6400, 12800, 25600), noise=(0.1, 0.5)),
    **dict(barrier_all=(100, 200, 400), barrier_subsets=(100, 200), barrier_sizes=(1024, 3200, 12800)),
    **dict(onset_steps=(800, 1600, 3200, 6400)),
    warmup=Warmup(_WARMUP, (100, 200, 400, 600, 800, 1200, 1600, 2400, 3200), (5120, 10240, 25600)),
)
CIFAR100 = Protocol(
    **dict(dataset="cifar100", scale="paper", normalization="imagenet", num_classes=100),
    **dict(network="cifar_resnet32", training=_CIFAR, scoring=Scoring("lowres_resnet50", _SCORE)),
    **dict(t_star=800, levels=16, replicates=4),
    **dict(subset_size=2048, sizes=(256, 512, 1024, 2048, 3200, 6400)),
    **dict(barrier_all=(200, 400, 800), barrier_subsets=(200, 400), barrier_sizes=(1024, 2048, 6400)),
    **dict(barrier_level=11, onset_steps=(1600, 3200, 6400)),
)
CINIC10 = Protocol(
    **dict(dataset="cinic10", scale="paper", train_images=180000, test_images=90000),
    **dict(network="cifar_resnet56", training=_CINIC),
    **dict(scoring=Scoring("cifar_resnet56", replace(_CINIC, steps=8000, milestones=()))),
    **dict(t_star=800, levels=12, replicates=4),
    **dict(subset_size=51200, sizes=(12800, 25600, 51200, 102400)),
    **dict(barrier_all=(200, 400, 800), barrier_subsets=(200, 400), barrier_sizes=(12800, 25600, 51200)),
    **dict(onset_steps=(1600, 3200, 6400)),
)
# What an evaluator with one fast GPU runs: the published schedule on CIFAR-10 within a day of training at 250,000
# images of ResNet-20 a second (2.16e10 images), for every primary claim. All arms have the 8 replicates that a primary
# claim needs. Figure 5 has 14 conditions (12 are the fewest for a verdict): its own, and the pruned runs of Figures 2
# and 4. Figure 6 has the paper's smallest and largest subset, which its claims are about.
# bf16, because float32 without TF32 would allow 275,000 images/s only if a GPU like the H100 did nothing but multiply.
DAY = replace(
    CIFAR10,
    **dict(scale="day", training=replace(_CIFAR, precision="bf16")),
    **dict(scoring=replace(CIFAR10.scoring, training=replace(_SCORE, precision="bf16"))),
    **dict(levels=10, replicates=8, sizes=(3200,), sweep_levels=(6, 8, 10)),
    **dict(barrier_sizes=(3200, 12800), onset_steps=()),
    warmup=replace(CIFAR10.warmup, training=replace(_WARMUP, precision="bf16"), sizes=(5120, 25600)),
)
# CIFAR10 with every number of steps divided by 10 (and fewer replicates, levels and sizes): it shows that the program
# runs on a GPU, and verifies no published number.
_SMALL_WARMUP = replace(_WARMUP, steps=784, milestones=(392, 588), precision="bf16")
SMALL = replace(
    CIFAR10,
    **dict(scale="small", training=replace(_CIFAR, steps=6240, milestones=(3120, 4680), precision="bf16")),
    **dict(scoring=Scoring("cifar_resnet20", replace(_SCORE, steps=780, precision="bf16"))),
    **dict(t_star=40, levels=10, replicates=2),
    **dict(sizes=(256, 1024, 3200), sweep_levels=(6, 8, 10), noise_size=1024),
    **dict(barrier_all=(20, 40), barrier_subsets=(20,), barrier_sizes=(256, 1024, 3200), onset_steps=(160, 640)),
    warmup=Warmup(_SMALL_WARMUP, (10, 40, 160), (5120, 25600), replicates=2),
)
# `make scores`: EL2N of CIFAR-10 without a GPU. The published scoring recipe (K = 10, 7,800 steps) with a network that
# the sparse engine trains in an hour or two a core. Nothing is pre-trained or pruned: the other fields only choose
# subsets, 8 random ones beside the easiest and the hardest.
SCORES = replace(CIFAR10, scale="scores", scoring=Scoring("cifar_resnet14_w4", _SCORE), replicates=8, warmup=None)
# The real CIFAR-10 at 16 x 16 on CPUs, within a night or two; docs/deviations.md has the pilots that chose it. t* is
# 5 % of the schedule, the paper's 0.6 %: 200 steps are the fewest that match the dense network.
_CPU = Training(steps=3900, milestones=(1950, 2925), batch_size=128, lr=0.3, weight_decay=5e-4, border=1)
_CPU_WARMUP = replace(_CPU, steps=490, milestones=(245, 368), batch_size=1024, lr=3.2)
CPU = Protocol(
    **dict(dataset="cifar10@16", scale="cpu", image_size=16, seed=1),
    **dict(network="cifar_resnet14_w8", training=_CPU),
    **dict(scoring=Scoring("cifar_resnet14_w8", replace(_CPU, steps=1950, milestones=(1300,)))),
    **dict(t_star=200, levels=12, replicates=8, second_look=16, judging_levels=(6, 7, 8, 9, 10)),
    **dict(subset_size=3200, sizes=(640, 1280, 3200), sweep_levels=(6, 8, 10), balanced=True),
    **dict(noise=(0.1, 0.5), noise_size=3200),
    **dict(barrier_all=(50, 100, 200), barrier_subsets=(100,), barrier_sizes=(640, 1280, 3200)),
    **dict(barrier_level=8, onset_steps=(400, 800, 1600)),
    warmup=Warmup(_CPU_WARMUP, (12, 48, 192), (3200,)),
)
# Real images of scikit-learn. docs/deviations.md lists the configurations tried before this one was frozen.
_DIGITS = Training(steps=440, milestones=(220, 330), batch_size=64, lr=1.0, augment=False)
_DIGITS_SCORE = replace(_DIGITS, steps=88, lr=0.1, milestones=())
_DIGITS_WARMUP = Training(steps=220, milestones=(110, 165), batch_size=128, lr=1.0, augment=False)
DIGITS = Protocol(
    **dict(
        dataset="digits", scale="demo", image_size=8, in_chans=1, train_images=1437, test_images=360, folds=5, seed=1
    ),
    **dict(network="cifar_resnet14_w4", training=_DIGITS),
    **dict(scoring=Scoring("cifar_resnet14_w4", _DIGITS_SCORE, networks=40, batch_norm="running")),
    **dict(t_star=20, levels=14, replicates=16, more_replicates=8, judging_levels=(10, 11, 12, 13, 14)),
    **dict(subset_size=256, sizes=(128, 256, 512), sweep_levels=(10, 12, 14), balanced=True),
    **dict(noise=(0.1, 0.5), noise_size=256),
    **dict(barrier_all=(10, 20, 40), barrier_subsets=(10,), barrier_sizes=(128, 256, 512)),
    **dict(barrier_level=12, onset_steps=(80, 160, 320)),
    warmup=Warmup(_DIGITS_WARMUP, (20, 40, 80), (256, 512), balanced_hard=True),
)

_PROTOCOLS = {(p.dataset, p.scale): p for p in (CIFAR10, CIFAR100, CINIC10, DAY, CPU, SMALL, SCORES, DIGITS)}


def protocol(dataset: str, scale: str | None = None) -> Protocol:
    """The protocol of a data set; without a scale the largest one defined for it.

    A user's folder of images gets CIFAR-10's protocol under its own name. A shrunken data set (``cifar10@8``) without a
    protocol gets that of the whole images. Raises UsageError for a scale that the data set does not have.
    """
    found = [p for p in _PROTOCOLS.values() if p.dataset == dataset and scale in (None, p.scale)]
    if found:
        return max(found, key=lambda p: SCALES.index(p.scale))
    base, size = split_size(dataset)
    if size is not None:
        return replace(protocol(base, scale), dataset=dataset, image_size=size)
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


def own(dataset: str, **fields) -> Protocol:
    """A protocol for a figure of the user's own: that of the data set with other ``fields``.

    Arguments:
        dataset: as in `protocol`. Images of ``folder:NAME``, which has to be in the working directory, are counted.
        fields: of `Protocol` (network, t_star, subset_size, levels, replicates, …) and of its `Training` (steps,
            batch_size, lr, milestones, schedule, …). A network given by its code (``net.py:NAME``) is pinned to it.

    Without such fields, the rate falls after a half and three quarters of the steps; scores come from ``network``,
    trained as long as for the rest, at the scoring recipe's rate; Figure 3 has one size, Figure 5 has t*/2 and t*,
    Figures 4 and 6 have nothing.

    Raises UsageError for an unknown field, and for a folder of images that cannot be counted.
    """
    p = protocol(dataset)
    trained = {name: fields.pop(name) for name in Training.__dataclass_fields__ if name in fields}
    allowed = Protocol.__dataclass_fields__.keys() - {"scale", "dataset", "training"}
    if unknown := fields.keys() - allowed:
        raise UsageError(f"own() does not take {', '.join(sorted(unknown))}: give fields of Protocol and of Training")
    if trained.get("schedule", "step") != "step":
        trained.setdefault("milestones", ())
    if "steps" in trained:
        trained.setdefault("milestones", tuple(m for m in (trained["steps"] // 2, 3 * trained["steps"] // 4) if m))
    judged = fields.get("judging_levels", p.judging_levels)
    if not judged or min(judged) < 0 or list(judged) != sorted(set(judged)):
        raise UsageError(f"judging_levels (={judged}) must be pruning levels, ascending: try {JUDGED}")
    if "network" in fields:
        fields["network"] = pinned(fields["network"])
    if dataset.startswith("folder:"):
        base, size = split_size(dataset)
        name, counted = _counted(Path(base.removeprefix("folder:")))
        counted |= {} if size is None else {"image_size": size}
        fields = {"dataset": sized(name, size), **counted, **fields}
    network, size, t = (fields.get(key, getattr(p, key)) for key in ("network", "subset_size", "t_star"))
    shared = {"steps", "batch_size", "augment", "border", "drop_last", "precision"} & trained.keys()
    alike = {key: trained[key] for key in shared}
    scoring = replace(p.scoring, network=network, training=replace(p.scoring.training, **alike))
    plain = dict(scoring=scoring, sizes=(size,), noise=(), noise_size=size, warmup=None, onset_steps=())
    plain |= dict(barrier_all=(t // 2, t), barrier_subsets=(t // 2,), barrier_sizes=(size,))
    return replace(p, scale=OWN, training=replace(p.training, **trained), **{**plain, **fields})


def _counted(folder: Path) -> tuple[str, dict[str, int]]:
    """(name as a data set, fields of its sizes) of a folder of images, which later commands find by that name."""
    from repro.data.folders import count_folder

    there = Path(os.path.expanduser(folder))
    counted = count_folder(there)
    here = Path(there.resolve().name)
    if not (here.is_dir() and here.samefile(there)):
        raise UsageError(f"folder:{folder} is not in the working directory: work in the folder that holds {here}")
    return f"folder:{here}", counted
