"""`load` for notebooks: tables as pandas, arrays as NumPy, networks and masks by parameter name."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import RunError, UsageError
from repro.reading.query import runs
from repro.recipes.artifacts import array_name, number
from repro.store import Artifact, read
from repro.store.hdf5 import FORMAT

_WANTED = "give an artifact, a folder of them, or a .csv or .parquet file"
NETWORKS = ("masks", "ticket", "weights", "rewind_weights", "test_correct")


def load(path: str | Path) -> "Run | pd.DataFrame":
    """Loads an artifact as a `Run`, the artifacts of a folder as one pandas.DataFrame, a table as a pandas.DataFrame.

    Arguments:
        path: an artifact (every byte is compared with its checksum); a folder, whose artifacts' tables become one, as
            `runs` says; a CSV that a figure or `repro export` wrote, or a Parquet file of `repro export`.

    Raises UsageError for anything else. (`repro.data.load` reads image sets.)
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        return runs(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UsageError(f"{path} does not exist: {_WANTED} (image sets: repro.data.load)")
    if suffix in (".csv", ".parquet"):
        return _table(path, suffix)
    if suffix != ".h5" and not _sealed(path):
        raise UsageError(f"{path} is none of what repro.load reads: {_WANTED}")
    return Run(read(path))


def _table(path: Path, suffix: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    except PermissionError:
        raise UsageError(f"no permission to read {path}: allow reading it, or choose another file") from None
    except (OSError, ValueError) as error:  # errors of pandas and pyarrow are ValueErrors
        raise UsageError(f"{path} cannot be read as a table: give a {suffix} file that repro wrote") from error


def _sealed(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(FORMAT)) == FORMAT.encode()
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror or error}): check the disk or choose another") from error


class Arrays(Mapping):
    """An artifact's arrays by path, read when asked for. Masks, and whether images are classified rightly, are stored
    as bits and come as bool; everything else comes as it is stored."""

    def __init__(self, artifact: Artifact, table: pd.DataFrame):
        self._artifact, self._table = artifact, table

    def __iter__(self) -> Iterator[str]:
        return iter(self._artifact.keys())

    def __len__(self) -> int:
        return len(self._artifact.keys())

    def __contains__(self, key) -> bool:
        return key in self._artifact

    def __getitem__(self, key: str) -> np.ndarray:
        """Raises KeyError that names similar paths when there is no such array."""
        if key not in self:
            near = difflib.get_close_matches(str(key), list(self), 3) or list(self)[:3]
            raise KeyError(f"no array {key!r} in {self._artifact.path}; there is {', '.join(near)}")
        array = self._artifact[key]
        piece, _, name = key.rpartition("/")
        if name == "mask":
            return _bits(array, self._prunable)
        if name == "test_correct":
            return _bits(array, self._test_images(piece))
        if name in ("test_wrong", "train_wrong"):  # a bit for each image at every point of a line, as the losses
            return _bits(array, self._artifact.dataset(f"{piece}/{name.replace('wrong', 'loss')}").shape[-1])
        return array

    @cached_property
    def _prunable(self) -> int:
        row = self._table[self._table.remaining > 0].iloc[0]
        return round(row.remaining / row.density)

    def _test_images(self, piece: str) -> int:
        """The number of test images of a replicate: correct bits divided by accuracy, since the bits are padded."""
        for name, acc, diverged in self._table[["piece", "acc", "diverged"]].itertuples(index=False):
            if number("replicate", name) == number("replicate", piece) and not diverged and acc > 0:
                packed = self._artifact[f"{name}/test_correct"]
                return round(int(np.unpackbits(packed).sum()) / acc)
        raise UsageError(
            f"how many test images the bits of {piece} are of cannot be told, since no network of its "
            "replicate is right on any: read them with h5py"
        )


def _bits(packed: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, count=count).astype(bool)


class Run:
    """An artifact. ``run["replicate_0/level_3/mask"]`` is an array by its path.

    table: pandas.DataFrame, one row per replicate (and level, network, line … by kind).
    arrays: mapping from path to NumPy array; see `Arrays`.
    kind, name, identity, recipe, inputs, provenance, content_sha256: as in `repro.read`.

    Networks of imp, branch and pretrain artifacts are dicts from parameter name to NumPy array, in PyTorch's shapes.
    PyTorch is imported for them (and timm, or the user's own file), because they need the network's class.
    """

    def __init__(self, artifact: Artifact):
        self._artifact = artifact
        self.path, self.kind, self.name = artifact.path, artifact.kind, artifact.name
        self.identity, self.recipe, self.inputs = artifact.identity, artifact.recipe, artifact.inputs
        self.provenance, self.content_sha256 = artifact.provenance, artifact.content_sha256
        self.table: pd.DataFrame = artifact.table()
        self.arrays = Arrays(artifact, self.table)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def masks(self, replicate: int, level: int) -> dict[str, np.ndarray]:
        """Prunable parameter -> bool array in its shape: True is kept."""
        return self._tensors(replicate, level, "mask")

    def ticket(self, replicate: int, level: int) -> dict[str, np.ndarray]:
        """The ticket that a level was trained from: mask times rewind point, with batch-norm statistics."""
        return self._tensors(replicate, level, "ticket")

    def weights(self, replicate: int, level: int | None = None) -> dict[str, np.ndarray]:
        """The trained network of a level; for a pretrain artifact, which has no levels, the rewind point."""
        return self._tensors(replicate, level, "rewind" if self.kind == "pretrain" else "trained")

    def rewind_weights(self, replicate: int) -> dict[str, np.ndarray]:
        """The rewind point, dense."""
        return self._tensors(replicate, None, "rewind")

    def test_correct(self, replicate: int, level: int) -> np.ndarray:
        """Whether the trained network of a level classifies each test image rightly, bool [test images]."""
        key = array_name("test_correct", replicate=replicate, level=level)
        if key not in self.arrays:
            raise UsageError(f"{self.path} has no test bits of level {level} of replicate {replicate}: see its .arrays")
        return self.arrays[key]

    def _tensors(self, replicate: int, level: int | None, part: str) -> dict[str, np.ndarray]:
        from repro.reading.networks import tensors_of  # torch takes seconds to import

        found = tensors_of(self._artifact, self._layout, replicate, level, part)
        return {name: tensor.numpy() for name, tensor in found.items()}

    @cached_property
    def _layout(self):
        from repro.nets import layout_of
        from repro.reading.networks import network_of

        return layout_of(network_of(self._artifact))

    def _methods(self) -> list[str]:
        has = {"pretrain": NETWORKS[2:4], "imp": NETWORKS, "branch": NETWORKS}.get(self.kind, ())
        return [f".{name}()" for name in has]

    def _patterns(self) -> dict[str, list[str]]:
        """Pattern -> the paths that differ in their numbers alone."""
        groups: dict[str, list[str]] = {}
        for key in self.arrays:
            groups.setdefault(re.sub(r"(?<=_)\d+|(?<=/w)\d+", "*", key), []).append(key)
        return groups

    def _title(self) -> str:
        return f"{self.kind} artifact {self.name}, identity {self.identity[:12]}…"

    def __repr__(self) -> str:
        recipe = ", ".join(f"{option}={value}" for option, value in self.recipe.items() if "sha256" not in option)
        lines = [self._title(), f"  .recipe   {recipe}"]
        lines += [f"  .table    {len(self.table)} rows: {', '.join(map(str, self.table.columns))}"]
        lines += [f"  .arrays   {len(self.arrays)}, by path:"]
        lines += [f"            {pattern} ({len(keys)})" for pattern, keys in self._patterns().items()]
        if self._methods():
            lines.append(f"  networks  {', '.join(self._methods())}")
        return "\n".join([*lines, f"  also      .inputs ({', '.join(self.inputs) or 'none'}), .provenance, .path"])

    def _repr_html_(self) -> str:
        recipe = pd.DataFrame({"value": {option: str(value) for option, value in self.recipe.items()}})
        arrays = pd.DataFrame(
            [(pattern, keys[0], len(keys)) for pattern, keys in self._patterns().items()],
            columns=["arrays, by path", "for example", "how many"],
        )
        rows = f"<p><code>.table</code>: {len(self.table)} rows, the first of them</p>{self.table.head(5).to_html()}"
        methods = f"<p>networks: <code>{', '.join(self._methods())}</code></p>" if self._methods() else ""
        return (
            f"<div><p><b>{escape(self._title())}</b><br><code>{escape(str(self.path))}</code></p>"
            f"<details><summary><code>.recipe</code></summary>{recipe.to_html()}</details>"
            f"{rows if len(self.table.columns) else ''}"
            f"<details><summary><code>.arrays</code>: {len(self.arrays)}</summary>"
            f"{arrays.to_html(index=False)}</details>"
            f"{methods}</div>"
        )
