"""The work folder of a long stage: finished levels and step checkpoints, until the artifact is written."""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.errors import UsageError
from repro.store import files, hdf5
from repro.store.lineage import Lineage, plain, require_same


def folder_of(path: Path) -> Path:
    """The work folder of an artifact: ``<name>.work/`` beside it, of its whole name (``run.a`` is not ``run.b``)."""
    return path.with_name(f"{path.name}.work")


def older_folder_of(path: Path) -> Path:
    """Where earlier versions kept the work of an artifact, and of every other one with its stem: ``<stem>.work/``."""
    return path.with_name(f"{path.stem}.work")


class WorkFolder:
    """`folder_of` an artifact: small files of named arrays, each written whole, each with the artifact's identity.

    Only for the holder of the artifact's `writer_lock`. An `older_folder_of` the same recipe is taken over.

    Arguments:
        path: of the artifact.
        kind, recipe, inputs, defaults: of the artifact; see `Lineage`. Work of another recipe is never taken up.
        force: throw away what is there.

    Raises UsageError that names the differing fields when the folder holds work of another recipe, or that says so
    when it holds other files.
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
            self.discard()  # what is left belongs to a recipe that nobody knows
            told = {**wanted.to_json(), "of": path.name}
            files.write_text(self.folder / "lineage.json", json.dumps(told))
        else:
            require_same(self.folder, recorded, wanted)
        files.remove_leftovers(self.folder)

    def _take_over(self, older: Path) -> None:
        """Renames a folder of an earlier version, which did not say whose it was, if it is of the same identity."""
        try:
            record = json.loads((older / "lineage.json").read_text(encoding="utf-8"))
            if "of" not in record and Lineage.from_json(record).identity == self.identity and not self.folder.exists():
                older.rename(self.folder)
        except (OSError, KeyError, TypeError, ValueError):  # there is none, or it belongs to somebody else
            pass

    def _recorded(self) -> Lineage | None:
        try:
            return Lineage.from_json(json.loads((self.folder / "lineage.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            if any(self.folder.glob("[!.]*")):  # not ours to remove
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
        """Keeps arrays and JSON values under ``name``, in place of what it held. Raises RunError as `write` does."""
        contents = {key: hdf5.normal(key, values) for key, values in arrays.items()}
        attributes = {"attrs": json.dumps(plain(attrs or {}, name)), "identity": self.identity}
        # uncompressed: a checkpoint delays the training, and the folder goes when the artifact is written
        files.write_whole(self._path(name), hdf5.pack(contents, attributes, compression=None))

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict] | None:
        """(arrays, attrs) as saved; None where nothing is.

        None as well, with a warning on stderr, where it is damaged or of another artifact.
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
        """What has been saved, sorted."""
        return sorted(path.stem for path in self.folder.glob("[!.]*.h5") if _ours(path))

    def numbered(self, prefix: str) -> list[str]:
        """The saved names of a series, ``<prefix><digits>``, in order; whatever else begins so is nobody's."""
        found = {
            name: int(match[1]) for name in self.names() if (match := re.fullmatch(rf"{re.escape(prefix)}(\d+)", name))
        }
        return sorted(found, key=found.get)

    def next_name(self, prefix: str) -> str:
        """The name in a series that comes next."""
        last = self.numbered(prefix)[-1:]
        return f"{prefix}{int(last[0].removeprefix(prefix)) + 1 if last else 0:05d}"

    def remove(self, name: str) -> None:
        """Forgets one name."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise files.write_failure(self._path(name), error) from error

    def discard(self, everything: bool = False) -> None:
        """Removes what this program wrote there, and the folder if nothing else is in it, or with ``everything``."""
        try:
            if self.folder.exists() and everything:
                shutil.rmtree(self.folder)
            elif self.folder.exists():
                files.remove_leftovers(self.folder)
                # the lineage last: after a kill, what is left must still be known to be this program's
                for path in (*map(self._path, self.names()), self.folder / "lineage.json"):
                    path.unlink(missing_ok=True)
                if left := os.listdir(self.folder):
                    _warn(f"{self.folder} holds {min(left)}, which is none of this program's files: it stays")
                else:
                    self.folder.rmdir()
        except OSError as error:
            raise files.write_failure(self.folder, error) from error


def _ours(path: Path) -> bool:
    """Whether a file has the name of a checkpoint or a batch, however damaged, or begins as `WorkFolder.save` does."""
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
