"""plan, status, run, figure, verify, report, archive, tables: the commands that take a figure's name."""

import sys

import click

from repro.cli.group import Failure, main
from repro.cli.options import (
    CONTROL,
    DEVICE,
    PANELS,
    PATH,
    REPLICATES,
    RESULTS,
    SEED,
    YES,
    Listed,
    given_among,
    on,
    option,
    options,
    where,
    without_effect,
)
from repro.errors import RunError, UsageError
from repro.experiment import MOST
from repro.protocol import SCALES

FIGURE_OPTIONS = (
    option("--scale", type=click.Choice(SCALES), help="[default: demo; a figure of your own has none]"),
    PANELS,
    CONTROL,
    SEED,
    REPLICATES,
    option("--levels", type=click.IntRange(1, MOST), help="Pruning levels [default: the scale's]."),
    RESULTS,
)
FIGURE_OR_ALL = options(click.argument("name", metavar="[FIGURE]", default="all"), *FIGURE_OPTIONS)
JOBS = Listed(int, ("jobs", "numbers of processes from 1 on, like 8 or 1,8,64"), least=1)
COLOURS = {"done": "green", "running": "cyan", "waiting": None, "failed": "red"}
FIGURE = options(click.argument("name", metavar="FIGURE"), *FIGURE_OPTIONS)


def study_of(name: str, given: dict):
    """The `repro.study.Study` that the options ask for. It warns of options that change none of its runs."""
    from repro import plan
    from repro.study.study import Study

    study = Study(name, **given)
    for field in ("seed", "replicates", "levels"):
        if (value := given[field]) is not None:
            other = study.changed(**{field: value + (1 if value < MOST else -1)})
            commands = [{s.command for s in plan.steps(each.items(), each.results)} for each in (study, other)]
            if commands[0] == commands[1]:
                without_effect(f"no run of {name} depends on it", field)
    return study


@main.command("plan")
@FIGURE
@where("--make", "makefile", type=PATH, help="Write make rules for what is missing to this file.")
@option("--options", "extra", default="", show_default=False, help="Options to add to every command of the rules.")
@on(
    "--jobs",
    type=JOBS,
    default="1",
    help="Processes that will run at once, one a device; several numbers (1,8,64) give a table.",
)
@on(
    "--speed",
    help="Images/s of a device to count with, instead of measuring: of the network that takes "
    "most of the work, or cifar_resnet20=250000.",
)
@DEVICE
@YES
def plan_command(name, makefile, extra, jobs, speed, device, yes, **given):
    """List the runs of a figure (or of all) with their cost, and write make rules for those that are missing.

    \b
    Example:
      repro plan figure2 --scale paper --dataset cifar10
      repro plan all --scale paper --jobs 1,8,64 --speed cifar_resnet20=250000

    The time is predicted for this machine, by doing the same work for 20 seconds unless it takes minutes anyway, or for
    devices of a given --speed. With several --jobs it gives a table of hours, efficiency, the longest chain of jobs
    that wait for each other, and bytes.
    """
    from repro import plan
    from repro.plan import price
    from repro.plan.jobs import rules
    from repro.store.file_kinds import require_replaceable
    from repro.store.files import write_text
    from repro.store.work import sweep_rules

    network, measure = price.speed_of(speed) if speed else (None, None)
    if makefile and len(jobs) > 1:
        raise UsageError(
            f"--make writes rules for one number of processes, not for --jobs {','.join(map(str, jobs))}: "
            "give one number"
        )

    study = study_of(name, given)
    steps = plan.steps(study.items(), study.results)
    todo = plan.unfinished(steps)
    if not makefile:
        without_effect("it is for the rules of --make", "extra", "yes")
    if speed:
        without_effect("with --speed nothing is measured", "device")
    if makefile:
        require_replaceable(makefile, "rules", option="--make")
        sweep_rules(makefile.parent)
        write_text(makefile, rules(todo, program=(sys.executable, "-m", "repro"), options=extra))
    predictions = []
    if price.worth_measuring(todo) or (todo and (speed or len(jobs) > 1)):
        predictions = price.predict_each(todo, jobs, device=device, network=network, measure=measure)
    elif not makefile:
        why = "what is left takes minutes anywhere, and is not predicted" if todo else "nothing is left to do"
        without_effect(why, "device", "jobs", "speed")
    click.echo(price.report(name, steps, todo, *predictions))
    if makefile:
        price.require_sensible(predictions[0] if predictions else None, yes=yes)
        price.require_room(todo, study.results, jobs[0], yes=yes)


@main.command("status")
@FIGURE_OR_ALL
@option("--failed", is_flag=True, help="Only what failed or was stopped; nothing where nothing did.")
def status_command(name, failed, **given):
    """Say what of a figure (or of all) is done, running, waiting or failed, and how long the rest will take.

    \b
    Example:
      repro status figure2 --scale demo
      repro status --failed

    A line per artifact: how far it is, the time left at the speed of those that are finished, and who is at work on
    it, what it waits for, or why it failed and where its log is. No artifact is changed.
    """
    from repro import plan
    from repro.run.status import status

    study = study_of(name, given)
    found = status(plan.steps(study.items(), study.results))
    for word, line in found.lines(failed):
        click.echo(click.style(line[: len(word)], fg=COLOURS[word]) + line[len(word) :])
    if not failed:
        click.echo(found.counts)


@main.command("run")
@FIGURE
@on(
    "--ray",
    "address",
    metavar="ADDRESS|local",
    required=True,
    help="local: this machine. Or a cluster: auto, HOST:PORT (from one of its nodes), ray://HOST:10001.",
)
@option("--options", "extra", default="", show_default=False, help="Options to add to every command.")
@on(
    "--gpus",
    type=click.FloatRange(0, 1),
    help="GPUs of each cohort, 0.25 for four on one [default: 1 where there are GPUs, else 0].",
)
@on("--cpus", type=click.IntRange(1), default=1, help="CPUs, and threads, of each cohort.")
@on("--retries", type=click.IntRange(0), default=3, help="Times to start a job again that failed or lost its node.")
@YES
@click.pass_context
def run_command(context, name, address, extra, gpus, cpus, retries, yes, **given):
    """Make what a figure (or all) lacks as tasks of Ray, then draw and judge it, as make does.

    \b
    Example:
      repro run figure2 --ray local
      repro run figure2 --scale paper --ray 10.0.0.1:6379 --cpus 4 --options '--data-dir /shared/data'

    The figure's jobs, their artifacts and logs are those of make. It waits for a job that another process is doing.
    This program and the results folder have to be on a file system that all nodes share. --ray local says first how
    long it would take. Needs the package ray: make .venv/.extras.
    """
    from repro import plan
    from repro.plan import price
    from repro.plan.jobs import words_of
    from repro.run import ray_cluster

    study, options = study_of(name, given), words_of(extra)
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


@main.command("figure")
@FIGURE
def figure_command(name, **given):
    """Draw a figure (or all) from finished runs: PDF, PNG, and a CSV of what is plotted.

    \b
    Example:
      repro figure figure2 --scale demo
      repro figure all
      repro figure mine.py
    """
    from paper_figures.shared import drawing

    study = study_of(name, given)
    for figure in study.drawn:  # each is told when it is there
        click.echo("\n".join(map(str, drawing.save(*study.draw(figure), study.stem(figure)))))


@main.command("verify")
@FIGURE_OR_ALL
@option("--reference", is_flag=True, help="Judge the paper's own published numbers instead of runs.")
@option("--archive", type=PATH, help="Check a zip that repro archive wrote; needs no data and no GPU.")
@option("--tables", type=PATH, multiple=True, help="Judge what repro tables wrote (repeatable: several goes).")
@option("--trust", is_flag=True, help="Of an archive: run the Python file of a figure of somebody's own in it.")
@click.pass_context
def verify_command(context, name, reference, archive, tables, trust, **given):
    """Judge the paper's claims on finished runs: a table on stdout, Markdown and JSON beside the figures.

    \b
    Example:
      repro verify --scale demo
      repro verify figure2 --scale demo
      repro verify --reference
      repro verify --archive figure2.zip
      repro verify --tables results/cpu-cifar10

    With --archive the runs are those of an archive: checksums are compared, and what its figures plot and its verdicts
    are computed again and have to be the same.

    Exit status: 0 the runs are complete; 1 at paper or day scale a primary claim is contradicted, or an
    archive was altered; 3 runs are missing.
    """
    from repro.store.files import write_text
    from repro.verify import judge as judging

    if archive:
        _alone(context, "archive", "says itself which figure, scale and runs it holds")
        from repro.archive import check

        report = check(archive, trust)
        click.echo(report)
        sys.exit(report.exit_status)
    if trust:
        raise UsageError("--trust is for an --archive: leave it out")
    if tables:
        _alone(context, "tables", "says itself which figure, scale and runs the folder is of")
        from repro.archive.tables import judged

        judgement, lacking = judged(tables)
        if lacking:
            click.echo(f"{len(lacking)} artifacts are missing or incomplete, the first {lacking[0]}\n")
        click.echo(judgement.terminal)
        sys.exit(judgement.exit_status)
    if reference:
        _alone(context, "reference", "judges the paper's own numbers, of all figures")
        click.echo(judging.reference().terminal)
        return
    study = study_of(name, given)
    count, lacking = len(study.items()), study.lacking()
    if not study.finished():
        raise Failure(f"{study.results} has no run of {name}: make them with {study.how}", 3)
    judgement = study.judge()
    files = judgement.files(study.verdicts_stem)
    for path, text in files:
        write_text(path, text)
    if lacking:
        click.echo(f"{len(lacking)} of {count} artifacts are missing or incomplete, the first {lacking[0]}\n")
    click.echo(f"{judgement.terminal}\n\nevery number, and a sentence on each claim: {files[0][0]}")
    sys.exit(judgement.exit_status)


@main.command("report")
@FIGURE_OR_ALL
@where("--out", type=PATH, help="HTML file to write [default: RESULTS/report.html].")
def report_command(name, out, **given):
    """Write one HTML page of everything made so far, to read without a network.

    \b
    Example:
      repro report --scale demo
      repro report figure2 --scale demo --out figure2.html

    It holds each figure as charts beside the paper's numbers, the verdicts with a sentence on each claim, deviations,
    cost, provenance with checksums, and what is missing with the command that makes it.
    """
    from repro import report

    path = report.write(study_of(name, given), out)
    return f"{path}: {path.stat().st_size:,} bytes"


@main.command("archive")
@FIGURE
@where("--out", type=PATH, help="Zip to write [default: RESULTS/FIGURE.zip].")
def archive_command(name, out, **given):
    """Write everything of a figure (or of all) into one zip, an RO-Crate, as for Zenodo.

    \b
    Example:
      repro archive figure2 --scale demo
      repro archive all --out archive.zip

    It holds the figures, what they plot, verdicts, the artifacts with all they were made from, recipe and checksums;
    figures and verdicts are made anew from the artifacts. `repro verify --archive` checks it on any machine.
    """
    from repro import archive

    study = study_of(name, given)
    if study.own:  # an archive is checked without running code in it
        raise UsageError(
            f"{name} is a figure of your own, and an archive holds the paper's alone: keep {name} with {study.results}"
        )
    if lacking := archive.missing(study):
        raise Failure(
            f"{len(lacking)} artifacts are missing, incomplete or made from others than those that are there, "
            f"the first {lacking[0]}: make them with {study.how}",
            3,
        )
    path, count = archive.write(study, out)
    return f"{path}: {count} files, {path.stat().st_size:,} bytes"


@main.command("tables")
@FIGURE
@where("--out", type=PATH, required=True, help="Folder to write to.")
def tables_command(name, out, **given):
    """Write the tables that figures and verdicts are made from, as CSV files, with the recipe.

    \b
    Example:
      repro tables all --scale cpu --out tables

    They are small enough for a repository: `repro verify --tables` judges again from them alone. What is finished so
    far is written.
    """
    from repro.archive import tables

    return "\n".join(map(str, tables.write(study_of(name, given), out)))


def _say(line: object) -> None:
    click.echo(line, err=True)


def _alone(context: click.Context, option: str, why: str) -> None:
    """Raises UsageError when anything beside this option was given."""
    for word, _ in given_among(set(context.params) - {option, "trust"}):
        raise UsageError(f"--{option} {why}: leave {word} out")
