"""What an artifact says of itself without its arrays: its recipe, its inputs, its provenance and its table.

Kept as lines of JSON, of which each part is parsed when it is asked for: thousands of artifacts are looked at by one
command, and most commands need one part.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from repro.store.artifact import Artifact, read
from repro.store.lineage import Lineage

HEAD = ("kind", "name", "identity", "content_sha256")
COLUMNS = ("path", "kind", "name", "identity")  # of every row of `repro.reading.query.runs`


@dataclass(frozen=True)
class Glance:
    """An artifact's records, each as JSON text. Compared and hashed by them."""

    about: str
    record: str
    columns: str
    options: str

    @classmethod
    def of(cls, artifact: Artifact) -> "Glance":
        """Raises UsageError when the table is damaged."""
        about = {part: getattr(artifact, part) for part in HEAD}
        about |= {"recipe": artifact.recipe, "inputs": [source.identity for source in artifact.inputs.values()]}
        columns = {name: (column.dtype.str, column.tolist()) for name, column in artifact.columns().items()}
        fields, nearer = flat(artifact.lineage, columns)
        return cls(*map(json.dumps, (about, artifact.provenance, columns, [fields, nearer])))

    @cached_property
    def _about(self) -> dict:
        return json.loads(self.about)

    @property
    def kind(self) -> str:
        return self._about["kind"]

    @property
    def name(self) -> str:
        return self._about["name"]

    @property
    def identity(self) -> str:
        return self._about["identity"]

    @property
    def content_sha256(self) -> str:
        return self._about["content_sha256"]

    @property
    def recipe(self) -> dict:
        return self._about["recipe"]

    @property
    def inputs(self) -> list[str]:
        """The identities of what was read."""
        return self._about["inputs"]

    @cached_property
    def provenance(self) -> dict:
        return json.loads(self.record)

    @cached_property
    def table(self) -> dict[str, tuple[str, list]]:
        """Column -> (dtype as NumPy writes it, values), in the order it was written in."""
        return json.loads(self.columns)

    @property
    def pieces(self) -> set[str]:
        """The table's column `piece`: what is finished."""
        return set(self.table["piece"][1]) if "piece" in self.table else set()

    @cached_property
    def fields(self) -> tuple[dict, dict[str, str]]:
        """See `flat`."""
        return tuple(json.loads(self.options))


def glance(path: Path) -> Glance:
    """At the artifact at a path, without comparing every byte. Raises UsageError where `repro.store.read` does."""
    return Glance.of(read(path, verify=False))


def flat(lineage: Lineage, columns) -> tuple[dict, dict[str, str]]:
    """The fields of a recipe and of the recipes of all it was made from: {column: value}, and {prefixed column: the
    nearer column of the plain name}; see `repro.reading.query.runs`.

    Arguments:
        columns: the names of the artifact's table, which come first.
    """
    names = {*COLUMNS, *map(in_table, columns)}
    fields, nearer = {}, {}
    for roles, option, value in _fields(lineage, ("recipe",), set()):
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
    """What a column of a table is called beside the fields: a warm-up has kinds of subsets."""
    return f"table_{column}" if column in COLUMNS else column


def _fields(lineage: Lineage, roles: tuple[str, ...], seen: set[str]) -> Iterator[tuple[tuple[str, ...], str, object]]:
    """(roles on the way, option, value), nearest recipe first; an artifact that is read twice counts once."""
    level = [(roles, lineage)]
    while level:
        for way, source in level:
            yield from ((way, option, value) for option, value in source.recipe.items())
        level = [
            ((*way[way[0] == "recipe" :], role), parent)
            for way, source in level
            for role, parent in source.inputs.items()
            if parent.identity not in seen and not seen.add(parent.identity)
        ]
