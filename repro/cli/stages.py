"""score, select, pretrain, imp, barrier, branch, warmup, gradients: the commands that make an artifact."""

import click

from repro.cli.group import main
from repro.cli.options import (
    DATASET,
    LABELS,
    LEVELS,
    MACHINE,
    NORMALIZATIONS,
    OUT,
    PATH,
    RAMP,
    REPLICATES,
    SCALE,
    SEED,
    TRAINING,
    Listed,
    Percentage,
    is_given,
    machine,
    option,
    options,
    recipe,
    refuse,
    say_unused_data_options,
    say_unused_labels,
    trains,
    where,
    without_effect,
)
from repro.errors import UsageError
from repro.experiment import MOST
from repro.protocol import Protocol, Scoring, protocol
from repro.recipes.pruning import POINTS, REWINDS, Pruning

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".th", ".tar", ".bin", ".safetensors")
WARMUPS = Listed(int, ("warm-up steps", "numbers of steps with commas, like 100,200,400"))
NEEDED = {"steps": "--steps", "batch_size": "--batch-size", "lr": "--lr", "milestones": "--milestones"}
SUBSET = option("--subset", type=PATH, help="Subset artifact to train on [default: all training images].")
RANKING = (
    "What ranks the images (easy and hard): a score artifact, a barrier artifact, or a file of your own (FILE:COLUMN), "
    "easiest lowest."
)
INDICES = (
    "Instead of --kind: the numbers of training images, the first 0, that others published: .npy, .csv, .txt, .json or "
    ".pt."
)
MASKS = (
    "own, shuffled (within layers), random (as many weights, anywhere), or a file: an imp or branch artifact, "
    ".npy, .pt or .safetensors."
)
CRITERION = (
    "What goes: magnitude (of the whole network), layerwise, random, erk (random, Erdős–Rényi-kernel densities), snip, "
    "synflow, grasp, or FILE.py:NAME, your function (weights, gradients, masks) -> scores, dicts by name, of which the "
    "lowest go."
)
PRUNE_AT = (
    "The weights that are ranked: those trained at the level before, or of the dense network at the rewind point or at "
    "initialisation [default: trained; snip, synflow, grasp: rewind-point]."
)
KEEP_DENSE = "Layers that are not pruned, like fc or stem,layer1.*; densities count their weights [default: none]."
REWIND = (
    "What a level goes back to: weights [paper], learning-rate (weights go on, the schedule from -t again), none (both "
    "go on, at the last rate)."
)
PATTERNS = Listed(str, ("layers to keep dense", "patterns of names with commas, like fc,layer1.*"))
ALPHAS = "Where on the line: a number of equally spaced points, or values with commas; 0, 0.5 and 1 are always there."


@main.command()
@options(DATASET, SCALE)
@option("--networks", type=click.IntRange(1, MOST), help="K, networks of the ensemble [paper: 10].")
@option(
    "--batch-norm",
    type=click.Choice(["batch", "running"]),
    help="Statistics when scoring: of batches of 1000 images, or running ones [published code: batch].",
)
@option("--grand", is_flag=True, help="GraNd too: a backward pass for each image and network.")
@options(LABELS, TRAINING, RAMP, SEED, REPLICATES, OUT, MACHINE)
def score(out, dataset, scale, networks, batch_norm, **given):
    """Scores of every training image, the mean over K networks: EL2N, margin, forgetting events, GraNd.

    \b
    Examples:
      repro score --dataset digits --out scores.h5
      repro score --dataset digits --label-noise 0.1 --out scores-noise10.h5
    """
    from repro import stages

    if dataset is None:
        raise UsageError("score needs --dataset: try --dataset digits")
    p = protocol(dataset, scale)
    base = p.scoring
    given = recipe(p, given, training=base.training, network=base.network)
    say_unused_data_options(dataset)
    say_unused_labels(given["label_noise"], given["noise_draw"])
    if p.folds == 1 and given["noise_draw"] == "shared":
        without_effect(f"{dataset} has no folds, so that all replicates share one set of scores", "replicates")
    network, training = given.pop("network"), given.pop("training")
    scoring = Scoring(network, training, networks or base.networks, batch_norm or base.batch_norm)
    return stages.score(out, dataset=dataset, scoring=scoring, **given)


@main.command()
@option("--kind", type=click.Choice(["easy", "hard", "random"]), help="Which images.")
@option("--size", type=int, help="M, number of images [paper, Figure 2: 3200, 2048, 51200].")
@option("--indices", type=PATH, help=INDICES)
@option("--from", "start", type=Percentage(), help="Instead of --kind: the band of the ranking from here, like 10% …")
@option("--to", "stop", type=Percentage(), help="… up to here, like 40%; 0% is the easiest image, 100% the hardest.")
@option("--scores", type=PATH, help=RANKING)
@option(
    "--score",
    type=click.Choice(["el2n", "margin", "forgetting", "grand"]),
    help="Which one of a score artifact [paper: el2n].",
)
@options(DATASET, SCALE)
@option("--balanced/--unbalanced", default=None, help="As many of each class [paper: random yes, easy and hard no].")
@option("--like", type=PATH, help="Random images with this subset artifact's class histogram.")
@option("--permute-scores", is_flag=True, help="A control that has to fail: permute the scores among images first.")
@options(LABELS, SEED, REPLICATES, OUT, MACHINE)
def select(kind, size, indices, start, stop, scores, dataset, scale, seed, replicates, out, **given):
    """Choose the easiest, hardest or random images to pre-train on, a band of the scores, or a published list.

    \b
    Examples:
      repro select --kind easy --size 256 --scores scores.h5 --out easy.h5
      repro select --kind easy --size 256 --scores scores.h5 --score forgetting --out easy-forgetting.h5
      repro select --kind random --size 256 --dataset digits --label-noise 0.1 --out random-noise10.h5
      repro select --from 10% --to 40% --scores scores.h5 --out band.h5
      repro select --indices coreset.npy --dataset cifar10 --out coreset.h5

    `repro export --part indices` writes the numbers of a subset's images for others.
    """
    from repro import stages, store
    from repro.stages.ranking import ranking_artifact

    if (start is None) != (stop is None):
        lacking = "--to" if stop is None else "--from"
        raise UsageError(f"a band of the scores needs --from and --to, like 10% and 40%: give {lacking} too")
    if sum(each is not None for each in (kind, indices, start)) != 1:
        raise UsageError("select takes one of --kind easy, hard or random; --indices FILE; --from and --to: give one")
    kind = kind or ("given" if indices else "band")

    place = machine(given)
    source = ranking_artifact(scores) if scores else None
    if not scores and given["like"]:
        source = store.read_header(given["like"], kind="subset")
    named = source.recipe["dataset"] if source else dataset
    if dataset not in (None, named):
        raise UsageError(f"--dataset {dataset}, but {source.path} is of {named}: leave --dataset out")
    if named is None and scores:
        raise UsageError(f"{scores} does not say which data set it scores: give --dataset")
    if named is None:
        needed = "--dataset" if indices else "--scores" if kind == "band" else ""
        raise UsageError(f"select needs {needed or '--scores (easy, hard), or --dataset (random)'}")
    p = protocol(named, scale)
    say_unused_data_options(p.dataset)
    say_unused_labels(given["label_noise"], given["noise_draw"])
    without_effect("select trains and measures no network", "device", "engine", "threads", "checkpoint_seconds")
    sized = kind in ("easy", "hard", "random")
    if sized and size is None:
        size = p.subset_size
    drawn = kind == "random" or given["permute_scores"] or given["label_noise"]
    if not drawn:
        without_effect(f"nothing is drawn for {kind} images", "seed")
    if given["like"]:
        without_effect("the classes are those of --like", "balanced")
    elsewhere = {"size": sized, "replicates": True, "seed": drawn, "balanced": kind in ("easy", "hard")}
    if all(is_given(name) for name, needed in elsewhere.items() if needed):
        without_effect("other options say all that it would", "scale")
    if given["balanced"] is None and kind in ("easy", "hard"):
        given["balanced"] = p.balanced
    return stages.select(
        out,
        kind=kind,
        size=size,
        indices=indices,
        between=None if start is None else (start, stop),
        scores=scores,
        dataset=None if source else dataset,
        normalization=None if source else p.normalization,
        replicates=replicates or p.replicates,
        seed=p.seed if seed is None else seed,
        machine=place,
        **given,
    )


def _protocol(command: str, dataset: str | None, subset, scale: str | None) -> Protocol:
    """The protocol of the data set, or of the subset's."""
    from repro import store

    if (subset is None) == (dataset is None):
        raise UsageError(f"{command} needs either --dataset (all its training images) or --subset")
    return protocol(store.read_header(subset, kind="subset").recipe["dataset"] if subset else dataset, scale)


@main.command()
@options(DATASET, SUBSET, SCALE)
@option("-t", "--rewind-step", "t", type=int, help="Steps of pre-training, t_r [paper: 400, 800, 800 and half].")
@options(LABELS, TRAINING, RAMP, SEED, REPLICATES, OUT, MACHINE)
def pretrain(out, subset, dataset, scale, t, **given):
    """Train the dense network for t steps: its weights are the rewind point.

    \b
    Examples:
      repro pretrain --dataset digits -t 20 --out all-t20.h5
      repro pretrain --subset easy.h5 -t 10 --out easy-t10.h5
    """
    from repro import stages

    p = _protocol("pretrain", dataset, subset, scale)
    given = recipe(p, given, inherits=bool(subset))
    say_unused_data_options(p.dataset)
    say_unused_labels(given["label_noise"], given["noise_draw"])
    if t == 0:
        without_effect("-t 0 trains nothing", "label_noise", "labels", "checkpoint_seconds")
    return stages.pretrain(out, dataset=dataset, subset=subset, t=p.t_star if t is None else t, **given)


@main.command()
@click.argument("rewind_point", type=PATH)
@option("--levels", type=click.IntRange(0, MOST), help="Pruning levels after the dense one [paper: 16; CINIC 12].")
@trains("--prune-fraction", type=float, default=0.2, help="Of surviving weights, per level.")
@trains("--pruning", default="magnitude", metavar="CRITERION", help=CRITERION)
@trains("--prune-at", type=click.Choice(POINTS), help=PRUNE_AT)
@trains(
    "--batches",
    type=click.IntRange(1, MOST),
    help="Batches of images for gradients (snip, grasp, FILE.py) [default: 1].",
)
@trains("--keep-dense", type=PATTERNS, metavar="PATTERN,…", help=KEEP_DENSE)
@trains("--rewind", type=click.Choice(REWINDS), default="weights", help=REWIND)
@trains(
    "--finetune-steps", type=click.IntRange(1), help="Of a level with --rewind none [default: steps - t, as others]."
)
@options(REPLICATES, OUT, MACHINE)
def imp(rewind_point, levels, prune_fraction, replicates, out, **given):
    """Iterative magnitude pruning from a rewind point: train, prune, rewind, and again.

    \b
    Examples:
      repro imp easy-t10.h5 --levels 12 --out imp.h5
      repro imp easy-t10.h5 --levels 12 --rewind learning-rate --out imp-rate.h5
      repro imp easy-t10.h5 --levels 12 --pruning synflow --keep-dense fc --out synflow.h5
    """
    from repro import stages, store

    place = machine(given)
    named = store.read_header(rewind_point, kind="pretrain").recipe["dataset"]
    say_unused_data_options(named)
    levels = protocol(named).levels if levels is None else levels
    criterion, at, keep = given.pop("pruning"), given.pop("prune_at"), given.pop("keep_dense") or ()
    pruning = Pruning(criterion, at, keep_dense=keep, **given)
    chosen = {"levels": levels, "replicates": replicates, "prune_fraction": prune_fraction, "pruning": pruning}
    return stages.imp(out, rewind_point, **chosen, machine=place)


@main.command()
@click.argument("points", nargs=-1, required=True, type=PATH)
@option("--children", type=click.IntRange(1, MOST), help="Networks per parent besides its own run [paper: 2].")
@option("--alphas", default="0.5", help=ALPHAS)
@option(
    "--batch-norm",
    type=click.Choice(["averaged", "recalibrated", "both"]),
    default="averaged",
    help="Statistics on the line [published: averaged].",
)
@option("--level", type=click.IntRange(0, MOST), help="Train children of this level's ticket [default: 0, dense].")
@option("--replicates", type=click.IntRange(1, MOST), help="Number of parents [default: all].")
@option("--successive", is_flag=True, help="Between successive levels of one imp artifact; trains nothing.")
@option("--network", help="The points are two checkpoints (.pt, .safetensors) of this network.")
@option("--dataset", help="Data set for two checkpoints [default: cifar10].")
@option(
    "--normalization", type=NORMALIZATIONS, help="Constants for two checkpoints [default: the data set's protocol's]."
)
@where("--out", type=PATH, help="Artifact to write (HDF5). It grows: nothing is redone.")
@options(MACHINE)
def barrier(points, out, children, level, replicates, successive, network, dataset, normalization, **given):
    """Loss barrier on the line between networks: children of rewind points, levels of a run, or two checkpoints.

    \b
    Examples:
      repro barrier all-t10.h5 all-t20.h5 --batch-norm both --out barrier.h5
      repro barrier imp.h5 --level 7 --alphas 11 --out sparse.h5
      repro barrier imp.h5 --successive --out levels.h5
      repro barrier A.pt B.pt --network cifar_resnet20 --dataset cifar10 --alphas 11

    POINTS are imp or pretrain artifacts; each parent's children are trained to the end with other data orders.
    """
    from repro import stages, store
    from repro.stages.barriers.checkpoints import between_checkpoints

    files = [path for path in points if path.suffix.lower() in CHECKPOINTS]
    given["machine"] = machine(given)
    if network is None:
        refuse("two checkpoints and --network", "dataset", "normalization")
        if files:
            raise UsageError(f"{files[0]} is a PyTorch checkpoint: give two of them with --network and --dataset")
        if out is None:
            raise UsageError("barrier needs --out for artifacts: name the file to write, like --out barrier.h5")
    else:
        refuse("artifacts", "children", "level", "replicates", "successive")
        if len(points) != 2:
            raise UsageError(f"--network is for two checkpoints, and {len(points)} files are given: name exactly two")
        dataset = dataset or "cifar10"
        say_unused_data_options(dataset)
        without_effect("two checkpoints are only measured", "checkpoint_seconds")
        if out is None:
            without_effect("without --out nothing is written", "force", "tensorboard")
        given |= {"network": network, "dataset": dataset, "normalization": normalization}
        result = between_checkpoints(out, *points, **given)
        return "\n".join(result.lines) if out is None else result
    say_unused_data_options(store.read_header(points[0]).recipe.get("dataset", ""))
    given["replicates"] = replicates
    if not successive:
        return stages.barrier(out, points, children=2 if children is None else children, level=level or 0, **given)
    without_effect("--successive trains nothing", "checkpoint_seconds")
    refuse("children, which --successive does not train", "children", "level")
    if len(points) != 1:
        raise UsageError(f"--successive takes one imp artifact, and {len(points)} files are given: name one")
    return stages.successive(out, points[0], **given)


@main.command()
@click.argument("run", type=PATH)
@option("--levels", type=LEVELS, help="Pruning levels of the run, like 8,10 [default: all but the dense one].")
@option("--mask", default="own", help=MASKS)
@option(
    "--weights",
    default="rewound",
    help="rewound, reinitialised (clock at t all the same), or a pretrain or imp artifact to rewind to.",
)
@options(REPLICATES, OUT, MACHINE)
def branch(run, out, levels, mask, weights, replicates, **given):
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
    chosen = {"levels": levels, "mask": mask, "weights": weights, "replicates": replicates}
    return stages.branch(out, run, **chosen, machine=place)


@main.command()
@options(DATASET, SCALE)
@option(
    "--subset",
    "subsets",
    type=PATH,
    multiple=True,
    help="Subset artifact to warm up on (repeatable); all training images always are one condition.",
)
@option("--warmup-steps", type=WARMUPS, help="The w's of the sweep, with commas [default: the protocol's].")
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def warmup(out, dataset, scale, subsets, warmup_steps, **given):
    """Linear warm-up over w steps on a subset, then all data: a sweep of w, subsets and replicates.

    \b
    Example:
      repro warmup --dataset digits --subset easy.h5 --warmup-steps 10,20,40 --out warmup.h5

    Every network is trained to the end: first with a learning rate that rises from 0, on the subset, then on all
    training images, momentum and all carried over. A network that diverges counts as chance and is a result. In the
    paper (Figure 6): 7840 steps, batch 1024, lr 3.2, milestones 3920,5880, w 100 to 3200, 8 replicates.
    """
    from repro import stages, store

    if dataset is None and not subsets:
        raise UsageError("warmup needs --dataset, or a --subset to take it from: try --dataset digits")
    p = protocol(dataset or store.read_header(subsets[0], kind="subset").recipe["dataset"], scale)
    needed = {**{name: given[name] for name in NEEDED}, "warmup_steps": warmup_steps}
    if given["epochs"] is not None:
        del needed["steps"]
    if given["schedule"] not in (None, "step"):
        del needed["milestones"]
    missing = [NEEDED.get(name, "--warmup-steps") for name, value in needed.items() if value is None]
    if p.warmup is None and missing:
        raise UsageError(f"the protocol of {p.dataset} has no warm-up: give {', '.join(missing)}")
    base = {"training": p.warmup.training, "replicates": p.warmup.replicates} if p.warmup else {}
    given = recipe(p, given, **base, inherits=bool(subsets))
    say_unused_data_options(p.dataset)
    steps = p.warmup.steps if warmup_steps is None else warmup_steps
    return stages.warmup(out, dataset=dataset, subsets=subsets, steps=steps, **given)


@main.command()
@options(DATASET, SUBSET, SCALE)
@option("-t", "--rewind-step", "t", type=int, help="Steps of training [paper's appendix: 1600].")
@option("--every", type=int, default=10, help="Steps between measurements.")
@option("--batches", type=click.IntRange(2, MOST), default=16, help="Mini-batches per measurement.")
@options(TRAINING, RAMP, SEED, REPLICATES, OUT, MACHINE)
def gradients(out, subset, dataset, scale, t, **given):
    """Agreement of mini-batch gradients while pre-training: cosine similarity of each to their mean.

    \b
    Examples:
      repro gradients --dataset digits -t 40 --out gradients-all.h5
      repro gradients --subset easy.h5 -t 40 --every 5 --out gradients-easy.h5
    """
    from repro import stages

    p = _protocol("gradients", dataset, subset, scale)
    given = recipe(p, given, inherits=bool(subset))
    say_unused_data_options(p.dataset)
    if t == 0:
        without_effect("-t 0 trains nothing", "every", "checkpoint_seconds")
    return stages.gradients(out, dataset=dataset, subset=subset, t=p.t_star if t is None else t, **given)
