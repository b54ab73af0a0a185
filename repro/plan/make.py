"""Jobs as make rules."""

import re
import shlex

from repro.errors import UsageError
from repro.plan.jobs import as_jobs
from repro.plan.steps import Step


def rules(todo: list[Step], *, program: tuple[str, ...], options: str = "") -> str:
    """A makefile fragment that makes the given steps' artifacts; ``LAUNCH`` prefixes every process.

    Every step in it has something missing, so its rule runs whatever the file times say. Raises UsageError for paths
    that make cannot have as targets.
    """
    for step in todo:
        if odd := re.search(r"[^\w./+,@-]", str(step.target)):
            raise UsageError(f"make cannot have {odd[0]!r} in the path {step.target}: choose another --results folder")
    found = as_jobs(todo)
    targets = " ".join(str(job.target) for job in found)
    lines = [".SILENT:", f".PHONY: all {targets}", f"all: {targets}", "\t@:"]
    for job in found:
        lines += [
            f"{job.target}: {' '.join(map(str, job.needs))}".rstrip(),
            f"\techo 'making {job.name}'",
            f"\t$(LAUNCH) {' '.join(map(_quoted, [*program, *job.words(tuple(shlex.split(options)))]))}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")
