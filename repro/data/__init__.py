"""Image sets held as uint8 tensors, batches cut out of them, and subsets of them.

What needs torch is imported at its first use, because commands that only read artifacts import `repro.data.subsets`
and should start at once.
"""

from importlib import import_module

from repro.data.subsets import Passes, choose, histogram, missing_classes

_NEEDS_TORCH = {"Batcher": "batcher", "ImageSet": "images", "load": "images"}

__all__ = ["Batcher", "ImageSet", "Passes", "choose", "histogram", "load", "missing_classes"]


def __getattr__(name: str):
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
