"""Tables of the page: what a cell shows, and the number or text by which its column is sorted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

MINUS = "−"


@dataclass(frozen=True)
class Cell:
    """text: shown, escaped by the template. value: the exact number behind it, for sorting. kind: its class in the
    style sheet ('number', 'hash', 'word-reproduced' …). link: a place in the page."""

    text: str
    value: float | None = None
    kind: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """caption: what it holds, for everybody; columns: heads; rows: as many cells each."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence]) -> Table:
    """A `Table` of cells, texts and numbers."""
    return Table(caption, tuple(columns), tuple(tuple(map(_cell, row)) for row in rows))


def _cell(value) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, str) or value is None:
        return Cell(value or "")
    return number(value, f",.{0 if float(value).is_integer() else 4}{'f' if float(value).is_integer() else 'g'}")


def number(value: float | None, form: str = ",.2f", unit: str = "") -> Cell:
    """A number with a real minus sign and its unit; empty where there is none."""
    if value is None or not np.isfinite(value):
        return Cell("", kind="number")
    return Cell(f"{value:{form}}".replace("-", MINUS) + (f" {unit}" if unit else ""), float(value), "number")


def frame(caption: str, data: pd.DataFrame) -> Table:
    """A pandas.DataFrame as it is written to CSV, less columns without any value."""
    data = data.dropna(axis=1, how="all")
    rows = ([_plain(value) for value in row] for row in data.itertuples(index=False))
    return table(caption, [str(column) for column in data.columns], rows)


def _plain(value) -> Cell:
    if pd.isna(value):
        return Cell("")
    if isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_)):
        return number(float(value), ".6g")
    return Cell(str(value))
