"""What killed commands left in a folder of results, cleaned up by the next command there."""

import fcntl
import json
import os
import re
from contextlib import suppress
from pathlib import Path

from repro.store import files
from repro.store.work import PROGRESS, folder_of

_RULES = re.compile(r"\..+-(?P<node>.+)-(?P<process>\d+)\.mk")  # as the Makefile names them


def sweep(folder: Path) -> None:
    """Removes locks that no process holds and work folders without work. What cannot be removed stays."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            with suppress(OSError, ValueError):
                if name.endswith(".lock"):
                    _free(folder / name)
                elif name.endswith(".work"):
                    _drop(folder / name)


def sweep_rules(folder: Path) -> None:
    """Removes the make rules of makes on this machine that are no longer there."""
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _RULES.fullmatch(name)
            if match and match["node"] == os.uname().nodename and not _alive(int(match["process"])):
                with suppress(OSError, ValueError), files.open_regular(folder / name) as file:
                    if file.read(8) == b".SILENT:":
                        (folder / name).unlink(missing_ok=True)


def _free(lock: Path) -> bool:
    """Removes a lock of ours that nobody holds; whether it is gone."""
    if lock.is_symlink():
        return False
    with files.open_regular(lock) as file:
        text = file.read(1000).decode(errors="replace")
        if not (files.SIGNED.fullmatch(text) or (not text and lock.name.endswith((".h5.lock", ".zip.lock")))):
            return False
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held
        if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
            lock.unlink()
        return True


def _drop(work: Path) -> None:
    """Removes a work folder with nothing in it but the recipe and a stopped command's state."""
    if work.is_symlink() or not _empty(work):
        return
    if not {"kind", "recipe", "identity"} <= set(json.loads((work / "lineage.json").read_bytes())):
        return
    artifact = work.with_name(work.name.removesuffix(".work"))
    lock = artifact.with_name(f"{artifact.name}.lock")
    if folder_of(artifact) != work or (os.path.lexists(lock) and not _free(lock)):
        return
    if (file := files.acquire(lock)) is not None:
        try:
            if _empty(work):
                (work / PROGRESS).unlink(missing_ok=True)
                (work / "lineage.json").unlink(missing_ok=True)
                work.rmdir()
        finally:
            lock.unlink(missing_ok=True)
            file.close()


def _empty(work: Path) -> bool:
    return set(os.listdir(work)) - {PROGRESS} == {"lineage.json"}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
