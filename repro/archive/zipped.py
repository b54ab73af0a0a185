"""Zip files: written block by block, and unpacked with distrust."""

import hashlib
import io
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from repro.errors import RunError, UsageError
from repro.store.files import open_regular

BLOCK = 1 << 20
SUMS, RECIPE = "SHA256SUMS", "recipe.json"
METADATA, PREVIEW = "ro-crate-metadata.json", "ro-crate-preview.html"  # as RO-Crate wants them
# only text is deflated, because artifacts and pictures are compressed already
PACKED = {".csv", ".html", ".json", ".md", ".txt", ""}
MOST_PACKED = 100  # times smaller: tables of numbers become 3 to 20 times smaller
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_text(digests: Mapping[str, str]) -> str:
    """A list of checksums for ``sha256sum -c``."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


class _Blocks(io.RawIOBase):
    """A file whose written bytes are passed on at once. It cannot seek, so that zipfile never goes back."""

    def __init__(self):
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def take(self) -> Iterator[bytes]:
        parts, self.parts = self.parts, []
        yield from parts


def pack(members: Mapping[str, Path | bytes], digests: Mapping[str, str], when: datetime) -> Iterator[bytes]:
    """The bytes of a zip, in blocks: members in the order given, all with one date, the same for the same members.

    Arguments:
        members: name -> file or content; digests: name -> sha256 of it, as it was described.

    Raises RunError when a file is no longer what its digest says.
    """
    out = _Blocks()
    with zipfile.ZipFile(out, "w") as archive:
        for name, source in members.items():
            info = zipfile.ZipInfo(name, when.timetuple()[:6])
            info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix: rw-r--r--
            info.compress_type = zipfile.ZIP_DEFLATED if Path(name).suffix in PACKED else zipfile.ZIP_STORED
            digest = hashlib.sha256()
            with _reader(source) as file, archive.open(info, "w", force_zip64=True) as member:
                while block := file.read(BLOCK):
                    digest.update(block)
                    member.write(block)
                    yield from out.take()
            if digests.get(name) not in (None, digest.hexdigest()):
                raise RunError(f"{source} was changed while it was archived: run the same command again")
    yield from out.take()


def _reader(source: Path | bytes):
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def unpack(path: Path, folder: Path) -> list[str]:
    """Unpacks an archive into an empty folder, compares every checksum, and returns the names of its files.

    Raises UsageError for a file that is no archive of this program: not a zip, truncated, without recipe, description
    or checksums, or with names that lead out of the folder. Raises RunError that names the first file that was altered,
    is missing or has no checksum, and RunError when the disk has no room.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _require_ours(path, [entry.filename for entry in entries])
            _require_room(path, entries, folder)
            by_name = {entry.filename: entry for entry in entries}
            _extract(path, archive, by_name[SUMS], folder)
            recorded = read_sums(path, folder / SUMS)
            _require_same_names(path, by_name.keys() - {SUMS}, recorded.keys() - {SUMS})
            for entry in entries:
                if entry.filename != SUMS and _extract(path, archive, entry, folder) != recorded[entry.filename]:
                    raise RunError(f"{path} was altered: {entry.filename} has another sha256 than {SUMS} says")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: check the path") from None
    except (zipfile.BadZipFile, IsADirectoryError) as error:
        raise UsageError(f"{path} is no zip file or is truncated: give a file that repro archive wrote") from error
    except OSError as error:
        raise RunError(f"cannot unpack {path} ({error.strerror or error}): allow reading it, or set TMPDIR") from error
    return list(by_name)


def _require_same_names(path: Path, found: set[str], recorded: set[str]) -> None:
    for name in sorted(found ^ recorded):
        if name in found:
            raise RunError(f"{path} has a file that it does not vouch for: {name} is not in {SUMS}")
        raise RunError(f"{path} is incomplete: {name} is in {SUMS} and not in the archive")


def read_sums(archive: Path, path: Path) -> dict[str, str]:
    """Name -> sha256. Raises RunError for a file that is no list of checksums."""
    try:
        found = [_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        found = [None]
    if None in found or len({line[2] for line in found}) < len(found):
        raise RunError(f"{archive} was altered: {path.name} is no list of checksums")
    return {line[2]: line[1] for line in found}


def _require_ours(path: Path, names: list[str]) -> None:
    if lacks := [name for name in (RECIPE, SUMS, METADATA) if name not in names]:
        raise UsageError(
            f"{path} is no archive of this program (it has no {lacks[0]}): give one that repro archive wrote"
        )
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UsageError(f"{path} is no archive of this program: it holds {twice} twice")
    for name in names:
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or re.search(r"[\\:\x00-\x1f]", name):
            raise UsageError(f"{path} is no archive of this program: {name!r} would be unpacked elsewhere")


def _require_room(path: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Raises RunError for an archive larger than the disk's free space, or a file that unpacks to implausibly much."""
    for entry in entries:
        if entry.file_size > MOST_PACKED * entry.compress_size + BLOCK:
            raise RunError(
                f"{path} was altered: {entry.filename} would be unpacked from {entry.compress_size:,} to "
                f"{entry.file_size:,} bytes"
            )
    size, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
    if size > free:
        raise RunError(f"{path} needs {size:,} bytes in {folder.parent} and {free:,} are free: set TMPDIR to another")


def _extract(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> str:
    """Writes one entry, of at most its declared size; returns its sha256."""
    target, digest = folder / entry.filename, hashlib.sha256()
    try:
        source = archive.open(entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # no such method, or encrypted
        raise RunError(f"{path} was altered: {entry.filename} cannot be read") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, open(target, "wb") as out:
        while block := _next(path, source, entry):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _next(path: Path, source, entry: zipfile.ZipInfo) -> bytes:
    try:
        return source.read(BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RunError(f"{path} was altered: {entry.filename} is damaged") from error
