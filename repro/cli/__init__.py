"""The command line: parse, call one stage, print one summary. Nothing else imports click."""

# each registers its commands
from repro.cli import barrier, branch, figures, gradients, report, run, stages, status, store, warmup  # noqa: F401
from repro.cli.group import main

__all__ = ["main"]
