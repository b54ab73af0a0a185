"""A list of images that others published, from a file: `read_indices`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.data import text_table
from repro.data.text_table import Unusable
from repro.data.user_numbers import INDEX_NAMES, TEXT, TORCH, array_of, of_library
from repro.errors import UsageError
from repro.store.files import open_regular

FORMATS = (".npy", *TEXT, ".json", *TORCH)
WHAT = "one list of image numbers"
SCORE_NAMES = ("score", "scores")


def read_indices(path: str | Path, *, size: int | None = None) -> np.ndarray:
    """The indices in a file, in their order: int64 [M], each once.

    Arguments:
        path: .npy; .csv, .tsv or .txt (one a line, all in one line, or a column called index, beside which only the
            one that pandas numbers may stand); .json (a list, or an object with one); .pt or .pth of ``torch.save`` (a
            tensor, an array, a list, or a dict with one).
        size: M where it is known, by which the heading that pandas gives a column without a name (0) is told from an
            index.

    Raises UsageError, in one sentence, for a file that is missing, of another format, ambiguous or empty; for one that
    has scores, too; for what is no whole number from 0 on; for an index that stands there twice; and for another number
    of them than ``size``.
    """
    path = Path(path)
    try:
        open_regular(path).close()  # the libraries that read it would wait for a pipe
        found = _checked(np.asarray(_content(path, [size] if size else [])), path)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}): give a file of indices") from None
    except Unusable as error:
        raise UsageError(f"{path} cannot be read as {WHAT} ({error}): mend the file") from None
    if size is not None and size != len(found):
        raise UsageError(f"--size {size}, but {path} has {len(found)} indices: leave --size out, or mend the file")
    return found


def _content(path: Path, lengths: list[int]) -> object:
    """What the file holds, before it is checked. Raises OSError and Unusable."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with open(path, "rb") as stream, of_library():
            return np.lib.format.read_array(stream, allow_pickle=False)
    if suffix in TEXT:
        return _of_table(text_table.read(path, lengths, known=INDEX_NAMES), path)
    if suffix == ".json":
        with of_library():
            return _one_of(json.loads(path.read_text(encoding="utf-8-sig")), path)
    if suffix in TORCH:
        from repro.data import torch_file  # which needs torch

        return _one_of(torch_file.read(path), path)
    raise Unusable(f"its name must end in one of {' '.join(FORMATS)}, not in {suffix or 'nothing'}")


def _of_table(table: text_table.TextTable, path: Path) -> np.ndarray:
    if table.width > 1 and table.names is None and len(table.rows) == 1:  # all in one line
        return np.array([table.numbers(column, "index")[0] for column in range(table.width)])
    column = 0
    if table.width > 1:
        named = [j for j, name in enumerate(table.names or ()) if name.strip().lower() in INDEX_NAMES]
        if len(named) != 1:
            columns = f"the columns {', '.join(table.names)}" if table.names else f"{table.width} columns"
            raise Unusable(f"it has {columns}, of which not one alone is called index")
        column = named[0]
        _refuse(path, [name for name in table.names if name.strip() and name.strip().lower() not in INDEX_NAMES])
    return table.numbers(column, "index")


def _refuse(path: Path, others: list[str]) -> None:
    """Raises UsageError for names beside the indices: such a file is one of scores, and lists every image."""
    if others:
        told = ", ".join("scores" if name.strip().lower() in SCORE_NAMES else name.strip() for name in others)
        raise UsageError(f"{path} has {told} too: choose by --scores, or give the indices alone")


def _one_of(content: object, path: Path) -> np.ndarray:
    """The list in what a file held: in a dict the only one, or the only one with a name of `INDEX_NAMES`."""
    if not isinstance(content, Mapping):
        return array_of(content)
    lists = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, list | tuple) or getattr(value, "ndim", 0)  # a tensor or an array
    }
    named = [name for name in lists if name.lower() in INDEX_NAMES]
    if len(chosen := named or list(lists)) != 1:
        told = ", ".join(map(str, list(content)[:12])) or "nothing"
        raise Unusable(f"it holds {told}, of which not one alone is a list called index")
    _refuse(path, [name for name in lists if name.lower() in SCORE_NAMES])
    return array_of(lists[chosen[0]])


def _checked(found: np.ndarray, path: Path) -> np.ndarray:
    """The indices as int64 [M]."""
    if found.ndim == 2 and 1 in found.shape:
        found = found.ravel()
    if found.dtype.kind == "b":
        raise UsageError(f"{path} holds true and false: give the indices, as numpy.flatnonzero finds them")
    if found.size == 0:
        raise Unusable("it has no index")
    if found.ndim != 1 or found.dtype.kind not in "iuf":
        raise UsageError(f"{path} holds {found.dtype} of shape {found.shape}: give {WHAT}")
    whole = np.isfinite(found) & (found % 1 == 0) & (found >= 0) & (found < 2**53)
    if not whole.all():
        raise UsageError(f"{path} holds {found[~whole][0]:g}, which is no image: give whole numbers from 0 on")
    found = found.astype(np.int64)
    values, counts = np.unique(found, return_counts=True)
    if (twice := values[counts > 1]).size:
        raise UsageError(
            f"{path} has {len(twice)} images more than once, the first of them {twice[0]}: leave each image once"
        )
    return found
