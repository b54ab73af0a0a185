"""``recipe.json`` of an archive that somebody sent: read with distrust, and nothing in it run."""

import json
import re
from pathlib import Path

from paper_figures.shared.cells import FIGURES
from repro.archive.contents import FORMAT, FORMAT_VERSION, RESULTS
from repro.archive.zipped import RECIPE
from repro.errors import RunError, UsageError
from repro.experiment import MOST
from repro.protocol import OWN, SCALES
from repro.study.own_figure import is_own

_SEED = 1 << 63


def read_recipe(path: Path, file: Path, names: list[str]) -> dict:
    """The recipe of the archive at ``path``, whose files are ``names``.

    Raises UsageError where it is another program's or of a newer format, RunError where a field has a value that this
    program does not write.
    """
    try:
        recipe = json.loads(file.read_text(encoding="utf-8"))
        known = recipe["format"] == FORMAT and recipe["format_version"] <= FORMAT_VERSION
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no archive of this program: its {RECIPE} is another program's") from error
    if not known:
        raise UsageError(
            f"{path} has format {recipe['format_version']} of {recipe['format']}, and this program reads "
            f"{FORMAT_VERSION} of {FORMAT}: use a newer program"
        )
    for field, (kind, parts) in _FIELDS.items():
        value = recipe.get(field)
        inner = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or (parts and not all(isinstance(part, parts) for part in inner)):
            raise UsageError(f"{path} is no archive of this program: {field} of its {RECIPE} is another program's")
    _require_asked(path, recipe["asked"], names)
    return recipe


_FIELDS = {
    "asked": (dict, None),
    "artifacts": (dict, dict),
    "protocols": (list, dict),
    "archived_by": (dict, None),
    "finished": (str, None),
}


def _require_asked(path: Path, asked: dict, names: list[str]) -> None:
    """Every field that a `Study` takes and no other, of the values that the program writes."""
    if unknown := sorted(asked.keys() ^ _ASKED.keys()):
        raise RunError(f"{path} asks what this program does not know ({unknown[0]}): use the version that made it")
    for field, fits in _ASKED.items():
        if not fits(asked[field]):
            raise RunError(
                f"{path} asks for {field} {asked[field]!r}, which this program never does: {RECIPE} was altered"
            )
    name = asked["name"]
    if is_own(name) and (name not in names or not re.fullmatch(rf"{RESULTS}/[\w-]+\.py", name)):
        raise RunError(f"{path} asks for the code {name!r}, which is not in it: {RECIPE} was altered")
    if is_own(name) != (asked["scale"] == OWN):
        raise RunError(f"{path} asks for {name} at scale {asked['scale']}: {RECIPE} was altered")


def _whole(low: int, high: int):
    return lambda value: value is None or (type(value) is int and low <= value <= high)


_ASKED = {
    "name": lambda value: value in (*FIGURES, "all") or (isinstance(value, str) and is_own(value)),
    "scale": lambda value: value in (*SCALES, OWN),
    "datasets": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "control": lambda value: value is None or isinstance(value, str),
    "seed": _whole(-_SEED, _SEED - 1),
    "replicates": _whole(1, MOST),
    "levels": _whole(0, MOST),
}
