"""report."""

import click

from repro.cli.figures import FIGURE_OPTIONS, study_of
from repro.cli.group import main
from repro.cli.options import PATH, options


@main.command("report")
@click.argument("name", metavar="[FIGURE]", default="all")
@options(*FIGURE_OPTIONS)
@click.option("--out", type=PATH, help="HTML file to write [default: RESULTS/report.html].")
def report_command(name, out, **given):
    """Write one HTML page of everything made so far, to read without a network.

    It holds each figure as charts beside the paper's numbers, the verdicts with a sentence on each claim, deviations,
    cost, provenance with checksums, and what is missing with the command that makes it.

    \b
    Example:
      repro report --scale demo
      repro report figure2 --scale demo --out figure2.html
    """
    from repro import report

    path = report.write(study_of(name, given), out)
    click.echo(f"{path}: {path.stat().st_size:,} bytes")
