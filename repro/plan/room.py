"""Whether the disk and the memory that a plan needs are there, before its first job."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from repro.errors import UsageError
from repro.plan import Step
from repro.plan.size import numbers_of, spoken, stored_bytes

PROCESS = 580 * 2**20  # bytes of a process that has imported PyTorch and this program (docs/performance.md)


def disk_bytes(todo: Sequence[Step], processes: int) -> int:
    """The artifacts before compression, and a second copy of the largest in the work folders of those under way."""
    sizes = sorted((stored_bytes(step) for step in todo), reverse=True)
    return sum(sizes) + sum(sizes[:processes])


def memory_bytes(todo: Sequence[Step], processes: int) -> int:
    """At least: for each process the program, the images, and weights with momentum of a cohort and of a copy."""
    each = []
    for step in todo:
        p = step.protocol
        pixels = p.all_images * p.image_size**2 * p.in_chans
        each.append(PROCESS + pixels + 16 * numbers_of(step.network, p)[1] * min(16, p.replicates))
    return sum(sorted(each, reverse=True)[:processes])


def require_room(todo: Sequence[Step], results: Path, processes: int, *, yes: bool) -> None:
    """Raises UsageError where the steps would fill the disk or the memory of this machine, unless ``yes``."""
    if yes or not todo:
        return
    there = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    needed, free = disk_bytes(todo, processes), shutil.disk_usage(there).free
    if needed > free:
        raise UsageError(
            f"the runs need up to {spoken(needed)} of disk in {results}, and {spoken(free)} are free there: free some "
            "space, name another folder with RESULTS= (or --results), or add YES=1 (or --yes) to try it all the same"
        )
    needed, free = memory_bytes(todo, processes), _available()
    if free is not None and needed > free:
        raise UsageError(
            f"{processes} processes at once need {spoken(needed)} of memory at least, and {spoken(free)} are available: "
            "run fewer with JOBS= (or --jobs), or add YES=1 (or --yes) to try it all the same"
        )


def _available() -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
