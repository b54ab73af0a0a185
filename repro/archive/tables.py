"""The tables behind figures and verdicts as CSV files with their recipe, small enough for a repository."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from repro import plan, store
from repro.archive.contents import read_recipe, recipe_of, record_of
from repro.archive.zipped import RECIPE
from repro.errors import UsageError
from repro.store.files import write_text
from repro.study.collect import collect
from repro.study.study import Study
from repro.verify.judge import judge
from repro.verify.outcomes import COLUMNS, Evidence
from repro.verify.report import Judgement

_CELL = ("dataset", "condition", "size", "t", "noise", "replicate", "labels")
KEYS = {
    "runs": (*_CELL, "level"),
    "barriers": (*_CELL, "level", "a", "b", "batch_norm"),
    "histograms": (*_CELL, "batch_norm", "bin_lo"),
    "paths": (*_CELL, "batch_norm", "alpha"),
    "warmup": ("dataset", "kind", "size", "w", "replicate"),
    "subsets": (*_CELL, "kind"),
    "scores": ("dataset", "noise", "fold", "labels"),
    "gradients": ("dataset", "trained_on", "replicate", "step"),
    "growth": COLUMNS["growth"],
}
"""Table -> the columns that tell its rows apart; a table may lack some of them."""
_TEXTS = {"dataset", "condition", "batch_norm", "kind", "trained_on", "artifact"}
PLAIN = "without-control"
"""Folder beside a control's tables with those of the same figure without the control, which show its effect."""


def write(study: Study, folder: Path) -> list[Path]:
    """Writes the tables of a study's finished runs and its recipe; returns the files written.

    Raises UsageError where nothing is finished, of an own figure, and as `collect` does.
    """
    if study.own:
        raise UsageError(f"{study.name} is a figure of your own, and tables are of the paper's: keep {study.results}")
    if not study.finished():
        raise UsageError(f"{study.results} has no run of {study.name}: make them with {study.how}")
    steps = [step for step in plan.steps(study.items(), study.results) if not step.lacks()]
    records = {step.target.relative_to(study.results).as_posix(): record_of(store.read(step.target)) for step in steps}
    evidence = collect(study.finished(), study.results)
    found = {name: getattr(evidence, name) for name in COLUMNS}
    if len(found["runs"]):
        found["runs"] = _with_rewind_points(found["runs"], {step.target for step in steps})
    texts = {f"{name}.csv": _text(table) for name, table in found.items() if len(table)}
    texts[RECIPE] = json.dumps(recipe_of(study, records), indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    plain = study.unspoiled()
    return [folder / name for name in texts] + (write(plain, folder / PLAIN) if plain else [])


def _with_rewind_points(runs: pd.DataFrame, there: set[Path]) -> pd.DataFrame:
    """Adds ``pretrain_acc``, the test accuracy of the network that each run was rewound to, where it is known."""
    parts = []
    for name, rows in runs.groupby("artifact", sort=False):
        (source,) = store.read(name).inputs.values()
        path = Path(name).with_name(f"{source.name}.h5")
        if path in there and "acc" in (table := store.read(path).table()):
            rows = rows.assign(pretrain_acc=rows["replicate"].map(table.set_index("replicate")["acc"]))
        parts.append(rows)
    return pd.concat(parts)


def _text(table: pd.DataFrame) -> str:
    """A CSV that gives the same floats back. Artifacts go by name, because their folders matter on one machine only."""
    if "artifact" in table:
        table = table.assign(artifact=[Path(each).stem for each in table["artifact"]])
    return table.to_csv(index=False, lineterminator="\n")


def read(folders: Sequence[Path]) -> tuple[Study, Evidence, list[str]]:
    """(the study, the tables of all folders, the names of the artifacts that the study still lacks).

    Several folders hold parts of one study, and rows that stand in two of them have to be equal.

    Raises UsageError for a folder that `write` did not make, other questions, and numbers that contradict each other;
    RunError for a recipe with values that this program does not write.
    """
    recipes = [_recipe(folder) for folder in folders]
    asked, there = recipes[0]["asked"], set().union(*(recipe["artifacts"] for recipe in recipes))
    for folder, recipe in zip(folders, recipes):
        if recipe["asked"] != asked:
            field = next(name for name in asked if recipe["asked"][name] != asked[name])
            other, first = recipe["asked"][field], asked[field]
            raise UsageError(f"{folder} is of {field} {other} and {folders[0]} of {first}: give tables of one study")
    study = Study(**asked, results=folders[0])
    tables = {}
    for name in COLUMNS:
        paths = [folder / f"{name}.csv" for folder in folders]
        parts = [_table(path, COLUMNS[name]) for path in paths if path.is_file()]
        if parts:
            tables[name] = _merged(name, parts, folders)
    wanted = [step.target.relative_to(study.results).as_posix() for step in plan.steps(study.items(), study.results)]
    return study, Evidence(**tables), [name for name in wanted if name not in there]


def _recipe(folder: Path) -> dict:
    if not (folder / RECIPE).is_file():
        raise UsageError(f"{folder} holds no tables of this program (no {RECIPE}): give a folder of repro tables")
    return read_recipe(folder, folder / RECIPE, [])


def _table(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"labels": str}).fillna({"labels": ""})
    except ValueError as error:  # of pandas, also for bytes that are no text
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no table ({reason}): write it anew with repro tables") from None
    for column in table.columns.intersection(needed):
        if column in _TEXTS or pd.api.types.is_numeric_dtype(table[column]):  # True and False count as numbers
            continue
        odd = table[column][pd.to_numeric(table[column], errors="coerce").isna() & table[column].notna()]
        if len(odd):  # none of True and False beside nothing
            raise UsageError(
                f"{path} has {column} = {odd.iloc[0]!r} in line {odd.index[0] + 2}, which is no number: write it anew "
                "with repro tables"
            )
    return table


def _merged(name: str, parts: list[pd.DataFrame], folders: Sequence[Path]) -> pd.DataFrame:
    whole = pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
    keys = [key for key in KEYS[name] if key in whole]
    twice = whole[whole.duplicated(keys)]
    if len(twice):
        row = ", ".join(f"{key} {value}" for key, value in twice.iloc[0][keys].items())
        raise UsageError(
            f"{name}.csv has two different rows for {row} in {' and '.join(map(str, folders))}: leave one folder out"
        )
    return whole


def judged(folders: Sequence[Path]) -> tuple[Judgement, list[str]]:
    """(verdicts from tables alone, the artifacts that the study lacks). Raises as `read`."""
    study, evidence, lacking = read(folders)
    plain = [folder / PLAIN for folder in folders if (folder / PLAIN).is_dir()]
    unspoiled = read(plain)[1] if plain else None
    about = dict(figures=study.claims, control=study.control, unspoiled=unspoiled, complete=not lacking)
    return judge(evidence, study.protocols, **about), lacking
