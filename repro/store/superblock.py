"""The first 48 bytes of an HDF5 image: all that HDF5 itself changes in a file that is opened for writing and closed.

Their layout is that of a superblock of version 3 (HDF5 file format specification, section II.A).
"""

import struct

BYTES = 48
_LAYOUT = struct.Struct("<8s4BQQQQI")  # signature; version, sizes of offsets and lengths, flags; addresses; checksum
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LAWFUL_FLAGS = (0, 1, 5)  # closed, open for writing, open for writing beside readers


def as_packed(block: bytes, size: int, offset: int) -> bytes | None:
    """The superblock as `hdf5.pack` wrote it, where HDF5's own bookkeeping is all that can differ from it; else None.

    HDF5 sets a flag while a file is open for writing, and counts addresses from the start of the file on closing it.

    Arguments:
        block: the BYTES at the start of the image; size: bytes of the image; offset: bytes in the file before it.
    """
    if len(block) < BYTES:
        return None
    signature, version, *sizes, flags, base, extension, end, root, checksum = _LAYOUT.unpack(block)
    if (flags, base, end) == (
        0,
        0,
        size,
    ):  # nothing of it was changed, or more than HDF5 changes: the file's sha256 tells
        return block
    if (signature, version, sizes) != (SIGNATURE, 3, [8, 8]) or checksum != lookup3(block[:-4]):
        return None
    if flags not in _LAWFUL_FLAGS or (base, end) not in ((0, size), (offset, offset + size)):
        return None
    start = block[:11] + struct.pack("<BQQQQ", 0, 0, extension, size, root)
    return start + struct.pack("<I", lookup3(start))


def open_for_writing(block: bytes) -> bool:
    """Whether a program has the file open for writing, or had when it ended."""
    return block.startswith(SIGNATURE + b"\x03") and len(block) == BYTES and block[11] != 0


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
