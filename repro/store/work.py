"""The work folder of a long stage: finished levels, checkpoints and progress, until the artifact is written.

`WorkFolder` keeps what is finished, `Running` the command's progress; `sweep` removes what killed commands left.
"""

import fcntl
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from repro.errors import RunError, UsageError
from repro.store import files, hdf5
from repro.store.lineage import Lineage, plain, require_same

PROGRESS, LINEAGE = "progress.json", "lineage.json"
_RULES = re.compile(r"\..+-(?P<node>.+)-(?P<process>\d+)\.mk")  # as the Makefile names them


def folder_of(path: Path) -> Path:
    """The work folder of an artifact: ``<name>.work/`` beside it. The suffix stays: ``run.a`` is not ``run.b``."""
    return path.with_name(f"{path.name}.work")


def older_folder_of(path: Path) -> Path:
    """The work folder of earlier versions, ``<stem>.work/``, which all artifacts with one stem shared."""
    return path.with_name(f"{path.stem}.work")


class WorkFolder:
    """The work folder of an artifact: small files of named arrays, each written whole, with the artifact's identity.

    Only for the holder of the artifact's `writer_lock`. An `older_folder_of` the same recipe is taken over.

    Arguments:
        path: of the artifact.
        kind, recipe, inputs, defaults: of the artifact; see `Lineage`. Work of another recipe is never taken up.
        force: remove what is there.

    Raises UsageError that names the differing fields when the folder holds work of another recipe, and UsageError when
    it holds other files.
    """

    def __init__(self, path, *, kind: str, recipe: Mapping, inputs: Mapping, defaults: Mapping, force: bool = False):
        path = Path(path)
        self.folder = folder_of(path)
        wanted = Lineage(kind, recipe, inputs, defaults, path.stem)
        self.identity = wanted.identity
        self._take_over(older_folder_of(path))
        if force:
            self.discard(everything=True)
        recorded = self._recorded()
        if recorded is None or not self.names():
            self.discard()  # nothing says which recipe the rest belongs to
            files.write_text(self.folder / LINEAGE, json.dumps({**wanted.to_json(), "of": path.name}))
        else:
            require_same(self.folder, recorded, wanted)
        files.remove_leftovers(self.folder)

    def _take_over(self, older: Path) -> None:
        """Renames a folder of an earlier version, which recorded no artifact's name, if it has the same identity."""
        try:
            record = json.loads((older / LINEAGE).read_text(encoding="utf-8"))
            if "of" not in record and Lineage.from_json(record).identity == self.identity and not self.folder.exists():
                older.rename(self.folder)
        except (OSError, KeyError, TypeError, ValueError):  # there is none, or it is no work folder
            pass

    def _recorded(self) -> Lineage | None:
        try:
            return Lineage.from_json(json.loads((self.folder / LINEAGE).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            if any(self.folder.glob("[!.]*")):  # other files, which this program must not remove
                raise UsageError(f"{self.folder} holds other files: move them away, or pass --force") from None
            return None
        except OSError as error:
            raise files.write_failure(self.folder, error) from error
        except (KeyError, TypeError, ValueError):
            _warn(f"{self.folder} does not say which recipe it belongs to: its work is done again")
            return None

    def _path(self, name: str) -> Path:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"work name {name!r} has other characters than letters, digits and _ . -")
        return self.folder / f"{name}.h5"

    def save(self, name: str, arrays: Mapping[str, np.ndarray], attrs: Mapping | None = None) -> None:
        """Keeps arrays and JSON values under ``name``, replacing what it held. Raises RunError as `write` does."""
        contents = {key: hdf5.normal(key, values) for key, values in arrays.items()}
        attributes = {"attrs": json.dumps(plain(attrs or {}, name)), "identity": self.identity}
        # uncompressed, because training waits for a checkpoint and the folder is removed at the end
        files.write_whole(self._path(name), hdf5.pack(contents, attributes, compression=None))

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict] | None:
        """(arrays, attrs) as saved; None where nothing is saved.

        Also None, with a warning on stderr, for a file that is damaged or of another artifact.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with hdf5.open_sealed(path, verify=True) as file:
                if file.attrs.get("identity", self.identity) != self.identity:  # earlier versions recorded none
                    _warn(f"{path} is of another artifact: it is computed again")
                    return None
                arrays = {key: hdf5.load(file, key) for key in hdf5.dataset_paths(file)}
                return arrays, json.loads(file.attrs["attrs"])
        except UsageError:
            _warn(f"{path} is truncated or damaged: it is computed again")
            return None

    def names(self) -> list[str]:
        """The saved names, sorted."""
        return sorted(path.stem for path in self.folder.glob("[!.]*.h5") if _ours(path))

    def numbered(self, prefix: str) -> list[str]:
        """The saved names of a series, ``<prefix><digits>``, in the order of their numbers."""
        found = filter(re.compile(rf"{re.escape(prefix)}\d+").fullmatch, self.names())
        return sorted(found, key=lambda name: int(name.removeprefix(prefix)))

    def next_name(self, prefix: str) -> str:
        """The next name of a series."""
        numbers = [int(name.removeprefix(prefix)) for name in self.numbered(prefix)]
        return f"{prefix}{max(numbers, default=-1) + 1:05d}"

    def remove(self, name: str) -> None:
        """Removes one name and its arrays."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise files.write_failure(self._path(name), error) from error

    def discard(self, everything: bool = False) -> None:
        """Removes this program's files, and the folder if it is empty then; with ``everything``, all that is in it."""
        try:
            if self.folder.exists() and everything:
                shutil.rmtree(self.folder)
            elif self.folder.exists():
                files.remove_leftovers(self.folder)
                # the lineage last, so that what a kill leaves is still known as this program's
                for path in (*map(self._path, self.names()), self.folder / PROGRESS, self.folder / LINEAGE):
                    path.unlink(missing_ok=True)
                if left := os.listdir(self.folder):
                    _warn(f"{self.folder} holds {min(left)}, which is none of this program's files: it stays")
                else:
                    self.folder.rmdir()
        except OSError as error:
            raise files.write_failure(self.folder, error) from error


def _ours(path: Path) -> bool:
    """Whether a file has the name of a checkpoint or a batch, or the first bytes of what `WorkFolder.save` writes."""
    if re.fullmatch(r"checkpoint|\w+-\d{5,}", path.stem):
        return True
    try:
        with files.open_regular(path) as file:
            start = file.read(len(hdf5.FORMAT))
    except (OSError, UsageError):
        return False
    return bool(re.fullmatch(r"\w[\w.-]*", path.stem)) and hdf5.FORMAT.encode().startswith(start)


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


@dataclass(frozen=True)
class Running:
    """The progress of a running command, kept as JSON in its work folder; `str` is its line of progress.

    Arguments:
        command: 'imp all-t20'.
        piece: what the command trains now, 'level 3 of 10 (2 networks)'.
        step: of these networks; None while they are measured.
        steps: their last step.
        per_epoch: steps of an epoch; 0 if the line counts steps.
        images: images a second; None before that is known.
        left: seconds of work left in the command; None before that is known.
    """

    command: str
    piece: str
    step: int | None
    steps: int
    per_epoch: int
    images: float | None
    left: float | None

    def __str__(self) -> str:
        parts = [f"{self.command}: {self.piece}"]
        if self.step is None:
            parts.append("measuring")
        elif self.per_epoch:
            parts.append(f"epoch {-(-self.step // self.per_epoch)} of {-(-self.steps // self.per_epoch)}")
        else:
            parts.append(f"step {self.step:,} of {self.steps:,}")
        if self.images:
            parts.append(f"{self.images:,.0f} images/s")
        if self.left is not None:
            parts.append(f"{spoken(self.left)} left")
        return ", ".join(parts)

    def write(self, artifact: Path, process: str) -> None:
        """Replaces the progress written before. The work goes on where the disk refuses it."""
        path = folder_of(artifact) / PROGRESS
        if path.parent.is_dir():
            with suppress(RunError):
                files.write_whole(path, [json.dumps(asdict(self) | {"process": process}).encode()], lasting=False)

    @classmethod
    def read(cls, artifact: Path, process: str) -> "Running | None":
        """The progress that ``process`` wrote last; None if it wrote none yet, or another version wrote the file."""
        try:
            found = json.loads((folder_of(artifact) / PROGRESS).read_text(encoding="utf-8"))
            if found.pop("process") != process:
                return None  # an earlier attempt wrote it
            running = cls(**found)
            str(running)
            return running
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return None


def spoken(seconds: float) -> str:
    """A time, rounded up, as '50 s', '4 min', '3.5 h' or '12 days'."""
    for unit, name, digits in ((1, "s", 0), (60, "min", 0), (3600, "h", 1)):
        if seconds < 100 * unit * (1 if unit < 3600 else 0.6):
            return f"{math.ceil(seconds / unit * 10**digits) / 10**digits:g} {name}"
    return f"{math.ceil(seconds / 86400)} days"


def sweep(folder: Path) -> None:
    """Removes locks that no process holds and work folders without work; leaves what it may not remove."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            with suppress(OSError, ValueError):
                if name.endswith(".lock"):
                    _free(folder / name)
                elif name.endswith(".work"):
                    _drop(folder / name)


def sweep_rules(folder: Path) -> None:
    """Removes make's rules of processes on this machine that have ended."""
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _RULES.fullmatch(name)
            if match and match["node"] == os.uname().nodename and not _alive(int(match["process"])):
                with suppress(OSError, ValueError), files.open_regular(folder / name) as file:
                    if file.read(8) == b".SILENT:":
                        (folder / name).unlink(missing_ok=True)


def _free(lock: Path) -> bool:
    """Removes a lock of this program, or returns False for another file. Raises OSError if a process holds the lock."""
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
    """Removes a work folder that holds only the recipe and a stopped command's progress."""
    if work.is_symlink() or not _empty(work):
        return
    if not {"kind", "recipe", "identity"} <= set(json.loads((work / LINEAGE).read_bytes())):
        return
    artifact = work.with_name(work.name.removesuffix(".work"))
    lock = artifact.with_name(f"{artifact.name}.lock")
    if os.path.lexists(lock) and not _free(lock):
        return
    if (file := files.acquire(lock)) is not None:
        try:
            if _empty(work):
                (work / PROGRESS).unlink(missing_ok=True)
                (work / LINEAGE).unlink(missing_ok=True)
                work.rmdir()
        finally:
            lock.unlink(missing_ok=True)
            file.close()


def _empty(work: Path) -> bool:
    return set(os.listdir(work)) - {PROGRESS} == {LINEAGE}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
