"""ls, inspect, export."""

from pathlib import Path

import click

from repro.cli.group import main
from repro.cli.options import PATH
from repro.errors import UsageError


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
