"""Networks of a data set's images, and what recipes say of them."""

from torch import nn

from repro import store
from repro.data import ImageSet
from repro.errors import UsageError
from repro.nets import Layout, check, create, layout_of
from repro.usercode import pinned

IDLE = "idle"
"""Recipe field: the names of a network's idle parameters (`Layout`), in their order. It is left out where there are
none, so that recipes of other networks are what they were before idle parameters were left alone."""


def network_for(data: ImageSet, network: str) -> nn.Module:
    """A new network of that name for the images of ``data``."""
    return create(network, num_classes=data.num_classes, in_chans=data.in_chans, image_size=data.image_size)


def network_fields(data: ImageSet, network: str) -> dict:
    """What a recipe says of a network that is to be trained: its pinned name and, if there are any, `IDLE`."""
    with check.undisturbed():
        idle = layout_of(network_for(data, network)).idle
    return {"network": pinned(network)} | ({IDLE: [entry.name for entry in idle]} if idle else {})


def require_idle(artifact: store.Artifact, layout: Layout) -> None:
    """Raises UsageError for an artifact whose networks were trained, and laid out, with other idle parameters."""
    there, here = artifact.recipe.get(IDLE, []), [entry.name for entry in layout.idle]
    if there != here:
        odd = next(name for name in [*here, *there] if (name in here) != (name in there))
        raise UsageError(
            f"{artifact.path} was made when {odd} of {artifact.recipe['network']} was {'not ' * (odd in there)}trained, "
            f"which it is {'not ' * (odd in here)}now: make it again, with another --out"
        )
