"""plan, figure, verify, archive, tables."""

import sys

import click
from click.core import ParameterSource

from repro.cli.group import Failure, main
from repro.cli.options import CONTROL, DEVICE, PANELS, PATH, REPLICATES, RESULTS, SEED, options, without_effect
from repro.errors import UsageError
from repro.experiment import MOST
from repro.protocol import SCALES

FIGURE_OPTIONS = (
    click.option("--scale", type=click.Choice(SCALES), help="[default: demo; a figure of your own has none]"),
    PANELS,
    CONTROL,
    SEED,
    REPLICATES,
    click.option("--levels", type=click.IntRange(1, MOST), help="Pruning levels [default: the scale's]."),
    RESULTS,
)
FIGURE = options(click.argument("name", metavar="FIGURE"), *FIGURE_OPTIONS)


def study_of(name: str, given: dict):
    """The `repro.study.Study` that the options ask for; warns of those that change none of its runs."""
    from repro import plan
    from repro.study.study import Study

    study = Study(name, **given)
    for option in ("seed", "replicates", "levels"):
        if given[option] is not None:
            other = study.changed(**{option: given[option] + (1 if given[option] < MOST else -1)})
            commands = [{s.command for s in plan.steps(each.items(), each.results)} for each in (study, other)]
            if commands[0] == commands[1]:
                without_effect(f"no run of {name} depends on it", option)
    return study


@main.command("plan")
@FIGURE
@click.option("--make", "makefile", type=PATH, help="Write make rules for what is missing to this file.")
@click.option("--options", "extra", default="", help="Options to add to every command of the rules.")
@click.option(
    "--jobs",
    default="1",
    show_default=True,
    help="Processes that will run at once, one a device; several numbers (1,8,64) give a table.",
)
@click.option(
    "--speed",
    help="Images/s of a device to count with, instead of measuring: of the network that takes "
    "most of the work, or cifar_resnet20=250000.",
)
@DEVICE
@click.option("--yes", is_flag=True, help="Go ahead although this machine would need very long.")
def plan_command(name, makefile, extra, jobs, speed, device, yes, **given):
    """List the runs of a figure (or of all) with their cost, and write make rules for those that are missing.

    What is long enough is predicted for this machine, by doing the same work for 20 seconds, or for devices of a given
    --speed. With several --jobs: hours, efficiency, the longest chain of jobs that wait for each other, and bytes.

    \b
    Example:
      repro plan figure2 --scale paper --dataset cifar10
      repro plan all --scale paper --jobs 1,8,64 --speed cifar_resnet20=250000
    """
    from repro import plan
    from repro.plan import price
    from repro.run import make_rules
    from repro.store.files import write_text
    from repro.store.leftovers import sweep_rules
    from repro.store.targets import require_replaceable

    places = price.places(jobs)
    network, measure = price.speed_of(speed) if speed else (None, None)
    if makefile and len(places) > 1:
        raise UsageError(f"--make writes rules for one number of processes, not for --jobs {jobs}: give one number")

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
        write_text(makefile, make_rules.rules(todo, program=(sys.executable, "-m", "repro"), options=extra))
    predictions = []
    if price.worth_measuring(todo) or (todo and (speed or len(places) > 1)):
        predictions = price.predict_each(todo, places, device=device, network=network, measure=measure)
    elif not makefile:
        why = "what is left takes minutes anywhere, and is not predicted" if todo else "nothing is left to do"
        without_effect(why, "device", "jobs", "speed")
    click.echo(price.report(name, steps, todo, *predictions))
    if makefile:
        price.require_sensible(predictions[0] if predictions else None, yes=yes)
        price.require_room(todo, study.results, places[0], yes=yes)


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
    for figure in study.drawn:
        click.echo("\n".join(map(str, drawing.save(*study.draw(figure), study.stem(figure)))))


@main.command("archive")
@FIGURE
@click.option("--out", type=PATH, help="Zip to write [default: RESULTS/FIGURE.zip].")
def archive_command(name, out, **given):
    """Write everything of a figure (or of all) into one zip, an RO-Crate, as for Zenodo.

    It holds the figures, what they plot, verdicts, the artifacts with all they were made from, recipe and checksums;
    figures and verdicts are made anew from the artifacts. `repro verify --archive` checks it on any machine.

    \b
    Example:
      repro archive figure2 --scale demo
      repro archive all --out archive.zip
    """
    from repro import archive

    study = study_of(name, given)
    if study.own:  # who checks an archive runs nothing that is in it
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
    click.echo(f"{path}: {count} files, {path.stat().st_size:,} bytes")


@main.command("tables")
@FIGURE
@click.option("--out", type=PATH, required=True, help="Folder to write to.")
def tables_command(name, out, **given):
    """Write the tables that figures and verdicts are made from, as CSV files, with the recipe.

    They are small enough for a repository: `repro verify --tables` judges again from them alone. What is finished so
    far is written.

    \b
    Example:
      repro tables all --scale cpu --out results/cpu-cifar10
    """
    from repro.archive import tables

    click.echo("\n".join(map(str, tables.write(study_of(name, given), out))))


@main.command("verify")
@click.argument("name", metavar="[FIGURE]", default="all")
@options(*FIGURE_OPTIONS)
@click.option("--reference", is_flag=True, help="Judge the paper's own published numbers instead of runs.")
@click.option("--archive", type=PATH, help="Check a zip that repro archive wrote; needs no data and no GPU.")
@click.option("--tables", type=PATH, multiple=True, help="Judge what repro tables wrote (repeatable: several goes).")
@click.option("--trust", is_flag=True, help="Of an archive: run the Python file of a figure of somebody's own in it.")
@click.pass_context
def verify_command(context, name, reference, archive, tables, trust, **given):
    """Judge the paper's claims on finished runs: a table on stdout, Markdown and JSON beside the figures.

    With --archive the runs are those of an archive: checksums are compared, and what its figures plot and its verdicts
    are computed again and have to be the same.

    Exit status: 0 the runs are complete; 1 at paper or day scale a primary claim is contradicted, or an
    archive was altered; 3 runs are missing.

    \b
    Example:
      repro verify --scale demo
      repro verify figure2 --scale demo
      repro verify --reference
      repro verify --archive figure2.zip
      repro verify --tables results/cpu-cifar10
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


def _alone(context: click.Context, option: str, why: str) -> None:
    """Raises UsageError when anything beside this option was given."""
    for name in context.params:
        if name not in (option, "trust") and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            word = next(p.opts[0] for p in context.command.params if p.name == name)
            raise UsageError(f"--{option} {why}: leave {word} out")
