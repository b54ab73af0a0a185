"""plan, figure, verify."""

import sys
from pathlib import Path

import click

from repro.cli.group import Failure, main
from repro.cli.options import CONTROL, MOST, PANELS, PATH, REPLICATES, RESULTS, SEED, options
from repro.errors import RunError, UsageError
from repro.protocol import SCALES, Protocol, datasets_at

FIGURE = options(
    click.argument("name", metavar="FIGURE"),
    click.option("--scale", type=click.Choice(SCALES), default="demo", show_default=True),
    PANELS, CONTROL, SEED, REPLICATES,
    click.option("--levels", type=click.IntRange(1, MOST), help="Pruning levels [default: the scale's]."),
    RESULTS,
)  # fmt: skip


def _study(name, scale, datasets, control, seed, replicates, levels, results):
    """(figure module, protocols, cells, results folder) of a figure command."""
    import paper_figures
    from repro import plan

    module = paper_figures.figure(name)
    known = datasets_at(scale)
    unknown = set(datasets) - {p.dataset for p in known}
    if unknown:
        names = ", ".join(p.dataset for p in known)
        raise UsageError(f"{scale} scale has no data set {', '.join(sorted(unknown))}: choose among {names}")
    chosen: list[Protocol] = [
        plan.resize(p, replicates=replicates, levels=levels, seed=seed)
        for p in known
        if not datasets or p.dataset in datasets
    ]
    cells = [cell for p in chosen for cell in module.cells(p, control)]
    results = results or Path("results") / scale
    if results.exists() and not results.is_dir():
        raise UsageError(f"--results {results} is a file: give a folder")
    return module, chosen, cells, results


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror.lower()}): choose another place or allow it") from error


@main.command("plan")
@FIGURE
@click.option("--make", "makefile", type=PATH, help="Write make rules for what is missing to this file.")
@click.option("--options", "extra", default="", help="Options to add to every command of the rules.")
@click.option("--yes", is_flag=True, help="Go ahead although this machine would need very long.")
def plan_command(name, makefile, extra, yes, **given):
    """List the runs of a figure with their cost, and write make rules for those that are missing.

    \b
    Example:
      repro plan figure2 --scale paper --dataset cifar10
    """
    from repro import cost, plan

    _, _, cells, results = _study(name, **given)
    steps = plan.steps(cells, results)
    todo = plan.unfinished(steps)
    if makefile:
        _write_text(makefile, plan.rules(todo, program=(sys.executable, "-m", "repro"), options=extra))
    click.echo(cost.report(name, steps, todo))
    if todo and makefile:
        cost.require_sensible(todo, yes=yes)


@main.command("figure")
@FIGURE
def figure_command(name, **given):
    """Draw a figure from finished runs: PDF, PNG, and a CSV of what is plotted.

    \b
    Example:
      repro figure figure2 --scale demo
    """
    from paper_figures import style
    from repro import plan

    module, protocols, cells, results = _study(name, **given)
    drawn, table = module.draw(plan.collect(cells, results), protocols, control=given["control"])
    paths = style.save(drawn, table, results / _stem(name, given["control"]))
    click.echo("\n".join(map(str, paths)))


def _stem(name: str, control: str | None) -> str:
    return f"{name}-{control}" if control else name


@main.command("verify")
@FIGURE
def verify_command(name, **given):
    """Judge the paper's claims on finished runs: a table on stdout, Markdown and JSON beside the figure.

    Exit status: 0 the runs are complete; 1 at paper scale a primary claim is contradicted; 3 runs are missing.

    \b
    Example:
      repro verify figure2 --scale demo
    """
    from repro import plan
    from repro.verify.judge import judge

    module, protocols, cells, results = _study(name, **given)
    present = [cell for cell in cells if cell.path(results, "imp").exists()]
    if not present:
        raise Failure(f"{results} has no run of {name}: make them with `make {name}`", 3)
    unspoiled = None
    if given["control"] in ("permute-scores", "swap-easy-hard"):
        plain = [cell for p in protocols for cell in module.cells(p)]
        if all(cell.path(results, "imp").exists() for cell in plain):
            unspoiled = plan.collect(plain, results)
    judgement = judge(plan.collect(present, results), protocols, figure=name, control=given["control"],
                      unspoiled=unspoiled)  # fmt: skip
    files = judgement.files(results / f"{_stem(name, given['control'])}-verdicts")
    for path, text in files:
        _write_text(path, text)
    click.echo(f"{judgement.terminal}\n\nevery number, and a sentence on each claim: {files[0][0]}")
    sys.exit(judgement.exit_status)
