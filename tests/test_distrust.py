"""Archives and folders by somebody who corrects every checksum: nothing is run, nothing exchanged is believed."""

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import pytest

from paper_figures.shared.cells import figure2
from repro import plan, store
from repro.store import hdf5
from tests import test_archive
from tests.command_line import complaint, repro
from tests.test_archive import METADATA, PROTOCOL, STUDY, forged_files

results, archive = test_archive.results, test_archive.archive  # fixtures


def asking(archive: Path, out: Path, more: dict[str, bytes] | None = None, **asked) -> Path:
    """The archive of somebody who asks for something else."""
    recipe = json.loads(zipfile.ZipFile(archive).read("recipe.json"))
    recipe["asked"] |= asked
    return forged_files(archive, out, {"recipe.json": json.dumps(recipe).encode(), **(more or {})})


CODE = b"""
from pathlib import Path
from repro.protocol import DIGITS
from repro.store import hdf5
Path("executed").touch()
PROTOCOL = DIGITS
"""


@pytest.mark.parametrize("name", ["mine.py", "results/mine.py", "results/../mine.py", "ABSOLUTE", "./results/mine.py"])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("scale", ["own", "demo", None])
def test_no_python_is_run(name, inside, scale, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("mine.py", "results/mine.py"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(CODE)
    name = str(tmp_path / "mine.py") if name == "ABSOLUTE" else name
    more = {"results/mine.py": CODE} if inside else {}
    said = repro(
        "verify",
        "--archive",
        asking(archive, Path("a.zip"), more, name=name, scale=scale),
        code=0 if (name, inside, scale) == ("results/mine.py", True, "own") else 1,
    )
    assert not Path("executed").exists()
    assert said.exit_code or "results/mine.py is Python code and was not run" in said.stdout


def test_a_figure_of_somebodys_own_is_run_on_trust(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = asking(archive, Path("a.zip"), {"results/mine.py": CODE}, name="results/mine.py", scale="own")
    assert "every checksum matches" in repro("verify", "--archive", own).stdout and not Path("executed").exists()
    assert "a.zip" in complaint("verify", "--archive", own, "--trust", code=1)  # its runs are not those of this figure
    assert Path("executed").exists()
    assert "--trust is for an --archive" in complaint("verify", "figure2", "--trust")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "figure9"),
        ("name", ["figure2"]),
        ("name", None),
        ("scale", "huge"),
        ("scale", {}),
        ("datasets", "digits"),
        ("datasets", [3]),
        ("control", 3),
        ("seed", "1"),
        ("seed", True),
        ("seed", 2**63),
        ("replicates", -3),
        ("replicates", 1e9),
        ("replicates", 10**9),
        ("levels", "all"),
        ("levels", -1),
        ("control", "../x"),
        ("extra", 1),
    ],
)
def test_what_is_asked_has_a_type_and_a_range(field, value, archive, tmp_path):
    said = complaint("verify", "--archive", asking(archive, tmp_path / "a.zip", **{field: value}), code=1)
    assert said.startswith(f"{tmp_path / 'a.zip'} ") and field in said or str(value) in said


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b"7",
        b"[" * 100_000,
        b'{"format": "lottery-data-diet archive", "format_version": 1, "asked": {}, "artifacts": [], "protocols": 3}',
    ],
)
def test_recipes_of_other_programs(content, archive, tmp_path):
    bad = forged_files(archive, tmp_path / "a.zip", {"recipe.json": content})
    assert "recipe.json is another program's" in complaint("verify", "--archive", bad)
    deep = forged_files(archive, tmp_path / "b.zip", {METADATA: b"[" * 100_000})
    assert "ro-crate-metadata.json cannot be read" in complaint("verify", "--archive", deep, code=1)


def exchanged(archive: Path, out: Path, one: str, other: str) -> Path:
    with zipfile.ZipFile(archive) as file:
        recipe, contents = json.loads(file.read("recipe.json")), {one: file.read(other), other: file.read(one)}
    records = recipe["artifacts"]
    records[one], records[other] = records[other], records[one]
    return forged_files(archive, out, {**contents, "recipe.json": json.dumps(recipe).encode()})


def test_exchanged_artifacts_are_noticed(archive, results, tmp_path):
    names = [f"results/digits/imp-{kind}256-t10.h5" for kind in ("easy", "hard")]
    said = complaint("verify", "--archive", exchanged(archive, tmp_path / "a.zip", *names), code=1)
    assert "imp-easy256-t10.h5 is the artifact imp-hard256-t10, put in another's place" in said
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("*.zip"))
    easy, hard = (copy.parent / name for name in names)
    easy.rename(tmp_path / "x")
    hard.rename(easy)
    (tmp_path / "x").rename(hard)
    for command in (("figure", *STUDY), ("verify", *STUDY)):
        said = complaint(*command, "--results", copy)
        assert f"{easy} is not in its place: imp-hard256-t10 is where imp-easy256-t10 is needed" in said


@pytest.mark.parametrize("ancestor", ["pretrain-easy256-t10", "subset-easy256", "scores"])
def test_artifacts_of_other_ancestors_are_not_drawn(ancestor, results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("*.zip"))
    step = next(s for s in plan.steps(figure2(PROTOCOL), copy) if s.target.stem == ancestor)
    whole = store.read(step.target)
    store.write(
        step.target,
        kind=whole.kind,
        recipe={**whole.recipe, "data_sha256": "34" * 32},
        inputs=whole.inputs,
        arrays={},
        table=whole.table(),
        provenance={},
        defaults={},
    )
    assert f"was made from another {ancestor} (identity " in complaint("figure", *STUDY, "--results", copy)


def test_arrays_that_are_not_what_their_checksum_says(archive, results, tmp_path):
    name = "results/digits/imp-easy256-t10.h5"
    artifact = store.read(results.parent / name)
    columns = {f"table/{column}": artifact.table()[column].to_numpy() for column in artifact.table()}
    columns["table/acc"] = columns["table/acc"] + 0.01
    with h5py.File(results.parent / name, "r", locking=False) as file:
        attributes = dict(file.attrs)
    packed = b"".join(hdf5.pack({key: hdf5.normal(key, a) for key, a in columns.items()}, attributes, compression=None))
    said = complaint("verify", "--archive", forged_files(archive, tmp_path / "a.zip", {name: packed}), code=1)
    assert f"the arrays of {name} have another sha256 than it records" in said
