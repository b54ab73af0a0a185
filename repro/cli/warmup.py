"""warmup."""

import click

from repro.cli.group import main
from repro.cli.options import (
    DATASET,
    MACHINE,
    OUT,
    PATH,
    REPLICATES,
    SCALE,
    SEED,
    TRAINING,
    machine,
    options,
    say_unused_data_options,
    training,
)
from repro.cli.stages import show
from repro.errors import UsageError
from repro.protocol import protocol

NEEDED = {"steps": "--steps", "batch_size": "--batch-size", "lr": "--lr", "milestones": "--milestones"}


@main.command()
@options(DATASET, SCALE)
@click.option(
    "--subset",
    "subsets",
    type=PATH,
    multiple=True,
    help="Subset artifact to warm up on (repeatable); all training images always are one condition.",
)
@click.option("--warmup-steps", help="The w's of the sweep, with commas [default: the protocol's].")
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def warmup(dataset, scale, subsets, warmup_steps, network, normalization, seed, replicates, out, **given):
    """Linear warm-up over w steps on a subset, then all data: a sweep of w, subsets and replicates.

    Every network is trained to the end: first with a learning rate that rises from 0, on the subset, then on all
    training images, momentum and all carried over. A network that diverges counts as chance and is a result. In the
    paper (Figure 6): 7840 steps, batch 1024, lr 3.2, milestones 3920,5880, w 100 to 3200, 8 replicates.

    \b
    Example:
      repro warmup --dataset digits --subset easy.h5 --warmup-steps 10,20,40 --out warmup.h5
    """
    from repro import stages, store

    if dataset is None and not subsets:
        raise UsageError("warmup needs --dataset, or a --subset to take it from: try --dataset digits")
    place = machine(given)
    p = protocol(dataset or store.read_header(subsets[0], kind="subset").recipe["dataset"], scale)
    say_unused_data_options(p.dataset)
    steps = _steps(warmup_steps)
    missing = [option for name, option in NEEDED.items() if given[name] is None]
    if steps is None:
        missing.append("--warmup-steps")
    if p.warmup is None and missing:
        raise UsageError(f"the protocol of {p.dataset} has no warm-up: give {', '.join(missing)}")
    base = p.warmup.training if p.warmup else p.training
    show(
        stages.warmup(
            out,
            dataset=dataset,
            subsets=subsets,
            steps=p.warmup.steps if steps is None else steps,
            network=network or p.network,
            training=training(base, given),
            normalization=normalization or (None if subsets else p.normalization),
            replicates=replicates or (p.warmup or p).replicates,
            seed=p.seed if seed is None else seed,
            machine=place,
        )
    )


def _steps(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"warm-up steps (={text!r}) must be numbers of steps with commas, like 100,200,400") from None
