"""The command line: parse, call one stage, print one summary. Nothing else imports click."""

import dataclasses
import re
import sys
from pathlib import Path

import click

from repro.errors import RunError, UsageError
from repro.protocol import SCALES, Protocol, Scoring, datasets_at, protocol

ENGINES = ("auto", "fused", "sparse", "serial")
PRECISIONS = ("fp32", "bf16")
MOST = 1000  # replicates, networks or levels: beyond, it is a slip of the keyboard


class Interrupted(click.ClickException):
    exit_code = 130

    def __init__(self):
        super().__init__("interrupted: what was finished is kept; the same command (without --force) takes it up")


class Commands(click.Group):
    """Turns the program's two kinds of failure into one sentence and an exit status."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise _Failure(str(error), 2) from error
        except RunError as error:
            raise _Failure(str(error), 1) from error
        except (MemoryError, RuntimeError) as error:  # what torch cannot allocate is a RuntimeError
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            advice = "ask for fewer --replicates at a time, a smaller --batch-size or another --network"
            raise _Failure(f"out of memory: {advice}", 1) from error
        except KeyboardInterrupt as error:
            raise Interrupted from error


class _Failure(click.ClickException):
    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lottery-data-diet", prog_name="repro")
def main():
    """Reproduce "Lottery Tickets on a Data Diet" (Paul et al., NeurIPS 2022), one step at a time.

    \b
    The whole of Figure 2 on real 8x8 digits, in minutes, without a GPU:
      make demo
    The same by hand:
      repro score    --dataset digits --out scores.h5
      repro select   --kind easy --size 256 --scores scores.h5 --out easy.h5
      repro pretrain --subset easy.h5 -t 10 --out easy-t10.h5
      repro imp      easy-t10.h5 --levels 12 --out imp.h5
      repro ls       'level==8' --columns name,acc,density --results .
    """


# --- options that several commands share ----------------------------------------------------------------------------


def options(*decorators):
    """One decorator of several."""

    def apply(function):
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


PATH = click.Path(path_type=Path)
DATASET = click.option("--dataset", help="cifar10, cifar100, cinic10, digits, or folder:PATH (train/ and test/ inside).")
SCALE = click.option("--scale", type=click.Choice(SCALES), help="Protocol to take defaults from [default: the data set's].")
SEED = click.option("--seed", type=int, help="Base seed of all random streams [default: the protocol's, 0].")
REPLICATES = click.option("--replicates", type=click.IntRange(1, MOST),
                          help="Number of replicates [default: the protocol's, 4].")  # fmt: skip
OUT = click.option("--out", type=PATH, required=True, help="Artifact to write (HDF5). It grows: nothing is redone.")
RESULTS = click.option("--results", type=PATH, help="Folder of artifacts [default: results/SCALE].")
CONTROL = click.option(
    "--control", help="An experiment that has to fail: permute-scores, swap-easy-hard or shuffle-mask."
)
PANELS = click.option("--dataset", "datasets", multiple=True, help="Only these panels (repeatable) [default: all].")
MACHINE = options(
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True,
                 help="How replicates are trained together."),
    click.option("--data-dir", type=PATH, help="Folder that holds the data sets [default: data]."),
    click.option("--download", is_flag=True, help="Fetch a missing CIFAR archive (checksummed)."),
    click.option("--checkpoint-seconds", type=float, default=60, show_default=True,
                 help="Time between checkpoints within a level."),
    click.option("--force", is_flag=True, help="Begin anew, whatever stands at --out."),
    click.option("--dry-run", is_flag=True, help="Say what would be computed, and stop."),
)  # fmt: skip
TRAINING = options(
    click.option("--network", help="cifar_resnet20, cifar_resnet14_w4 (width 4) … or any timm name "
                 "[paper: cifar_resnet20, 32, 56]."),
    click.option("--steps", type=int, help="Steps of a whole training [paper: 62400, 62400, 31250]."),
    click.option("--batch-size", type=int, help="[paper: 128, 128, 256]"),
    click.option("--lr", type=float, help="Peak learning rate [paper: 0.1]."),
    click.option("--milestones", help="Steps at which the rate falls by 10 [paper: 31200,46800]; '' for none."),
    click.option("--weight-decay", type=float, help="On all parameters [paper: 1e-4]."),
    click.option("--augment/--no-augment", default=None, help="Random crop and flip [paper: on]."),
    click.option("--drop-last/--keep-last", default=None, help="Last partial batch [paper: CIFAR kept, CINIC dropped]."),
    click.option("--precision", type=click.Choice(PRECISIONS), help="[default: fp32]"),
    click.option("--normalization", type=click.Choice(["dataset", "imagenet"]),
                 help="Constants [paper: imagenet for CIFAR, dataset for CINIC]."),
)  # fmt: skip
MACHINE_FIELDS = ("device", "engine", "data_dir", "download", "checkpoint_seconds", "force", "dry_run")


def _machine(given: dict):
    from repro.stages import Machine

    return Machine(**{name: given.pop(name) for name in MACHINE_FIELDS})


def _training(base, given: dict):
    """The protocol's training with the options that were given."""
    fields = {name: given.pop(name) for name in ("steps", "batch_size", "lr", "weight_decay", "augment", "drop_last", "precision")}
    milestones = given.pop("milestones")
    if milestones is not None:
        try:
            fields["milestones"] = tuple(int(word) for word in milestones.split(",") if word.strip())
            if min(fields["milestones"], default=1) < 1:
                raise ValueError
        except ValueError:
            raise UsageError(f"milestones (={milestones!r}) must be steps with commas, like 31200,46800") from None
    return dataclasses.replace(base, **{name: value for name, value in fields.items() if value is not None})


def _show(result) -> None:
    click.echo(str(result))


# --- stages ---------------------------------------------------------------------------------------------------------


@main.command()
@options(DATASET, SCALE)
@click.option("--networks", type=click.IntRange(1, MOST), help="K, networks of the ensemble [paper: 10].")
@click.option("--batch-norm", type=click.Choice(["batch", "running"]),
              help="Statistics when scoring: of batches of 1000 images, or running ones [published code: batch].")  # fmt: skip
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def score(dataset, scale, networks, batch_norm, network, normalization, seed, replicates, out, **given):
    """EL2N score of every training image: the mean error norm of K networks.

    \b
    Example:
      repro score --dataset digits --out scores.h5
    """
    from repro import stages

    if dataset is None:
        raise UsageError("score needs --dataset: try --dataset digits")
    p, machine = protocol(dataset, scale), _machine(given)
    own = p.scoring
    scoring = Scoring(network or own.network, _training(own.training, given), networks or own.networks,
                      batch_norm or own.batch_norm)  # fmt: skip
    _show(stages.score(out, dataset=dataset, scoring=scoring, normalization=normalization or p.normalization,
                       replicates=replicates or p.replicates, seed=p.seed if seed is None else seed, machine=machine))  # fmt: skip


@main.command()
@click.option("--kind", type=click.Choice(["easy", "hard", "random"]), required=True, help="Which images.")
@click.option("--size", type=int, help="M, number of images [paper, Figure 2: 3200, 2048, 51200].")
@click.option("--scores", type=PATH, help="Score artifact that ranks the images (easy and hard).")
@options(DATASET, SCALE)
@click.option("--balanced/--unbalanced", default=None, help="As many of each class [paper: random yes, easy and hard no].")
@click.option("--like", type=PATH, help="Random images with this subset artifact's class histogram.")
@click.option("--permute-scores", is_flag=True, help="A control that has to fail: permute the scores among images first.")
@options(SEED, REPLICATES, OUT, MACHINE)
def select(kind, size, scores, dataset, scale, seed, replicates, out, **given):
    """Choose the easiest, hardest or random images to pre-train on.

    \b
    Example:
      repro select --kind easy --size 256 --scores scores.h5 --out easy.h5
    """
    from repro import stages, store

    machine = _machine(given)
    source = scores or given["like"]
    if source:
        kind_of = "score" if scores else "subset"
        named = store.read_header(source, kind=kind_of).recipe["dataset"]
        if dataset not in (None, named):
            raise UsageError(f"--dataset {dataset}, but {source} is of {named}: leave --dataset out")
        p, dataset = protocol(named, scale), None
    elif dataset is None:
        raise UsageError("select needs --scores (easy, hard), or --dataset (random)")
    else:
        p = protocol(dataset, scale)
    if given["balanced"] is None and kind != "random":
        given["balanced"] = p.balanced
    _show(stages.select(out, kind=kind, size=p.subset_size if size is None else size, scores=scores, dataset=dataset,
                        normalization=None if source else p.normalization, replicates=replicates or p.replicates,
                        seed=p.seed if seed is None else seed, machine=machine, **given))  # fmt: skip


@main.command()
@click.option("--subset", type=PATH, help="Subset artifact to pre-train on [default: all training images].")
@options(DATASET, SCALE)
@click.option("-t", "--rewind-step", "t", type=int, help="Steps of pre-training, t_r [paper: 400, 800, 800 and half].")
@options(TRAINING, SEED, REPLICATES, OUT, MACHINE)
def pretrain(subset, dataset, scale, t, network, normalization, seed, replicates, out, **given):
    """Train the dense network for t steps: its weights are the rewind point.

    \b
    Examples:
      repro pretrain --dataset digits -t 20 --out all-t20.h5
      repro pretrain --subset easy.h5 -t 10 --out easy-t10.h5
    """
    from repro import stages, store

    if (subset is None) == (dataset is None):
        raise UsageError("pretrain needs either --dataset (all its training images) or --subset")
    machine = _machine(given)
    p = protocol(store.read_header(subset, kind="subset").recipe["dataset"] if subset else dataset, scale)
    _show(stages.pretrain(out, dataset=dataset, subset=subset, t=p.t_star if t is None else t,
                          network=network or p.network, training=_training(p.training, given),
                          normalization=normalization or (None if subset else p.normalization),
                          replicates=replicates or p.replicates, seed=p.seed if seed is None else seed, machine=machine))  # fmt: skip


@main.command()
@click.argument("rewind_point", type=PATH)
@click.option("--levels", type=click.IntRange(0, MOST), help="Pruning levels after the dense one [paper: 16; CINIC 12].")
@click.option("--prune-fraction", type=float, default=0.2, show_default=True, help="Of surviving weights, per level.")
@click.option("--pruning", type=click.Choice(["magnitude", "random", "shuffled"]), default="magnitude", show_default=True,
              help="magnitude is IMP; the others are controls.")  # fmt: skip
@click.option("--masks", type=PATH, help="imp artifact whose masks --pruning shuffled shuffles within layers.")
@options(REPLICATES, OUT, MACHINE)
def imp(rewind_point, levels, prune_fraction, pruning, masks, replicates, out, **given):
    """Iterative magnitude pruning from a rewind point: train, prune, rewind, and again.

    \b
    Example:
      repro imp easy-t10.h5 --levels 12 --out imp.h5
    """
    from repro import stages, store

    machine = _machine(given)
    if levels is None:
        levels = protocol(store.read_header(rewind_point, kind="pretrain").recipe["dataset"]).levels
    _show(stages.imp(out, rewind_point, levels=levels, replicates=replicates, pruning=pruning, masks=masks,
                     prune_fraction=prune_fraction, machine=machine))  # fmt: skip


# --- figures --------------------------------------------------------------------------------------------------------

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
    todo = [step for step in steps if step.missing()]
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

    _, protocols, cells, results = _study(name, **given)
    present = [cell for cell in cells if cell.path(results, "imp").exists()]
    if not present:
        raise _Failure(f"{results} has no run of {name}: make them with `make {name}`", 3)
    judgement = judge(plan.collect(present, results), protocols, figure=name, control=given["control"])
    files = judgement.files(results / f"{_stem(name, given['control'])}-verdicts")
    for path, text in files:
        _write_text(path, text)
    click.echo(f"{judgement.terminal}\n\nevery number, and a sentence on each claim: {files[0][0]}")
    sys.exit(judgement.exit_status)


# --- the store ------------------------------------------------------------------------------------------------------


@main.command("ls")
@click.argument("expression", required=False)
@click.option("--results", type=PATH, default=Path("results"), show_default=True, help="Folder to search.")
@click.option("--columns", help="Columns to show, with commas.")
@click.option("--csv", is_flag=True, help="CSV instead of a table.")
def ls_command(expression, results, columns, csv):
    """Query all artifacts: one row per replicate (and level), with recipe and measurements as columns.

    \b
    Example:
      repro ls 'dataset=="digits" and level==8' --columns name,acc,density,t --csv
    """
    from repro.store import query

    chosen = [column.strip() for column in columns.split(",")] if columns else None
    rows = query.select(query.runs(results), expression, chosen)
    click.echo(rows.to_csv(index=False) if csv else rows.to_string(index=False), nl=not csv)


@main.command()
@click.argument("artifact", type=PATH)
def inspect(artifact):
    """Print an artifact's recipe, inputs, provenance and contents.

    \b
    Example:
      repro inspect imp.h5
    """
    from repro.store import query

    click.echo(query.describe(artifact))


@main.command()
@click.argument("artifact", type=PATH)
@click.option("--out", type=PATH, required=True, help="CSV file to write.")
def export(artifact, out):
    """Write an artifact's table as CSV.

    \b
    Example:
      repro export imp.h5 --out imp.csv
    """
    from repro.store import query

    if out.exists() and artifact.exists() and out.samefile(artifact):
        raise UsageError(f"--out {out} is the artifact itself: give another path for the CSV")
    if out.is_symlink() or (out.exists() and not (out.is_file() or out.is_dir())):
        raise UsageError(f"--out {out} is no ordinary file: give the path of a CSV file")  # a rename would replace it
    click.echo(query.export(artifact, out))


if __name__ == "__main__":
    main()
