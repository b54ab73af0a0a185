"""How the engine's functions are compiled, once for each machine, version and precision, and where that is kept."""

import fcntl
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    Numba does not notice edits in files that a function takes others from, so the folder's name has a hash of all that
    the code depends on.
    """
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
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
    """Folders for compiled code, the usual one first; the other is for users without a home, as in a container."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "lottery-data-diet"
    return [usual, Path(os.environ.get("TMPDIR") or "/tmp") / f"lottery-data-diet-{os.geteuid()}"]


FOLDER = _folder()


def entry(function):
    """A function that is called from Python."""
    if FOLDER is None:
        return njit(**OPTIONS)(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER)
    try:
        return njit(cache=True, **OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before


_ready: set[tuple] = set()


def is_ready(function, kind) -> bool:
    """Whether `call` need not compile a function for arguments of this kind any more."""
    return (function, kind) in _ready


def call(function, kind, *arguments):
    """Call an `entry`. The first time on this machine it is compiled, which is said beforehand on stderr.

    kind: stands for the types of the arguments, which take longer to tell than a short call.

    Processes that start side by side wait for the one that compiles.
    """
    if (function, kind) not in _ready:
        types = tuple(map(numba.typeof, arguments))
        with _alone() as folder:
            mark = folder and folder / f"{function.__name__}-{hashlib.sha256(repr(types).encode()).hexdigest()[:8]}"
            if mark is None or not mark.exists():
                kept = "" if mark else f" (not kept: neither {_homes()[0]} nor {_homes()[1]} can be written)"
                print(f"compiling engine sparse for this CPU: half a minute, once{kept}", file=sys.stderr, flush=True)
            _compile(function, types)
            if mark:
                with suppress(OSError):
                    mark.touch()
        _ready.add((function, kind))
    return function(*arguments)


def _compile(function, types: tuple) -> None:
    """Compile, or take what is kept; a cache that is damaged or cannot be written costs time and nothing else."""
    try:
        function.compile(types)
    except (EOFError, UnpicklingError):
        for path in FOLDER.rglob("*.nb?"):
            path.unlink()
        function.compile(types)
    except OSError as error:
        print(
            f"warning: the compiled engine cannot be kept in {FOLDER} ({error.strerror}): it is compiled again each "
            "time",
            file=sys.stderr,
        )


@contextmanager
def _alone() -> Iterator[Path | None]:
    """The folder, while no other process compiles."""
    if FOLDER is None:
        yield None
        return
    with open(FOLDER / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield FOLDER
