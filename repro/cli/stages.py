"""score, select, pretrain, imp, barrier, branch, warmup, gradients: the commands that make an artifact."""

import click

from repro.cli.group import main
from repro.cli.options import (
    DATASET,
    MACHINE,
    OUT,
    PATH,
    REPLICATES,
    SCALE,
    SEED,
    TRAINING,
    is_given,
    machine,
    options,
    say_unused_data_options,
    training,
    without_effect,
)
from repro.errors import UsageError
from repro.experiment import MOST
from repro.protocol import Scoring, protocol

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".th", ".tar", ".bin", ".safetensors")
NEEDED = {"steps": "--steps", "batch_size": "--batch-size", "lr": "--lr", "milestones": "--milestones"}
LABELS = options(
    click.option(
        "--label-noise",
        type=float,
        default=0.0,
        show_default=True,
        help="Share of labels drawn at random [paper, Figure 4: 0.1, 0.5]. Mask search has the true ones.",
    ),
    click.option(
        "--noise-draw",
        type=click.Choice(["shared", "replicate"]),
        default="shared",
        show_default=True,
        help="One draw of the noise, or one per replicate.",
    ),
    click.option(
        "--labels",
        type=PATH,
        help="Labels of your own, of all images or the training ones: FILE or FILE:KEY (human.pt:worse_label).",
    ),
)


def show(result) -> None:
    click.echo(str(result))


def say_unused_labels(label_noise: float, noise_draw: str) -> None:
    if not label_noise and noise_draw == "shared":  # a draw of each replicate's own is refused
        without_effect("no label noise is drawn without --label-noise", "noise_draw")


@main.command()
@options(DATASET, SCALE)
@click.option("--networks", type=click.IntRange(1, MOST), help="K, networks of the ensemble [paper: 10].")
@click.option(
    "--batch-norm",
    type=click.Choice(["batch", "running"]),
    help="Statistics when scoring: of batches of 1000 images, or running ones [published code: batch].",
)
@click.option("--grand", is_flag=True, help="GraNd too: a backward pass for each image and network.")
@options(LABELS, TRAINING, SEED, REPLICATES, OUT, MACHINE)
def score(
    dataset,
    scale,
    networks,
    batch_norm,
    grand,
    label_noise,
    noise_draw,
    labels,
    network,
    normalization,
    seed,
    replicates,
    out,
    **given,
):
    """Scores of every training image, the mean over K networks: EL2N, margin, forgetting events, GraNd.

    \b
    Examples:
      repro score --dataset digits --out scores.h5
      repro score --dataset digits --label-noise 0.1 --out scores-noise10.h5
    """
    from repro import stages

    if dataset is None:
        raise UsageError("score needs --dataset: try --dataset digits")
    p, place = protocol(dataset, scale), machine(given)
    say_unused_data_options(dataset)
    say_unused_labels(label_noise, noise_draw)
    if p.folds == 1 and noise_draw == "shared":
        without_effect(f"{dataset} has no folds, so that all replicates share one set of scores", "replicates")
    own = p.scoring
    scoring = Scoring(
        network or own.network, training(own.training, given), networks or own.networks, batch_norm or own.batch_norm
    )
    show(
        stages.score(
            out,
            dataset=dataset,
            scoring=scoring,
            normalization=normalization or p.normalization,
            replicates=replicates or p.replicates,
            seed=p.seed if seed is None else seed,
            label_noise=label_noise,
            noise_draw=noise_draw,
            labels=labels,
            grand=grand,
            machine=place,
        )
    )


@main.command()
@click.option("--kind", type=click.Choice(["easy", "hard", "random"]), required=True, help="Which images.")
@click.option("--size", type=int, help="M, number of images [paper, Figure 2: 3200, 2048, 51200].")
@click.option(
    "--scores",
    type=PATH,
    help="What ranks the images (easy and hard): a score artifact, a barrier artifact, "
    "or a file of your own (FILE:COLUMN), easiest lowest.",
)
@click.option(
    "--score",
    type=click.Choice(["el2n", "margin", "forgetting", "grand"]),
    help="Which one of a score artifact [paper: el2n].",
)
@options(DATASET, SCALE)
@click.option(
    "--balanced/--unbalanced", default=None, help="As many of each class [paper: random yes, easy and hard no]."
)
@click.option("--like", type=PATH, help="Random images with this subset artifact's class histogram.")
@click.option(
    "--permute-scores", is_flag=True, help="A control that has to fail: permute the scores among images first."
)
@options(LABELS, SEED, REPLICATES, OUT, MACHINE)
def select(kind, size, scores, dataset, scale, seed, replicates, out, **given):
    """Choose the easiest, hardest or random images to pre-train on.

    \b
    Examples:
      repro select --kind easy --size 256 --scores scores.h5 --out easy.h5
      repro select --kind easy --size 256 --scores scores.h5 --score forgetting --out easy-forgetting.h5
      repro select --kind random --size 256 --dataset digits --label-noise 0.1 --out random-noise10.h5
    """
    from repro import stages, store
    from repro.stages.select import ranking_artifact

    place = machine(given)
    source = ranking_artifact(scores) if scores else None
    if not scores and given["like"]:
        source = store.read_header(given["like"], kind="subset")
    if source:
        named = source.recipe["dataset"]
        if dataset not in (None, named):
            raise UsageError(f"--dataset {dataset}, but {source.path} is of {named}: leave --dataset out")
        p, dataset = protocol(named, scale), None
    elif dataset is None and scores:
        raise UsageError(f"{scores} does not say which data set it scores: give --dataset")
    elif dataset is None:
        raise UsageError("select needs --scores (easy, hard), or --dataset (random)")
    else:
        p = protocol(dataset, scale)
    say_unused_data_options(p.dataset)
    say_unused_labels(given["label_noise"], given["noise_draw"])
    without_effect("select trains and measures no network", "device", "engine", "threads", "checkpoint_seconds")
    drawn = kind == "random" or given["permute_scores"] or given["label_noise"]
    if not drawn:
        without_effect(f"nothing is drawn for {kind} images", "seed")
    if given["like"]:
        without_effect("the classes are those of --like", "balanced")
    elsewhere = {"size": True, "replicates": True, "seed": drawn, "balanced": kind != "random"}
    if all(is_given(name) for name, needed in elsewhere.items() if needed):
        without_effect("other options say all that it would", "scale")
    if given["balanced"] is None and kind != "random":
        given["balanced"] = p.balanced
    show(
        stages.select(
            out,
            kind=kind,
            size=p.subset_size if size is None else size,
            scores=scores,
            dataset=dataset,
            normalization=None if source else p.normalization,
            replicates=replicates or p.replicates,
            seed=p.seed if seed is None else seed,
            machine=place,
            **given,
        )
    )


@main.command()
@click.option("--subset", type=PATH, help="Subset artifact to pre-train on [default: all training images].")
@options(DATASET, SCALE)
@click.option("-t", "--rewind-step", "t", type=int, help="Steps of pre-training, t_r [paper: 400, 800, 800 and half].")
@options(LABELS, TRAINING, SEED, REPLICATES, OUT, MACHINE)
def pretrain(
    subset, dataset, scale, t, label_noise, noise_draw, labels, network, normalization, seed, replicates, out, **given
):
    """Train the dense network for t steps: its weights are the rewind point.

    \b
    Examples:
      repro pretrain --dataset digits -t 20 --out all-t20.h5
      repro pretrain --subset easy.h5 -t 10 --out easy-t10.h5
    """
    from repro import stages, store

    if (subset is None) == (dataset is None):
        raise UsageError("pretrain needs either --dataset (all its training images) or --subset")
    place = machine(given)
    p = protocol(store.read_header(subset, kind="subset").recipe["dataset"] if subset else dataset, scale)
    say_unused_data_options(p.dataset)
    say_unused_labels(label_noise, noise_draw)
    if t == 0:
        without_effect("-t 0 trains nothing", "label_noise", "labels", "checkpoint_seconds")
    show(
        stages.pretrain(
            out,
            dataset=dataset,
            subset=subset,
            t=p.t_star if t is None else t,
            network=network or p.network,
            training=training(p.training, given),
            normalization=normalization or (None if subset else p.normalization),
            replicates=replicates or p.replicates,
            seed=p.seed if seed is None else seed,
            label_noise=label_noise,
            noise_draw=noise_draw,
            labels=labels,
            machine=place,
        )
    )


@main.command()
@click.argument("rewind_point", type=PATH)
@click.option(
    "--levels", type=click.IntRange(0, MOST), help="Pruning levels after the dense one [paper: 16; CINIC 12]."
)
@click.option("--prune-fraction", type=float, default=0.2, show_default=True, help="Of surviving weights, per level.")
@options(REPLICATES, OUT, MACHINE)
def imp(rewind_point, levels, prune_fraction, replicates, out, **given):
    """Iterative magnitude pruning from a rewind point: train, prune, rewind, and again.

    \b
    Example:
      repro imp easy-t10.h5 --levels 12 --out imp.h5
    """
    from repro import stages, store

    place = machine(given)
    named = store.read_header(rewind_point, kind="pretrain").recipe["dataset"]
    say_unused_data_options(named)
    if levels is None:
        levels = protocol(named).levels
    show(
        stages.imp(
            out, rewind_point, levels=levels, replicates=replicates, prune_fraction=prune_fraction, machine=place
        )
    )


@main.command()
@click.argument("points", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="Artifact to write (HDF5). It grows: nothing is redone.")
@click.option("--children", type=click.IntRange(1, MOST), help="Networks per parent besides its own run [paper: 2].")
@click.option(
    "--alphas",
    default="0.5",
    show_default=True,
    help="Where on the line: a number of equally spaced points, or values with commas; 0, 0.5 and 1 are always there.",
)
@click.option(
    "--batch-norm",
    type=click.Choice(["averaged", "recalibrated", "both"]),
    default="averaged",
    show_default=True,
    help="Statistics on the line [published: averaged].",
)
@click.option(
    "--level", type=click.IntRange(0, MOST), help="Train children of this level's ticket [default: 0, dense]."
)
@click.option("--replicates", type=click.IntRange(1, MOST), help="Number of parents [default: all].")
@click.option("--successive", is_flag=True, help="Between successive levels of one imp artifact; trains nothing.")
@click.option("--network", help="The points are two checkpoints (.pt, .safetensors) of this network.")
@click.option("--dataset", help="Data set for two checkpoints [default: cifar10].")
@click.option(
    "--normalization",
    type=click.Choice(["dataset", "imagenet"]),
    help="Constants for two checkpoints [default: the data set's protocol's].",
)
@options(MACHINE)
def barrier(
    points, out, children, alphas, batch_norm, level, replicates, successive, network, dataset, normalization, **given
):
    """Loss barrier on the line between networks: children of rewind points, levels of a run, or two checkpoints.

    POINTS are imp or pretrain artifacts; each parent's children are trained to the end with other data orders.

    \b
    Examples:
      repro barrier all-t10.h5 all-t20.h5 --batch-norm both --out barrier.h5
      repro barrier imp.h5 --level 7 --alphas 11 --out sparse.h5
      repro barrier imp.h5 --successive --out levels.h5
      repro barrier A.pt B.pt --network cifar_resnet20 --dataset cifar10 --alphas 11
    """
    from repro import stages, store
    from repro.stages.barriers.checkpoints import between_checkpoints

    files = [path for path in points if path.suffix.lower() in CHECKPOINTS]
    _refuse({"--dataset": dataset, "--normalization": normalization}, network is None, "two checkpoints and --network")
    training = {"--children": children, "--level": level}
    if network is None and files:
        raise UsageError(f"{files[0]} is a PyTorch checkpoint: give two of them with --network and --dataset")
    common = {"alphas": alphas, "batch_norm": batch_norm, "machine": machine(given)}
    if network is not None:
        _refuse({**training, "--replicates": replicates, "--successive": successive or None}, True, "artifacts")
        if len(points) != 2:
            raise UsageError(f"--network is for two checkpoints, and {len(points)} files are given: name exactly two")
        dataset = dataset or "cifar10"
        say_unused_data_options(dataset)
        without_effect("two checkpoints are only measured", "checkpoint_seconds")
        if out is None:
            without_effect("without --out nothing is written", "force", "tensorboard")
        result = between_checkpoints(
            out, *points, network=network, dataset=dataset, normalization=normalization, **common
        )
        click.echo("\n".join(result.lines) if out is None else str(result))
        return
    if out is None:
        raise UsageError("barrier needs --out for artifacts: name the file to write, like --out barrier.h5")
    say_unused_data_options(store.read_header(points[0]).recipe.get("dataset", ""))
    if successive:
        without_effect("--successive trains nothing", "checkpoint_seconds")
        _refuse(training, True, "children, which --successive does not train")
        if len(points) != 1:
            raise UsageError(f"--successive takes one imp artifact, and {len(points)} files are given: name one")
        result = stages.successive(out, points[0], replicates=replicates, **common)
    else:
        result = stages.barrier(
            out, points, children=2 if children is None else children, level=level or 0, replicates=replicates, **common
        )
    click.echo(str(result))


def _refuse(named: dict, without_effect: bool, belongs_to: str) -> None:
    for option, value in named.items():
        if without_effect and value is not None:
            raise UsageError(f"{option} (={value}) is for {belongs_to}: leave it out")


@main.command()
@click.argument("run", type=PATH)
@click.option("--levels", help="Pruning levels of the run, like 8,10 [default: all but the dense one].")
@click.option(
    "--mask",
    default="own",
    show_default=True,
    help="own, shuffled (within layers), random (as many weights, anywhere), or a file: an imp or branch "
    "artifact, .npy, .pt or .safetensors.",
)
@click.option(
    "--weights",
    default="rewound",
    show_default=True,
    help="rewound, reinitialised (clock at t all the same), or a pretrain or imp artifact to rewind to.",
)
@options(REPLICATES, OUT, MACHINE)
def branch(run, levels, mask, weights, replicates, out, **given):
    """Retrain levels of a stored run, an imp artifact, with another mask or other weights.

    \b
    Examples:
      repro branch imp.h5 --mask shuffled --out shuffled.h5
      repro branch imp.h5 --levels 8,10 --weights reinitialised --out reinitialised.h5
      repro branch imp.h5 --weights all-t20.h5 --out masks-from-easy-weights-from-all.h5
    """
    from repro import stages, store

    place = machine(given)
    say_unused_data_options(store.read_header(run, kind="imp").recipe["dataset"])
    if levels is not None:
        try:
            levels = [int(word) for word in levels.split(",")]
        except ValueError:
            raise UsageError(f"levels (={levels!r}) must be numbers with commas, like 8,10") from None
    show(stages.branch(out, run, levels=levels, mask=mask, weights=weights, replicates=replicates, machine=place))


@main.command()
@options(DATASET, SCALE)
@click.option(
    "--subset",
    "subsets",
    type=PATH,
    multiple=True,
    help="Subset artifact to warm up on (repeatable); all training images always are one condition.",
)
@click.option("--warmup-steps", help="The w's of the sweep, with commas [default: the protocol's].")
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def warmup(dataset, scale, subsets, warmup_steps, network, normalization, seed, replicates, out, **given):
    """Linear warm-up over w steps on a subset, then all data: a sweep of w, subsets and replicates.

    Every network is trained to the end: first with a learning rate that rises from 0, on the subset, then on all
    training images, momentum and all carried over. A network that diverges counts as chance and is a result. In the
    paper (Figure 6): 7840 steps, batch 1024, lr 3.2, milestones 3920,5880, w 100 to 3200, 8 replicates.

    \b
    Example:
      repro warmup --dataset digits --subset easy.h5 --warmup-steps 10,20,40 --out warmup.h5
    """
    from repro import stages, store

    if dataset is None and not subsets:
        raise UsageError("warmup needs --dataset, or a --subset to take it from: try --dataset digits")
    place = machine(given)
    p = protocol(dataset or store.read_header(subsets[0], kind="subset").recipe["dataset"], scale)
    say_unused_data_options(p.dataset)
    steps = _steps(warmup_steps)
    missing = [option for name, option in NEEDED.items() if given[name] is None]
    if steps is None:
        missing.append("--warmup-steps")
    if p.warmup is None and missing:
        raise UsageError(f"the protocol of {p.dataset} has no warm-up: give {', '.join(missing)}")
    base = p.warmup.training if p.warmup else p.training
    show(
        stages.warmup(
            out,
            dataset=dataset,
            subsets=subsets,
            steps=p.warmup.steps if steps is None else steps,
            network=network or p.network,
            training=training(base, given),
            normalization=normalization or (None if subsets else p.normalization),
            replicates=replicates or (p.warmup or p).replicates,
            seed=p.seed if seed is None else seed,
            machine=place,
        )
    )


def _steps(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"warm-up steps (={text!r}) must be numbers of steps with commas, like 100,200,400") from None


@main.command()
@click.option("--subset", type=PATH, help="Subset artifact to train on [default: all training images].")
@options(DATASET, SCALE)
@click.option("-t", "--rewind-step", "t", type=int, help="Steps of training [paper's appendix: 1600].")
@click.option("--every", type=int, default=10, show_default=True, help="Steps between measurements.")
@click.option(
    "--batches", type=click.IntRange(2, MOST), default=16, show_default=True, help="Mini-batches per measurement."
)
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def gradients(subset, dataset, scale, t, every, batches, network, normalization, seed, replicates, out, **given):
    """Agreement of mini-batch gradients while pre-training: cosine similarity of each to their mean.

    \b
    Examples:
      repro gradients --dataset digits -t 40 --out gradients-all.h5
      repro gradients --subset easy.h5 -t 40 --every 5 --out gradients-easy.h5
    """
    from repro import stages, store

    if (subset is None) == (dataset is None):
        raise UsageError("gradients needs either --dataset (all its training images) or --subset")
    place = machine(given)
    p = protocol(store.read_header(subset, kind="subset").recipe["dataset"] if subset else dataset, scale)
    say_unused_data_options(p.dataset)
    if t == 0:
        without_effect("-t 0 trains nothing", "every", "checkpoint_seconds")
    show(
        stages.gradients(
            out,
            dataset=dataset,
            subset=subset,
            t=p.t_star if t is None else t,
            every=every,
            batches=batches,
            network=network or p.network,
            training=training(p.training, given),
            normalization=normalization or (None if subset else p.normalization),
            replicates=replicates or p.replicates,
            seed=p.seed if seed is None else seed,
            machine=place,
        )
    )
