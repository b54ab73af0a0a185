"""Networks read from artifacts: tickets, trained sparse networks, rewind points and masks, for any PyTorch program."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repro import store
from repro.data import ImageSet
from repro.errors import UsageError
from repro.nets import Layout, create, freeze, layout_of
from repro.protocol import protocol
from repro.recipes.artifacts import array_name, started_from
from repro.stages.inputs import IDLE, require_idle
from repro.store.file_kinds import require_replaceable
from repro.store.files import write_whole

PARTS = ("ticket", "trained", "rewind", "mask")
REWIND_WEIGHTS = {"pretrain": "weights", "imp": "level_0/rewind_weights", "branch": "rewind_weights"}


def state_dict(
    path: str | Path,
    replicate: int,
    level: int | None,
    part: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> dict[str, Tensor]:
    """One network of a pretrain, imp or branch artifact as named tensors, in the order of its layout.

    Arguments:
        level: None for a rewind point, which is the same for all levels.
        part: 'ticket' is what the level started from: mask times rewind point, or the weights of the level before where
            those were not rewound; 'trained' what it ended with; 'rewind'
            the rewind point, all that a pretrain artifact has. They are float32, parameters and batch-norm statistics.
            'mask': bool, of the prunable parameters alone.
        num_classes, in_chans: of the network; if None, found from the size of the stored weights.

    Raises UsageError when the artifact has no such part, replicate or level.
    """
    artifact = store.read(path)
    if num_classes is None or in_chans is None:
        net = network_of(artifact)
    else:
        net = _new(artifact, num_classes, in_chans)
    return tensors_of(artifact, layout_of(net), replicate, level, part)


def network(
    path: str | Path, replicate: int, level: int | None, part: str, *, data: ImageSet | None = None
) -> nn.Module:
    """`state_dict` loaded into a network in evaluation mode, with the classes and channels of ``data`` if given."""
    artifact = store.read(path)
    if part == "mask":
        raise UsageError("a mask is no network: ask for part ticket, trained or rewind")
    net = network_of(artifact) if data is None else _new(artifact, data.num_classes, data.in_chans)
    tensors = tensors_of(artifact, layout_of(net), replicate, level, part)
    net.to(next(iter(tensors.values())).dtype).load_state_dict(tensors, strict=False)  # float64 runs keep every digit
    return net.eval()


def export(path: str | Path, target: str | Path, *, replicate: int, level: int | None, part: str) -> Path:
    """Writes a part (see `state_dict`) as a .pt or .safetensors file of plain tensors; returns its path.

    The file of a network has every name of its PyTorch ``state_dict``, batch norm's counters (0) too, so that
    ``net.load_state_dict(torch.load(target, weights_only=True))`` works without this program.
    """
    target = Path(target)
    if part == "mask":
        tensors = state_dict(path, replicate, level, part)
    else:  # the network's own state_dict has tied weights under each name, and persistent buffers alone
        tensors = network(path, replicate, level, part).state_dict()
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    if target.suffix.lower() == ".safetensors":
        import safetensors.torch  # comes with timm

        contents = safetensors.torch.save(tensors)
    else:
        file = io.BytesIO()
        torch.save(tensors, file)
        contents = file.getvalue()
    require_replaceable(target, "network", contents)
    write_whole(target, [contents])
    return target


def network_of(artifact: store.Artifact) -> nn.Module:
    """A new network of the artifact's recipe, with the classes and channels that fit the number of stored weights.

    Raises UsageError for an artifact without networks, and when no number of classes fits.
    """
    _require_networks(artifact)
    key = next(key for key in artifact.keys() if key.endswith(f"/{REWIND_WEIGHTS[artifact.kind]}"))
    name, size = artifact.recipe["network"], artifact.dataset(key).shape[0]

    def of(num_classes: int, in_chans: int) -> tuple[nn.Module, int]:
        net = _new(artifact, num_classes, in_chans)
        return net, layout_of(net).size

    published = protocol(artifact.recipe["dataset"])
    net, found = of(published.num_classes, published.in_chans)
    if found == size:
        return net
    for in_chans in (3, 1):  # a user's images may have any number of classes; each adds as many weights
        two, three = of(2, in_chans)[1], of(3, in_chans)[1]
        classes = 2 + (size - two) // (three - two) if three > two else 0
        if classes >= 1:
            net, found = of(classes, in_chans)
            if found == size:
                return net
    raise UsageError(
        f"{artifact.path} keeps {size} numbers a network, which {name} has for no number of classes: "
        "use the network it was made with"
    )


def _new(artifact: store.Artifact, num_classes: int, in_chans: int) -> nn.Module:
    """A new network of the artifact's recipe, with its idle parameters."""
    net = create(artifact.recipe["network"], num_classes=num_classes, in_chans=in_chans)
    freeze(net, artifact.recipe.get(IDLE, []))
    require_idle(artifact, layout_of(net))
    return net


def _require_networks(artifact: store.Artifact) -> None:
    if artifact.kind not in REWIND_WEIGHTS:
        raise UsageError(
            f"{artifact.path} is a {artifact.kind} artifact, which has no levels and no rewind points: "
            "give an imp, branch or pretrain artifact"
        )


def tensors_of(
    artifact: store.Artifact, layout: Layout, replicate: int, level: int | None, part: str
) -> dict[str, Tensor]:
    """`state_dict` of an artifact that is open, by the layout of its networks."""
    if part not in PARTS:
        raise UsageError(f"unknown part {part!r} of a level: choose {', '.join(PARTS[:-1])} or {PARTS[-1]}")
    _require_networks(artifact)
    if part == "rewind":
        if level is not None:
            raise UsageError(f"level {level} of a rewind point, which all levels share: leave the level out")
        return layout.state_dict(_array(artifact, replicate, REWIND_WEIGHTS[artifact.kind]))
    if artifact.kind == "pretrain":
        raise UsageError(
            f"{artifact.path} is a pretrain artifact, which has no {part}: ask for part rewind, or give "
            "the imp artifact made from it"
        )
    if level is None:
        raise UsageError(f"part {part} without a level: give one, 0 is the dense network")
    packed = _array(artifact, replicate, array_name("mask", level=level))
    mask = torch.from_numpy(np.unpackbits(packed.numpy(), count=layout.num_prunable).astype(bool))
    if part == "mask":
        return {e.name: mask[e.offset : e.offset + e.size].view(e.shape) for e in layout.prunable}
    if part == "trained":
        return layout.state_dict(_array(artifact, replicate, array_name("weights", level=level)))
    start = started_from(artifact.recipe, level) if artifact.kind == "imp" else REWIND_WEIGHTS[artifact.kind]
    vector = _array(artifact, replicate, start)
    vector[: layout.num_prunable] *= mask
    return layout.state_dict(vector)


def _array(artifact: store.Artifact, replicate: int, name: str) -> Tensor:
    key = array_name(name, replicate=replicate)
    if key in artifact:
        return torch.from_numpy(artifact[key])
    place = f"replicate {replicate}"
    if name not in REWIND_WEIGHTS.values():
        place = f"{name.partition('/')[0].replace('_', ' ')} of {place}"
    if key.rpartition("/")[0] in set(artifact.table().piece):
        raise UsageError(f"{artifact.path} kept nothing of {place}, since the level before it diverged: choose another")
    raise UsageError(f"{artifact.path} has no {place}: see repro inspect {artifact.path}")
