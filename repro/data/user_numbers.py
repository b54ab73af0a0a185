"""A label or a score for each image from a file that another program wrote: `read_numbers`.

An ambiguous file is refused, because a wrong column would silently give wrong subsets.
"""

import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from repro.data import text_table
from repro.data.text_table import Unusable
from repro.errors import UsageError
from repro.store.files import open_regular

log = logging.getLogger(__name__)

TEXT = (".csv", ".tsv", ".txt")
TORCH = (".pt", ".pth")
HDF5 = (".h5", ".hdf5")
SUFFIXES = (*TEXT, ".npy", ".npz", *TORCH, *HDF5)

_THINGS = ("image", "img", "example", "sample", "data", "dataset", "global", "original")
INDEX_NAMES = {"index", "idx", "id", "indices", "image", "img", "example", "sample", "row", "unnamed: 0", "i"}
INDEX_NAMES |= {f"{thing}_{number}" for thing in _THINGS for number in ("index", "idx", "id")}
"""Headings of a column of indices, in lower case; pandas leaves the heading of its own index empty."""
OTHER_NAMES = {"label", "labels", "target", "targets", "class", "y", "rank", "ranks", "ranking", "order", "argsort"}
"""Headings that say that a column holds no scores."""

Found = tuple[np.ndarray, np.ndarray | None, bool]
"""Numbers, their indices or None, and whether the indices were named as such."""


def split_key(path: str | Path) -> tuple[Path, str | None]:
    """(file, column or array) of FILE or FILE:KEY."""
    file, colon, key = str(path).rpartition(":")
    if colon and not Path(path).exists() and Path(file).suffix.lower() in SUFFIXES:
        return Path(file), key
    return Path(path), None


def read_numbers(path: str | Path, name: str, *, size: int, train: np.ndarray | None) -> np.ndarray:
    """One number per image from a user's file: float64 [size], NaN for images that the file leaves out.

    The file holds the whole set or the training images, in the order of their indices, or names the indices itself: in
    a column, field or data set with a heading of `INDEX_NAMES`, or in the first of two columns without a heading.

    Arguments:
        path: .csv, .tsv or .txt (columns parted by commas, semicolons, tabs or spaces); .npy, also with named fields;
            .npz; .pt of ``torch.save`` (an array, or a dict of them); .h5 or .hdf5. FILE:KEY says which of several
            columns or arrays is meant; without it that is the one called ``name``, or the only one.
        name: what the numbers are ('score', 'label'), for messages too.
        size: N, images of the whole set. train: the train index, or None where folds differ in it.

    Raises UsageError, in one sentence, for a file that is missing, of another format or length, or ambiguous.
    """
    file, key = split_key(path)
    lengths = [size] if train is None else [size, len(train)]
    try:
        open_regular(file).close()  # the libraries that read it would wait for a pipe
        numbers, index, named = _numbers(file, name, key, lengths)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot read {file} ({reason}): give a file with a {name} per image") from None
    except Unusable as error:
        raise UsageError(f"{file} cannot be read as one {name} per image ({error}): mend the file") from None
    numbers, placed = _checked(numbers, name, path), np.full(size, np.nan)
    if index is None:
        index = {size: np.arange(size)}.get(len(numbers), train)
        if index is None or len(index) != len(numbers):
            choices = f"{size} (all images)" + ("" if train is None else f" or {len(train)} (training images)")
            raise UsageError(
                f"{path} has {len(numbers)} {name}s where {choices} are needed: give one per image, in order"
            )
    else:
        index = _checked_index(np.asarray(index), numbers, path, size, train)
    placed[index] = numbers
    if name == "score":
        _check_ranks(placed[np.sort(index)], path, named)
    return placed


def _numbers(file: Path, name: str, key: str | None, lengths: Sequence[int]) -> Found:
    """Numbers and index as they stand in the file. Raises OSError, Unusable and UsageError."""
    suffix = file.suffix.lower()
    if suffix in TEXT:
        return _of_text(file, name, key, lengths)
    if suffix == ".npy":
        with open(file, "rb") as stream:  # not np.load, which takes archives as well
            with of_library():
                array = np.lib.format.read_array(stream, allow_pickle=False)
        if array.dtype.names is None:
            return _only(array, key), None, False
        return _of_named(list(array.dtype.names), array.__getitem__, file, name, key)
    if suffix == ".npz":
        with of_library():
            archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise Unusable("it is no archive of NumPy")
        with archive:
            return _of_named(archive.files, archive.__getitem__, file, name, key)
    if suffix in HDF5:
        import h5py

        with ExitStack() as opened:
            found: dict = {}
            with of_library():
                stored = opened.enter_context(h5py.File(file, locking=False))
                stored.visititems(lambda place, item: found.update({place: item} if hasattr(item, "dtype") else {}))
            return _of_named(list(found), lambda place: np.asarray(found[place][()]), file, name, key)
    if suffix in TORCH:
        from repro.data import torch_file  # which needs torch

        content = torch_file.read(file)
        if not isinstance(content, dict):
            return _only(array_of(content), key), None, False
        arrays = {str(place): array_of(value) for place, value in content.items() if np.ndim(value)}
        return _of_named(list(arrays), arrays.__getitem__, file, name, key)
    raise Unusable(f"its name must end in one of {' '.join(SUFFIXES)}, not in {suffix or 'nothing'}")


@contextmanager
def of_library() -> Iterator[None]:
    """Turns what a library says of a file's content into `Unusable`; an error of this program stays what it is."""
    try:
        yield
    except UsageError:  # a ValueError, too
        raise
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds Python objects, not numbers" if "Object" in str(error) else " ".join(str(error).split())
        raise Unusable(reason.rstrip(".")) from None


def array_of(value: object) -> np.ndarray:
    """A tensor, an array or a list as an array. Raises Unusable for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().to_dense() if value.layout is not value.new_empty(0).layout else value.detach()
        value = value.double() if value.is_floating_point() else value  # NumPy has no bfloat16
        return value.numpy()
    if not isinstance(value, (np.ndarray, list, tuple)):
        raise Unusable(f"it holds a {type(value).__name__}")
    with of_library():
        return np.asarray(value)


def _only(array: np.ndarray, key: str | None) -> np.ndarray:
    if key is not None:
        raise Unusable(f"it is one array, in which nothing is called {key}")
    return array


def _of_named(names: list[str], get: Callable[[str], np.ndarray], file: Path, name: str, key: str | None) -> Found:
    chosen, index = _choice(names, file, name, key)
    with of_library():
        numbers, index = get(chosen), None if index is None else get(index)
    if index is not None and np.size(index) != np.size(numbers):
        raise Unusable(f"it has {np.size(index)} indices and {np.size(numbers)} of {chosen}")
    return numbers, None if index is None else np.ravel(index), index is not None


def _choice(names: list[str], file: Path, name: str, key: str | None) -> tuple[str, str | None]:
    """(name of the numbers, name of their indices or None) among the names of columns, fields or arrays.

    Raises UsageError, which lists the names, where it is not clear which one is meant.
    """
    short = {each: each.rpartition("/")[2].strip().lower() for each in names}  # HDF5's are paths
    indices = [each for each in names if short[each] in INDEX_NAMES] or [each for each in names if not short[each]]
    others = [each for each in names if each not in indices and short[each]]
    if key is not None:
        found = [each for each in names if key.lower() in (each.strip().lower(), short[each])]
    else:
        found = [each for each in others if short[each] in (name, f"{name}s")] or others
    told = ", ".join(each.strip() or "(no name)" for each in names[:12]) + (", …" if len(names) > 12 else "")
    if not names or not others:
        raise Unusable(f"it has no {name}s" + (f", only {told}" if names else ""))
    likely = next((each for each in others if short[each] not in OTHER_NAMES), others[0])
    meant = f"say which is meant, like {file}:{likely.strip()}"
    if key is not None and len(found) != 1:
        raise UsageError(f"{file} has {len(found) or 'nothing'} called {key} among {told}: {meant}")
    if len(found) > 1:
        raise UsageError(f"{file} has {told}, and not one of them alone is called {name}: {meant}")
    if key is None and name == "score" and short[found[0]] in OTHER_NAMES:
        raise UsageError(f"{file} has {told}, which says nothing of scores: give a column of scores, or {meant}")
    group = found[0].rpartition("/")[0]
    near = [each for each in indices if each.rpartition("/")[0] == group and each != found[0]]
    if len(near) > 1:
        raise UsageError(f"{file} has several columns of indices ({', '.join(near)}): leave one of them")
    return found[0], near[0] if near else None


def _of_text(file: Path, name: str, key: str | None, lengths: Sequence[int]) -> Found:
    table = text_table.read(file, lengths, known=INDEX_NAMES | {name, f"{name}s"})
    if table.names is None:
        if key is not None:
            raise Unusable(f"it has no headings, {key} neither")
        if table.width > 2:
            raise Unusable(f"it has {table.width} columns, not one, or index and {name}")
        index = table.numbers(0, "index") if table.width == 2 else None
        return table.numbers(table.width - 1, name), index, False
    chosen, index = _choice(table.names, file, name, key)
    if index is None and table.width > 1:
        raise UsageError(
            f"{file} has the columns {', '.join(table.names)} and none called index, so it is not clear which {name} "
            f"is of which image: call one of them index, or leave {name} alone"
        )
    found = None if index is None else table.numbers(table.names.index(index), "index")
    return table.numbers(table.names.index(chosen), name), found, index is not None


# --- what is refused --------------------------------------------------------------------------------------------------


def _checked(numbers: np.ndarray, name: str, path: str | Path) -> np.ndarray:
    """The numbers as float64 [n]."""
    found = np.asarray(numbers)
    if found.ndim == 2 and 1 in found.shape:
        found = found.ravel()
    if found.ndim != 1 or found.dtype.kind not in "biuf":
        raise UsageError(f"{path} holds {found.dtype} of shape {found.shape}: give one number per image")
    if found.dtype.kind == "b" and name == "score":
        raise UsageError(f"{path} holds true and false, by which images cannot be ranked: give a number per image")
    found = found.astype(np.float64)
    for what, bad in (("NaN", np.isnan(found)), ("infinite", np.isinf(found))):
        if bad.any():
            raise UsageError(f"{bad.sum()} of the {len(found)} {name}s in {path} are {what}: give each image a number")
    return found


def _checked_index(
    index: np.ndarray, numbers: np.ndarray, path: str | Path, size: int, train: np.ndarray | None
) -> np.ndarray:
    if index.dtype.kind not in "iuf" or (index % 1).any() or len(np.unique(index)) < len(index):
        raise UsageError(
            f"{path} must name each image once, by an index from 0 to {size - 1}: mend its first column (a comma parts "
            "columns, and is no decimal comma)"
        )
    found = np.sort(index)
    if np.array_equal(found, np.arange(1, len(found) + 1)) and not np.array_equal(found, train):
        raise UsageError(f"{path} has the indices 1 to {len(found)}, and the first image is 0: take 1 from each")
    if found[0] < 0 or found[-1] >= size:
        raise UsageError(f"{path} must name each image once, by an index from 0 to {size - 1}: mend its first column")
    return index.astype(np.int64)


def _check_ranks(scores: np.ndarray, path: str | Path, named: bool) -> None:
    """Raises UsageError for a permutation that may be an argsort: the images from the easiest, not their scores."""
    first = scores.min(initial=np.inf)
    if first not in (0, 1) or not np.array_equal(np.sort(scores), np.arange(len(scores)) + first):
        return
    ranks = (scores - first).astype(np.int64)
    if np.array_equal(ranks[ranks], np.arange(len(ranks))):
        return  # read either way it ranks the images alike
    kept = f"{path} holds each number from {first:g} to {first + len(scores) - 1:g} once"
    if not named:
        raise UsageError(
            f"{kept}, which may be an order of images (argsort) or their ranks: give the scores, or ranks with a "
            "column called index"
        )
    log.warning(f"{kept}: they are taken for the ranks of the images, the easiest lowest")
