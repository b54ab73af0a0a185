"""Compiles the engine's functions, once for each machine, version and precision, and keeps the code on disk."""

import fcntl
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError

import llvmlite
import llvmlite.binding
import numba
from numba import njit

from repro.engines.sparse.lanes import DEBUG, W

# Sums may be reordered and contracted, but NaN and infinity mean what they mean: a diverged network has to show it.
# Nothing is allocated, so references need not be counted: the counting took half of the time.
OPTIONS = dict(
    fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", nogil=True, boundscheck=DEBUG, _nrt=False
)

compiled = njit(**OPTIONS)
inline = njit(forceinline=True, **OPTIONS)


def _folder() -> Path | None:
    """Where compiled code is kept; None where nothing can be written.

    Numba does not notice an edit in a module that a function calls into, so the folder's name has a hash of all that
    the code depends on. Numba looks code up by its file's path and time. The hash includes both, so that no folder
    holds code that a second checkout cannot use.
    """
    paths = sorted(Path(__file__).resolve().parent.glob("*.py"))
    sources = [path.read_bytes() + repr((str(path), path.stat().st_mtime_ns)).encode() for path in paths]
    cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()
    versions = numba.__version__, llvmlite.__version__, platform.python_version()
    key = hashlib.sha256(b"".join(sources) + repr((cpu, versions, W, DEBUG)).encode()).hexdigest()[:16]
    for home in _homes():
        folder = home / f"engine-{key}"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "lock").touch()
        except OSError:
            continue
        if _is_ours(folder) and _is_ours(home):  # what lies there will be executed
            return folder
    return None


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put anything into a folder."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _homes() -> list[Path]:
    """Folders for compiled code, the usual one first; the last is for users without a home, as in a container."""
    temporary = Path(os.environ.get("TMPDIR") or "/tmp") / f"lottery-data-diet-{os.geteuid()}"
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and a user without an entry
        return [temporary]
    return [usual / "lottery-data-diet", temporary]


FOLDER = _folder()


def entry(function):
    """A function that is called from Python."""
    global FOLDER
    if FOLDER is None:
        return njit(**OPTIONS)(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER)
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # numba cannot write there any more: the disk is full
        FOLDER = None
        return njit(**OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before


_ready: set[tuple] = set()


def is_ready(function, kind) -> bool:
    """Whether `call` need not compile a function for arguments of this kind any more."""
    return (function, kind) in _ready


def call(function, kind, *arguments):
    """Call an `entry`. The first call on this machine compiles it, and says so on stderr beforehand.

    kind: a key for the types of the arguments, because finding those takes longer than a short call.

    Processes that start side by side wait for the one that compiles.
    """
    if (function, kind) not in _ready:
        _compile(function, tuple(map(numba.typeof, arguments)))
        _ready.add((function, kind))
    return function(*arguments)


def _compile(function, types: tuple) -> None:
    """Compile, or take what is kept; a cache that is damaged or cannot be written costs time and nothing else."""
    name = f"{function.__name__}-{hashlib.sha256(repr(types).encode()).hexdigest()[:8]}"
    mark = FOLDER and FOLDER / name  # that numba kept this function
    with _alone():
        if mark is None or not mark.exists():
            _tell("" if mark else f" (not kept: {' and '.join(map(str, _homes()))} cannot be written)")
        try:
            function.compile(types)
        except (EOFError, UnpicklingError):
            _tell(" (what was kept is damaged)")
            for path in FOLDER.rglob("*.nb?"):
                path.unlink()
            function.compile(types)
        except OSError as error:
            sentence = f"the compiled engine cannot be kept in {FOLDER} ({error.strerror}): it is compiled each time"
            print(f"warning: {sentence}", file=sys.stderr)
            return
        if mark:
            with suppress(OSError):
                mark.touch()


def _tell(why: str) -> None:
    print(f"compiling engine sparse for this CPU: half a minute, once{why}", file=sys.stderr, flush=True)


@contextmanager
def _alone() -> Iterator[None]:
    """While no other process compiles, where files can be locked."""
    with ExitStack() as stack:
        with suppress(OSError):  # no folder any more, or a file system without locks: both compile
            lock = stack.enter_context(open(FOLDER / "lock", "a")) if FOLDER else None
            if lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
