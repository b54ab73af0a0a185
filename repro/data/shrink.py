"""Smaller images: a data set whose images are shrunk by a whole factor is another data set, ``cifar10@16``."""

import os
import re

import numpy as np

from repro.errors import UsageError

NAMES = ("cifar10", "cifar100", "cinic10", "digits")


def sized(name: str, size: int | None) -> str:
    """The name of a data set with images of ``size`` pixels: 'cifar10@16'. Raises UsageError where it has a size."""
    if size is None:
        return name
    if (found := split_size(name)[1]) is not None:
        raise UsageError(f"image size (={size}), but {name} says {found} itself: give one of them")
    return f"{name}@{size}"


def split_size(name: str) -> tuple[str, int | None]:
    """('cifar10', 16) of 'cifar10@16'; (name, None) of a name without a size, and of a folder that is named so."""
    found = re.fullmatch(r"(.+)@(\d+)", name)
    if not found or (found[1] not in NAMES and os.path.isdir(os.path.expanduser(name.removeprefix("folder:")))):
        return name, None
    return found[1], int(found[2])


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
