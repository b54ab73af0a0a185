"""What a file is, by its first bytes, and whether it may be replaced: only a file of the same kind is."""

import json
import os
import zipfile
from pathlib import Path

from repro.errors import UsageError
from repro.store import files

ARTIFACT = "lottery-data-diet artifact"
"""An artifact begins with this."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""An HDF5 file begins with this; in an artifact, the image after the seal does."""
ZIP, PICKLE, SAFETENSORS = "a zip file, as torch.save writes", "a pickle", "a safetensors file"
LFS, PAGE, GZIP, OURS = "a Git LFS pointer", "a web page", "a gzip file", "an artifact"
LONGEST = 255 - len(f"..{os.uname().nodename}.4194304.tmp")  # bytes of a name, with those of a temporary file

_STARTS = (
    (ARTIFACT.encode(), OURS),
    (b"PK\x03\x04", ZIP),
    (b"\x93NUMPY", "a NumPy array"),
    (SIGNATURE, "an HDF5 file of another program"),
    (b"\x80", PICKLE),
    (b"\x89PNG", "a picture"),
    (b"%PDF", "a PDF"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", GZIP),
    (b"version https://git-lfs", LFS),
)
_PAGES = (b"<!doctype html", b"<html")  # in upper or lower case


def described(start: bytes) -> str:
    """What a file with these first bytes is, for a sentence: 'a text file'."""
    if not start:
        return "an empty file"
    for signature, kind in _STARTS:
        if start.startswith(signature):
            return kind
    if start.lower().startswith(_PAGES):
        return PAGE
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27:
        return SAFETENSORS
    try:
        text = start[:-4].decode() or start.decode()  # the last character may be cut
    except UnicodeDecodeError:
        text = "\0"
    return "a file of another program" if "\0" in text else "a text file"


def require_target(path: Path, option: str = "--out") -> None:
    """Raises UsageError where no file can stand: a folder, a device, or a name that is too long or not UTF-8."""
    name = os.fsencode(path.name)
    if not name or path.is_dir():
        raise UsageError(f"{option} {path} is a folder: give the name of a file in it")
    try:
        name.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{option} {os.fsencode(path)!r} is not UTF-8: choose another name") from None
    if len(name) > LONGEST:
        start = f"{option} has a name of {len(name)} bytes, {path.name[:20]}…"
        raise UsageError(f"{start}: choose one of at most {LONGEST}")
    if files.in_circle(path):
        raise UsageError(f"{option} {path} is a link that leads back to itself: remove it, or choose another {option}")
    if os.path.exists(path) and not path.is_file():
        raise UsageError(f"{option} {path} is no ordinary file: choose another {option}")


def require_replaceable(path: Path, kind: str, contents: bytes = b"", option: str = "--out") -> None:
    """Raises UsageError where a file stands at ``path`` that this program did not write as the same ``kind``.

    Arguments:
        kind: 'artifact', 'archive', 'report', 'rules', 'log', 'table', 'network' or 'indices'.
        contents: what is to be written; a table may replace one with the same columns, a network or a list of
            images only its equal.
    """
    require_target(path, option)
    if not os.path.exists(path):
        return
    name, is_ours = _REPLACEABLE[kind]
    with files.reading(path), files.open_regular(path) as file:
        start = file.read(1 << 16)
        if is_ours(path, start, contents):
            return
    raise UsageError(f"{option} {path} is there and is {described(start)}, not {name}: choose another {option}")


def _is_archive(path: Path, start: bytes, contents: bytes) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("recipe.json"))["format"] == "lottery-data-diet archive"
    except (KeyError, NotImplementedError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile):
        return False


def _is_table(path: Path, start: bytes, contents: bytes) -> bool:
    if contents.startswith(b"PAR1"):  # the sha256 of the artifacts is in the metadata of our Parquet files
        return start.startswith(b"PAR1") and b"content_sha256" in path.read_bytes()
    return start.partition(b"\n")[0] == contents.partition(b"\n")[0]


def _starts_with(beginning: bytes):
    return lambda path, start, contents: start.startswith(beginning)


_REPLACEABLE = {
    "artifact": ("an artifact that repro made", _starts_with(ARTIFACT.encode())),
    "archive": ("an archive that repro made", _is_archive),
    "report": ("a report that repro made", lambda path, start, _: b"<title>Lottery Tickets on a Data Diet" in start),
    "rules": ("make rules of repro", _starts_with(b".SILENT:\n.PHONY: all ")),
    "log": ("a log of repro", lambda path, start, _: not start or start.startswith(b"# began ")),
    "table": ("a table of the same columns", _is_table),
    "network": ("the same network", lambda path, start, contents: path.read_bytes() == contents),
    "indices": ("the same list of images", lambda path, start, contents: path.read_bytes() == contents),
}
"""Kind -> (its name in a sentence, whether a file with these first bytes is of this kind)."""
