"""One HDF5 file as bytes: how arrays are laid out in it, and the seal in front that shows any damage.

The file is put together in memory and written by `files.write_whole`: on a full disk, HDF5 itself printed a traceback
for every array it could not write and ended in a segmentation fault (h5py 3.16). Measured on one core: weights, masks
and margins of 10 ResNet-20 at 21 levels, 257 MB, become 97 MB with gzip in 7 s and 131 MB with lzf in 3 s, and need
260 MB of memory beside the arrays.

The first 512 bytes are an HDF5 user block, which every HDF5 program skips. It holds a line with the number of bytes
that follow and their sha256, so that damage is found before HDF5 reads the file, in one pass over the bytes.

The next 48 bytes are the superblock (HDF5 file format specification, section II.A; version 3). They are all that HDF5
itself changes in a file that is opened for writing and closed, and `as_packed` gives them back as they were.
"""

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from repro.errors import UsageError, say_once
from repro.store import file_kinds, files

FORMAT, FORMAT_VERSION = file_kinds.ARTIFACT, 1
SEAL_BYTES = 512  # the smallest user block that HDF5 knows
SUPERBLOCK_BYTES = 48
CHUNK_BYTES = 8 << 20  # arrays are read whole: one chunk each, up to this size
AGAIN = "delete it and run its command again"  # only said of a file that has our seal
ATTRIBUTES = "format format_version kind name identity recipe defaults inputs provenance content_sha256".split()
ATTRIBUTES_SHA256 = "attributes_sha256"
_SEAL = re.compile(rb"%b, format (\d+); bytes (\d+); sha256 ([0-9a-f]{64})\n" % FORMAT.encode())
_LAYOUT = struct.Struct("<8s4BQQQQI")  # signature; version, sizes of offsets and lengths, flags; addresses; checksum
_LAWFUL_FLAGS = (0, 1, 5)  # closed, open for writing, open for writing beside readers


def normal(name: str, values) -> np.ndarray:
    """``values`` as an array that the store can hold: bool, integers, floats or text, little-endian, in C order.

    Raises TypeError for objects, dates and complex numbers: nothing is pickled.
    """
    array = np.asarray(values)
    if array.dtype.kind in "OT" and all(isinstance(item, str) for item in array.ravel()):
        array = np.array(array.tolist(), dtype=np.str_)
    if array.dtype.kind not in "biufU":
        raise TypeError(f"array {name} has dtype {array.dtype}: the store holds bool, integers, floats and text")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def contents(file: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of everything in a file, the table's columns too, in the order of the paths."""
    return ((path, load(file, path)) for path in dataset_paths(file))


def content_sha256(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 over path, dtype, shape and bytes of (path, array) in the order of the paths; text counts as a JSON list.

    Runs with the same results have the same sha256, whatever the compression and whenever they ran.
    """
    digest = hashlib.sha256()
    for path, array in arrays:
        dtype = "text" if array.dtype.kind == "U" else array.dtype.str
        digest.update(f"{path} {dtype} {array.shape}\n".encode())
        digest.update(json.dumps(array.tolist()).encode() if dtype == "text" else array.tobytes())
    return digest.hexdigest()


def attributes_sha256(attributes: Mapping) -> str:
    """sha256 of the attributes that this program writes; what another program added does not count."""
    own = {name: str(attributes[name]) for name in ATTRIBUTES}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def pack(arrays: Mapping[str, np.ndarray], attributes: Mapping, *, compression: str | None) -> tuple[bytes, bytes]:
    """The (seal, HDF5 image) of a file with these arrays, by path, and root attributes.

    Arrays are chunked, shuffled, compressed and carry fletcher32; scalars and empty arrays, where HDF5 has no chunks,
    are stored as they are. Text is UTF-8 of fixed length, because HDF5 has no filters for text of variable length.

    Arguments:
        arrays: as `normal` gives them.
        compression: 'gzip' (level 4), 'lzf' or None.
    """
    # libver v110: checksums on HDF5's own structures; and hundreds of small arrays take 40% less than in the oldest
    with h5py.File("image", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs.update(attributes)
        for path, array in arrays.items():
            parent, _, name = path.rpartition("/")
            if parent and parent not in file:
                file.create_group(parent, track_order=True)  # columns come back in the order they were written
            _add(file[parent or "/"], name, array, compression)
        file.flush()
        return sealed(checksummed(file.id.get_file_image()))


def _add(group: h5py.Group, name: str, array: np.ndarray, compression: str | None) -> None:
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
        array = array.astype(h5py.string_dtype("utf-8", max(1, array.dtype.itemsize)))
    filters = {}
    if array.size and array.shape:
        pieces = math.ceil(array.nbytes / CHUNK_BYTES)
        filters = {
            "chunks": (math.ceil(len(array) / pieces), *array.shape[1:]),
            "compression": compression,
            "shuffle": compression is not None,
            "fletcher32": True,
        }
    group.create_dataset(name, data=array, **filters)


def _seal(size: int, digest: str) -> bytes:
    line = f"{FORMAT}, format {FORMAT_VERSION}; bytes {size}; sha256 {digest}\n"
    return line.encode().ljust(SEAL_BYTES, b"\0")


class Changed(UsageError):
    """A file with this program's seal whose bytes changed since it was sealed."""


@dataclass(frozen=True)
class Checked:
    """A file whose seal was compared.

    found: its stat; head: its seal and superblock as they are; digest: sha256 of the bytes after the seal, None if they
    were not read; handled: whether another HDF5 program changed the superblock.
    """

    found: os.stat_result
    head: bytes
    digest: str | None
    handled: bool


def check(path: Path, *, verify: bool) -> Checked:
    """Compares a file that `pack` made with its seal, without HDF5.

    Arguments:
        verify: compare every byte with the seal; otherwise its length alone.

    Raises UsageError for a file that is missing, truncated, another program's or of a newer format; `Changed` for one
    that was altered.
    """
    with files.reading(path), files.open_regular(path) as file:
        found = os.fstat(file.fileno())
        seal, start = file.read(SEAL_BYTES), file.read(SUPERBLOCK_BYTES)
        size = file.seek(0, 2) - SEAL_BYTES
        packed = as_packed(start, size, SEAL_BYTES)
        handled = packed not in (None, start)
        file.seek(SEAL_BYTES + SUPERBLOCK_BYTES)
        digest = None
        if verify or handled:
            digest = hashlib.file_digest(file, lambda: hashlib.sha256(packed or start)).hexdigest()
        _check_seal(path, seal, start, size, digest)
    return Checked(found, seal + start, digest, handled)


def open_sealed(path: Path, *, verify: bool) -> h5py.File:
    """Opens a file that `pack` made for reading, after a `check`, whose errors it raises.

    Says once if another HDF5 program opened the file for writing, which changes the superblock alone.
    """
    checked = check(path, verify=verify)
    if checked.handled:
        say_once(
            f"note: another HDF5 program had {path} open for writing, and all that it holds is as it was: "
            f"`repro reseal {path}` ends this note",
            checked.digest,
        )
    return open_image(path)


def open_image(path: Path) -> h5py.File:
    """Opens a file whose bytes were found right. Raises `Changed` where HDF5 cannot read it nevertheless."""
    with files.reading(path):
        try:
            return h5py.File(path, "r", locking=False)  # finished files never change, and some clusters cannot lock
        except OSError:  # HDF5 refuses a file that is open for writing anywhere, or open otherwise in this process
            return _in_memory(path)


def _in_memory(path: Path) -> h5py.File:
    with files.open_regular(path) as file:
        image = file.read()
    offset = SEAL_BYTES if image[SEAL_BYTES:].startswith(file_kinds.SIGNATURE) else 0
    image = image[offset:]
    packed = as_packed(image[:SUPERBLOCK_BYTES], len(image), offset)
    try:
        return h5py.File(h5py.h5f.open_file_image((packed or image[:SUPERBLOCK_BYTES]) + image[SUPERBLOCK_BYTES:]))
    except (OSError, ValueError) as error:
        raise Changed(f"{path} is damaged: {AGAIN}") from error


def _check_seal(path: Path, seal: bytes, start: bytes, size: int, digest: str | None) -> None:
    found = _SEAL.match(seal)
    if not found:
        ours = FORMAT.encode()
        if not (seal.startswith(ours) or (len(seal) >= 8 and ours.startswith(seal))):
            raise UsageError(f"{path} is {file_kinds.described(seal + start)}: give an artifact that repro made")
        raise UsageError(f"{path} is truncated or damaged in its first line: {AGAIN}")
    version, length, recorded = int(found[1]), int(found[2]), found[3].decode()
    if version > FORMAT_VERSION:
        raise UsageError(f"{path} has format {version} and this program reads {FORMAT_VERSION}: use a newer program")
    if size < length:
        raise UsageError(f"{path} is truncated ({size + SEAL_BYTES} of {length + SEAL_BYTES} bytes are there): {AGAIN}")
    if seal != _seal(size, recorded) or digest not in (None, recorded):
        opened = "by a program that has it open, or had when it ended: close it there first"
        raise Changed(f"{path} was altered {opened if open_for_writing(start) else f'after it was written: {AGAIN}'}")


def sealed(image: bytes) -> tuple[bytes, bytes]:
    """(seal, image) of an HDF5 image."""
    return _seal(len(image), hashlib.sha256(image).hexdigest()), image


@contextmanager
def damage_told(file: h5py.File) -> Iterator[None]:
    """Turns h5py's errors for a damaged file, opened without comparing every byte, into UsageError."""
    try:
        yield
    except UsageError:
        raise
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{file.filename} is damaged: {AGAIN}") from error


def load(file: h5py.File, key: str) -> np.ndarray:
    """One array that is in the file. Raises UsageError when its checksum or its place in the file is damaged."""
    with damage_told(file):
        stored = file[key]
        if stored.external or stored.is_virtual:
            raise UsageError(f"{file.filename} has {key} in another file, where its checksum does not reach: {AGAIN}")
        array = stored[()]
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else np.asarray(array)


def names(file: h5py.File, group: str) -> list[str]:
    """The names directly in a group, in the order they were written; none if there is no such group.

    Raises UsageError for a link, which could lead into another file.
    """
    with damage_told(file):
        found = list(file[group]) if group in file else []
        for place in (group, *(f"{group}/{name}" for name in found)):
            if found and not isinstance(file.get(place, getlink=True), h5py.HardLink):
                raise UsageError(f"{file.filename} has a link to another place at {place}, as no artifact has: {AGAIN}")
    return found


def dataset_paths(file: h5py.File) -> list[str]:
    """The paths of all arrays, sorted."""
    paths = []
    with damage_told(file):
        file.visititems(lambda path, item: paths.append(path) if isinstance(item, h5py.Dataset) else None)
    return sorted(paths)


def checksummed(image: bytes) -> bytes:
    """The image with the checksum of its superblock. HDF5 before 2.0 clears the flag of an open file in the image that
    it gives, and leaves the checksum as it was."""
    start = image[: SUPERBLOCK_BYTES - 4]
    return start + struct.pack("<I", lookup3(start)) + image[SUPERBLOCK_BYTES:]


def as_packed(block: bytes, size: int, offset: int) -> bytes | None:
    """The superblock as `pack` wrote it; None where more than HDF5's own bookkeeping differs.

    HDF5 sets a flag while a file is open for writing, and on closing it counts addresses from the start of the file.

    Arguments:
        block: the first SUPERBLOCK_BYTES of the image.
        size: bytes of the image; offset: bytes in the file before it.
    """
    if len(block) < SUPERBLOCK_BYTES:
        return None
    signature, version, *sizes, flags, base, extension, end, root, checksum = _LAYOUT.unpack(block)
    if (flags, base, end) == (0, 0, size):  # HDF5 changed nothing here; the file's sha256 tells of other changes
        return block
    if (signature, version, sizes) != (file_kinds.SIGNATURE, 3, [8, 8]) or checksum != lookup3(block[:-4]):
        return None
    if flags not in _LAWFUL_FLAGS or (base, end) not in ((0, size), (offset, offset + size)):
        return None
    start = block[:11] + struct.pack("<BQQQQ", 0, 0, extension, size, root)
    return start + struct.pack("<I", lookup3(start))


def open_for_writing(block: bytes) -> bool:
    """Whether a program has the file open for writing, or had when it ended."""
    return block.startswith(file_kinds.SIGNATURE + b"\x03") and len(block) == SUPERBLOCK_BYTES and block[11] != 0


def lookup3(data: bytes) -> int:
    """Bob Jenkins' 32-bit hash (lookup3.c, 2006) of at least one byte, by which HDF5 checks its own structures."""
    padded = data.ljust(max(12, -(-len(data) // 12) * 12), b"\0")
    *blocks, last = struct.iter_unpack("<3I", padded)
    a = b = c = 0xDEADBEEF + len(data)
    for block in blocks:
        a, b, c = a + block[0], b + block[1], c + block[2]
        for turn in (4, 6, 8, 16, 19, 4):
            a, b, c = b, c + b, _word(a - c) ^ _turned(c, turn)  # the three change places at each turn
    a, b, c = a + last[0], b + last[1], c + last[2]
    for turn in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, _word((_word(c) ^ _word(b)) - _turned(b, turn)), a
    return b


def _word(value: int) -> int:
    return value & 0xFFFFFFFF


def _turned(value: int, bits: int) -> int:
    return _word(value << bits) | _word(value) >> (32 - bits)
