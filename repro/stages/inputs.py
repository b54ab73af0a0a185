"""Images and networks that a stage trains, and the recipe fields that describe them."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from repro import store
from repro.data import ImageSet, load, sized, split_size
from repro.data.folders import find_folder
from repro.errors import UsageError
from repro.nets import Layout, check, create, initialise, layout_of
from repro.stages.machine import Machine
from repro.stages.state_dicts import load_checkpoint
from repro.train.random_streams import torch_stream
from repro.usercode import pinned

IDLE = "idle"
"""Recipe field: the names of a network's idle parameters (`Layout`), in their order. It is left out where there are
none, so that recipes of other networks are what they were before idle parameters were left alone."""


def data_fields(data: ImageSet, normalization: str) -> dict:
    """The recipe fields of an image set."""
    return {"dataset": data.name, "data_sha256": data.checksum, "normalization": normalization}


def open_data(dataset: str, normalization: str, machine: Machine) -> ImageSet:
    """The image set of a recipe; a folder of images is looked for by its name in ``machine.data_dir``."""
    if dataset.startswith("folder:"):
        base, size = split_size(dataset)
        dataset = sized(f"folder:{find_folder(base, machine.data_dir)}", size)
    return load(dataset, data_dir=machine.data_dir, download=machine.download, normalization=normalization)


def data_of(artifact: store.Artifact, machine: Machine) -> ImageSet:
    """The image set an artifact was made from. Raises UsageError when the images at hand are others."""
    data = open_data(artifact.recipe["dataset"], artifact.recipe["normalization"], machine)
    if data.checksum != artifact.recipe["data_sha256"]:
        raise UsageError(
            f"{artifact.path} was made from other images of {data.name} (sha256 "
            f"{artifact.recipe['data_sha256'][:12]}…, here {data.checksum[:12]}…): point --data-dir to the same data"
        )
    return data


def require_replicates(replicates: int, source: store.Artifact | None = None, held: int | None = None) -> None:
    """Raises UsageError for less than one replicate, or for more than ``source``, which is read, holds.

    held: how many those are; None is a row of its table each.
    """
    if replicates < 1:
        raise UsageError(f"number of replicates (={replicates}) must be at least 1")
    if source and replicates > (held := len(source.table()) if held is None else held):
        command = {"subset": "select"}.get(source.kind, source.kind)
        raise UsageError(
            f"{replicates} replicates, but {source.path} holds {held}: give --replicates {held} here, or run its "
            f"{command} command with --replicates {replicates}"
        )


def require_steps_left(path: str | Path, recipe: dict) -> None:
    """Raises UsageError for a rewind point at the end of the schedule."""
    if recipe["t"] >= recipe["steps"]:
        raise UsageError(
            f"{path} is trained to the end (t = {recipe['t']} of {recipe['steps']} steps), which leaves nothing to "
            "train after rewinding: give a rewind point of a smaller -t"
        )


def shape_of(data: ImageSet) -> dict[str, int]:
    """What networks and engines have to know of an image set, by the names of their arguments."""
    return {"num_classes": data.num_classes, "in_chans": data.in_chans, "image_size": data.image_size}


def network_for(data: ImageSet, network: str) -> nn.Module:
    """A new network of that name for the images of ``data``."""
    return create(network, **shape_of(data))


def network_fields(data: ImageSet, network: str) -> dict:
    """The recipe fields of a network that is to be trained: its pinned name and, if there are any, `IDLE`."""
    with check.undisturbed():
        idle = layout_of(network_for(data, network)).idle
    return {"network": pinned(network)} | ({IDLE: [entry.name for entry in idle]} if idle else {})


@dataclass(frozen=True, eq=False)
class Init:
    """What networks begin as.

    how: 'paper', drawn as the paper's networks (`repro.nets.initialise`); 'network', as the network's code draws them;
    'file', the numbers ``vector`` [layout.size] of a state dict.
    fields: of the recipe; none of 'paper', so that recipes are what they were before there was a choice. Others have
    the SHA-256 of the numbers, with 'network' of those of replicate 0, because its code may load them from a file.
    """

    how: str = "paper"
    vector: torch.Tensor | None = None
    fields: dict = field(default_factory=dict)


def init_of(init: str | Path, data: ImageSet, network: str, seed: int) -> Init:
    """What a stage's ``init`` asks for: 'paper', 'network', or a file of `repro.stages.state_dicts.load_checkpoint`.

    Raises UsageError for another word, and where `load_checkpoint` does.
    """
    how, vector = str(init), None
    if how == "paper":
        return Init()
    if how == "network":
        module = created(data, network, seed, 0)
        begun = layout_of(module).flatten(module)
    elif Path(init).is_file():
        with check.undisturbed():
            module = network_for(data, network)
        how, begun = "file", (vector := load_checkpoint(init, layout_of(module), network, module))
    else:
        raise UsageError(f"unknown init {how!r}: choose paper, network, or the path of a state dict's file")
    digest = hashlib.sha256(begun.float().numpy().astype("<f4")).hexdigest()
    return Init(how, vector, {"init": how, "init_sha256": digest})


def created(data: ImageSet, network: str, seed: int, replicate: int, role: str = "") -> nn.Module:
    """A new network, whose code draws from the global generators as the replicate's stream has seeded them."""
    with check.undisturbed(torch_stream(seed, replicate, role + "create").initial_seed()):
        return network_for(data, network)


def require_init(artifact: store.Artifact, data: ImageSet) -> None:
    """Raises UsageError where the network's code does not draw the numbers any more that an artifact began with."""
    recipe = artifact.recipe
    if recipe.get("init") == "network" and "init_sha256" in recipe:  # older artifacts have none
        if init_of("network", data, recipe["network"], recipe["seed"]).fields["init_sha256"] != recipe["init_sha256"]:
            raise UsageError(
                f"{artifact.path} began with other numbers than those that {recipe['network']} begins with now: bring "
                "back the file that its code loads them from, and the version of PyTorch"
            )


def require_idle(artifact: store.Artifact, layout: Layout) -> None:
    """Raises UsageError for an artifact whose networks were trained, and laid out, with other idle parameters."""
    there, here = artifact.recipe.get(IDLE, []), [entry.name for entry in layout.idle]
    if there != here:
        odd = next(name for name in [*here, *there] if (name in here) != (name in there))
        raise UsageError(
            f"{artifact.path} was made when {odd} of {artifact.recipe['network']} was {'not ' * (odd in there)}"
            f"trained, which it is {'not ' * (odd in here)}now: make it again, with another --out"
        )


def require_runs(network: nn.Module, name: str, data: ImageSet, init: Init = Init()) -> None:
    """Tries a new network on images of a data set before the first step, and draws its weights anew for 'paper'.

    Raises UsageError where it cannot take the images (many of timm's take one size only), or where it gives infinity or
    NaN, which then is no matter of the learning rate.
    """
    size = data.image_size
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, data.in_chans, size, size))
    except Exception as error:  # a network may raise anything
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(
            f"network {name!r} cannot take the {size} x {size} images of {data.name} ({reason}): choose another "
            "--network"
        ) from error
    require_finite(initialise(network, torch.Generator()) if init.how == "paper" else network, name, data)


def require_finite(network: torch.nn.Module, name: str, data: ImageSet) -> None:
    """Tries a new network on the first images of a data set. Raises UsageError that names what is not finite."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if bad := [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise UsageError(
            f"network {name!r} begins with infinity or NaN in {', '.join(bad[:3])}, with which nothing can "
            "be averaged or interpolated: put a finite value there, -1e9 in a mask of scores"
        )
    images = (data.images[:16] / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    if not images.isfinite().all():
        raise UsageError(
            f"the images of {data.name} are not finite after normalisation (mean {data.mean}, deviation "
            f"{data.std}): leave out a channel in which all are the same"
        )
    with torch.no_grad():
        logits = network.eval()(images.permute(0, 3, 1, 2))
    if not logits.isfinite().all():
        raise UsageError(
            f"network {name!r} gives infinity or NaN for images of {data.name} before the first step, which "
            "is no matter of the learning rate: mend its forward"
        )
