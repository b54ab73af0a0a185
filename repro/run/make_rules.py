"""Jobs as make rules."""

import re
import shlex
from collections.abc import Iterable

from repro.errors import UsageError
from repro.plan.jobs import as_jobs
from repro.plan.steps import Step


def rules(todo: list[Step], *, program: tuple[str, ...], options: str = "") -> str:
    """A makefile fragment that makes the given steps' artifacts, with a log for each process.

    ``LAUNCH`` prefixes every process. They are then quiet, because 64 jobs would mix their progress on one terminal.
    Every rule is phony and runs whatever the file times say, because its steps lack something.

    Raises UsageError for paths that make cannot have as targets.
    """
    for step in todo:
        if odd := re.search(r"[^\w./+,@-]", str(step.target)):
            raise UsageError(f"make cannot have {odd[0]!r} in the path {step.target}: choose another --results folder")
    found, extra = as_jobs(todo), words_of(options)
    targets = " ".join(str(job.target) for job in found)
    lines = [".SILENT:", f".PHONY: all {targets}", f"all: {targets}", "\t@:"]
    for job in found:
        lines += [
            f"{job.target}: {' '.join(map(str, job.needs))}".rstrip(),
            f"\techo 'making {job.name}$(if $(LAUNCH),: {job.log})'",
            f"\t$(LAUNCH) {_quoted(program)} --log {job.log} $(if $(LAUNCH),--quiet) {_quoted(job.words(extra))}",
        ]
    return "\n".join(lines) + "\n"


def words_of(options: str) -> tuple[str, ...]:
    """The words that a shell splits options into. Raises UsageError for a quote that is not closed."""
    try:
        return tuple(shlex.split(options))
    except ValueError as error:
        reason = str(error).lower()
        raise UsageError(f"--options {options!r} are not words for a shell ({reason}): quote them in pairs") from None


def _quoted(words: Iterable[str]) -> str:
    return shlex.join(words).replace("$", "$$")
