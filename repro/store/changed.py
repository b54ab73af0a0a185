"""Artifacts that another program changed: read when all that was computed is as it was, and sealed anew if asked for.

A changed file may be damaged in a way that brings HDF5 down, so it is first read in a process of its own.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py

from repro.errors import UsageError, say_once
from repro.store import files, hdf5, kinds, superblock

CPU_SECONDS = 20  # and one for each 10 MB: a damaged file can send HDF5 round in a circle
_HOLDS = "it holds"


def open_changed(path: Path, refusal: UsageError) -> h5py.File:
    """The open file, after a line about it, if its arrays and attributes are as they were. Raises ``refusal`` if not."""
    if not holds(path):
        raise refusal
    say_once(
        f"note: {path} was changed by another program after it was written; its arrays and its recipe are "
        f"as they were: `repro reseal {path}` ends this note",
        path.stat().st_mtime_ns,
    )
    return hdf5.open_image(path)


def holds(path: Path) -> bool:
    """Whether the arrays and the attributes of a file have the checksums that it records, found out at a distance."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }
    command = [sys.executable, "-c", "from repro.store import changed; changed.main()", str(path)]
    try:
        told = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError:
        return False
    return told.returncode == 0 and told.stdout.strip() == _HOLDS


def main() -> None:
    """What the process of `holds` does."""
    path = Path(sys.argv[1])
    limit_cpu(CPU_SECONDS + path.stat().st_size // 10_000_000)
    print(_HOLDS if examine(path) else "it does not")


def limit_cpu(seconds: int) -> None:
    """Ends this process when it has computed for so long."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def examine(path: Path) -> bool:
    """`holds` in this process, which a damaged file may end."""
    try:
        with hdf5.open_image(path) as file:
            attributes = dict(file.attrs)
            recorded = attributes.get(hdf5.ATTRIBUTES_SHA256)
            if recorded not in (None, hdf5.attributes_sha256(attributes)):  # older artifacts have none
                return False
            return hdf5.content_sha256(hdf5.Contents(file)) == attributes["content_sha256"]
    except (AttributeError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError):
        return False


def reseal(path: Path) -> bool:
    """Seals an artifact that another program handled as it is now; False where its seal holds. Its arrays and attributes
    have to be as they were.

    Raises UsageError for a file that is no artifact or was altered, RunError when it cannot be written.
    """
    from repro.store.artifact import read  # which reads changed files by this module

    with hdf5.reading(path), files.open_regular(path) as file:
        content = file.read()
    offset = 0 if content.startswith(superblock.SIGNATURE) else hdf5.SEAL_BYTES  # h5repack leaves the seal out
    image = content[offset:]
    if not image.startswith(superblock.SIGNATURE):
        read(path)  # says what it is instead
        raise UsageError(f"{path} is {kinds.described(content)}: give an artifact that repro made")
    start = image[: superblock.BYTES]
    image = (superblock.as_packed(start, len(image), offset) or start) + image[superblock.BYTES :]
    whole = b"".join(hdf5.sealed(image))
    if whole == content:
        read(path)
        return False
    if superblock.open_for_writing(image):
        raise UsageError(f"{path} is open for writing in another program: close it there first")
    if not holds(path):
        raise UsageError(
            f"{path} is no artifact of repro, or was altered in its arrays or its recipe: bring back a copy of it"
        )
    with files.writer_lock(path):
        files.write_whole(path, [whole])
    read(path)
    return True
