"""Files that are written whole or not at all, locks for one writer at a time, and sentences for what a disk refuses."""

import errno
import fcntl
import os
import platform
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from repro.errors import RunError, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
SIGNED = re.compile(r"process \d+ on .+")  # the text of a lock; a lock is empty until its holder signs it
_PATIENCE = 0.5  # seconds to try again, because a command that looks whether a lock is held takes it for a moment
_PAUSE = 0.02  # seconds


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file for reading. Raises UsageError for a device or a pipe, where reading may have no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UsageError(f"{path} is a device or a pipe: give an ordinary file")


def in_circle(path: Path) -> bool:
    """Whether a path is a link that leads back to itself, where no file can stand."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the system's errors for a file that cannot be read into UsageError or RunError, in one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: check the path, or run the command that makes it") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UsageError(f"{path} is not a file: give the path of an artifact") from None
    except PermissionError:
        raise UsageError(f"no permission to read {path}: allow reading it, or choose another artifact") from None
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror or error}): check the disk or choose another") from error


def write_failure(path: Path, error: OSError) -> RunError:
    """The sentence for a write that the operating system refused."""
    if error.errno in FULL:
        return RunError(
            f"no space left on device while writing {path}: free some space and run the same command again; "
            "finished levels are kept"
        )
    if error.errno in _FORBIDDEN:
        return RunError(f"no permission to write {path}: choose another --out or allow writing in {path.parent}")
    reason = (error.strerror or str(error)).lower()
    return RunError(f"cannot write {path} ({reason}): choose another --out and run the same command again")


def write_whole(path: Path, blocks: Iterable[bytes], *, lasting: bool = True) -> None:
    """Writes a file so that at every moment the old one or the new one stands at ``path``, whole.

    The blocks go to a temporary file in the same folder, which is flushed to the disk and renamed. Where ``path`` is a
    link, the file it leads to is replaced. A file that is not ``lasting`` need not survive a power cut.

    Raises RunError, after removing the temporary file, when the disk is full, permission is missing or the system
    refuses anything else.
    """
    if in_circle(path):
        raise write_failure(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    node = platform.node().replace(".", "-")  # without dots, so that `remove_leftovers` can take the name apart
    temporary = path.with_name(f".{path.name}.{node}.{os.getpid()}.tmp")  # two nodes may have equal process ids
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is no ordinary file: choose another --out")  # the rename would replace a device
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.writelines(blocks)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
        if not lasting:
            return
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise write_failure(path, error) from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` of text, as UTF-8 whatever the locale."""
    write_whole(path, [text.encode(errors="surrogateescape")])  # names that are not UTF-8 keep their bytes


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes the temporary files of killed writers of ``name``, or of any file if None.

    Only for the holder of the writer's lock.
    """
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[^.]+\.\d+\.tmp", re.DOTALL)
    for leftover in filter(pattern.fullmatch, os.listdir(folder)):
        (folder / leftover).unlink(missing_ok=True)


@contextmanager
def writer_lock(path: str | Path) -> Iterator[None]:
    """Holds the lock for writing ``path``; the kernel releases it when the process ends, even by kill -9.

    Raises RunError when another process holds it, or when the folder refuses writing or locking; UsageError where
    another program's file, or a link, has the lock's name.
    """
    path = Path(path)
    lock = path.with_name(f"{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        require_lock(lock)
        file = acquire(lock)
        if file is None:
            raise RunError(f"{path} is being written by {_owner(lock)}: wait for it or choose another --out")
    except OSError as error:
        raise write_failure(path, error) from error
    try:
        try:
            _sign(file)
            remove_leftovers(path.parent, path.name)
        except OSError as error:
            raise write_failure(path, error) from error
        yield
    finally:
        with suppress(OSError):  # before the lock is released; `acquire` notices that its file was removed
            lock.unlink(missing_ok=True)
        file.close()


def require_lock(lock: Path) -> None:
    """Raises UsageError where another program's file has a lock's name, because signing would overwrite it."""
    try:
        with suppress(FileNotFoundError):
            if not lock.is_symlink():
                with open_regular(lock) as file:
                    text = file.read(1000).decode(errors="replace")
                if not text or SIGNED.fullmatch(text):
                    return
            raise UsageError(f"{lock} is no lock of this program: move it away, or choose another --out")
    except IsADirectoryError:
        raise UsageError(
            f"{lock} is a folder where a lock has to stand: move it away, or choose another --out"
        ) from None


def acquire(lock: Path) -> TextIO | None:
    """Takes the lock on a file, which is made if missing. Returns the open file, which holds the lock until it is
    closed or the process ends; None if another process still holds the lock after half a second.

    Raises RunError on a file system without locks, OSError where the file cannot be opened.
    """
    give_up = time.monotonic() + _PATIENCE
    while True:
        file = None
        try:
            file = open(lock, "a+", encoding="utf-8", errors="backslashreplace")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands(file, lock):
                return file
            file.close()  # its last holder removed it between our open and our lock
            busy = False
        except BlockingIOError:
            file.close()
            busy = True
        except BaseException as error:
            if file:
                file.close()
            number = error.errno if isinstance(error, OSError) else None
            if number in _NO_LOCKS:
                raise _no_locks(lock, os.strerror(number)) from error
            if number != errno.ESTALE or time.monotonic() > give_up:
                raise
            busy = False
        if time.monotonic() > give_up:
            if busy:
                return None
            raise _no_locks(lock, "its files change their numbers")
        if busy:
            time.sleep(_PAUSE)


def _stands(file: TextIO, path: Path) -> bool:
    """Whether an open file is the one at a path. Opens the path anew, because NFS then asks its server, while ``stat``
    may answer from this node's cache."""
    try:
        with open(path, "rb") as now:
            return os.path.samestat(os.fstat(file.fileno()), os.fstat(now.fileno()))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


def _sign(file: TextIO) -> None:
    """Writes who holds a lock, without Python's buffer, which would be written again on closing if the disk is full."""
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
    os.fsync(file.fileno())  # so that other nodes can read it


def _owner(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:  # released at this moment
        return "another process"


def _no_locks(lock: Path, reason: str) -> RunError:
    return RunError(
        f"cannot lock {lock} ({reason.lower()}): choose a folder on a file system with locks, or have this one mounted "
        "with them (NFS: local_lock=none and a lock manager; Lustre: flock)"
    )
