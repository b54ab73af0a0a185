"""Options that several commands share, and what is made of them."""

import dataclasses
import functools
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource

from repro.cli.group import Option
from repro.data import Passes, sized, split_size
from repro.errors import UsageError
from repro.experiment import MOST
from repro.protocol import SCALES
from repro.recipes.training import SCHEDULES

ENGINES = ("auto", "graph", "sparse", "serial")
PRECISIONS = ("fp32", "bf16")
NORMALIZATIONS = click.Choice(["dataset", "imagenet"])
PATH = click.Path(path_type=Path)

option = partial(click.option, cls=Option)
trains, where, on = (partial(option, group=name) for name in ("How it trains", "Where", "Machine"))


def options(*decorators):
    """One decorator of several."""
    return lambda function: functools.reduce(lambda inner, outer: outer(inner), reversed(decorators), function)


class Listed(click.ParamType):
    """Values with commas, as a tuple.

    Arguments:
        kind: int, float or str.
        refusal: (what the values are called, what they must be), for the UsageError where one is not of that kind.
        least: what a value must not be below.
        empty: whether there may be none.
    """

    def __init__(self, kind: type, refusal: tuple[str, str], least: int | None = None, empty: bool = False):
        self.kind, self.refusal, self.least, self.empty = kind, refusal, least, empty
        self.name = "names" if kind is str else "numbers"

    def convert(self, value, param, ctx) -> tuple:
        if not isinstance(value, str):
            return value
        try:
            found = tuple(self.kind(word.strip()) for word in value.split(",") if word.strip())
            if not (found or self.empty) or self.least is not None and min(found, default=self.least) < self.least:
                raise ValueError
        except ValueError:
            called, must = self.refusal
            raise UsageError(f"{called} (={value!r}) must be {must}") from None
        return found


class Percentage(click.ParamType):
    """A share as a user writes it, '10%', as a float from 0 to 1."""

    name = "percentage"

    def convert(self, value, param, ctx) -> float:
        if not isinstance(value, str):
            return value
        number = value.strip()
        try:
            if not number.endswith("%") or "_" in number or not 0 <= (found := float(number[:-1])) <= 100:
                raise ValueError
        except ValueError:
            raise UsageError(f"{param.opts[0]} (={value!r}) must be a percentage from 0% to 100%, like 10%") from None
        return found / 100


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

    size = (
        "Shrink the images to N x N by means of whole boxes; the data set is then cifar10@N, which --dataset takes too"
    )
    return options(
        option("--dataset", help="cifar10, cifar100, cinic10, digits, or folder:PATH (train/ and test/ inside)."),
        option("--image-size", type=click.IntRange(1), metavar="N", help=f"{size} [default: as they are]."),
    )(with_size)


SCALE = option("--scale", type=click.Choice(SCALES), help="Protocol to take defaults from [default: the data set's].")
SEED = option("--seed", type=int, help="Base seed of all random streams [default: the protocol's].")
REPLICATES = option(
    "--replicates",
    type=click.IntRange(1, MOST),
    help="Number of replicates [default: the protocol's; imp, barrier, branch: all of their input].",
)
OUT = where("--out", type=PATH, required=True, help="Artifact to write (HDF5). It grows: nothing is redone.")
RESULTS = where("--results", type=PATH, help="Folder of artifacts [default: results/SCALE].")
CONTROL = option("--control", help="An experiment that has to fail: permute-scores, swap-easy-hard or shuffle-mask.")
PANELS = option("--dataset", "datasets", multiple=True, help="Only these panels (repeatable) [default: all].")
DEVICE = on("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
YES = on("--yes", is_flag=True, help="Go ahead although this machine would need very long.")
LABELS = options(
    option(
        "--label-noise",
        type=float,
        default=0.0,
        help="Share of labels drawn at random [paper, Figure 4: 0.1, 0.5]. Mask search has the true ones.",
    ),
    option(
        "--noise-draw",
        type=click.Choice(["shared", "replicate"]),
        default="shared",
        help="One draw of the noise, or one per replicate.",
    ),
    option(
        "--labels",
        type=PATH,
        help="Labels of your own, of all images or the training ones: FILE or FILE:KEY (human.pt:worse_label).",
    ),
)
MACHINE = options(
    where("--data-dir", type=PATH, help="Folder that holds the data sets [default: data]."),
    where("--download", is_flag=True, help="Fetch a missing CIFAR archive (checksummed)."),
    where("--force", is_flag=True, help="Begin anew, whatever stands at --out."),
    where("--dry-run", is_flag=True, help="Say what would be computed, and stop."),
    where(
        "--tensorboard",
        type=PATH,
        metavar="DIR",
        help="Write curves for TensorBoard there (an extra: make .venv/.extras) [default: none].",
    ),
    DEVICE,
    on("--engine", type=click.Choice(ENGINES), default="auto", help="How replicates are trained together."),
    on("--threads", type=click.IntRange(1), help="CPU threads [default: OMP_NUM_THREADS, or all CPUs]."),
    on("--checkpoint-seconds", type=float, default=60, help="Time between checkpoints within a level."),
)
LEVELS = Listed(int, ("levels", "numbers with commas, like 8,10"))
MILESTONES = Listed(int, ("milestones", "steps with commas, like 31200,46800"), least=1, empty=True)
NETWORK = "cifar_resnet20, cifar_resnet14_w4 (width 4) … or any timm name [paper: cifar_resnet20, 32, 56]."
INIT = (
    "What networks begin as: paper (drawn as in the paper), network (as its code draws it), or a state dict's FILE; "
    "replicates then differ by data order only."
)
TRAINING = options(
    trains("--network", help=NETWORK),
    trains("--init", default="paper", help=INIT),
    trains("--steps", type=int, help="Steps of a whole training [paper: 62400, 62400, 31250]."),
    trains(
        "--epochs", type=click.IntRange(1), help="Those steps in passes over all training images [default: --steps]."
    ),
    trains("--batch-size", type=int, help="[paper: 128, 128, 256]"),
    trains("--lr", type=float, help="Peak learning rate [paper: 0.1]."),
    trains("--milestones", type=MILESTONES, help="When the rate falls by 10 [paper: 31200,46800]; '' for none."),
    trains(
        "--schedule",
        type=click.Choice(SCHEDULES),
        help="It falls at --milestones, to 0, or not at all [default: step].",
    ),
    trains("--label-smoothing", type=float, help="Share of each target spread over all classes [default: 0]."),
    trains("--weight-decay", type=float, help="On all parameters [paper: 1e-4]."),
    trains("--augment/--no-augment", default=None, help="Random crop and flip [paper: on]."),
    trains("--border", type=click.IntRange(0), help="Black pixels around an image before the crop [paper: 4]."),
    trains("--drop-last/--keep-last", default=None, help="Last partial batch [paper: CIFAR kept, CINIC dropped]."),
    trains("--precision", type=click.Choice(PRECISIONS), help="[default: fp32]"),
    trains("--normalization", type=NORMALIZATIONS, help="Constants [paper: imagenet for CIFAR, dataset for CINIC]."),
)
RAMP = trains("--warmup-steps", type=int, help="Steps in which the rate first rises from 0 to --lr [default: 0].")
MACHINE_FIELDS = ("device", "engine", "threads", "data_dir", "download", "checkpoint_seconds", "force", "dry_run")
TRAINING_FIELDS = (
    *("steps", "batch_size", "lr", "milestones", "schedule", "label_smoothing", "weight_decay", "augment", "border"),
    *("drop_last", "precision", "warmup_steps"),
)


def is_given(name: str) -> bool:
    """Whether the option of this parameter is among the words of the command."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def given_among(names) -> list[tuple[str, object]]:
    """(word, value) of the command's options of these parameters that were given, in their order in the help."""
    values, found = click.get_current_context().params, []
    for parameter in click.get_current_context().command.params:
        if parameter.name in names and is_given(parameter.name):
            negated = values.get(parameter.name) is False and parameter.secondary_opts
            found.append(((negated or parameter.opts)[0], values.get(parameter.name)))
    return found


def without_effect(why: str, *names: str) -> None:
    """Warn of the options of these parameters that were given although they change nothing here.

    It is no error, because `plan --options` adds options to every command.
    """
    for word, _ in given_among(names):
        click.echo(f"warning: {word} has no effect: {why}", err=True)


def refuse(belongs_to: str, *names: str) -> None:
    """Raises UsageError for an option of these parameters that was given: it ``belongs_to`` something else."""
    for word, value in given_among(names):
        raise UsageError(f"{word} (={value}) is for {belongs_to}: leave it out")


def say_unused_data_options(dataset: str) -> None:
    """`without_effect` for --data-dir and --download, by the name of the data set."""
    if split_size(dataset)[0] == "digits":
        without_effect("digits comes with scikit-learn", "data_dir", "download")
    elif not dataset.startswith("cifar"):
        without_effect("only CIFAR is fetched", "download")


def say_unused_labels(label_noise: float, noise_draw: str) -> None:
    """`without_effect` for --noise-draw. The stage refuses a draw for each replicate without noise."""
    if not label_noise and noise_draw == "shared":
        without_effect("no label noise is drawn without --label-noise", "noise_draw")


def machine(given: dict):
    """Takes the options of `MACHINE` out of ``given`` and makes a `repro.stages.Machine` of them."""
    from repro.stages import Machine

    return Machine(**{name: given.pop(name) for name in (*MACHINE_FIELDS, "tensorboard")})


def recipe(p, given: dict, *, training=None, network: str = "", replicates: int = 0, inherits: bool = False) -> dict:
    """``given`` as keyword arguments of a stage that trains, with the protocol's values for what was not given.

    Arguments:
        p: `repro.protocol.Protocol`.
        training, network, replicates: other defaults than the protocol's own.
        inherits: the normalization is that of an input artifact.
    """
    place = machine(given)
    here = {"machine": place, "training": _training(p, training or p.training, given, place.data_dir)}
    found = given | here | {"seed": p.seed if given["seed"] is None else given["seed"]}
    found["network"] = given["network"] or network or p.network
    found["normalization"] = given["normalization"] or (None if inherits else p.normalization)
    found["replicates"] = given["replicates"] or replicates or p.replicates
    return found


def _training(p, base, given: dict, data_dir: Path | None):
    """``base`` with the options of `TRAINING` and `RAMP` that were given, which are taken out of ``given``."""
    fields = {name: value for name in TRAINING_FIELDS if (value := given.pop(name, None)) is not None}
    if (epochs := given.pop("epochs")) is not None:
        if "steps" in fields:
            raise UsageError(f"--epochs {epochs} and --steps {fields['steps']} both say how long: give one of them")
        batches = {name: fields.get(name, getattr(base, name)) for name in ("batch_size", "drop_last")}
        fields["steps"] = epochs * Passes(_train_images(p, data_dir), **batches).steps_per_pass
    if (schedule := fields.get("schedule", base.schedule)) != "step":
        without_effect(f"the rate of schedule {schedule} does not fall at steps", "milestones")
        fields["milestones"] = ()  # else the same run would have two identities
    found = dataclasses.replace(base, **fields)
    if found.augment:
        return found
    without_effect("images are cropped by the augmentation alone", "border")
    return dataclasses.replace(found, border=base.border)  # else the same run would have two identities


def _train_images(p, data_dir: Path | None) -> int:
    """How many training images the data set of a protocol has."""
    if not p.dataset.startswith("folder:"):
        return p.train_images
    from repro.data.folders import count_folder, find_folder

    return count_folder(find_folder(split_size(p.dataset)[0], data_dir))["train_images"]
