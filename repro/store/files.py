"""Files that are there whole or not at all, and one writer at a time."""

import errno
import fcntl
import glob
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.errors import RunError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_failure(path: Path, error: OSError) -> RunError:
    """The sentence for a write that the operating system refused."""
    if error.errno in _FULL:
        return RunError(
            f"no space left on device while writing {path}: free some space and run the same command again; "
            "finished levels are kept"
        )
    if error.errno in _FORBIDDEN:
        return RunError(f"no permission to write {path}: choose another --out or allow writing in {path.parent}")
    reason = (error.strerror or str(error)).lower()
    return RunError(f"cannot write {path} ({reason}): choose another --out and run the same command again")


def write_whole(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes a file so that at every moment the old one or the new one stands at ``path``, whole.

    The blocks go to a temporary file in the same folder, which is flushed to the disk and renamed. Raises RunError,
    after the temporary file is removed, when the disk is full, permission is missing or anything else is refused.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is no ordinary file: choose another --out")  # the rename would replace a device
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.writelines(blocks)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise write_failure(path, error) from error


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Removes temporary files that a killed writer of ``name`` left. Only for the holder of the writer's lock."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def writer_lock(path: str | Path) -> Iterator[None]:
    """Holds the right to write ``path``; the kernel gives it back when the process ends, even by kill -9.

    Raises RunError when another process holds it, or when nothing can be written there.
    """
    path = Path(path)
    lock = path.with_name(f"{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(lock, path)
    except OSError as error:
        raise write_failure(path, error) from error
    try:
        remove_leftovers(path.parent, glob.escape(path.name))
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock is given back: `_lock` notices a file that is no longer there
        file.close()


def _lock(lock: Path, path: Path):
    while True:
        file = open(lock, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(lock) and os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}")
                file.flush()
                return file
        except BlockingIOError:
            file.seek(0)
            owner = file.read() or "another process"
            file.close()
            raise RunError(f"{path} is being written by {owner}: wait for it or choose another --out") from None
        except BaseException:
            file.close()
            raise
        file.close()  # its last holder removed it between our open and our lock
