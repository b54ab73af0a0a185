"""`python -m benchmarks`: what `make bench` runs."""

from pathlib import Path

import click

from benchmarks import MINUTES, bench
from repro.errors import RunError, UsageError


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--minutes",
    type=float,
    help=f"Time to take; what it is too short for is left out [default: {MINUTES['cpu']}, on a GPU {MINUTES['cuda']}].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/bench.json"),
    show_default=True,
    help="Rows to write (JSON); the table goes beside it (.md).",
)
def main(out, **given):
    """Measure this machine: images/s and memory of every engine against a plain script and SparseProp, and the limit.

    Variants are timed in turns, each in a process of its own; the table gives medians, ranges and n. The machine should
    be doing nothing else.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks --minutes 3 --out results/quick.json
    """
    try:
        click.echo(bench(out, **given), nl=False)
    except (RunError, UsageError) as error:
        failure = click.ClickException(str(error))
        failure.exit_code = 2 if isinstance(error, UsageError) else 1
        raise failure from error


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
