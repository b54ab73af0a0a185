"""The command line: parse, call one stage, print one summary. Nothing else imports click."""

from repro.cli import figures, stages, store  # noqa: F401  (each registers its commands)
from repro.cli.group import main

__all__ = ["main"]
