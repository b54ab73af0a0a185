"""branch."""

import click

from repro.cli.group import main
from repro.cli.options import MACHINE, OUT, PATH, REPLICATES, machine, options, say_unused_data_options
from repro.cli.stages import show
from repro.errors import UsageError


@main.command()
@click.argument("run", type=PATH)
@click.option("--levels", help="Pruning levels of the run, like 8,10 [default: all but the dense one].")
@click.option(
    "--mask",
    default="own",
    show_default=True,
    help="own, shuffled (within layers), random (as many weights, anywhere), or a file: an imp or branch "
    "artifact, .npy, .pt or .safetensors.",
)
@click.option(
    "--weights",
    default="rewound",
    show_default=True,
    help="rewound, reinitialised (clock at t all the same), or a pretrain or imp artifact to rewind to.",
)
@options(REPLICATES, OUT, MACHINE)
def branch(run, levels, mask, weights, replicates, out, **given):
    """Retrain levels of a stored run, an imp artifact, with another mask or other weights.

    \b
    Examples:
      repro branch imp.h5 --mask shuffled --out shuffled.h5
      repro branch imp.h5 --levels 8,10 --weights reinitialised --out reinitialised.h5
      repro branch imp.h5 --weights all-t20.h5 --out masks-from-easy-weights-from-all.h5
    """
    from repro import stages, store

    place = machine(given)
    say_unused_data_options(store.read_header(run, kind="imp").recipe["dataset"])
    if levels is not None:
        try:
            levels = [int(word) for word in levels.split(",")]
        except ValueError:
            raise UsageError(f"levels (={levels!r}) must be numbers with commas, like 8,10") from None
    show(stages.branch(out, run, levels=levels, mask=mask, weights=weights, replicates=replicates, machine=place))
