"""Artifacts: what one command computed for one cell, all its replicates, in one HDF5 file; written, read, resealed."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from repro.errors import UsageError
from repro.store import changed, file_kinds, files, hdf5
from repro.store.lineage import Lineage, Recipe, plain, require_same, require_types


class NoArray(UsageError, KeyError):
    """An artifact lacks an array. A command meets this only where another program removed the array."""

    __str__ = Exception.__str__  # KeyError shows a repr


@dataclass(frozen=True, eq=False)
class Artifact:
    """An artifact opened for reading. Arrays are read when asked for: ``artifact["replicate_0/level_3/mask"]``.

    Its recipe raises UsageError for a missing field. The file stays open, so that all reads are of the same artifact
    even if the path is written anew meanwhile.
    """

    path: Path
    lineage: Lineage
    provenance: dict
    content_sha256: str
    _file: h5py.File = field(repr=False)

    @property
    def kind(self) -> str:
        return self.lineage.kind

    @property
    def name(self) -> str:
        return self.lineage.name

    @property
    def identity(self) -> str:
        return self.lineage.identity

    @cached_property
    def recipe(self) -> dict:
        return Recipe(self.lineage.recipe, self.path)

    @property
    def inputs(self) -> dict[str, Lineage]:
        """Role -> lineage of an artifact that was read."""
        return self.lineage.inputs

    def keys(self) -> list[str]:
        """The paths of all arrays, sorted, without the table's columns."""
        return list(self._keys)

    @cached_property
    def _keys(self) -> dict[str, None]:
        return {path: None for path in hdf5.dataset_paths(self._file) if not path.startswith("table/")}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __getitem__(self, key: str) -> np.ndarray:
        """Raises NoArray (a KeyError) when there is no such array, UsageError for a damaged one."""
        if key not in self:
            raise NoArray(f"{self.path} has no array {key}: give an artifact that is as repro wrote it")
        return hdf5.load(self._file, key)

    def dataset(self, key: str) -> h5py.Dataset:
        """The array as h5py sees it: shape, dtype, filters and stored bytes without reading it."""
        return self._file[key]

    def computed_sha256(self) -> str:
        """`content_sha256` of all arrays as they are now."""
        return hdf5.content_sha256(hdf5.contents(self._file))

    def table(self):
        """The table as a pandas.DataFrame, in the column order it was written in; empty when there is none."""
        import pandas as pd  # here, because most commands start without it

        return pd.DataFrame(self.columns())

    def columns(self) -> dict[str, np.ndarray]:
        """The table's columns, in the order they were written in. Raises UsageError where they differ in length."""
        found = {column: hdf5.load(self._file, f"table/{column}") for column in hdf5.names(self._file, "table")}
        if _uneven(found):
            raise UsageError(f"{self.path} has a table whose columns differ in length: {hdf5.AGAIN}")
        return found


def _uneven(columns: Mapping[str, np.ndarray]) -> bool:
    return len({column.shape for column in columns.values()}) > 1 or any(c.ndim != 1 for c in columns.values())


def write(
    path: str | Path,
    *,
    kind: str,
    recipe: Mapping,
    inputs: Mapping[str, Lineage | Artifact],
    arrays: Mapping[str, np.ndarray],
    table,
    provenance: Mapping,
    defaults: Mapping,
    compression: str | None = "gzip",
) -> str:
    """Writes an artifact, whole or not at all, over an older one at ``path``; returns its identity.

    Arguments:
        kind, recipe, inputs, defaults: see `Lineage`; its name becomes the stem of ``path``.
        arrays: path inside the file ('replicate_0/level_3/mask') -> array of bool, integers, floats or text.
        table: column -> one value per row, as a mapping or a pandas.DataFrame; stored as ``table/<column>``.
        provenance: see `repro.store.provenance`.
        compression: 'gzip', 'lzf' or None.

    Raises RunError when the disk is full or writing is forbidden: what stood at ``path`` is untouched then.
    """
    path = Path(path)
    lineage = Lineage(kind, recipe, inputs, defaults, path.stem)
    contents = {name: hdf5.normal(name, values) for name, values in arrays.items()}
    if any(name.startswith("table/") for name in contents):
        raise ValueError("arrays below table/ are columns: pass them in table")
    columns = {f"table/{name}": hdf5.normal(name, table[name]) for name in table}
    if _uneven(columns):
        raise ValueError(f"columns differ in length: { {name: column.shape for name, column in columns.items()} }")
    contents |= columns
    attributes = {
        "format": hdf5.FORMAT,
        "format_version": hdf5.FORMAT_VERSION,
        "kind": kind,
        "name": lineage.name,
        "identity": lineage.identity,
        **{part: json.dumps(lineage.to_json()[part]) for part in ("recipe", "defaults", "inputs")},
        "provenance": json.dumps(plain(provenance, "provenance")),
        "content_sha256": hdf5.content_sha256(sorted(contents.items())),
    }
    attributes[hdf5.ATTRIBUTES_SHA256] = hdf5.attributes_sha256(attributes)
    files.write_whole(path, hdf5.pack(contents, attributes, compression=compression))
    return lineage.identity


def read(path: str | Path, kind: str | None = None, verify: bool = True) -> Artifact:
    """Opens an artifact.

    Arguments:
        kind: the kind that is needed, None for any.
        verify: compare every byte of the file with its checksum (about 1.5 GB/s). Otherwise the length is compared,
            and an array's own checksum when it is read, which is enough for listing.

    Raises UsageError, in one sentence, for a file that is missing, truncated, altered, not an artifact, or of another
    kind.
    """
    path = Path(path)
    try:
        file = hdf5.open_sealed(path, verify=verify)
    except hdf5.Changed as refusal:
        file = changed.open_changed(path, refusal)
    try:
        parts = {part: json.loads(file.attrs[part]) for part in ("recipe", "defaults", "inputs", "provenance")}
        provenance = parts.pop("provenance")
        lineage = Lineage.from_json({"kind": file.attrs["kind"], "name": file.attrs["name"], **parts})
        content, recorded = file.attrs["content_sha256"], file.attrs["identity"]
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        file.close()
        if not verify:
            hdf5.open_sealed(path, verify=True).close()  # raises if the file is damaged
        raise UsageError(f"{path} is a file of this program, but no artifact: give an artifact") from error
    try:
        if recorded != lineage.identity:
            raise UsageError(f"{path} has another identity than its recipe and inputs: {hdf5.AGAIN}")
        require_types(path, lineage)
        if kind not in (None, lineage.kind):
            raise UsageError(f"{path} is {_an(lineage.kind)} where {_an(kind)} is needed: give the path of one")
    except UsageError:
        file.close()  # HDF5 would serve the open file in place of a new one at this path
        raise
    return Artifact(path, lineage, provenance, content, file)


def _an(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} artifact"


def read_header(path: str | Path, kind: str | None = None) -> Artifact:
    """`read` without comparing the data with its checksum: milliseconds, whatever the size."""
    return read(path, kind, verify=False)


def table(path: str | Path):
    """An artifact's table as a pandas.DataFrame."""
    return read(path).table()


def check_same(path: str | Path, kind: str, recipe: Mapping, inputs: Mapping, defaults: Mapping) -> Artifact | None:
    """The artifact at ``path`` if it is of this recipe and these inputs, None where there is no file.

    Raises UsageError that names the differing fields, those of inputs included (`pretrain.subset.size`), and where
    `read` does.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, without an error in a closed folder
        return None
    artifact = read_header(path)
    require_same(path, artifact.lineage, Lineage(kind, recipe, inputs, defaults, path.stem))
    return artifact


def reseal(path: Path) -> bool:
    """Gives an artifact that another program changed the seal of its bytes as they are now; False if its seal holds.

    Raises UsageError for a file that is no artifact or whose arrays or attributes changed, RunError when it cannot be
    written.
    """
    with files.reading(path), files.open_regular(path) as file:
        content = file.read()
    offset = 0 if content.startswith(file_kinds.SIGNATURE) else hdf5.SEAL_BYTES  # h5repack leaves the seal out
    image = content[offset:]
    if not image.startswith(file_kinds.SIGNATURE):
        read(path)  # says what it is instead
        raise UsageError(f"{path} is {file_kinds.described(content)}: give an artifact that repro made")
    start = image[: hdf5.SUPERBLOCK_BYTES]
    image = (hdf5.as_packed(start, len(image), offset) or start) + image[hdf5.SUPERBLOCK_BYTES :]
    whole = b"".join(hdf5.sealed(image))
    if whole == content:
        read(path)
        return False
    if hdf5.open_for_writing(image[: hdf5.SUPERBLOCK_BYTES]):
        raise UsageError(f"{path} is open for writing in another program: close it there first")
    if not changed.holds(path):
        raise UsageError(
            f"{path} is no artifact of repro, or was altered in its arrays or its recipe: bring back a copy of it"
        )
    with files.writer_lock(path):
        files.write_whole(path, [whole])
    read(path)
    return True
