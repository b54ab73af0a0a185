"""The image sets of the experiments, whole and in memory: `load` returns one `ImageSet`.

Images stay uint8 and channels last from the file to the batch; `repro.data.batcher` crops, flips and normalises them.
`cifar` and `folders` know how the sets lie on disk.
"""

import hashlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from repro.data import NAMES, cifar, folders, sized, split_size
from repro.errors import UsageError

log = logging.getLogger(__name__)

DATA_DIR = Path("data")
"""Where the downloadable sets are looked for when the caller names no folder."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that public open_lth normalises CIFAR-10 with (protocol section 6)."""

PUBLISHED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cinic10": ((0.4789, 0.4723, 0.4305), (0.2421, 0.2383, 0.2587)),
}
"""Mean and standard deviation that lth_diet normalises each set with (protocol section 6)."""

CINIC10_SIZES = (180_000, 90_000)
"""Train images, with valid merged in, and test images."""

CHUNK_VALUES = 1 << 20
"""Pixel values that are summed at once, in 16 MB."""

DIGITS_FOLDS = 5
DIGITS_SEED = 20220601
"""Seed of the permutation that deals the digits out to their folds: fixed, so that every study has the same folds."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, labels and the way they are split into train and test. An *index* is a row of `images` everywhere.

    name: the name it was loaded by; for a folder, "folder:" and the folder's last component, with the size of shrunken
        images as it was given.
    images: uint8 [N, H, W, C], channels last.
    labels: int64 [N], positions in `classes`.
    splits: one (train index, test index) for each fold, int64 and ascending; all but digits have one fold.
    mean, std: normalisation constants, one a channel, of values in [0, 1].
    checksum: SHA-256 (hex) of the bytes of the images, then of the labels as little-endian int64.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    splits: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str

    def split(self, replicate: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(train index, test index) of a replicate: the folds are rotated by replicate."""
        return self.splits[replicate % len(self.splits)]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_chans(self) -> int:
        return self.images.shape[3]

    @property
    def image_size(self) -> int:
        """Height and width in pixels: every set here is square."""
        return self.images.shape[1]


def load(
    name: str, *, data_dir: str | Path | None = None, download: bool = False, normalization: str = "dataset"
) -> ImageSet:
    """Read an image set into memory.

    name: "cifar10", "cifar100", "cinic10" (train and valid merged, protocol section 1), "digits" (comes with
        scikit-learn), or "folder:PATH", or the path of a folder with train/ and test/ (or val/) of one folder a class.
        With "@16" behind it, the images are shrunk to 16 pixels (`shrink`).
    data_dir: the folder that holds cifar-10-batches-py, cifar-100-python or cinic10; DATA_DIR when None.
    download: fetch CIFAR into data_dir when it is not there; nothing is fetched otherwise.
    normalization: "dataset" (lth_diet's constants; digits: those of all images; a folder: those of its train images)
        or "imagenet" (open_lth's constants).

    Raises UsageError for an unknown name, data that is missing or altered, an image of another size than the rest, or
    a size that images cannot be shrunk to; RunError when a download fails or a file may not be read.
    """
    if normalization not in ("dataset", "imagenet"):
        raise UsageError(f"unknown normalization {normalization!r}: choose dataset or imagenet")
    root = DATA_DIR if data_dir is None else Path(os.path.expanduser(data_dir))
    name, size = split_size(name)
    if name in ("cifar10", "cifar100"):
        images, labels, classes, train_size = cifar.read_cifar(name, root, download=download)
    elif name == "cinic10":
        images, labels, classes, train_size = _cinic10(root)
    elif name == "digits":
        images, labels, classes = _digits()
        train_size = len(images)
    elif name.startswith("folder:") or Path(name).is_dir():
        folder = Path(os.path.expanduser(name.removeprefix("folder:")))
        images, labels, classes, train_size = folders.read_folder(folder)
        name = f"folder:{folder.resolve().name}"
    else:
        raise UsageError(f"unknown data set {name!r}: choose {', '.join(NAMES)} or folder:PATH")

    if size is not None:
        images = shrink(images, size, name)
    mean, std = PUBLISHED.get(name) or _moments(images[:train_size])
    if normalization == "imagenet":
        if images.shape[3] != 3:
            raise UsageError(f"normalization imagenet is for 3 channels, {name} has {images.shape[3]}: choose dataset")
        mean, std = IMAGENET
    splits = _folds(len(images)) if name == "digits" else ((np.arange(train_size), np.arange(train_size, len(images))),)
    return ImageSet(
        name=sized(name, size),
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        classes=classes,
        splits=tuple((torch.from_numpy(train), torch.from_numpy(test)) for train, test in splits),
        mean=mean,
        std=std,
        checksum=_checksum(images, labels),
    )


def shrink(images: np.ndarray, size: int, name: str) -> np.ndarray:
    """Means of boxes of k x k pixels, rounded to the nearest integer, halves up: uint8 [N, size, size, C].

    images: uint8 [N, k size, k size, C]. ``name`` is for the error.

    Raises UsageError for a size that is not the images' size over a whole k above 1.
    """
    side = images.shape[1]
    factor, rest = divmod(side, size) if size else (0, 0)
    if factor < 2 or rest:
        smaller = [str(n) for n in range(1, side) if side % n == 0]
        raise UsageError(
            f"image size (={size}) is not {side} pixels, those of {name}, over a whole number above 1: "
            f"choose {', '.join(smaller)}, or leave it out"
        )
    half, count = factor**2 // 2, factor**2
    small = np.empty((len(images), size, size, images.shape[3]), dtype=np.uint8)
    for start in range(0, len(images), 10_000):  # a chunk at a time: sums are four times as wide as the images
        chunk = images[start : start + 10_000]
        boxes = chunk.reshape(len(chunk), size, factor, size, factor, -1)
        small[start : start + 10_000] = (boxes.sum(axis=(2, 4), dtype=np.uint32) + half) // count
    return small


def _cinic10(root: Path) -> folders.Arrays:
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
    arrays = folders.read_images(home, ["train", "valid"], ["test"])
    sizes = arrays[3], len(arrays[0]) - arrays[3]
    if sizes != CINIC10_SIZES:
        log.warning(
            f"cinic10 in {home} has {sizes[0]} train and {sizes[1]} test images, not the official {CINIC10_SIZES[0]} "
            f"and {CINIC10_SIZES[1]}: results on it are not results on CINIC-10"
        )
    return arrays


def _digits() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels of 0 to 16, stretched to 0 to 255.

    Read from its file, because importing scikit-learn takes a quarter of a command's start-up.
    """
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations
    pixels = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = np.round(pixels[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return images, pixels[:, -1].astype(np.int64), tuple(map(str, range(10)))


def _folds(n: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Fold f tests on positions f, f + 5, f + 10, ... of one fixed permutation: each image is tested in one fold."""
    order = np.random.Generator(np.random.PCG64(DIGITS_SEED)).permutation(n)
    tests = [np.sort(order[fold::DIGITS_FOLDS]) for fold in range(DIGITS_FOLDS)]
    return tuple((np.setdiff1d(np.arange(n), test), test) for test in tests)


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel in [0, 1], summed in integers: the same everywhere.

    The deviation of a constant channel is given as 1, because its values, all shifted to 0, are divided by it.
    """
    total = np.zeros(images.shape[3], dtype=np.int64)
    squares = np.zeros_like(total)
    several = max(1, CHUNK_VALUES // max(1, images[:1].size))
    for start in range(0, len(images), several):  # a chunk at a time: the int64 copy is eight times the images
        values = images[start : start + several].astype(np.int64)
        total += values.sum(axis=(0, 1, 2))
        squares += np.square(values).sum(axis=(0, 1, 2))
    count = images.size // images.shape[3]
    mean = total / count
    std = np.sqrt(squares / count - mean**2) / 255
    # exactly, in Python's integers: rounding would leave a constant channel a tiny deviation
    constant = [count * int(square) == int(value) ** 2 for square, value in zip(squares, total)]
    return tuple((mean / 255).tolist()), tuple(np.where(constant, 1.0, std).tolist())


def _checksum(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images))
    digest.update(labels.astype("<i8"))
    return digest.hexdigest()
