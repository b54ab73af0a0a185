"""Artifacts that another program changed are read if their arrays and attributes are as they were.

A changed file may be damaged such that HDF5 crashes on it, so another process reads it first.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py

from repro.errors import UsageError, say_once
from repro.store import hdf5

CPU_SECONDS = 20  # and one for each 10 MB: HDF5 may never end on a damaged file
_HOLDS = "it holds"


def open_changed(path: Path, refusal: UsageError) -> h5py.File:
    """The open file, after a note, if its arrays and attributes are as they were. Raises ``refusal`` if not."""
    if not holds(path):
        raise refusal
    say_once(
        f"note: {path} was changed by another program after it was written; its arrays and its recipe are "
        f"as they were: `repro reseal {path}` ends this note",
        path.stat().st_mtime_ns,
    )
    return hdf5.open_image(path)


def holds(path: Path) -> bool:
    """Whether the arrays and attributes of a file have the checksums that it records, found out by another process."""
    folders = [str(Path(__file__).resolve().parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-c", "from repro.store import changed; changed.main()", str(path)]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError:
        return False
    return ended.returncode == 0 and ended.stdout.strip() == _HOLDS


def main() -> None:
    """The process that `holds` starts."""
    path = Path(sys.argv[1])
    limit_cpu(CPU_SECONDS + path.stat().st_size // 10_000_000)
    print(_HOLDS if examine(path) else "it does not")


def limit_cpu(seconds: int) -> None:
    """Has the kernel end this process after so much computing time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def examine(path: Path) -> bool:
    """`holds` in this process, which may crash on a damaged file."""
    try:
        with hdf5.open_image(path) as file:
            attributes = dict(file.attrs)
            recorded = attributes.get(hdf5.ATTRIBUTES_SHA256)
            if recorded not in (None, hdf5.attributes_sha256(attributes)):  # older artifacts have none
                return False
            return hdf5.content_sha256(hdf5.contents(file)) == attributes["content_sha256"]
    except (AttributeError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError):
        return False
