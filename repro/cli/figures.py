"""plan, figure, verify."""

import sys
from pathlib import Path

import click

from repro.cli.group import Failure, main
from repro.cli.options import CONTROL, MOST, PANELS, PATH, REPLICATES, RESULTS, SEED, options
from repro.errors import RunError, UsageError
from repro.protocol import SCALES, Protocol, datasets_at

FIGURE_OPTIONS = (
    click.option("--scale", type=click.Choice(SCALES), default="demo", show_default=True),
    PANELS, CONTROL, SEED, REPLICATES,
    click.option("--levels", type=click.IntRange(1, MOST), help="Pruning levels [default: the scale's]."),
    RESULTS,
)  # fmt: skip
FIGURE = options(click.argument("name", metavar="FIGURE"), *FIGURE_OPTIONS)


class _Study:
    """What a figure command is about: protocols, results folder, and the items of each of its figures."""

    def __init__(self, name, scale, datasets, control, seed, replicates, levels, results):
        from paper_figures.cells import FIGURES, needed
        from repro import plan

        known = datasets_at(scale)
        if unknown := set(datasets) - {p.dataset for p in known}:
            names = ", ".join(p.dataset for p in known)
            raise UsageError(f"{scale} scale has no data set {', '.join(sorted(unknown))}: choose among {names}")
        chosen = [
            plan.resize(p, replicates=replicates, levels=levels, seed=seed)
            for p in known
            if not datasets or p.dataset in datasets
        ]
        self.name, self.control = name, control
        self.figures = tuple(FIGURES) if name == "all" else (name,)
        declared = {(f, p): needed(f, p, control) for f in self.figures for p in chosen}
        self.protocols = [p for p in chosen if any(declared[f, p] for f in self.figures)]
        if not self.protocols:
            raise UsageError(f"the paper has no {name} on {', '.join(p.dataset for p in chosen)}: leave --dataset out")
        self._declared = declared
        self.results = results or Path("results") / scale
        if self.results.exists() and not self.results.is_dir():
            raise UsageError(f"--results {self.results} is a file: give a folder")

    def items(self, *figures: str) -> list:
        """What these figures (default: all of the study) need, on all data sets, each item once."""
        found = (item for (f, _), items in self._declared.items() if f in (figures or self.figures) for item in items)
        return list(dict.fromkeys(found))

    def protocols_of(self, figure: str) -> list[Protocol]:
        return [p for p in self.protocols if self._declared[figure, p]]

    def stem(self, name: str) -> Path:
        """Path, less the suffix, of what is written about a figure."""
        return self.results / (f"{name}-{self.control}" if self.control else name)


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
    """List the runs of a figure (or of all) with their cost, and write make rules for those that are missing.

    \b
    Example:
      repro plan figure2 --scale paper --dataset cifar10
      repro plan all --scale paper
    """
    from repro import cost, plan

    study = _Study(name, **given)
    steps = plan.steps(study.items(), study.results)
    todo = plan.unfinished(steps)
    if makefile:
        _write_text(makefile, plan.rules(todo, program=(sys.executable, "-m", "repro"), options=extra))
    click.echo(cost.report(name, steps, todo))
    if todo and makefile:
        cost.require_sensible(todo, yes=yes)


@main.command("figure")
@FIGURE
def figure_command(name, **given):
    """Draw a figure (or all) from finished runs: PDF, PNG, and a CSV of what is plotted.

    \b
    Example:
      repro figure figure2 --scale demo
      repro figure all
    """
    import paper_figures
    from paper_figures import style
    from repro import plan

    study = _Study(name, **given)
    for figure in study.figures:
        if not (protocols := study.protocols_of(figure)):
            continue  # the paper has it on none of the data sets asked for
        evidence = plan.collect(study.items(figure), study.results)
        drawn, table = paper_figures.figure(figure).draw(evidence, protocols, control=study.control)
        click.echo("\n".join(map(str, style.save(drawn, table, study.stem(figure)))))


@main.command("verify")
@click.argument("name", metavar="[FIGURE]", default="all")
@options(*FIGURE_OPTIONS)
@click.option("--reference", is_flag=True, help="Judge the paper's own published numbers instead of runs.")
def verify_command(name, reference, **given):
    """Judge the paper's claims on finished runs: a table on stdout, Markdown and JSON beside the figures.

    Exit status: 0 the runs are complete; 1 at paper scale a primary claim is contradicted; 3 runs are missing.

    \b
    Example:
      repro verify --scale demo
      repro verify figure2 --scale demo
      repro verify --reference
    """
    from repro import plan
    from repro.verify import judge as judging

    if reference:
        click.echo(judging.reference().terminal)
        return
    study = _Study(name, **given)
    items = study.items()
    present = plan.finished(items, study.results)
    lacking = [step.target for step in plan.last(items, study.results) if step.lacks()]
    if not present:
        target = "figures" if name == "all" else name
        raise Failure(f"{study.results} has no run of {name}: make them with `make {target}`", 3)
    unspoiled = None
    if study.control in ("permute-scores", "swap-easy-hard"):
        plain = _Study(name, **{**given, "control": None}).items()
        if len(plan.finished(plain, study.results)) == len(plain):
            unspoiled = plan.collect(plain, study.results)
    judgement = judging.judge(plan.collect(present, study.results), study.protocols, figures=study.figures,
                              control=study.control, unspoiled=unspoiled, complete=not lacking)  # fmt: skip
    stem = study.stem("paper" if name == "all" else name)
    files = judgement.files(stem.with_name(f"{stem.name}-verdicts"))
    for path, text in files:
        _write_text(path, text)
    if lacking:
        click.echo(f"{len(lacking)} of {len(items)} artifacts are missing or incomplete, the first {lacking[0]}\n")
    click.echo(f"{judgement.terminal}\n\nevery number, and a sentence on each claim: {files[0][0]}")
    sys.exit(judgement.exit_status)
