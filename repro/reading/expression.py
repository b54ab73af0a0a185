"""What may be asked of a table's columns: an expression is parsed, and what does more than compare is refused."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable

METHODS = {"contains", "startswith", "endswith", "isin", "isna", "notna", "between", "abs"}  # of a column, or its .str
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`([^`]*)`")
_NODES = (
    ast.Expression,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Compare,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.Invert,
    ast.USub,
    ast.UAdd,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.FloorDiv,
    ast.Mod,
    ast.cmpop,
)
_VALUES = (bool, int, float, str)


class TooMuch(ValueError):
    """The expression does more than compare."""


def harmless(expression: str, columns: Iterable[str]) -> str:
    """The same expression for `pandas.DataFrame.eval`, put together anew from its parts.

    Parts are columns, numbers, text, lists of them, comparisons, boolean and arithmetic operators, and a column's
    METHODS with such arguments.

    As in pandas, ``&`` and ``|`` bind like ``and`` and ``or``, and a column whose name is no word stands in backticks.

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
    """All nodes that are looked at on their own; those of a method's name are looked at here. Raises `TooMuch`."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call):
            todo += [*_column_of(node), *node.args]
        elif isinstance(node, _NODES):
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
