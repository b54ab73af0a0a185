"""What an archive holds: figures, verdicts, artifacts with all they were made from, recipe and checksums.

``recipe.json`` is written and read here. It is read with distrust, because an archive may come from anybody.
"""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from paper_figures import NAMES
from repro import plan, store
from repro.archive.zipped import METADATA, PREVIEW, RECIPE, SUMS, pack, sha256, sums_text
from repro.errors import RunError, UsageError
from repro.experiment import MOST
from repro.protocol import OWN, SCALES
from repro.store.file_kinds import require_replaceable
from repro.store.files import write_whole
from repro.store.provenance import ROOT
from repro.study.own_figure import is_own, maybe, whole
from repro.study.study import Study

FORMAT, FORMAT_VERSION = "lottery-data-diet archive", 1
RESULTS = "results"  # folder of the archive: a results folder as the program leaves it
MADE_BY = ("program", "git_revision", "git_dirty", "image_digest", "requirements_sha256", "python", "packages")


def missing(study: Study) -> list[Path]:
    """Artifacts of the study, or of their inputs, that are missing, incomplete, or made from other inputs."""
    return [step.target for step in plan.unfinished(_steps(study))]


def _steps(study: Study) -> list[plan.Step]:
    """The steps that make all artifacts of a study's figures and verdicts."""
    plain = study.unspoiled()
    return plan.steps([*study.items(), *(plain.items() if plain else [])], study.results)


def write(study: Study, out: Path | None = None) -> tuple[Path, int]:
    """Draws and judges anew from the artifacts and writes the archive, whole or not at all.

    Arguments:
        study: nothing of it may be `missing`.
        out: path of the archive, which ends in .zip; None is beside the figures.

    Returns (the archive's path, the number of files in it). Raises UsageError for another ending and for a damaged
    artifact, RunError when the archive cannot be written.
    """
    out = out or study.stem(study.name).with_suffix(".zip")
    if out.suffix != ".zip":
        raise UsageError(f"--out {out} does not end in .zip: an archive would overwrite something else")
    require_replaceable(out, "archive")
    with store.writer_lock(out), tempfile.TemporaryDirectory() as made:
        paths = {_inside(study, step.target): step.target for step in _steps(study)}
        recipe = recipe_of(study, {name: record_of(store.read(paths[name])) for name in sorted(paths)})
        members = _drawn(study, Path(made)) | {name: paths[name] for name in sorted(paths)}
        members |= {name: ROOT / name for name in ("requirements.txt", "LICENSE") if (ROOT / name).is_file()}
        members[RECIPE] = (json.dumps(recipe, indent=1) + "\n").encode()
        write_whole(out, _described(members, recipe))
    return out, len(members) + 3


def _described(members: dict[str, Path | bytes], recipe: dict) -> Iterator[bytes]:
    """The blocks of the zip, with the description and the checksums in front."""
    from repro.archive.crate import describe

    digests = {name: _sha256(source) for name, source in members.items()}
    sizes = {name: len(s) if isinstance(s, bytes) else s.stat().st_size for name, s in members.items()}
    described = dict(zip((METADATA, PREVIEW), describe(recipe, sizes, digests)))
    digests |= {name: _sha256(content) for name, content in described.items()}
    listed = {SUMS: sums_text(digests).encode()}
    return pack({**described, **listed, **members}, digests, datetime.fromisoformat(recipe["finished"]))


def _sha256(source: Path | bytes) -> str:
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256(source)


def _inside(study: Study, path: Path) -> str:
    return f"{RESULTS}/{path.relative_to(study.results).as_posix()}"


def _drawn(study: Study, folder: Path) -> dict[str, Path | bytes]:
    """Figures, their tables and the verdicts, as `repro figure` and `repro verify` make them."""
    from paper_figures.shared import drawing

    members: dict[str, Path | bytes] = {}
    for figure in study.drawn:
        paths = drawing.save(*study.draw(figure), folder / study.stem(figure).name)
        members |= {f"{RESULTS}/{path.name}": path for path in paths}
    for path, text in study.judge().files(study.verdicts_stem):
        members[f"{RESULTS}/{path.name}"] = text.encode()
    return members


def recipe_of(study: Study, records: dict[str, dict]) -> dict:
    """``recipe.json``: the question, its protocols, and how each artifact was made.

    Arguments:
        records: name in the archive -> `record_of` the artifact.

    ``started`` and ``finished`` are the first run's start and the last run's end, so that the same artifacts give the
    same archive.
    """
    runs = [run for record in records.values() for run in runs_of(record["provenance"])]
    finished = max((run["finished"] for run in runs if "finished" in run), default="1980-01-01T00:00:00+00:00")
    data: dict[str, list[str]] = {}
    for recipe in (record["recipe"] for record in records.values()):
        own = data.setdefault(recipe["dataset"], [])
        own += [digest for digest in [recipe.get("data_sha256")] if digest and digest not in own]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "asked": study.asked,
        "figures": study.drawn,
        "started": min((run["started"] for run in runs if "started" in run), default=finished),
        "finished": finished,
        "archived_by": made_here(),
        "data_sha256": data,
        "protocols": json.loads(json.dumps([asdict(p) for p in study.protocols])),
        "artifacts": records,
    }


def made_here() -> dict:
    """The provenance of the running program, without the command."""
    here = store.provenance(device="", threads=1, seed=0, started=time.time(), wall_seconds=0)
    return {field: here[field] for field in MADE_BY}


def record_of(artifact: store.Artifact) -> dict:
    """The entry of an artifact in ``recipe.json``."""
    inputs = {role: {"name": source.name, "identity": source.identity} for role, source in artifact.inputs.items()}
    return {
        "kind": artifact.kind,
        "identity": artifact.identity,
        "content_sha256": artifact.content_sha256,
        "recipe": artifact.recipe,
        "inputs": inputs,
        "provenance": artifact.provenance,
    }


def runs_of(provenance: dict) -> list[dict]:
    """The provenance of each command that added to an artifact."""
    return provenance.get("runs", [provenance])


_ASKED = {
    "name": lambda value: value in (*NAMES, "all") or (isinstance(value, str) and is_own(value)),
    "scale": lambda value: value in (*SCALES, OWN),
    "datasets": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "control": lambda value: value is None or isinstance(value, str),
    "seed": maybe(whole(-(1 << 63), (1 << 63) - 1))[0],
    "replicates": maybe(whole(1, MOST))[0],
    "levels": maybe(whole(0, MOST))[0],
}
"""Argument of a `Study` -> whether this program writes such a value."""
_FIELDS = {
    "asked": (dict, None),
    "artifacts": (dict, dict),
    "protocols": (list, dict),
    "archived_by": (dict, None),
    "finished": (str, None),
}
"""Field of ``recipe.json`` -> (its type, the type of its items if that matters)."""


def read_recipe(path: Path, file: Path, names: list[str]) -> dict:
    """The recipe of the archive at ``path``, whose files are ``names``; it is checked, and nothing in it is run.

    Raises UsageError for a recipe of another program or a newer format, RunError for a value that this program does
    not write.
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


def _require_asked(path: Path, asked: dict, names: list[str]) -> None:
    """Raises RunError unless a recipe asks for the arguments of a `Study`, with values that this program writes."""
    if unknown := sorted(asked.keys() ^ _ASKED.keys()):
        raise RunError(f"{path} asks what this program does not know ({unknown[0]}): use the version that made it")
    for field, fits in _ASKED.items():
        if not fits(asked[field]):
            never = f"{field} {asked[field]!r}, which this program never does"
            raise RunError(f"{path} asks for {never}: {RECIPE} was altered")
    name = asked["name"]
    if is_own(name) and (name not in names or not re.fullmatch(rf"{RESULTS}/[\w-]+\.py", name)):
        raise RunError(f"{path} asks for the code {name!r}, which is not in it: {RECIPE} was altered")
    if is_own(name) != (asked["scale"] == OWN):
        raise RunError(f"{path} asks for {name} at scale {asked['scale']}: {RECIPE} was altered")
