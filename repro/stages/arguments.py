"""What a Python program gives to a stage, held to the stage's annotations: `checked`."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

from repro.errors import UsageError

_TAKEN = {int: Integral, float: Real, Path: os.PathLike, Sequence: Iterable}  # what does for a type
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    Sequence: "a sequence",
}


def checked(stage: Callable) -> Callable:
    """The stage, which raises UsageError for an argument of a type that its annotation lacks.

    A mistake is found before hours of training, and not by the next command that reads the artifact. Integers of NumPy
    are taken as Python's, because recipes are JSON.
    """
    hints = {name: _kinds(hint) for name, hint in get_type_hints(stage).items()}

    @wraps(stage)
    def called(*args, **named):
        given = signature(stage).bind(*args, **named)
        for name, value in given.arguments.items():
            given.arguments[name] = _fitting(name, value, hints[name])
        return stage(*given.args, **given.kwargs)

    return called


def _kinds(hint) -> tuple[type, ...]:
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


def _fitting(name: str, value, kinds: tuple[type, ...]):
    """The value, a number as Python's own. Raises UsageError."""
    if isinstance(value, bool) and bool not in kinds or not isinstance(value, tuple(_TAKEN.get(k, k) for k in kinds)):
        words = [_WORDS.get(kind, f"a {kind.__name__}") for kind in kinds if kind is not NoneType]
        raise UsageError(f"{name} (={value!r}) must be {' or '.join(words)}")
    if isinstance(value, Real) and not isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, Integral) else float(value)
    return value
