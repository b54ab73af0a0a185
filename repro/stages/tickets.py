"""Networks out of imp and branch artifacts: the trained sparse network, and the ticket it was trained from."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repro import store
from repro.data import ImageSet
from repro.errors import UsageError
from repro.nets import create, layout_of

PARTS = ("ticket", "trained")
REWIND_WEIGHTS = {"imp": "level_0/rewind_weights", "branch": "rewind_weights"}


def state_dict(
    path: str | Path, replicate: int, level: int, part: str, *, num_classes: int, in_chans: int
) -> dict[str, Tensor]:
    """One network of an imp or branch artifact as named tensors, batch-norm statistics included.

    Arguments:
        part: 'ticket' is mask times rewind point, what the level started from; 'trained' what it ended with.

    Raises UsageError when the artifact has no such replicate or level.
    """
    if part not in PARTS:
        raise UsageError(f"unknown part {part!r} of a level: choose {' or '.join(PARTS)}")
    artifact = store.read(path)
    if artifact.kind not in REWIND_WEIGHTS:
        raise UsageError(f"{path} is a {artifact.kind} artifact, which has no levels: give an imp or branch artifact")
    piece = f"replicate_{replicate}/level_{level}"
    if f"{piece}/mask" not in artifact:
        raise UsageError(f"{path} has no level {level} of replicate {replicate}: see repro inspect {path}")
    layout = layout_of(create(artifact.recipe["network"], num_classes=num_classes, in_chans=in_chans))
    if part == "trained":
        return layout.state_dict(torch.from_numpy(artifact[f"{piece}/weights"]))
    vector = torch.from_numpy(artifact[f"replicate_{replicate}/{REWIND_WEIGHTS[artifact.kind]}"])
    mask = np.unpackbits(artifact[f"{piece}/mask"], count=layout.num_prunable)
    vector[: layout.num_prunable] *= torch.from_numpy(mask)
    return layout.state_dict(vector)


def network(path: str | Path, replicate: int, level: int, part: str, *, data: ImageSet) -> nn.Module:
    """The same, loaded into a network in evaluation mode. ``data`` gives the number of classes and channels."""
    shape = dict(num_classes=data.num_classes, in_chans=data.in_chans)
    net = create(store.read_header(path).recipe["network"], **shape)
    net.load_state_dict(state_dict(path, replicate, level, part, **shape), strict=False)
    return net.eval()
