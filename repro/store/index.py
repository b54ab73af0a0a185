"""What the artifacts of a folder say of themselves, kept in one hidden file beside it: reading 3,000 takes seconds.

A line is used for a file with the same name, size, time and first 560 bytes, which hold the sha256 of the rest; who
wants every byte compared, has every byte compared. An index that is damaged, or that cannot be written, costs time
and nothing else; of two processes that write it at once, the last one's stands, whole.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path

from repro.errors import RunError, UsageError
from repro.store import files, hdf5
from repro.store.artifact import read
from repro.store.glance import Glance

WORTH = 20  # artifacts read anew from which the index is written: a folder of few has none
_FIRST = "lottery-data-diet index, format 1; sha256 "  # another format whenever a `Glance` holds something else
_LINE = re.compile(rf"{_FIRST}[0-9a-f]{{64}}\n".encode())


class Index:
    """Looks at artifacts as `repro.store.glance` does, each once, by the indexes of their folders.

    A context manager: what was read anew is kept for the next command when it ends.

    Arguments:
        verify: compare every byte of an artifact with its seal.
    """

    def __init__(self, verify: bool = False):
        self._verify = verify
        self._folders: dict[Path, _Folder] = {}
        self._seen: dict[Path, Glance] = {}

    def __call__(self, path: Path) -> Glance:
        """Raises UsageError where `repro.store.read` does."""
        if path not in self._seen:
            if path.parent not in self._folders:
                self._folders[path.parent] = _Folder(path.parent)
            self._seen[path] = self._folders[path.parent].glance(path, self._verify)
        return self._seen[path]

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *error) -> None:
        for folder in self._folders.values():
            folder.keep()


def beside(folder: Path) -> Path:
    """The path of a folder's index."""
    whole = Path(os.path.abspath(folder))
    return whole.with_name(f".{whole.name}.index") if whole.name else whole / ".index"


class _Folder:
    """The index of one folder. lines: file name -> (size, time, sha256 of the head, whether every byte was compared,
    what it says)."""

    def __init__(self, folder: Path):
        self.folder, self.path, self.new = folder, beside(folder), 0
        self.lines: dict[str, tuple[int, int, str, bool, Glance]] = {}
        with suppress(OSError, RunError, TypeError, UsageError, ValueError), files.open_regular(self.path) as file:
            first, body = file.readline(), file.read()
            if first == _first(body):
                for line in body.decode().split("\n")[:-1]:
                    key, *said = line.split("\t")
                    name, size, time, head, compared = json.loads(key)
                    self.lines[name] = size, time, head, compared, Glance(*said)

    def glance(self, path: Path, verify: bool) -> Glance:
        try:
            checked = hdf5.check(path, verify=verify)
        except hdf5.Changed:  # by a program that may have left it readable
            return Glance.of(read(path, verify=verify))
        state = checked.found.st_size, checked.found.st_mtime_ns, hashlib.sha256(checked.head).hexdigest()
        if (known := self.lines.get(path.name)) and known[:3] == state and known[3] >= verify and not checked.handled:
            return known[4]
        said = Glance.of(read(path, verify=False))
        with suppress(OSError):
            if _same(os.stat(path), checked.found):  # what was read is what was compared
                if not checked.handled:
                    self.lines[path.name] = (*state, verify, said)
                    self.new += 1
                return said
        return Glance.of(read(path, verify=verify))

    def keep(self) -> None:
        """Writes the index if enough is new. What else stands in its place is left alone."""
        if self.new < WORTH:
            return
        with suppress(OSError, RunError, UsageError):
            if self.path.exists():
                with files.open_regular(self.path) as file:
                    if not _LINE.fullmatch(file.readline(200)):
                        return
            there = set(os.listdir(self.folder))
            lines = (
                "\t".join((json.dumps((name, *state)), said.about, said.record, said.columns, said.options))
                for name, (*state, said) in self.lines.items()
                if name in there
            )
            body = "".join(f"{line}\n" for line in lines).encode()
            files.write_whole(self.path, [_first(body), body])


def _first(body: bytes) -> bytes:
    return f"{_FIRST}{hashlib.sha256(body).hexdigest()}\n".encode()


def _same(now: os.stat_result, then: os.stat_result) -> bool:
    return os.path.samestat(now, then) and (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
