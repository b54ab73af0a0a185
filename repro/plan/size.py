"""How many bytes a plan's artifacts hold, and what is written and read while they are made."""

from functools import cache

from repro.plan import Step
from repro.protocol import Protocol

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
    """Bytes of the arrays of a complete artifact before compression: tables and HDF5's own structures are not in it.

    Folds are taken to be of equal size. docs/artifact-format.md says what is kept.
    """
    p, pieces, verb = step.protocol, step.wanted, step.command[0]
    prunable, numbers = numbers_of(step.network, p)
    replicates = len({piece.split("/")[0] for piece in pieces})
    packed, weights = -(-p.test_images // 8), 4 * numbers
    if verb == "score":  # four bytes for each of three scores, of each network and their means; int64 indices
        return len(pieces) * 12 * p.train_images + replicates * (20 * p.train_images + 8) + _labels(step)
    if verb == "select":
        return replicates * 8 * (step.recipe["size"] + p.num_classes) + _labels(step)
    if verb == "pretrain":
        return replicates * weights + _labels(step)
    if verb in ("imp", "branch"):
        each = -(-prunable // 8) + weights + packed + 2 * p.train_images
        return len(pieces) * each + replicates * weights
    if verb == "barrier":
        points = len(step.recipe["alphas"])
        images = 4 * p.all_images + -(-p.train_images // 8) + packed
        return len(pieces) * points * images + replicates * p.children * (weights + 8) + 8 * points
    if verb == "warmup":
        return len(pieces) * packed
    return len(pieces) * 8 * step.recipe["batches"] + replicates * weights  # gradients


def _labels(step: Step) -> int:
    """Bytes of the randomised labels that an artifact carries for whoever reads it."""
    return 8 * step.protocol.all_images if step.recipe.get("label_noise") else 0


def moved_bytes(step: Step, seconds: float, stored: dict) -> tuple[float, float]:
    """(written, read) while a step that takes so many seconds is made, data set apart.

    Every piece goes to the work folder and then, at the latest, into the artifact; a checkpoint has the weights and the
    momentum of the cohort. Its inputs are read once. stored: target -> bytes, of all steps.
    """
    replicates = len({piece.split("/")[0] for piece in step.wanted})
    cohort = replicates if step.command[0] in ("imp", "branch", "pretrain", "gradients") else step.networks
    checkpoint = 8 * numbers_of(step.network, step.protocol)[1] * min(16, cohort)
    written = 2 * stored[step.target] + seconds / CHECKPOINT_SECONDS * checkpoint * bool(step.images)
    return written, sum(stored.get(path, 0) for path in step.needs)


def spoken(count: float) -> str:
    """Bytes as people say them."""
    if count >= 1e12:
        return f"{count / 1e12:,.3g} TB"
    return f"{count / 1e9:,.3g} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
