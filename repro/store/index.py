"""What an artifact records of itself beside its arrays, and an index of that for a folder of thousands.

`Glance` holds an artifact's recipe, inputs, provenance and table as lines of JSON, and parses each when it is asked
for, because most commands need one of them. `Index` keeps the glances of a folder in one hidden file beside it, because
reading 3,000 artifacts takes seconds. A line of the index is used for a file with the same name, size, time and first
560 bytes, which hold the sha256 of the rest; with ``verify``, every byte is compared all the same. An index that is
damaged or cannot be written costs nothing but time. Of two processes that write it at once, the last one's stands.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from repro.errors import RunError, UsageError
from repro.store import files, hdf5
from repro.store.artifact import Artifact, read
from repro.store.lineage import Lineage

COLUMNS = ("path", "kind", "name", "identity")  # of every row of `repro.reading.query.runs`
_ABOUT = ("kind", "name", "identity", "content_sha256", "recipe")
WORTH = 20  # artifacts read anew from which the index is written: a folder of few has none
_FIRST = "lottery-data-diet index, format 1; sha256 "  # another format whenever a `Glance` holds something else
_LINE = re.compile(rf"{_FIRST}[0-9a-f]{{64}}\n".encode())


def _recorded(part: str) -> property:
    return property(lambda self: self._about[part])


@dataclass(frozen=True)
class Glance:
    """An artifact's records, each as JSON text; two are equal if their texts are."""

    about: str
    record: str
    columns: str
    options: str

    kind, name, identity, content_sha256, recipe = map(_recorded, _ABOUT)
    inputs = _recorded("inputs")
    """The identities of the artifacts that were read."""

    @classmethod
    def of(cls, artifact: Artifact) -> "Glance":
        """Raises UsageError when the table is damaged."""
        about = {part: getattr(artifact, part) for part in _ABOUT}
        about["inputs"] = [source.identity for source in artifact.inputs.values()]
        columns = {name: (column.dtype.str, column.tolist()) for name, column in artifact.columns().items()}
        return cls(*map(json.dumps, (about, artifact.provenance, columns, flat(artifact.lineage, columns))))

    @cached_property
    def _about(self) -> dict:
        return json.loads(self.about)

    @cached_property
    def provenance(self) -> dict:
        return json.loads(self.record)

    @cached_property
    def table(self) -> dict[str, tuple[str, list]]:
        """Column -> (dtype as NumPy writes it, values), in the order it was written in."""
        return json.loads(self.columns)

    @property
    def pieces(self) -> set[str]:
        """The finished pieces: the table's column `piece`."""
        return set(self.table["piece"][1]) if "piece" in self.table else set()

    @cached_property
    def fields(self) -> tuple[dict, dict[str, str]]:
        """See `flat`."""
        return tuple(json.loads(self.options))


def glance(path: Path) -> Glance:
    """The records of the artifact at a path, read without comparing every byte. Raises UsageError as `read` does."""
    return Glance.of(read(path, verify=False))


def flat(lineage: Lineage, columns) -> tuple[dict, dict[str, str]]:
    """The fields of a recipe and of the recipes of all it was made from: {column: value}, and {prefixed column: the
    nearer column of the plain name}; see `repro.reading.query.runs`.

    Arguments:
        columns: the names of the artifact's table, which come first.
    """
    names = {*COLUMNS, *map(in_table, columns)}
    fields, nearer = {}, {}
    for roles, option, value in _fields(lineage):
        # first the plain name, then the nearest role, then all roles on the way
        candidates = (option, f"{roles[-1]}_{option}", "_".join([*roles, option]))
        column = next((name for name in candidates if name not in names), None)
        if column is not None and value is not None:
            names.add(column)
            fields[column] = json.dumps(value) if isinstance(value, (list, dict)) else value
            if column != option:
                nearer[column] = option
    return fields, nearer


def in_table(column: str) -> str:
    """The name of a table's column beside the fields; the table of a warm-up has a column `kind` of its own."""
    return f"table_{column}" if column in COLUMNS else column


def _fields(lineage: Lineage) -> Iterator[tuple[tuple[str, ...], str, object]]:
    """(roles on the way, option, value), nearest recipe first; an artifact that is read twice counts once."""
    level, seen = [(("recipe",), lineage)], set()
    while level:
        for way, source in level:
            yield from ((way, option, value) for option, value in source.recipe.items())
        level = [
            ((*way[way[0] == "recipe" :], role), parent)
            for way, source in level
            for role, parent in source.inputs.items()
            if parent.identity not in seen and not seen.add(parent.identity)
        ]


class Index:
    """Looks at artifacts as `glance` does, each once, with the indexes of their folders.

    A context manager: at its end, the indexes of folders in which enough was read anew are written.

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
            folder.write()


def beside(folder: Path) -> Path:
    """The path of a folder's index."""
    whole = Path(os.path.abspath(folder))
    return whole.with_name(f".{whole.name}.index") if whole.name else whole / ".index"


class _Folder:
    """The index of one folder.

    lines: file name -> (size, time, sha256 of the head, whether every byte was compared, glance); new: how many of them
    were read anew.
    """

    def __init__(self, folder: Path):
        self.folder, self.path, self.new = folder, beside(folder), 0
        self.lines: dict[str, tuple[int, int, str, bool, Glance]] = {}
        with suppress(OSError, RunError, TypeError, UsageError, ValueError), files.open_regular(self.path) as file:
            first, body = file.readline(), file.read()
            if first == _first(body):
                for line in body.decode().split("\n")[:-1]:
                    key, *records = line.split("\t")
                    name, size, time, head, compared = json.loads(key)
                    self.lines[name] = size, time, head, compared, Glance(*records)

    def glance(self, path: Path, verify: bool) -> Glance:
        try:
            checked = hdf5.check(path, verify=verify)
        except hdf5.Changed:  # `read` finds out whether its arrays are as they were
            return Glance.of(read(path, verify=verify))
        state = checked.found.st_size, checked.found.st_mtime_ns, hashlib.sha256(checked.head).hexdigest()
        if (known := self.lines.get(path.name)) and known[:3] == state and known[3] >= verify and not checked.handled:
            return known[4]
        made = Glance.of(read(path, verify=False))
        with suppress(OSError):
            if _same(os.stat(path), checked.found):  # the file that was read is the file that was checked
                if not checked.handled:
                    self.lines[path.name] = (*state, verify, made)
                    self.new += 1
                return made
        return Glance.of(read(path, verify=verify))

    def write(self) -> None:
        """Writes the index if enough is new, unless another program's file has its name."""
        if self.new < WORTH:
            return
        with suppress(OSError, RunError, UsageError):
            if self.path.exists():
                with files.open_regular(self.path) as file:
                    if not _LINE.fullmatch(file.readline(200)):
                        return
            there = set(os.listdir(self.folder))
            lines = (
                "\t".join((json.dumps((name, *state)), made.about, made.record, made.columns, made.options))
                for name, (*state, made) in self.lines.items()
                if name in there
            )
            body = "".join(f"{line}\n" for line in lines).encode()
            files.write_whole(self.path, [_first(body), body])


def _first(body: bytes) -> bytes:
    return f"{_FIRST}{hashlib.sha256(body).hexdigest()}\n".encode()


def _same(now: os.stat_result, then: os.stat_result) -> bool:
    return os.path.samestat(now, then) and (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
