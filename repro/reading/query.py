"""Artifacts looked at: the tables of a folder as one frame, rows chosen from it, and one artifact as text."""

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.store.artifact import Artifact, read
from repro.store.index import COLUMNS, Glance, Index, in_table
from repro.store.lineage import Lineage

MISSABLE = {"i": "Int64", "u": "UInt64", "b": "boolean"}  # numpy dtype kind -> pandas dtype that can be missing
METHODS = {"contains", "startswith", "endswith", "isin", "isna", "notna", "between", "abs"}  # of a column, or its .str
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`([^`]*)`")
_NODES = """Expression Name Load Constant List Tuple Compare cmpop BoolOp And Or UnaryOp Not Invert USub UAdd
    BinOp Add Sub Mult Div FloorDiv Mod"""
_ALLOWED = tuple(getattr(ast, name) for name in _NODES.split())
_VALUES = (bool, int, float, str)


def runs(results_dir: str | Path) -> pd.DataFrame:
    """One row per row of every artifact's table below a folder (one row for an artifact without a table).

    Columns: path, kind, name and identity of the artifact, its table's columns, then the fields of its recipe and of
    the recipes of everything it was made from. Of two fields with one name the nearer wins; if they ever differ, the
    farther one is there too, prefixed by the role in which its artifact was read (``pretrain_lr``; ``recipe_`` for
    the artifact's own recipe). None counts as missing; integers stay integers beside missing values.

    Every byte of a file is compared with its seal, and its table may come from the index beside the folder. A file that
    cannot be read is skipped, with a warning on stderr. Raises UsageError when there is no such folder or no artifact
    in it.
    """
    with Index(verify=True) as look:
        return joined(_read(Path(results_dir), look))


def runs_and_sources(results_dir: str | Path) -> tuple[pd.DataFrame, list[dict]]:
    """`runs`, and `source_of` each artifact that is in it."""
    found = _read(Path(results_dir), lambda path: (Glance.of(artifact := read(path)), source_of(artifact)))
    return joined([(path, glance) for path, (glance, _) in found]), [source for _, (_, source) in found]


def _read(folder: Path, look: Callable) -> list[tuple[Path, object]]:
    """(path, ``look(path)``) for each artifact below a folder, in the order of their paths."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: give the one that holds the artifacts")
    found = []
    for path in sorted(folder.rglob("*.h5")):
        if any(part.endswith(".work") for part in path.relative_to(folder).parts):
            continue
        try:
            found.append((path, look(path)))
        except UsageError as error:
            print(f"warning: {error}; skipped", file=sys.stderr)
    if not found:
        raise UsageError(f"{folder} holds no artifacts: give the folder that holds them")
    return found


def joined(found: Sequence[tuple[Path, Glance]]) -> pd.DataFrame:
    """The frame of `runs`, made column by column, because a frame for each artifact takes twenty times as long."""
    columns: dict[str, _Column] = {}
    nearer: dict[str, str] = {}
    counts = []
    for k, (path, glance) in enumerate(found):
        table, (fields, plain) = glance.table, glance.fields
        nearer |= plain
        counts.append(max(1, len(next(iter(table.values()), ("", []))[1])))
        for name, value in zip(COLUMNS, (_text(path), glance.kind, glance.name, glance.identity)):
            columns.setdefault(name, _Column()).one(k, value)
        for name, (dtype, values) in table.items():
            if values:
                columns.setdefault(in_table(name), _Column()).each(k, dtype, values)
        for name, value in fields.items():
            columns.setdefault(name, _Column()).one(k, value)
    starts = np.concatenate([[0], np.cumsum(counts)])
    frame = pd.DataFrame({name: column.series(starts) for name, column in columns.items()})
    same = [column for column, plain in nearer.items() if _never_differ(frame[column], frame[plain])]
    return frame.drop(columns=same)


class _Column:
    """One column of the frame; some artifacts have one value for all their rows, others one for each row."""

    def __init__(self):
        self.alone: dict[type, tuple[list[int], list]] = {}  # type -> (artifacts, values)
        self.tables: dict[str, list[tuple[int, list]]] = {}  # dtype -> (artifact, values of its rows)

    def one(self, artifact: int, value) -> None:
        artifacts, values = self.alone.setdefault(type(value), ([], []))
        artifacts.append(artifact)
        values.append(value)

    def each(self, artifact: int, dtype: str, values: list) -> None:
        kind = MISSABLE.get(dtype[1], dtype if dtype[1] == "f" else "str")
        self.tables.setdefault(kind, []).append((artifact, values))

    def series(self, starts: np.ndarray) -> pd.Series:
        """All rows, in the dtype that pandas chooses for all values; rows without a value are missing.

        Arguments:
            starts: the first row of each artifact, and the number of rows.
        """
        parts = []
        for kind, (artifacts, values) in self.alone.items():
            rows = [row for k in artifacts for row in range(starts[k], starts[k + 1])]
            dtype = _whole(values) if kind is int else {bool: "boolean", float: "float64"}.get(kind, "str")
            parts.append(pd.Series(values, dtype=dtype).repeat(np.diff(starts)[artifacts]).set_axis(rows))
        for dtype, tables in self.tables.items():
            rows = [row for k, values in tables for row in range(starts[k], starts[k] + len(values))]
            parts.append(pd.Series([value for _, values in tables for value in values], index=rows, dtype=dtype))
        return (pd.concat(parts) if len(parts) > 1 else parts[0]).reindex(range(starts[-1]))


def _whole(values: list[int]) -> str:
    """The dtype that holds integers of a recipe."""
    low, high = min(values), max(values)
    return "Int64" if -(2**63) <= low and high < 2**63 else "UInt64" if low >= 0 and high < 2**64 else "object"


def source_of(artifact: Artifact) -> dict:
    """The origin of rows, in JSON types: path, checksum of the contents, and the lineage (identity, recipe …)."""
    return {"path": _text(artifact.path), "content_sha256": artifact.content_sha256, **artifact.lineage.to_json()}


def _text(path: Path) -> str:
    """A path as UTF-8 text for pandas and Parquet; other bytes are replaced."""
    return os.fsencode(path).decode(errors="replace")


def _never_differ(column: pd.Series, plain: pd.Series) -> bool:
    present = column.notna()
    return column[present].astype(object).equals(plain[present].astype(object))


def text(table: pd.DataFrame) -> str:
    """``table.to_string(index=False)``, for which pandas formats each value of a column once and not in every row."""
    if table.empty:
        return table.to_string(index=False)
    columns = []
    for name, column in table.items():
        if column.dtype == object:  # may hold values that are equal and look different, as 1 and True
            codes = np.arange(len(column))
        else:  # so may floats, 0.0 and -0.0: their bits tell
            known = column.to_numpy().view(np.int64) if column.dtype == np.float64 else column
            codes = pd.factorize(known, use_na_sentinel=False)[0]
        first = np.unique(codes, return_index=True)[1]
        head, *lines = column.iloc[first].to_frame(name).to_string(index=False).split("\n")
        columns.append([head, *(lines[code] for code in codes)])
    return "\n".join(map(" ".join, zip(*columns)))


def select(frame: pd.DataFrame, expression: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows for which an expression holds, such as ``dataset == "digits" and level == 8``, and the named columns.

    Raises UsageError that lists the columns for an expression that is wrong or is not true or false of each row, and
    for an unknown column.
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


class TooMuch(ValueError):
    """An expression does more than compare."""


def harmless(expression: str, columns: Iterable[str]) -> str:
    """An expression for `pandas.DataFrame.eval`, rebuilt from harmless parts, because `eval` could run any code.

    Harmless are columns, numbers, text, lists of them, comparisons, boolean and arithmetic operators, and a column's
    METHODS with such arguments. As in pandas, ``&`` and ``|`` bind like ``and`` and ``or``, and a column whose name is
    no word stands in backticks.

    Raises `TooMuch` for anything else, ValueError for what cannot be parsed or names no column.
    """
    known, quoted = set(columns), {}

    def unquoted(match: re.Match) -> str:
        if match[1] is None:
            return match[0]
        word = f"column_{len(quoted)}_"
        while word in known:
            word += "_"
        quoted[word] = match[1]
        return f" {word} "

    text = _QUOTED.sub(unquoted, expression).strip()
    if "@" in _QUOTED.sub("", expression):  # pandas' sign for a variable of the program
        raise TooMuch
    try:
        tree = ast.parse(_pandas_booleans(text), mode="eval")
    except (MemoryError, RecursionError, SyntaxError, tokenize.TokenError) as error:
        assigns = re.search(r"(?<![=!<>])=(?!=)", _QUOTED.sub("", expression))
        raise ValueError("invalid syntax" + (", equality is ==" if assigns else "")) from error
    for node in _parts(tree):
        if isinstance(node, ast.Name) and quoted.get(node.id, node.id) not in known:
            raise ValueError(f"name {quoted.get(node.id, node.id)!r} is not defined")
        if isinstance(node, ast.Constant) and not isinstance(node.value, _VALUES):
            raise TooMuch
        if isinstance(node, ast.BinOp) and any(
            isinstance(side, (ast.List, ast.Tuple)) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
            for side in (node.left, node.right)
        ):
            raise TooMuch  # 'a' * 10**9
    text = ast.unparse(tree)
    for word, name in quoted.items():
        text = re.sub(rf"\b{word}\b", lambda _, name=name: f"`{name}`", text)
    return text


def _parts(tree: ast.AST) -> Iterable[ast.AST]:
    """All nodes but those of method names, which are checked here. Raises `TooMuch`."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call):
            todo += [*_column_of(node), *node.args]
        elif isinstance(node, _ALLOWED):
            yield node
            todo += ast.iter_child_nodes(node)
        else:
            raise TooMuch


def _column_of(call: ast.Call) -> list[ast.AST]:
    """The column whose method is called, as ``column.isna()`` or ``column.str.contains(…)``. Raises `TooMuch`."""
    method = call.func
    if call.keywords or not isinstance(method, ast.Attribute) or method.attr not in METHODS:
        raise TooMuch
    owner = method.value
    if isinstance(owner, ast.Attribute) and owner.attr == "str":
        owner = owner.value
    if not isinstance(owner, ast.Name):
        raise TooMuch
    return [owner]


def _pandas_booleans(text: str) -> str:
    """``&`` and ``|`` as ``and`` and ``or``, outside text."""
    words = {"&": (tokenize.NAME, "and"), "|": (tokenize.NAME, "or")}
    tokens = (token[:2] for token in tokenize.generate_tokens(io.StringIO(text).readline))
    return tokenize.untokenize(words.get(text, (kind, text)) for kind, text in tokens).strip()


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
    """A line for all arrays whose paths differ in numbers alone: pattern, dtype, shape, how many, bytes."""
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
