"""Whether a network gives finite numbers before the first step: what does not is no matter of the learning rate."""

import torch

from repro.data import ImageSet
from repro.errors import UsageError

IMAGES = 16


def require_finite(network: torch.nn.Module, name: str, data: ImageSet) -> None:
    """Tries a new network on the first images of a data set. Raises UsageError that names what is not finite."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if bad := [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise UsageError(
            f"network {name!r} begins with infinity or NaN in {', '.join(bad[:3])}, with which nothing can "
            "be averaged or interpolated: put a finite value there, -1e9 in a mask of scores"
        )
    images = (data.images[:IMAGES] / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
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


def advice(diverged_at: int, first: int, lr: float) -> str:
    """What to do about a loss that was not finite at step ``diverged_at`` of a training from step ``first`` on."""
    if diverged_at == first:
        weights = "the weights it starts from, and at " if first else ""
        return (
            f"that was before any update, so the learning rate (={lr}) is not why: look at {weights}what its forward "
            "gives in training mode"
        )
    return f"lower --lr (={lr})"
