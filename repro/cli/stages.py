"""score, select, pretrain, imp."""

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
