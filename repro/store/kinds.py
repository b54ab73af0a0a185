"""What a file is, by its first bytes."""

from repro.store.superblock import SIGNATURE

ARTIFACT = "lottery-data-diet artifact"
"""With this an artifact begins."""
ZIP, PICKLE, SAFETENSORS = "a zip file, as torch.save writes", "a pickle", "a safetensors file"
LFS, PAGE, GZIP, OURS = "a Git LFS pointer", "a web page", "a gzip file", "an artifact"

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
_PAGES = (b"<!doctype html", b"<html")  # in either case


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
