"""Folders of images, a folder for each class, read in the order of torchvision's ImageFolder.

Hidden files and folders are left out, because editors, archives and file servers make them, and so are files without
the ending of an image. A warning says what was left out.
"""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from repro.errors import RunError, UsageError

log = logging.getLogger(__name__)

Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...], int]
"""Images uint8 [N, H, W, C], labels int64 [N], class names, number of train images; the train images come first."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that torchvision's ImageFolder takes for images."""
TEST = ("test", "val")
_CLUTTER = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini"}


@dataclass
class _Told:
    """What was left out of a folder, and how often; with the first example of each."""

    root: Path
    counts: Counter = field(default_factory=Counter)
    first: dict[str, Path] = field(default_factory=dict)

    def add(self, what: str, path: Path) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, path)

    def say(self) -> None:
        parts = [
            f"{count} {what} (the first: {os.path.relpath(self.first[what], self.root)})"
            for what, count in sorted(self.counts.items())
        ]
        if parts:
            _say_once(f"{self.root}: {'; '.join(parts)}")


@cache
def _say_once(line: str) -> None:
    log.warning(line)


@dataclass
class _Scan:
    """The image files below some folders of classes.

    samples: (path, label) of the train images, then of the test images, each in the order of its path.
    """

    classes: tuple[str, ...]
    samples: list[tuple[Path, int]]
    train_size: int
    told: _Told


def read_folder(folder: Path) -> Arrays:
    """A folder of images, train/<class>/* and test/<class>/* (val/ where there is no test/), read as RGB."""
    train, test = _halves(folder)
    arrays = read_images(folder, train, test)
    listed = _listed(folder, _Told(folder))
    if others := [entry.name for entry in listed if entry.is_dir() and entry.name not in train + test]:
        _say_once(f"{folder}: only {train[0]} and {test[0]} are read, not {', '.join(others)}")
    images, train_size = arrays[0], arrays[3]
    known = {hash(image.tobytes()) for image in images[:train_size]}
    if again := sum(hash(image.tobytes()) in known for image in images[train_size:]):
        _say_once(f"{folder}: {again} of the {len(images) - train_size} test images are training images as well")
    return arrays


def find_folder(dataset: str, data_dir: Path | None) -> Path:
    """Where the images of ``folder:PATH`` lie: below ``data_dir``, or at the path itself.

    Raises UsageError for neither.
    """
    name = Path(os.path.expanduser(dataset.removeprefix("folder:")))
    for folder in (Path(data_dir or ".") / name, name):
        if folder.is_dir():
            return folder
    raise UsageError(f"no folder {name} of images: point --data-dir at the folder that holds {name.name}")


def count_folder(folder: Path) -> dict[str, int]:
    """What `read_folder` would read, for plans: image_size, in_chans, num_classes, train_images and test_images.

    Files are opened, and only the first is decoded. Raises UsageError where reading them would.
    """
    found = _scan(folder, *_halves(folder))
    _decoded(found.samples[0][0], found.told)
    shapes = [_shape(path) for path, _ in found.samples]
    for (path, _), shape in zip(found.samples, shapes):
        _require_size(path, shape, shapes[0])
    return {
        "image_size": shapes[0][0],
        "in_chans": 3,
        "num_classes": len(found.classes),
        "train_images": found.train_size,
        "test_images": len(found.samples) - found.train_size,
    }


def read_images(root: Path, train: list[str], test: list[str]) -> Arrays:
    """Decode the images below the train and test folders of ``root``, which all hold the same classes, to RGB."""
    found = _scan(root, train, test)
    images = None
    for row, (path, _) in enumerate(found.samples):
        image = _decoded(path, found.told)
        if images is None:
            images = np.empty((len(found.samples), *image.shape), dtype=np.uint8)
        _require_size(path, image.shape[:2], images.shape[1:3])
        images[row] = image
    found.told.say()
    labels = np.array([label for _, label in found.samples], dtype=np.int64)
    return images, labels, found.classes, found.train_size


def _halves(folder: Path) -> tuple[list[str], list[str]]:
    test = next((name for name in TEST if (folder / name).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        found = f", and has {', '.join(there)}" if there else ""
        raise UsageError(
            f"{folder} is no image folder: it needs train/ and test/ (or val/), with a folder a class{found}"
        )
    return ["train"], [test]


# --- which files ------------------------------------------------------------------------------------------------------


def _scan(root: Path, train: list[str], test: list[str]) -> _Scan:
    """Raises UsageError for folders that hold no class, other classes than the first, or a class without images."""
    told, classes, samples, counts = _Told(root), None, [], []
    for part in train + test:
        names = sorted(entry.name for entry in _listed(root / part, told) if _is_class(entry, told))
        if not names:
            raise UsageError(f"{root / part} needs a folder with images for each class: it holds no folder")
        if classes is None:
            classes = names
            if len(set(map(_composed, classes))) < len(classes):
                raise UsageError(
                    f"{root / part} holds two classes whose names look alike: rename one of "
                    f"{', '.join(map(ascii, classes))}"
                )
            if len(classes) < 2:
                raise UsageError(
                    f"{root / part} holds one class ({classes[0]}): give a folder to each of two classes or more"
                )
        label_of = {_composed(name): label for label, name in enumerate(classes)}
        if odd := label_of.keys() ^ set(map(_composed, names)):
            raise UsageError(
                f"{root / part} and {root / train[0]} hold different classes "
                f"({', '.join(map(repr, sorted(odd)))}): give both the same folders"
            )
        for name in names:
            paths = sorted(_images_below(root / part / name, told), key=lambda path: (str(path.parent), path.name))
            if not paths:
                raise UsageError(
                    f"{root / part} needs a folder with images for each class: {name} has no file that "
                    f"ends in {' '.join(SUFFIXES)}"
                )
            samples += [(path, label_of[_composed(name)]) for path in paths]
        counts.append(len(samples))
    return _Scan(tuple(classes), samples, counts[len(train) - 1], told)


def _composed(name: str) -> str:
    """A name as one spelling of Unicode: archives made on a Mac have another one."""
    return unicodedata.normalize("NFC", name)


def _listed(folder: Path, told: _Told) -> list[os.DirEntry]:
    """What is in a folder and not hidden."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}") from None
    shown = []
    for entry in listed:
        if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
            told.add("hidden, left out", Path(entry.path))
        else:
            shown.append(entry)
    return shown


def _is_class(entry: os.DirEntry, told: _Told) -> bool:
    if not entry.is_dir():
        told.add("not in the folder of a class, left out", Path(entry.path))
    return entry.is_dir()


def _images_below(folder: Path, told: _Told) -> Iterator[Path]:
    for entry in _listed(folder, told):
        path = Path(entry.path)
        if entry.is_dir():
            if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path)):
                raise UsageError(f"{path} is a link to a folder that it lies in: remove it")
            yield from _images_below(path, told)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        else:
            told.add(f"{path.suffix.lower() or 'without an ending'}, no image by its name and left out", path)


# --- what is in them --------------------------------------------------------------------------------------------------


def _opened(path: Path):
    """An image file, opened and not decoded yet."""
    from PIL import Image

    try:
        image = Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None
    if image.mode.startswith(("I", "F")):  # PIL would clip them at 255
        image.close()
        raise _unreadable(path, ValueError(f"more than 8 bits a channel, mode {image.mode}"))
    return image


def _shape(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        return image.height, image.width


def _decoded(path: Path, told: _Told) -> np.ndarray:
    """uint8 [H, W, 3] of an image file; grey, palette and CMYK images become RGB."""
    try:
        with _opened(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            if "exif" in image.info and image.getexif().get(0x0112, 1) != 1:
                told.add("to be turned by EXIF, read as stored", path)
            clear = image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema()[0] < 255
            if clear or "transparency" in image.info:
                told.add("with transparency, which is dropped", path)
            if getattr(image, "is_animated", False):
                told.add("of several frames, the first one read", path)
    except UsageError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a broken PNG
        raise _unreadable(path, error) from None
    return pixels


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} cannot be read as an image ({error}): mend it or leave it out")


def _require_size(path: Path, shape: tuple[int, int], first: tuple[int, int]) -> None:
    if shape != first or shape[0] != shape[1]:
        other = f"the first image {first[1]} x {first[0]}" if shape != first else "which is no square"
        raise UsageError(f"{path} has {shape[1]} x {shape[0]} pixels, {other}: scale all images to one square size")
