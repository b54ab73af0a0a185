"""ls, inspect, export, compare, check-ticket, reseal."""

import sys
from pathlib import Path

import click

from repro.cli.group import main
from repro.cli.options import DEVICE, LEVELS, PATH, Listed, on, option, where
from repro.errors import UsageError
from repro.experiment import MOST

EXPORTED = "File to write: .csv, .parquet; .pt, .safetensors (a network); .npy, .csv, .txt, .json, .pt (indices)."


@main.command("ls")
@click.argument("expression", required=False)
@where("--results", type=PATH, default=Path("results"), help="Folder to search.")
@option("--columns", type=Listed(str, ("columns", "names with commas")), help="Columns to show, with commas.")
@option("--csv", is_flag=True, help="CSV instead of a table.")
def ls_command(expression, results, columns, csv):
    """Query all artifacts: one row per replicate (and level), with recipe and measurements as columns.

    \b
    Example:
      repro ls 'dataset=="digits" and level==8' --columns name,acc,density,t --csv
    """
    from repro.reading import query

    rows = query.select(query.runs(results), expression, columns and list(columns))
    return rows.to_csv(index=False).removesuffix("\n") if csv else query.text(rows)


@main.command()
@click.argument("artifact", type=PATH)
def inspect(artifact):
    """Print an artifact's recipe, inputs, provenance and contents.

    \b
    Example:
      repro inspect imp.h5
    """
    from repro.reading import query

    return query.describe(artifact)


@main.command()
@click.argument("artifact", type=PATH)
@where("--out", type=PATH, required=True, help=EXPORTED)
@option(
    "--part",
    type=click.Choice(("ticket", "trained", "rewind", "mask", "indices", "scores")),
    help="Of a network: mask × rewind point, trained weights, rewind point, or mask. Of a subset: indices. Of scores: "
    "those of each image, as a table.",
)
@option("--replicate", type=click.IntRange(0), help="Whose network, or subset.")
@option("--level", type=click.IntRange(0), help="Its pruning level; a rewind point has none.")
def export(artifact, out, part, replicate, level):
    """Write the table of an artifact (or of a folder of them), one of its networks as a PyTorch state_dict, the scores
    of all images, or the numbers of a subset's images for torch.utils.data.Subset.

    \b
    Example:
      repro export imp.h5 --out imp.csv
      repro export results/demo --out demo.parquet
      repro export imp.h5 --replicate 0 --level 8 --part ticket --out ticket.pt
      repro export pretrain.h5 --replicate 0 --part rewind --out rewind.pt
      repro export scores.h5 --part scores --out el2n.csv
      repro export easy.h5 --replicate 0 --part indices --out easy.npy
    """
    from repro.reading import export_tables as files
    from repro.store.file_kinds import require_target

    if out.exists() and artifact.exists() and out.samefile(artifact) and not out.is_dir():
        raise UsageError(f"--out {out} is the artifact itself: give another path")
    if not out.is_dir():
        require_target(out)
    of_network = {"--part": part, "--replicate": replicate, "--level": level}
    if part == "indices":
        if level is not None:
            raise UsageError(f"--level {level}, but a subset has none: leave it out")
        if replicate is None:
            raise UsageError(f"--out {out} holds the images of one replicate: say --replicate")
        return files.export_indices(artifact, out, replicate)
    if part == "scores":
        if given := [option for option in ("--replicate", "--level") if of_network[option] is not None]:
            raise UsageError(f"{given[0]} {of_network[given[0]]}, but scores are written as one table: leave it out")
        if files.suffix_of(out) not in files.TABLES:
            raise UsageError(f"--out {out} is of a network, and scores are a table: end it in .csv or .parquet")
        return files.export(artifact, out, by_image=True)
    if files.suffix_of(out) in files.TABLES:
        if given := [option for option, value in of_network.items() if value is not None]:
            raise UsageError(f"{given[0]} is of a network and --out {out} of a table: end it in .pt or .safetensors")
        return files.export(artifact, out)
    if part is None or replicate is None:
        raise UsageError(
            f"--out {out} holds one network: say --part and --replicate, and --level unless it is a rewind point"
        )
    from repro.reading import networks

    return networks.export(artifact, out, replicate=replicate, level=level, part=part)


@main.command("compare")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@option("--levels", type=LEVELS, help="Pruning levels to compare, like 0,8 [default: all that both have].")
@option("--replicates", type=click.IntRange(1, MOST), help="The first so many of the first run [default: all].")
@where("--out", type=PATH, required=True, help="Table to write, .csv; the figure stands beside it as .pdf and .png.")
@where("--data-dir", type=PATH, help="Folder that holds the data sets [default: data].")
@DEVICE
@on("--threads", type=click.IntRange(1), help="CPU threads [default: OMP_NUM_THREADS, or all CPUs].")
def compare_command(first, second, out, levels, replicates, **given):
    """Compare the tickets of two imp or branch artifacts: masks, weights, predictions and barriers, by level.

    \b
    Examples:
      repro compare imp-all-t20.h5 imp-easy256-t10.h5 --out compared.csv
      repro compare imp.h5 imp.h5 --levels 4,8 --out other-seeds.csv

    Overlap of masks by level and layer, against that of two independent random masks of the same layer densities; L2
    distance of the trained weights; share of test images given the same class; rise of loss and error half way along
    the straight line. Replicates of one number are compared (equal seeds), and each with the next one that has the same
    test images or, where there is none, with the next one (other seeds); of a run with itself, these alone, each pair
    once. Predictions and barriers are those of networks with the same test images alone.
    """
    from paper_figures.shared import drawing, two_runs
    from repro.reading.compare import COLUMNS, beginnings, compare, summary
    from repro.stages import Machine
    from repro.store.file_kinds import require_replaceable

    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out} must end in .csv, with .pdf and .png beside it: choose another name")
    paths = [out.with_suffix(suffix) for suffix in (".pdf", ".png")]
    if not out.exists() and (there := next((path for path in paths if path.exists()), None)):
        raise UsageError(f"{there} is there, and {out}, beside which compare draws it, is not: choose another --out")
    require_replaceable(out, "table", ",".join(COLUMNS).encode())
    table = compare(first, second, levels=levels, replicates=replicates, machine=Machine(**given))
    figure = two_runs.draw(table, f"{first.stem} and {second.stem}")
    made = drawing.save(figure, table, out.with_suffix(""))
    return "\n".join([summary(table), *beginnings(first, second), *map(str, made)])


@main.command("check-ticket")
@option("--mask", type=PATH, help="Masks by name [default: those in --ticket or --trained, or what is not zero there].")
@option("--trained", type=PATH, help="The ticket at the end of its training: is the mask held?")
@option("--ticket", type=PATH, help="What its training started from: is it mask × rewind point?")
@option("--rewind", type=PATH, help="The rewind point, dense: is it another state than the start?")
@option("--start", type=PATH, help="The dense network of step 0.")
@option("--previous", type=PATH, help="The trained network that was pruned: are its k + 1 smallest weights gone?")
@option("-t", "--rewind-step", "t", type=int, help="The step that the rewind point is said to be of.")
@option("--density", help="What the mask is said to keep, as precise as written: 13.4% is 13.35% to 13.45%.")
@option("--prune-fraction", type=float, default=0.2, help="Share of the weights left that was pruned.")
def check_ticket_command(**given):
    """Check a lottery ticket in anyone's PyTorch files: mask, rewind point, pruning and density.

    \b
    Examples:
      repro check-ticket --ticket ticket.pt --rewind rewind.pt --trained trained.pt
      repro check-ticket --mask mask.pt --trained trained.pt --previous dense.pt --density 80%

    The files are torch.save's or safetensors', whatever wraps their state dict, also with the weight_orig and
    weight_mask of torch.nn.utils.prune; nothing in them is run. What the files given cannot tell is said to be untold.

    Exit status: 0 nothing fails; 1 a check fails.
    """
    from repro.reading.check_ticket import FAILS, check_ticket

    described, checks = check_ticket(**given)
    click.echo("\n".join([described, *map(str, checks)]))
    sys.exit(int(any(check.verdict == FAILS for check in checks)))


@main.command()
@click.argument("artifacts", nargs=-1, required=True, type=PATH)
def reseal(artifacts):
    """Seal artifacts anew that another HDF5 program opened for writing, or added attributes to.

    \b
    Example:
      repro reseal imp.h5

    Their arrays, recipe and provenance have to be as they were; nothing else is sealed.
    """
    from repro.store.artifact import reseal

    for path in artifacts:
        click.echo(f"{path}: {'sealed anew' if reseal(path) else 'its seal holds, nothing to do'}")
