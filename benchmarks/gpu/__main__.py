"""`python -m benchmarks.gpu`: what a machine with a GPU is had for."""

import sys
import time
from pathlib import Path

import click

from benchmarks.gpu import STAGES, measure
from repro.errors import RunError, UsageError


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("stages", nargs=-1)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="Networks so small that a CPU takes two minutes for everything.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=280.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/gpu"), show_default=True)
@click.option("--stage", hidden=True, help="Run this one in this process.")
@click.option("--results", type=click.Path(path_type=Path), hidden=True)
def main(stages, device, tiny, seconds, out, stage, results):
    """Measure the graph engine and prototypes on a GPU, the most valuable first, each in a process with a limit.

    STAGES are names, or `one` and `two` for halves that take 280 s each at most. Results are in --out after each:
    gpu.json, gpu.md (tables) and gpu.log.

    \b
    Examples:
      python -m benchmarks.gpu one
      python -m benchmarks.gpu two
      python -m benchmarks.gpu --device cpu --tiny
    """
    if stage:
        sys.exit(_one(stage, device, tiny, seconds, results))
    try:
        _require(device)
        measure(out, device=device, tiny=tiny, seconds=seconds, names=stages)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    except RunError as error:
        raise click.ClickException(str(error)) from error
    click.echo((out / "gpu.md").read_text(encoding="utf-8"), nl=False)


def _require(device: str) -> None:
    """Raises UsageError for a device that is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but PyTorch sees no CUDA device here: try --device cpu --tiny")


def _one(name: str, device: str, tiny: bool, seconds: float, path: Path) -> int:
    """Run a stage; the exit status: 0 done, 3 not here."""
    from benchmarks.gpu import kernels, stages
    from benchmarks.gpu.run import Impossible, Run

    run = Run(device, tiny, time.monotonic() + seconds, path)
    run.save()
    assert name in {stage.name for stage in STAGES}
    try:
        getattr(stages if hasattr(stages, name) else kernels, name)(run)
    except Impossible as reason:
        run.save(reason=str(reason))
        return 3
    return 0


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.gpu")
