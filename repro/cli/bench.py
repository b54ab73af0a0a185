"""bench."""

from pathlib import Path

import click

from repro.cli.group import main
from repro.cli.options import DEVICE, PATH, without_effect


@main.command("bench")
@click.option("--quick", is_flag=True, help="A smoke run of about a minute; its numbers mean little.")
@click.option("--only", multiple=True, metavar="SECTION",
              help="roofline, rows, growth, stages or demo (repeatable) [default: all].")  # fmt: skip
@DEVICE
@click.option("--compile", "compiled", is_flag=True, help="Also torch.compile on a CPU, which compiles for a minute.")
@click.option("--results", type=PATH, default=Path("results/demo"), show_default=True,
              help="Finished demo to take the profile of.")  # fmt: skip
@click.option("--out", type=PATH, default=Path("results/bench"), show_default=True,
              help="Folder for bench.json and bench.md.")  # fmt: skip
def bench_command(out, **given):
    """Measure this machine: images/s and memory of every engine against a plain script, stages, limits of the device.

    Variants are timed in turns, each in a process of its own; the table gives medians, ranges and n. About ten minutes
    on a CPU, which should be doing nothing else.

    \b
    Example:
      repro bench
      repro bench --only demo --results results/demo
    """
    from repro.bench import bench

    sections = given["only"] or (("rows",) if given["quick"] else ("rows", "demo"))
    if "demo" not in sections:
        without_effect("the demo is not among what is measured", "results")
    if "rows" not in sections:
        without_effect("the rows are not among what is measured", "compiled")
    click.echo(bench(out, **given), nl=False)
