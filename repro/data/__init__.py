"""Image sets held as uint8 tensors, batches cut out of them, and subsets of them.

What needs torch is imported at its first use, because commands that only read artifacts import `repro.data.subsets`
and should start at once.
"""

import os
import re
from importlib import import_module

from repro.data.subsets import Passes, choose, histogram, missing_classes
from repro.errors import UsageError

NAMES = ("cifar10", "cifar100", "cinic10", "digits")
_NEEDS_TORCH = {"Batcher": "batcher", "ImageSet": "images", "load": "images"}

__all__ = ["Batcher", "ImageSet", "Passes", "choose", "histogram", "load", "missing_classes", "sized", "split_size"]


def __getattr__(name: str):
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)


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
