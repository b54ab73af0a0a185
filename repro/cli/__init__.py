"""The command line: parse, call one stage, print one summary. Nothing else imports click."""

from repro.cli.group import main
from repro.cli import figures, stages, store  # noqa: F401, E402, I001  (each registers its commands)

__all__ = ["main"]
