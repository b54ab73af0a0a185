"""status."""

import click

from repro.cli.figures import FIGURE_OPTIONS, study_of
from repro.cli.group import main
from repro.cli.options import options

COLOURS = {"done": "green", "running": "cyan", "waiting": None, "failed": "red"}


@main.command("status")
@click.argument("name", metavar="[FIGURE]", default="all")
@options(*FIGURE_OPTIONS)
@click.option("--failed", is_flag=True, help="Only what failed or was stopped; nothing where nothing did.")
def status_command(name, failed, **given):
    """Say what of a figure (or of all) is done, running, waiting or failed, and how long the rest will take.

    A line per artifact: how far it is, the time left at the speed of those that are finished, and who is at work on
    it, what it waits for, or why it failed and where its log is. No artifact is changed.

    \b
    Example:
      repro status figure2 --scale demo
      repro status --failed
    """
    from repro import plan
    from repro.run.status import status

    study = study_of(name, given)
    found = status(plan.steps(study.items(), study.results))
    for word, line in found.lines(failed):
        click.echo(click.style(line[: len(word)], fg=COLOURS[word]) + line[len(word) :])
    if not failed:
        click.echo(found.counts)
