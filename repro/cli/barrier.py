"""barrier: between children of rewind points, between the levels of a run, between two checkpoints."""

import click

from repro.cli.group import main
from repro.cli.options import MACHINE, PATH, machine, options, say_unused_data_options, without_effect
from repro.errors import UsageError
from repro.experiment import MOST

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".th", ".tar", ".bin", ".safetensors")


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
