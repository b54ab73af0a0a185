"""Looking at artifacts: all tables of a folder as one, one artifact as text."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from repro.errors import UsageError
from repro.store.artifact import Artifact, read
from repro.store.expression import TooMuch, harmless
from repro.store.lineage import Lineage

HEAD = ["path", "kind", "name", "identity"]
MISSABLE = {"i": "Int64", "u": "UInt64", "b": "boolean"}  # numpy dtype kind -> pandas dtype that can be missing


def runs(results_dir: str | Path) -> pd.DataFrame:
    """One row per row of every artifact's table below a folder (one row for an artifact without a table).

    Columns: path, kind, name and identity of the artifact, its table's columns, then the fields of its recipe and of
    the recipes of everything it was made from. Of two fields with one name the nearer wins; if they ever differ, the
    farther one is there too, prefixed by the role in which its artifact was read (``pretrain_lr``; ``recipe_`` for
    the artifact's own recipe). None counts as missing; integers stay integers beside missing values.

    Files that cannot be read are skipped, with a warning on stderr. Raises UsageError when there is no such folder or
    no artifact in it.
    """
    return runs_and_sources(results_dir)[0]


def runs_and_sources(results_dir: str | Path) -> tuple[pd.DataFrame, list[dict]]:
    """`runs`, and `source_of` each artifact that is in it."""
    folder = Path(results_dir)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: give the one that holds the artifacts")
    frames, sources = [], []
    for path in sorted(folder.rglob("*.h5")):
        if any(part.endswith(".work") for part in path.relative_to(folder).parts):
            continue
        try:
            artifact = read(path)  # every byte compared: a gigabyte in memory takes less than a second
            frames.append(_rows(artifact))
            sources.append(source_of(artifact))
        except UsageError as error:
            print(f"warning: {error}; skipped", file=sys.stderr)
    if not frames:
        raise UsageError(f"{folder} holds no artifacts: give the folder that holds them")
    frame = pd.concat([each for each, _ in frames], ignore_index=True)
    nearer = {column: plain for _, taken in frames for column, plain in taken.items()}
    same = [column for column, plain in nearer.items() if _never_differ(frame[column], frame[plain])]
    return frame.drop(columns=same), sources


def source_of(artifact: Artifact) -> dict:
    """Where rows come from, in JSON types: path, checksum of the contents, and the lineage (identity, recipe …)."""
    return {
        "path": _text(artifact.path), "content_sha256": artifact.content_sha256, **artifact.lineage.to_json()
    }  # fmt: skip


def _text(path: Path) -> str:
    """A path as pandas and Parquet can hold it: what is not UTF-8 is replaced."""
    return os.fsencode(path).decode(errors="replace")


def _never_differ(column: pd.Series, plain: pd.Series) -> bool:
    present = column.notna()
    return column[present].astype(object).equals(plain[present].astype(object))


def _rows(artifact: Artifact) -> tuple[pd.DataFrame, dict[str, str]]:
    """The artifact's rows, and {prefixed column: the nearer column of the plain name}."""
    table = artifact.table().rename(columns={name: f"table_{name}" for name in HEAD})  # a warm-up has kinds of subsets
    head = dict(zip(HEAD, (_text(artifact.path), artifact.kind, artifact.name, artifact.identity), strict=True))
    names = {*HEAD, *table.columns}
    fields, nearer = {}, {}
    for roles, option, value in _fields(artifact.lineage, ("recipe",), set()):
        # first the plain name, then the nearest role, then all roles on the way
        candidates = (option, f"{roles[-1]}_{option}", "_".join([*roles, option]))
        column = next((name for name in candidates if name not in names), None)
        if column is not None and value is not None:
            names.add(column)
            fields[column] = json.dumps(value) if isinstance(value, (list, dict)) else value
            if column != option:
                nearer[column] = option
    rows = range(max(1, len(table)))
    frame = pd.concat([pd.DataFrame(head, rows), table, pd.DataFrame(fields, rows)], axis=1)
    missable = {name: MISSABLE[dtype.kind] for name, dtype in frame.dtypes.items() if dtype.kind in MISSABLE}
    return frame.astype(missable), nearer


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


def select(frame: pd.DataFrame, expression: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows for which an expression holds, such as ``dataset == "digits" and level == 8``, and some columns.

    Raises UsageError, with the columns there are, for an expression that is wrong or gives anything but yes or no
    for each row, and for an unknown column.
    """
    known = ", ".join(map(str, frame.columns))
    if expression is not None:
        try:
            wanted = frame.eval(harmless(expression, map(str, frame.columns)), engine="python")
        except TooMuch as error:
            raise UsageError(f"the query {expression!r} does more than compare: use columns and values") from error
        except Exception as error:  # whatever pandas and Python raise for what the user wrote
            reason = " ".join(str(error.args[0]).split()) if error.args else type(error).__name__
            raise UsageError(f"the query {expression!r} has no answer ({reason}): the columns are {known}") from error
        if not (isinstance(wanted, pd.Series) and pd.api.types.is_bool_dtype(wanted.dropna().infer_objects())):
            raise UsageError(f"the query {expression!r} is not true or false of a row: compare one of {known}")
        frame = frame[wanted.fillna(False).astype(bool)]
    if columns is not None:
        unknown = [column for column in columns if column not in frame.columns]
        if unknown:
            raise UsageError(f"there is no column {', '.join(unknown)}: the columns are {known}")
        frame = frame[list(columns)]
    return frame.reset_index(drop=True)


def describe(path: str | Path) -> str:
    """An artifact's recipe, inputs, provenance, the first rows of its table and its contents, as text."""
    artifact = read(path)
    table = artifact.table()
    lines = [f"{artifact.path}: {artifact.kind} artifact {artifact.name}", f"identity {artifact.identity}", ""]
    lines += [*_recipe_lines(artifact.lineage, ""), "provenance"]
    lines += _tree(artifact.provenance, "  ")
    if len(table.columns):
        lines += ["", f"table, {len(table)} rows"]
        lines += ["  " + line for line in table.head(5).to_string(index=False).splitlines()]
    return "\n".join([*lines, "", *_contents(artifact)])


def _recipe_lines(lineage: Lineage, indent: str) -> list[str]:
    marked = {
        option: f"{value} (default)" if option in lineage.defaults and value == lineage.defaults[option] else value
        for option, value in lineage.recipe.items()
    }
    lines = [f"{indent}recipe", *_tree(marked, indent + "  ")]
    for role, source in lineage.inputs.items():
        lines += [f"{indent}{role}: {source.kind} artifact {source.name}, identity {source.identity[:12]}…"]
        lines += _recipe_lines(source, indent + "  ")
    return lines


def _tree(value, indent: str) -> list[str]:
    """Nested mappings and lists of mappings as indented lines."""
    lines = []
    for key, item in value.items():
        parts = item if isinstance(item, list) and item and all(isinstance(part, dict) for part in item) else [item]
        for number, part in enumerate(parts):
            label = f"{indent}{key}" + (f" {number}" if len(parts) > 1 else "")
            lines += [label, *_tree(part, indent + "  ")] if isinstance(part, dict) else [f"{label:<26} {part}"]
    return lines


def _contents(artifact: Artifact) -> list[str]:
    """A line for all arrays that differ in the numbers of their path alone: pattern, dtype, shape, how many, bytes."""
    groups: dict[tuple, list[int]] = {}
    for key in artifact.keys():
        data = artifact.dataset(key)
        groups.setdefault((re.sub(r"\d+", "*", key), str(data.dtype), str(data.shape)), []).append(data.nbytes)
    width = max((len(pattern) for pattern, _, _ in groups), default=0)
    lines = [
        f"  {pattern:<{width}}  {dtype:<8} {shape:<16} {len(sizes):>6} x {sizes[0]:,} bytes"
        for (pattern, dtype, shape), sizes in groups.items()
    ]
    stored = artifact.path.stat().st_size
    return [f"contents, {len(artifact.keys())} arrays in {stored:,} bytes", *lines]
