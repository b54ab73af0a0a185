"""run."""

import click

from repro.cli.figures import FIGURE, figure_command, study_of, verify_command
from repro.cli.group import main
from repro.cli.options import without_effect
from repro.errors import RunError


@main.command("run")
@FIGURE
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS|local",
    required=True,
    help="local: this machine. Or a cluster: auto, HOST:PORT (from one of its nodes), ray://HOST:10001.",
)
@click.option("--options", "extra", default="", help="Options to add to every command.")
@click.option(
    "--gpus",
    type=click.FloatRange(0, 1),
    help="GPUs of each cohort, 0.25 for four on one [default: 1 where there are GPUs, else 0].",
)
@click.option("--cpus", type=click.IntRange(1), default=1, show_default=True, help="CPUs, and threads, of each cohort.")
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Times to start a job again that failed or lost its node.",
)
@click.option("--yes", is_flag=True, help="Go ahead although this machine would need very long.")
@click.pass_context
def run_command(context, name, address, extra, gpus, cpus, retries, yes, **given):
    """Make what a figure (or all) lacks as tasks of Ray, then draw and judge it, as make does.

    The figure's jobs, their artifacts and logs are those of make; a job that somebody else is at work on is waited for.
    This program and the results folder have to be on a file system that all nodes share. --ray local says first how
    long it would take. Needs the package ray: make .venv/.extras.

    \b
    Example:
      repro run figure2 --ray local
      repro run figure2 --scale paper --ray 10.0.0.1:6379 --cpus 4 --options '--data-dir /shared/data'
    """
    from repro import plan
    from repro.plan import price
    from repro.run import make_rules, ray_cluster

    study, options = study_of(name, given), make_rules.words_of(extra)
    if address != "local":
        without_effect("how long it takes is predicted for --ray local alone", "yes")
    steps = plan.steps(study.items(), study.results)
    if todo := plan.unfinished(steps):
        jobs = plan.as_jobs(todo)
        with ray_cluster.connected(address):
            share = ray_cluster.share(gpus, cpus)
            places = ray_cluster.at_once(share)
            prediction = None
            if address == "local":
                ray_cluster.require_place(share, places)
                if price.worth_measuring(todo):
                    prediction = price.predict(todo, jobs=places)
            elif not places:
                _say(f"warning: no node of {address} has {share} now: the jobs wait until one comes")
            click.echo(price.report(name, steps, todo, prediction) if prediction else price.report(name, steps, todo))
            price.require_sensible(prediction, yes=yes)
            _say(f"{len(jobs)} jobs with {share} each, {places} at once")
            failed = ray_cluster.run(jobs, study.results, options=options, share=share, retries=retries, say=_say)
        for each in failed:
            _say(each)
        if failed:
            waiting = sum(bool(each.waits) for each in failed)
            raise RunError(
                f"{len(failed) - waiting} of {len(jobs)} jobs failed and {waiting} wait for them: the same "
                "command takes up what is missing"
            )
        if lost := plan.unfinished(steps):
            raise RunError(
                f"every job ended well, but {lost[0].target} is not complete here: {study.results} has to "
                "be one folder that all nodes share"
            )
    else:
        without_effect("nothing is left to make", "extra", "gpus", "cpus", "retries")
        click.echo(price.report(name, steps, todo))
    context.invoke(figure_command, name=name, **given)
    context.invoke(verify_command, name=name, **given)


def _say(line: object) -> None:
    click.echo(line, err=True)
