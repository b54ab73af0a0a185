"""bench."""

from pathlib import Path

import click

from repro.cli.group import main
from repro.cli.options import DEVICE, PATH


@main.command("bench")
@DEVICE
@click.option("--minutes", type=float, help="Time to take; what it is too short for is left out. [7.5, on a GPU 3.5]")
@click.option(
    "--out",
    type=PATH,
    default=Path("results/bench.json"),
    show_default=True,
    help="Rows to write (JSON); the table goes beside it (.md).",
)
def bench_command(out, **given):
    """Measure this machine: images/s and memory of every engine against a plain script and SparseProp, and the limit.

    Variants are timed in turns, each in a process of its own; the table gives medians, ranges and n. The machine should
    be doing nothing else.

    \b
    Example:
      repro bench
      repro bench --minutes 3 --out results/quick.json
    """
    from repro.bench import bench

    click.echo(bench(out, **given), nl=False)
