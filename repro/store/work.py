"""The work folder of a long stage: finished levels and step checkpoints, until the artifact is written."""

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.errors import UsageError
from repro.store import files, hdf5
from repro.store.lineage import Lineage, plain, require_same


class WorkFolder:
    """``<stem>.work/`` beside an artifact: small files of named arrays, each written whole.

    Only for the holder of the artifact's `writer_lock`.

    Arguments:
        path: of the artifact.
        kind, recipe, inputs, defaults: of the artifact; see `Lineage`. Work of another recipe is never taken up.
        force: throw away what is there.

    Raises UsageError that names the differing fields when the folder holds work of another recipe, or that says so
    when it holds other files.
    """

    def __init__(self, path, *, kind: str, recipe: Mapping, inputs: Mapping, defaults: Mapping, force: bool = False):
        path = Path(path)
        self.folder = path.with_name(f"{path.stem}.work")
        wanted = Lineage(kind, recipe, inputs, defaults, path.stem)
        if force:
            self.discard()
        recorded = self._recorded()
        if recorded is None or not self.names():
            self.discard()  # what is left belongs to a recipe that nobody knows
            files.write_whole(self.folder / "lineage.json", [json.dumps(wanted.to_json()).encode()])
        else:
            require_same(self.folder, recorded, wanted)
        files.remove_leftovers(self.folder)

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
        attributes = {"attrs": json.dumps(plain(attrs or {}, name))}
        # uncompressed: a checkpoint delays the training, and the folder goes when the artifact is written
        files.write_whole(self._path(name), hdf5.pack(contents, attributes, compression=None))

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict] | None:
        """(arrays, attrs) as saved; None where nothing is, or where it is damaged (with a warning on stderr)."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with hdf5.open_sealed(path, verify=True) as file:
                arrays = {key: hdf5.load(file, key) for key in hdf5.dataset_paths(file)}
                return arrays, json.loads(file.attrs["attrs"])
        except UsageError as error:
            _warn(f"{str(error).partition(': ')[0]}: it is computed again")
            return None

    def names(self) -> list[str]:
        """What has been saved, sorted."""
        return sorted(path.stem for path in self.folder.glob("[!.]*.h5"))

    def remove(self, name: str) -> None:
        """Forgets one name."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise files.write_failure(self._path(name), error) from error

    def discard(self) -> None:
        """Removes the folder with all it holds."""
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise files.write_failure(self.folder, error) from error


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)
