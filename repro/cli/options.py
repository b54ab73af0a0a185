"""Options that several commands share, and what is made of them."""

import dataclasses
import functools
from pathlib import Path

import click
from click.core import ParameterSource

from repro.data.shrink import sized, split_size
from repro.errors import UsageError
from repro.experiment import MOST
from repro.protocol import SCALES

ENGINES = ("auto", "graph", "sparse", "serial")
PRECISIONS = ("fp32", "bf16")


def options(*decorators):
    """One decorator of several."""

    def apply(function):
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


PATH = click.Path(path_type=Path)


def DATASET(function):
    """--dataset, with the size that --image-size adds to its name."""

    @functools.wraps(function)
    def with_size(*args, dataset, image_size, **given):
        if image_size is not None and dataset is None:
            raise UsageError(
                f"--image-size {image_size} shrinks the images of --dataset: give that one too, or leave "
                "both out where a subset or scores say which images"
            )
        return function(*args, dataset=dataset and sized(dataset, image_size), **given)

    return options(
        click.option("--dataset", help="cifar10, cifar100, cinic10, digits, or folder:PATH (train/ and test/ inside)."),
        click.option(
            "--image-size",
            type=click.IntRange(1),
            metavar="N",
            help="Shrink the images to N x N by means of whole boxes; the data set is then cifar10@N, which "
            "--dataset takes too [default: as they are].",
        ),
    )(with_size)


SCALE = click.option(
    "--scale", type=click.Choice(SCALES), help="Protocol to take defaults from [default: the data set's]."
)
SEED = click.option("--seed", type=int, help="Base seed of all random streams [default: the protocol's].")
REPLICATES = click.option(
    "--replicates",
    type=click.IntRange(1, MOST),
    help="Number of replicates [default: the protocol's; imp, barrier, branch: all of their input].",
)
OUT = click.option("--out", type=PATH, required=True, help="Artifact to write (HDF5). It grows: nothing is redone.")
RESULTS = click.option("--results", type=PATH, help="Folder of artifacts [default: results/SCALE].")
CONTROL = click.option(
    "--control", help="An experiment that has to fail: permute-scores, swap-easy-hard or shuffle-mask."
)
PANELS = click.option("--dataset", "datasets", multiple=True, help="Only these panels (repeatable) [default: all].")
DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
MACHINE = options(
    DEVICE,
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="auto",
        show_default=True,
        help="How replicates are trained together.",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads [default: OMP_NUM_THREADS, or all CPUs]."),
    click.option("--data-dir", type=PATH, help="Folder that holds the data sets [default: data]."),
    click.option("--download", is_flag=True, help="Fetch a missing CIFAR archive (checksummed)."),
    click.option(
        "--checkpoint-seconds",
        type=float,
        default=60,
        show_default=True,
        help="Time between checkpoints within a level.",
    ),
    click.option("--force", is_flag=True, help="Begin anew, whatever stands at --out."),
    click.option("--dry-run", is_flag=True, help="Say what would be computed, and stop."),
    click.option(
        "--tensorboard",
        type=PATH,
        metavar="DIR",
        help="Write curves for TensorBoard there (an extra: make .venv/.extras) [default: none].",
    ),
)
TRAINING = options(
    click.option(
        "--network",
        help="cifar_resnet20, cifar_resnet14_w4 (width 4) … or any timm name [paper: cifar_resnet20, 32, 56].",
    ),
    click.option("--steps", type=int, help="Steps of a whole training [paper: 62400, 62400, 31250]."),
    click.option("--batch-size", type=int, help="[paper: 128, 128, 256]"),
    click.option("--lr", type=float, help="Peak learning rate [paper: 0.1]."),
    click.option("--milestones", help="Steps at which the rate falls by 10 [paper: 31200,46800]; '' for none."),
    click.option("--weight-decay", type=float, help="On all parameters [paper: 1e-4]."),
    click.option("--augment/--no-augment", default=None, help="Random crop and flip [paper: on]."),
    click.option("--border", type=click.IntRange(0), help="Black pixels around an image before the crop [paper: 4]."),
    click.option(
        "--drop-last/--keep-last", default=None, help="Last partial batch [paper: CIFAR kept, CINIC dropped]."
    ),
    click.option("--precision", type=click.Choice(PRECISIONS), help="[default: fp32]"),
    click.option(
        "--normalization",
        type=click.Choice(["dataset", "imagenet"]),
        help="Constants [paper: imagenet for CIFAR, dataset for CINIC].",
    ),
)


def is_given(name: str) -> bool:
    """Whether the option of this parameter is among the words of the command."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def without_effect(why: str, *names: str) -> None:
    """Warn of those options (their parameters' names) that were given although they change nothing here.

    It is no error: options are added to every command of a plan.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and is_given(parameter.name):
            words = parameter.secondary_opts if context.params.get(parameter.name) is False else parameter.opts
            click.echo(f"warning: {(words or parameter.opts)[0]} has no effect: {why}", err=True)


def say_unused_data_options(dataset: str) -> None:
    """`without_effect` for --data-dir and --download, by the name of the data set."""
    if split_size(dataset)[0] == "digits":
        without_effect("digits comes with scikit-learn", "data_dir", "download")
    elif not dataset.startswith("cifar"):
        without_effect("only CIFAR is fetched", "download")


MACHINE_FIELDS = (
    "device",
    "engine",
    "threads",
    "data_dir",
    "download",
    "checkpoint_seconds",
    "force",
    "dry_run",
    "tensorboard",
)


def machine(given: dict):
    """Takes the options of `MACHINE` out of ``given`` and makes a `repro.stages.Machine` of them."""
    from repro.stages import Machine

    return Machine(**{name: given.pop(name) for name in MACHINE_FIELDS})


def training(base, given: dict):
    """The protocol's training with the options that were given."""
    names = ("steps", "batch_size", "lr", "weight_decay", "augment", "border", "drop_last", "precision")
    fields = {name: given.pop(name) for name in names}
    milestones = given.pop("milestones")
    if milestones is not None:
        try:
            fields["milestones"] = tuple(int(word) for word in milestones.split(",") if word.strip())
            if min(fields["milestones"], default=1) < 1:
                raise ValueError
        except ValueError:
            raise UsageError(f"milestones (={milestones!r}) must be steps with commas, like 31200,46800") from None
    found = dataclasses.replace(base, **{name: value for name, value in fields.items() if value is not None})
    if found.augment:
        return found
    without_effect("images are cropped by the augmentation alone", "border")
    return dataclasses.replace(found, border=base.border)  # else the same run would have two identities
