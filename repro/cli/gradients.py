"""gradients."""

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
    without_effect,
)
from repro.cli.stages import show
from repro.errors import UsageError
from repro.experiment import MOST
from repro.protocol import protocol


@main.command()
@click.option("--subset", type=PATH, help="Subset artifact to train on [default: all training images].")
@options(DATASET, SCALE)
@click.option("-t", "--rewind-step", "t", type=int, help="Steps of training [paper's appendix: 1600].")
@click.option("--every", type=int, default=10, show_default=True, help="Steps between measurements.")
@click.option(
    "--batches", type=click.IntRange(2, MOST), default=16, show_default=True, help="Mini-batches per measurement."
)
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def gradients(subset, dataset, scale, t, every, batches, network, normalization, seed, replicates, out, **given):
    """Agreement of mini-batch gradients while pre-training: cosine similarity of each to their mean.

    \b
    Examples:
      repro gradients --dataset digits -t 40 --out gradients-all.h5
      repro gradients --subset easy.h5 -t 40 --every 5 --out gradients-easy.h5
    """
    from repro import stages, store

    if (subset is None) == (dataset is None):
        raise UsageError("gradients needs either --dataset (all its training images) or --subset")
    place = machine(given)
    p = protocol(store.read_header(subset, kind="subset").recipe["dataset"] if subset else dataset, scale)
    say_unused_data_options(p.dataset)
    if t == 0:
        without_effect("-t 0 trains nothing", "every", "checkpoint_seconds")
    show(
        stages.gradients(
            out,
            dataset=dataset,
            subset=subset,
            t=p.t_star if t is None else t,
            every=every,
            batches=batches,
            network=network or p.network,
            training=training(p.training, given),
            normalization=normalization or (None if subset else p.normalization),
            replicates=replicates or p.replicates,
            seed=p.seed if seed is None else seed,
            machine=place,
        )
    )
