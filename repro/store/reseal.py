"""`repro reseal`: an artifact that another program handled gets the seal of what it is now."""

from pathlib import Path

from repro.errors import UsageError
from repro.store import changed, files, hdf5, kinds, superblock
from repro.store.artifact import read


def reseal(path: Path) -> bool:
    """Seals an artifact that another program handled as it is now; False where its seal holds.

    Its arrays and attributes have to be as they were.

    Raises UsageError for a file that is no artifact or was altered, RunError when it cannot be written.
    """
    with hdf5.reading(path), files.open_regular(path) as file:
        content = file.read()
    offset = 0 if content.startswith(superblock.SIGNATURE) else hdf5.SEAL_BYTES  # h5repack leaves the seal out
    image = content[offset:]
    if not image.startswith(superblock.SIGNATURE):
        read(path)  # says what it is instead
        raise UsageError(f"{path} is {kinds.described(content)}: give an artifact that repro made")
    start = image[: superblock.BYTES]
    image = (superblock.as_packed(start, len(image), offset) or start) + image[superblock.BYTES :]
    whole = b"".join(hdf5.sealed(image))
    if whole == content:
        read(path)
        return False
    if superblock.open_for_writing(image):
        raise UsageError(f"{path} is open for writing in another program: close it there first")
    if not changed.holds(path):
        raise UsageError(
            f"{path} is no artifact of repro, or was altered in its arrays or its recipe: bring back a copy of it"
        )
    with files.writer_lock(path):
        files.write_whole(path, [whole])
    read(path)
    return True
