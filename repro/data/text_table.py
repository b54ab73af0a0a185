"""Columns of numbers in a text file, with or without a heading, whatever separates them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class Unusable(Exception):
    """What is wrong with a user's file, as a clause: 'it is empty'."""


@dataclass(frozen=True)
class TextTable:
    """A text file of ``width`` columns.

    Arguments:
        names: the heading, None where there is none.
        rows: (number of the line, its cells).
        parted: the separator of cells; None is spaces.
    """

    names: list[str] | None
    width: int
    rows: list[tuple[int, list[str]]]
    parted: str | None

    def numbers(self, column: int, what: str) -> np.ndarray:
        """A column, float64 [n]. Raises Unusable for a cell that is empty or no number; ``what`` is for messages."""
        return np.array([_number(cells[column], line, what, self.parted) for line, cells in self.rows])


def read(file: Path, lengths: Sequence[int], *, known: set[str]) -> TextTable:
    """The table in a text file, UTF-8 or UTF-16 with its mark; empty lines and comments (#) are left out.

    The heading is the first line that is not all numbers, or a comment with a name that is ``known`` above the columns.
    pandas' heading of a frame without names, 0, is recognised by the number of lines, which is one more than one of
    ``lengths``. Raises Unusable for what is no table.
    """
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable("it is no text in UTF-8") from None
    lines = [(number, line.strip(" \r\n")) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    comments = [line.strip().lstrip("#") for _, line in lines if line.lstrip().startswith("#")]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise Unusable("it is empty")
    parted = next((mark for mark in "\t;," if mark in lines[-1][1]), None)
    rows = [(number, _cells(line.partition("#")[0], parted)) for number, line in lines]
    if all(not cells[-1] for _, cells in rows) and len(rows[0][1]) > 1:  # a comma at the end of every line
        rows = [(number, cells[:-1]) for number, cells in rows]
    width = len(rows[-1][1])
    if odd := next(((number, len(cells)) for number, cells in rows if len(cells) != width), None):
        raise Unusable(f"line {odd[0]} has {odd[1]} columns, and the last line {width}")
    names = None
    if not all(_is_number(cell, parted) for cell in rows[0][1]):
        names = rows.pop(0)[1]
    elif width == 1 and rows[0][1] == ["0"] and len(rows) - 1 in lengths:
        if len(rows) in lengths:
            raise Unusable("its first line, 0, is a heading or a number: write a heading")
        rows.pop(0)
    else:
        above = [_cells(line, parted) for line in reversed(comments)]
        names = next((cells for cells in above if len(cells) == width and known & {c.lower() for c in cells}), None)
    if not rows:
        raise Unusable("it is empty")
    if names and len(set(names)) < width:
        raise Unusable(f"it has two columns of one name among {', '.join(names)}")
    return TextTable(names, width, rows, parted)


def _cells(line: str, parted: str | None) -> list[str]:
    if parted is None:
        return [cell.strip("\"'") for cell in line.split()]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=parted, skipinitialspace=True))]


def _is_number(cell: str, parted: str | None) -> bool:
    try:
        return _number(cell, 0, "", parted) is not None
    except Unusable:
        return False


def _number(cell: str, line: int, what: str, parted: str | None) -> float:
    if not cell:
        raise Unusable(f"line {line} has no {what}")
    plain = cell.replace(",", ".") if parted == ";" and "." not in cell else cell  # a decimal comma
    try:
        if "_" in plain:  # which Python takes between digits
            raise ValueError
        return float(plain)
    except ValueError:
        raise Unusable(f"line {line}: {cell!r} is no number") from None
