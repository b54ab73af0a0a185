"""A user's own Python files: run as they are, and pinned by the SHA-256 of their bytes.

A user's network is named ``net.py:NAME`` or ``package.module:NAME``, and so is a pruning criterion. Recipes have
its pinned name, ``net.py:NAME@1a2b3c4d5e6f``, without the folder, so that they are the same wherever the file lies. No
torch is needed. ``what`` is what a message calls it.
"""

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

from repro.errors import UsageError
from repro.store.files import open_regular

PIN = 12  # hex digits of the SHA-256 in a pinned name
_NAME = re.compile(rf"(?P<code>[^@]+):(?P<name>[^\W\d]\w*)(?:@(?P<pin>[0-9a-f]{{{PIN}}}))?")
_given: dict[str, Path] = {}  # pinned name -> the file it was made from, in this process


def is_path(network: str) -> bool:
    """Whether a network is named by its code; no other network has a colon in its name."""
    return ":" in network


def pinned(network: str, what: str = "network") -> str:
    """The name that recipes have for a network: file name, NAME and pin for a user's, any other name as it is.

    Raises UsageError where there is no such code, or where its SHA-256 differs from a pin in the name.
    """
    if not is_path(network):
        return network
    code, name, pin = _parsed(network, what)
    path = find(network, what)
    known = f"{Path(code).name if _is_file(code) else code}:{name}@{pin or digest(path)}"
    _given[known] = path.absolute()
    return known


def find(network: str, what: str = "network") -> Path:
    """The file with the code of a user's network. Looked at are the file given before in this process, the path in
    the name, the working directory and the folders of Python's path; a pin chooses among them.

    Raises UsageError where there is no file, or none with the pin.
    """
    code, name, pin = _parsed(network, what)
    if _is_file(code):
        named = Path(os.path.expanduser(code))
        places = [named, *(Path(folder) / named.name for folder in ("", *sys.path))]
    else:
        places = [_origin(code, network, what)]
    if network in _given:
        places.insert(0, _given[network])
    there = [path for path in places if path.is_file()]
    if not there:
        advice = "give its path, or work in its folder (or name that in PYTHONPATH)"
        raise UsageError(f"there is no file {code} for {what} {network!r}: {advice}")
    matching = [path for path in there if pin in (None, digest(path))]
    if not matching:
        other = f"is not the code of {what} {network!r} (its sha256 begins with {digest(there[0])})"
        raise UsageError(f"{there[0]} {other}: bring that file back, or train anew with another --out")
    return matching[0]


def attribute(network: str, what: str = "network") -> tuple[Path, str, object]:
    """(file, NAME, the object of that name) of a user's network. Raises UsageError as `find` and `run` do."""
    path, name = find(network, what), _parsed(network, what)[1]
    module = _run_once(path.absolute(), digest(path))
    if not hasattr(module, name):
        own = (key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
        raise UsageError(f"{path} has no {name}: choose one of what it defines ({', '.join(own) or 'nothing'})")
    return path, name, getattr(module, name)


def digest(path: Path) -> str:
    """The first hex digits of a file's SHA-256. Raises UsageError for a file that cannot be read."""
    return hashlib.sha256(_bytes(path)).hexdigest()[:PIN]


@cache
def _run_once(path: Path, version: str) -> ModuleType:
    return run(path)


def run(path: Path) -> ModuleType:
    """Runs a Python file and returns its module.

    Its folder is not put on Python's path, because the pin would not cover modules imported from there. Raises
    UsageError for a file that cannot be read or run.
    """
    source = _bytes(path)
    module = ModuleType(f"own_{path.stem}_{hashlib.sha256(source).hexdigest()[:PIN]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        if isinstance(error, UsageError):  # this program raised it, with a sentence for the user
            raise
        raise UsageError(f"{path} cannot be run ({reason(error, path)}): mend it") from error
    return module


def reason(error: BaseException, path: Path) -> str:
    """An error of a user's code in one clause: 'ZeroDivisionError: division by zero, line 12'."""
    names = (str(path), str(path.absolute()))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in names]
    text = " ".join(str(error).split()).rstrip(".")
    line = f", line {lines[-1]}" if lines else ""
    return type(error).__name__ + (f": {text}" if text else "") + line


def _parsed(network: str, what: str) -> tuple[str, str, str | None]:
    match = _NAME.fullmatch(network)
    if not match:
        raise UsageError(f"unknown {what} {network!r}: one of your own is FILE.py:NAME or package.module:NAME")
    return match["code"], match["name"], match["pin"]


def _is_file(code: str) -> bool:
    return code.endswith(".py") or "/" in code


def _origin(module: str, network: str, what: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # a parent package is imported, and may fail in any way
        failure = f"cannot import {module} of {what} {network!r} ({reason(error, Path())})"
        raise UsageError(f"{failure}: install it, or give a file, FILE.py:NAME") from error
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise UsageError(f"there is no module {module} for {what} {network!r}: install it, or give FILE.py:NAME")
    return Path(spec.origin)


def _bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}): give a Python file") from None
