"""How many bytes a plan's artifacts hold, and what is written and read while they are made."""

from functools import cache

from repro.plan import Step
from repro.protocol import Protocol
from repro.recipes.artifacts import array_bytes

CHECKPOINT_SECONDS = 60  # the default of --checkpoint-seconds


@cache
def numbers_of(network: str, protocol: Protocol) -> tuple[int, int]:
    """(prunable weights, all numbers with batch-norm statistics) of a network."""
    import torch

    from repro.nets import create, layout_of

    with torch.device("meta"):
        layout = layout_of(create(network, num_classes=protocol.num_classes, in_chans=protocol.in_chans))
    return layout.num_prunable, layout.size


def stored_bytes(step: Step) -> int:
    """Bytes of the arrays of a complete artifact before compression; see `array_bytes`."""
    sizes = numbers_of(step.network, step.protocol)
    return array_bytes(step.verb, step.wanted, step.recipe, step.protocol, *sizes)


def moved_bytes(step: Step, seconds: float, stored: dict) -> tuple[float, float]:
    """(written, read) while a step that takes so many seconds is made, data set apart.

    Every piece goes to the work folder and then, at the latest, into the artifact; a checkpoint has the weights and the
    momentum of the cohort. Its inputs are read once. stored: target -> bytes, of all steps.
    """
    replicates = len({piece.split("/")[0] for piece in step.wanted})
    cohort = replicates if step.verb in ("imp", "branch", "pretrain", "gradients") else step.networks
    checkpoint = 8 * numbers_of(step.network, step.protocol)[1] * min(16, cohort)
    written = 2 * stored[step.target] + seconds / CHECKPOINT_SECONDS * checkpoint * bool(step.images)
    return written, sum(stored.get(path, 0) for path in step.needs)


def spoken(count: float) -> str:
    """Bytes as people say them."""
    if count >= 1e12:
        return f"{count / 1e12:,.3g} TB"
    return f"{count / 1e9:,.3g} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
