"""Image sets as they lie on disk: CIFAR's python batches, CINIC-10's folders, and any folder of images.

`read_numbers` reads a user's own label or score for each image. Each other reader returns (images uint8 [N, H, W, C],
labels int64 [N], class names, number of train images); the train images come first. What is missing or altered raises
UsageError with the file's name, before any of it is used.
"""

import hashlib
import logging
import os
import pickle
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from repro.errors import RunError, UsageError

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that torchvision's ImageFolder takes for images."""
CINIC10_SIZES = (180_000, 90_000)
"""Train (with valid merged in) and test images of the official CINIC-10."""

Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...], int]


def read_cifar(name: str, root: Path, *, download: bool) -> Arrays:
    """CIFAR-10 or CIFAR-100 (fine labels) below `root`, in the published order: train batches, then the test batch.

    Checksums, file names and address are torchvision's. Its reader is not used: it reads every file three times, and
    answers a missing file and an altered one alike.
    """
    from torchvision import datasets  # here, because it takes seconds and other sets do without

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / source.base_folder
    if not folder.is_dir():
        _unpack_cifar(name, source, root, download=download)

    def unpickled(file: str, md5: str) -> dict:
        return pickle.loads(_verified(folder / file, md5), encoding="bytes")  # the checksum vouches for the pickle

    meta = unpickled(source.meta["filename"], source.meta["md5"])
    batches = [unpickled(file, md5) for file, md5 in source.train_list + source.test_list]
    train_size = sum(len(batch[b"data"]) for batch in batches[: len(source.train_list)])
    planes = [batch[b"data"].reshape(-1, 3, 32, 32) for batch in batches]
    images = np.empty((sum(len(plane) for plane in planes), 32, 32, 3), dtype=np.uint8)
    for channel in range(3):  # five times faster than a transposed copy
        np.concatenate([plane[:, channel] for plane in planes], out=images[..., channel])
    labels = np.concatenate([batch.get(b"labels") or batch[b"fine_labels"] for batch in batches]).astype(np.int64)
    return images, labels, tuple(label.decode() for label in meta[source.meta["key"].encode()]), train_size


def _verified(path: Path, md5: str) -> bytes:
    """The bytes of a file whose MD5 is the published one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: move {path.parent} away and run again with --download") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UsageError(
            f"{path} is damaged or not the published file (MD5 {found}, expected {md5}): "
            f"move {path.parent} away and run again with --download"
        )
    return content


def _unpack_cifar(name: str, source: type, root: Path, *, download: bool) -> None:
    """Put CIFAR's folder below `root`: from the archive there, else from its official address.

    It is unpacked in a scratch folder and renamed: neither a kill nor a second process leaves a folder half filled.
    """
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive

    archive = root / source.filename
    if not archive.is_file() and not download:
        raise UsageError(
            f"no {name} in {root} (looked for {root / source.base_folder}): run again with --download, or point "
            f"--data-dir at the folder that holds {source.base_folder}"
        )
    try:
        if archive.is_file() and not check_integrity(archive, source.tgz_md5):
            raise UsageError(
                f"{archive} is damaged or not the published archive (expected MD5 {source.tgz_md5}): "
                "move it away and run again with --download"
            )
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
            if archive.is_file():
                extract_archive(str(archive), scratch)
            else:
                download_and_extract_archive(source.url, scratch, filename=source.filename, md5=source.tgz_md5)
            try:
                os.replace(Path(scratch, source.base_folder), root / source.base_folder)
            except OSError:
                if not (root / source.base_folder).is_dir():  # it is there when another process was faster
                    raise
    except (OSError, HTTPException, RuntimeError) as error:
        action = f"unpacking {archive}" if archive.is_file() else f"downloading {source.url} into {root}"
        raise RunError(f"{action} failed: {error}") from error


def read_cinic10(root: Path) -> Arrays:
    """CINIC-10 in its official layout, {train,valid,test}/<class>/*.png, in `root`/cinic10 or in `root` itself.

    train and valid make up the train set (protocol section 1), in this order, each by class and file name. One core
    decodes some 12,000 files a second: threads made it slower, and a cache could go stale.
    """
    home = next((home for home in (root / "cinic10", root) if (home / "train").is_dir()), None)
    if home is None:
        raise UsageError(
            f"no cinic10 in {root} (looked for {root / 'cinic10' / 'train'} and {root / 'train'}): unpack the official "
            f"CINIC-10.tar.gz into {root / 'cinic10'}, or point --data-dir at the folder that holds it"
        )
    arrays = _read_images([home / "train", home / "valid"], [home / "test"])
    sizes = arrays[3], len(arrays[0]) - arrays[3]
    if sizes != CINIC10_SIZES:
        log.warning(
            f"cinic10 in {home} has {sizes[0]} train and {sizes[1]} test images, not the official {CINIC10_SIZES[0]} "
            f"and {CINIC10_SIZES[1]}: results on it are not results on CINIC-10"
        )
    return arrays


def read_folder(folder: Path) -> Arrays:
    """A folder of images, train/<class>/* and test/<class>/* (val/ where there is no test/), read as RGB."""
    train, test = _halves(folder)
    return _read_images([train], [test])


def count_folder(folder: Path) -> dict[str, int]:
    """What `read_folder` would read, for plans, which open no data: image_size of the first image, in_chans,
    num_classes, train_images and test_images. Raises UsageError for what is no such folder."""
    train, test = _halves(folder)
    found = [sorted(f for f in half.glob("*/**/*") if f.suffix.lower() in SUFFIXES) for half in (train, test)]
    if not all(found):
        raise UsageError(f"{test if found[0] else train} holds no image ({' '.join(SUFFIXES)}): give a folder a class")
    classes = sum(1 for entry in train.iterdir() if entry.is_dir())
    return {"image_size": _decoded(found[0][0]).shape[0], "in_chans": 3, "num_classes": classes,
            "train_images": len(found[0]), "test_images": len(found[1])}  # fmt: skip


def _halves(folder: Path) -> tuple[Path, Path]:
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise UsageError(f"{folder} is no image folder: it needs train/ and test/ (or val/), with a folder a class")
    return folder / "train", test


def _decoded(path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3] of an image file; grey, palette and CMYK images become RGB, transparency is dropped."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # PIL would clip them at 255
                raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise UsageError(f"{path} cannot be read as an image ({error}): mend it or leave it out") from None


def _read_images(train: list[Path], test: list[Path]) -> Arrays:
    """Decode the images below the train and test folders, which all hold the same classes, to RGB."""
    from torchvision.datasets import ImageFolder

    parts = []
    for folder in train + test:
        try:
            parts.append(ImageFolder(str(folder)))
        except FileNotFoundError as error:
            raise UsageError(f"{folder} needs a folder with images for each class: {error}") from None
        except OSError as error:
            raise RunError(f"cannot read {folder}: {error.strerror}") from None
    classes = parts[0].classes
    if len(classes) < 2:
        raise UsageError(f"{train[0]} holds one class ({classes[0]}): give a folder to each of two classes or more")
    for part in parts[1:]:
        if part.classes != classes:
            odd = ", ".join(sorted(set(classes) ^ set(part.classes)))
            raise UsageError(f"{part.root} and {train[0]} hold different classes ({odd}): give both the same folders")

    samples = [sample for part in parts for sample in part.samples]
    images = None
    for row, (path, _) in enumerate(samples):
        image = _decoded(path)
        if images is None:
            images = np.empty((len(samples), *image.shape), dtype=np.uint8)
        if image.shape != images.shape[1:] or image.shape[0] != image.shape[1]:
            height, width = image.shape[:2]
            raise UsageError(
                f"{path} has {width} x {height} pixels, the first image {images.shape[2]} x {images.shape[1]}: "
                "scale all images to one square size"
            )
        images[row] = image
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return images, labels, tuple(classes), sum(len(part.samples) for part in parts[: len(train)])


def read_numbers(path: Path, name: str, *, size: int, train: np.ndarray | None) -> np.ndarray:
    """One number per image from a user's file: float64 [size], NaN for images that the file leaves out.

    The file holds the whole set or the training images, in the order of their indices; a CSV may name the indices.

    path: .csv or .txt: a column of numbers, or two, index and number, with or without a header; .npy: one axis;
        .h5 or .hdf5: the data set called `name` or else the only one.
    name: what the numbers are ('score', 'label'), for messages too.
    size: N, images of the whole set. train: the train index, or None where folds differ in it.

    Raises UsageError, in one sentence, for a file that is missing, of another format or length, or holds NaN.
    """
    try:
        numbers, index = _numbers(path, name)
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror or error}): give a file with a {name} per image"
        ) from None
    except (EOFError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{path} cannot be read as one {name} per image ({reason}): mend the file") from None
    if numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
        raise UsageError(f"{path} holds {numbers.dtype} of shape {numbers.shape}: give one number per image")
    if bad := int(np.isnan(numbers).sum()):
        raise UsageError(f"{bad} of the {len(numbers)} {name}s in {path} are NaN: give each image a number")
    if index is None:
        index = {size: np.arange(size)}.get(len(numbers), train)
        if index is None or len(index) != len(numbers):
            choices = f"{size} (all images)" + ("" if train is None else f" or {len(train)} (training images)")
            raise UsageError(
                f"{path} has {len(numbers)} {name}s where {choices} are needed: give one per image, in order"
            )
    elif len(np.unique(index)) < len(index) or index.min() < 0 or index.max() >= size or (index % 1).any():
        raise UsageError(f"{path} must name each image once, by an index from 0 to {size - 1}: mend its first column")
    result = np.full(size, np.nan)
    result[index.astype(np.int64)] = numbers
    return result


def _numbers(path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(numbers, index or None) as they stand in the file. Raises OSError and ValueError."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with open(path, "rb") as file:  # not np.load, which takes archives as well
            return np.lib.format.read_array(file, allow_pickle=False), None
    if suffix in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, locking=False) as file:
            found = {}
            file.visititems(lambda key, item: found.update({key: item}) if isinstance(item, h5py.Dataset) else None)
            chosen = name if name in found else next(iter(found), None)
            if chosen is None or (chosen != name and len(found) > 1):
                raise ValueError(f"it has {len(found)} data sets and none is called {name}")
            return np.asarray(found[chosen][()]), None
    if suffix not in (".csv", ".txt"):
        raise ValueError(f"its name must end in .csv, .txt, .npy or .h5, not in {suffix or 'nothing'}")
    with open(path, encoding="utf-8-sig") as file:
        header = [cell.strip().lower() for cell in file.readline().split(",")]
        if all(_is_number(cell) for cell in header):
            file.seek(0)
        lines = [line for line in file if line.partition("#")[0].strip()]
    if not lines:
        raise ValueError("it is empty")
    columns = np.loadtxt(lines, delimiter=",", ndmin=2)
    if columns.shape[1] == 1:
        return columns[:, 0], None
    if columns.shape[1] > 2:
        raise ValueError(f"it has {columns.shape[1]} columns, not one, or index and {name}")
    first = 1 if header[1:] == ["index"] else 0
    return columns[:, 1 - first], columns[:, first]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
