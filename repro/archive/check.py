"""An archive checked on any machine: nothing altered, and figures and verdicts computed again from its artifacts."""

import csv
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from repro import store
from repro.archive.contents import RESULTS, made_here, read_recipe, record_of, runs_of
from repro.archive.zipped import METADATA, PREVIEW, RECIPE, SUMS, sha256, unpack
from repro.errors import RunError, UsageError
from repro.study.own_figure import is_own
from repro.study.study import Study

CLOSE = 1e-9
"""Relative: another processor or numpy may round the last digits of a statistic differently."""


@dataclass(frozen=True)
class Report:
    """lines: what was checked; terminal: the table of verdicts; exit_status: as of ``repro verify``."""

    lines: tuple[str, ...]
    terminal: str
    exit_status: int

    def __str__(self) -> str:
        return "\n".join([*self.lines, *(["", self.terminal] if self.terminal else [])])


def check(path: Path, trust: bool = False) -> Report:
    """Unpacks to a temporary folder, compares every checksum, and computes figures' tables and verdicts again.

    Needs no data set, GPU or network. It shows that figures and verdicts follow from the artifacts and that nothing was
    altered since; it cannot show that the artifacts are genuine.

    Arguments:
        trust: run the Python file of a user's own figure, if the archive is of one; otherwise no code in it is run.

    Raises UsageError for a file that is no archive of this program. Raises RunError that names the first file that was
    altered or does not follow from the artifacts, or the first field in which this program asks for other experiments.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        names = unpack(path, folder)
        recipe = read_recipe(path, folder / RECIPE, names)
        _check_crate(path, folder, names)
        whole = f"{path}: {len(names)} files, {len(recipe['artifacts'])} artifacts, every checksum matches"
        try:
            if is_own(recipe["asked"]["name"]) and not trust:
                _check_artifacts(path, recipe, folder, names)
                code = f"{recipe['asked']['name']} is Python code and was not run"
                unseen = f"{code}: what it draws was not drawn again (--trust runs it)"
                return Report((whole, unseen, *_origin(recipe)), "", 0)
            study = _study(path, recipe, folder)
            _check_artifacts(path, recipe, folder, names)
            found = [_check_figure(path, study, figure) for figure in study.drawn]
            judgement = study.judge()
        except UsageError as error:  # the archive is at fault and not the user, so the advice to the user is cut off
            reason = str(error).replace(f"{folder}/", "").partition("; choose")[0].partition(": run ")[0]
            versions = f"({_version()}; it was made by {_by(recipe)})"
            raise RunError(f"{path} does not fit this program {versions}: {reason}") from error
        found += [_check_text(path, file, text) for file, text in judgement.files(study.verdicts_stem)]
    lines = (whole, *(f"{name}: {how}" for name, how in found), *_origin(recipe))
    return Report(lines, judgement.terminal, judgement.exit_status)


def _check_crate(path: Path, folder: Path, names: list[str]) -> None:
    """Raises RunError unless the description lists exactly the files there, each with its size and sha256."""
    try:
        entities = json.loads((folder / METADATA).read_text(encoding="utf-8"))["@graph"]
        described = {e["@id"]: e for e in entities if e["@type"] == "File"}
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise RunError(f"{path} was altered: {METADATA} cannot be read") from error
    for name in sorted({*names, *described} - {METADATA, PREVIEW}):
        if name not in described or name not in names:
            where = METADATA if name in names else "the archive"
            raise RunError(f"{path} was altered: {name} is not in {where}")
        entity, file = described[name], folder / name
        if entity.get("contentSize") != str(file.stat().st_size):
            raise RunError(f"{path} was altered: {name} has another size than {METADATA} says")
        if name != SUMS and entity.get("sha256") != sha256(file):
            raise RunError(f"{path} was altered: {name} has another sha256 than {METADATA} says")


def _study(path: Path, recipe: dict, folder: Path) -> Study:
    """The archive's study in this program. Raises RunError that names the first field of the protocol that differs."""
    asked = recipe["asked"]
    if is_own(asked["name"]):
        asked = {**asked, "name": str(folder / asked["name"])}
    try:
        study = Study(**asked, results=folder / RESULTS)
        there = {p["dataset"]: p for p in recipe["protocols"]}
    except (AttributeError, KeyError, TypeError) as error:
        unknown = f"asks what this program ({_version()}) does not know"
        raise RunError(f"{path} was made by {_by(recipe)} and {unknown}: use that version") from error
    here = {p.dataset: json.loads(json.dumps(asdict(p))) for p in study.protocols}
    for field, then, now in _differing(there, here):
        raise RunError(
            f"{path} is of another protocol: {field} is {then} there and {now} in this program "
            f"({_version()}); it was made by {_by(recipe)}: use that version"
        )
    return study


def _differing(there, here, field: str = "") -> Iterator[tuple[str, object, object]]:
    """(field, there, here) wherever both sides know a field and its values differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in there:
            if name in here:
                yield from _differing(there[name], here[name], f"{field} {name}".strip())
    elif there != here:
        yield field, there, here


def _check_artifacts(path: Path, recipe: dict, folder: Path, names: list[str]) -> None:
    """Raises RunError unless the archive has exactly the artifacts of its recipe, each whole and as recorded."""
    recorded = recipe["artifacts"]
    for name in sorted({*recorded, *(name for name in names if name.endswith(".h5"))}):
        if name not in recorded or name not in names:
            raise RunError(f"{path} was altered: {name} is not in {RECIPE if name in names else 'the archive'}")
        artifact = store.read(folder / name)
        if record_of(artifact) != recorded[name]:
            raise RunError(f"{path} was altered: {name} is not the artifact that {RECIPE} tells of")
        if artifact.name != Path(name).stem:
            raise RunError(f"{path} was altered: {name} is the artifact {artifact.name}, put in another's place")
        if artifact.computed_sha256() != artifact.content_sha256:
            raise RunError(f"{path} was altered: the arrays of {name} have another sha256 than it records")


def _check_figure(path: Path, study: Study, figure: str) -> tuple[str, str]:
    from paper_figures.shared import drawing

    with tempfile.TemporaryDirectory() as made:
        again = drawing.save(*study.draw(figure), Path(made) / study.stem(figure).name)[-1]
        return _check_text(path, study.results / again.name, again.read_text(encoding="utf-8"))


def _check_text(path: Path, file: Path, computed: str) -> tuple[str, str]:
    """(file's name, how the archived text agrees with the computed one). Raises RunError at the first difference."""
    try:
        archived = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} is incomplete: it has no {file.name}") from error
    if archived == computed:
        return file.name, "identical to the byte"
    try:
        for place, there, here in _unequal(*(_parsed(file, text) for text in (archived, computed))):
            raise RunError(
                f"{path} does not follow from its artifacts: {place or 'the text'} of {file.name} is {there!r} "
                f"there and {here!r} computed again"
            )
    except (RecursionError, ValueError) as error:
        raise RunError(f"{path} was altered: {file.name} cannot be read") from error
    return file.name, f"equal to {CLOSE:g}"


def _parsed(file: Path, text: str):
    if file.suffix == ".json":
        return json.loads(text)
    if file.suffix == ".csv":
        return [[_number(cell) for cell in row] for row in csv.reader(text.splitlines())]
    return [[_number(word) for word in line.split(" ")] for line in text.split("\n")]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _unequal(there, here, place: str = "") -> Iterator[tuple[str, object, object]]:
    """(place, there, here) where words differ, or numbers by more than CLOSE."""
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() == here.keys():
        for key in there:
            yield from _unequal(there[key], here[key], f"{place}.{key}" if place else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, (a, b) in enumerate(zip(there, here)):
            yield from _unequal(a, b, f"{place}[{number}]")
    elif type(there) is float and type(here) is float:
        # a difference that is 0 on one machine may be 1e-17 on another
        if not math.isclose(there, here, rel_tol=CLOSE, abs_tol=1e-12) and not (math.isnan(there) and math.isnan(here)):
            yield place, there, here
    elif type(there) is not type(here) or there != here:
        yield place, there, here


def _origin(recipe: dict) -> Iterator[str]:
    """A line for each program, image and device that made artifacts."""
    runs = [run for record in recipe["artifacts"].values() for run in runs_of(record["provenance"])]
    made: dict[str, list[dict]] = {}
    for run in runs:
        image = run.get("image_digest") or "no image"
        device = " ".join(dict.fromkeys(str(run[key]) for key in ("device", "gpu", "cpu") if run.get(key)))
        made.setdefault(f"{_by({'archived_by': run})}, {image}, on {device or 'an unknown device'}", []).append(run)
    for how, same in made.items():
        begun, ended = min(run.get("started", "?") for run in same), max(run.get("finished", "?") for run in same)
        yield f"made by {how}, {begun} to {ended}"
    yield f"archived by {_by(recipe)}; checked by {_version()}"


def _by(recipe: dict) -> str:
    by = recipe["archived_by"]
    revision = str(by.get("git_revision") or "unknown")[:12] + (" changed" if by.get("git_dirty") else "")
    return f"{by.get('program', 'an unknown program')}, revision {revision}"


def _version() -> str:
    return _by({"archived_by": made_here()})
