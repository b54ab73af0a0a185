"""Artifacts: identity, round trips and damage."""

import hashlib
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from repro import store
from repro.errors import UsageError
from repro.store import hdf5

DEFAULTS = {"balanced": False, "lr": 0.1}
SUBSET = store.Lineage("subset", {"dataset": "digits", "size": 600, "balanced": True}, {}, DEFAULTS, "easy600")
CELL = {
    "kind": "imp",
    "recipe": {"dataset": "digits", "steps": 80, "lr": 1.0, "milestones": [40, 60], "balanced": False},
    "inputs": {"subset": SUBSET},
    "defaults": DEFAULTS,
}
ARRAYS = {f"replicate_{r}/level_{n}/mask": np.arange(r, 40 + n, dtype="u1") for r in range(2) for n in range(2)}
TABLE = {"level": [0, 1, 0, 1], "acc": [0.5, np.nan, 1.0, 0.25], "ok": [True, False, True, True], "by": list("äbc ")}


def write(path, **changes) -> str:
    content = {"arrays": ARRAYS, "table": TABLE, "provenance": {"device": "cpu"}}
    return store.write(path, **{**CELL, **content, **changes})


@pytest.fixture
def artifact(tmp_path) -> Path:
    write(tmp_path / "x.h5")
    return tmp_path / "x.h5"


# identity


def test_identity_is_sha256_of_canonical_json_without_defaults():
    subset = '{"inputs":{},"kind":"subset","recipe":{"balanced":true,"dataset":"digits","size":600}}'
    subset = hashlib.sha256(subset.encode()).hexdigest()
    recipe = '{"dataset":"digits","lr":1,"milestones":[40,60],"steps":80}'
    cell = f'{{"inputs":{{"subset":"{subset}"}},"kind":"imp","recipe":{recipe}}}'
    assert store.identity(**CELL) == hashlib.sha256(cell.encode()).hexdigest()


def same_recipes():
    recipe = CELL["recipe"]
    yield "order", dict(reversed(recipe.items())), DEFAULTS
    yield "int for float", {**recipe, "lr": 1}, DEFAULTS
    yield "numpy", {**recipe, "lr": np.float64(1), "steps": np.int32(80), "milestones": (40.0, np.int64(60))}, DEFAULTS
    yield "new option at its default", {**recipe, "nesterov": False}, {**DEFAULTS, "nesterov": False}
    yield "default not given", {k: v for k, v in recipe.items() if k != "balanced"}, DEFAULTS


@pytest.mark.parametrize(("recipe", "defaults"), [pytest.param(r, d, id=name) for name, r, d in same_recipes()])
def test_identity_stays(recipe, defaults):
    assert store.identity(**{**CELL, "recipe": recipe, "defaults": defaults}) == store.identity(**CELL)


def other_cells():
    for option, value in [("dataset", "cifar10"), ("steps", 81), ("lr", 1.0000001), ("balanced", True), ("new", 0)]:
        yield option, {"recipe": {**CELL["recipe"], option: value}}
    yield "order of a list", {"recipe": {**CELL["recipe"], "milestones": [60, 40]}}
    yield "default for another value", {"recipe": {**CELL["recipe"], "lr": 0.1}}
    yield "kind", {"kind": "pretrain"}
    yield "input's recipe", {"inputs": {"subset": store.Lineage("subset", {**SUBSET.recipe, "size": 601})}}
    yield "input's role", {"inputs": {"masks": SUBSET}}
    yield "no input", {"inputs": {}}


def test_identity_changes_with_everything_else():
    identities = [store.identity(**{**CELL, **change}) for _, change in other_cells()]
    assert len({store.identity(**CELL), *identities}) == 1 + len(identities)
    true, one = ({**CELL, "recipe": {"new": value}} for value in (True, 1))
    assert store.identity(**true) != store.identity(**one)


@pytest.mark.parametrize("value", [np.nan, np.inf, np.float32("nan"), [1, np.nan]])
def test_recipe_refuses_what_is_not_finite(value):
    with pytest.raises(UsageError, match=r"imp recipe\.lr.* \(=(nan|inf)\) is not a finite number"):
        store.identity(**{**CELL, "recipe": {"lr": value}})


@pytest.mark.parametrize(("change", "field"), [pytest.param(c, name, id=name) for name, c in other_cells()])
def test_another_recipe_is_named_by_its_fields(artifact, change, field):
    with pytest.raises(UsageError, match=r"x.h5 was made with another recipe: .+ there and .+ here; choose"):
        store.check_same(artifact, **{**CELL, **change})


def test_same_recipe_is_found_whatever_option_came_later(artifact, tmp_path):
    assert store.check_same(tmp_path / "none.h5", **CELL) is None
    later = {**CELL, "recipe": {**CELL["recipe"], "nesterov": False}, "defaults": {**DEFAULTS, "nesterov": False}}
    assert store.check_same(artifact, **later).identity == store.identity(**CELL)
    subset = store.Lineage("subset", {**SUBSET.recipe, "size": 500}, {}, DEFAULTS)
    with pytest.raises(UsageError, match="recipe: lr is 1.0 there and 2 here, subset.size is 600 there and 500 here;"):
        store.check_same(artifact, **{**CELL, "recipe": {**CELL["recipe"], "lr": 2}, "inputs": {"subset": subset}})


# round trips


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "f2", "f4", "f8", "?", "U"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5)], ids=str)
@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_round_trip(tmp_path, dtype, shape, compression):
    values = (np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)
    values = np.char.add(values, "µ\N{SNOWMAN}") if dtype == "U" else values
    write(tmp_path / "x.h5", arrays={"a/b": values}, table={}, compression=compression)
    back = store.read(tmp_path / "x.h5")["a/b"]
    assert back.shape == shape and back.dtype.kind == values.dtype.kind
    assert np.array_equal(back, values) and (dtype == "U" or back.dtype == values.dtype)


def test_round_trip_of_unusual_layouts_and_large_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 1000)
    values = np.arange(6000, dtype=">f4").reshape(60, 100).T
    write(tmp_path / "x.h5", arrays={"a": values, "b": pd.Series(["x", "yz"]), "c": [True, False]})
    back = store.read(tmp_path / "x.h5")
    assert np.array_equal(back["a"], values) and back["b"].tolist() == ["x", "yz"] and back["c"].dtype == bool
    assert back.dataset("a").chunks == (5, 60)


def test_artifact_explains_itself(artifact):
    back = store.read(artifact, kind="imp")
    assert (back.kind, back.name, back.identity) == ("imp", "x", store.identity(**CELL))
    assert back.recipe == CELL["recipe"] and back.provenance == {"device": "cpu"}
    assert back.inputs["subset"].recipe == SUBSET.recipe and back.inputs["subset"].name == "easy600"
    assert back.keys() == sorted(ARRAYS) and "replicate_0/level_0/mask" in back and "replicate_0" not in back
    pd.testing.assert_frame_equal(store.table(artifact), pd.DataFrame(TABLE))
    with pytest.raises(KeyError):
        back["replicate_9/level_0/mask"]


def test_plain_h5py_and_pandas_read_it(artifact):
    with h5py.File(artifact) as file:
        mask = file["replicate_1/level_0/mask"]
        assert (mask.compression, mask.shuffle, mask.fletcher32) == ("gzip", True, True)
        assert json.loads(file.attrs["inputs"])["subset"]["recipe"]["size"] == 600
        columns = {n: column.asstr()[:] if h5py.check_string_dtype(column.dtype) else column[:]
                   for n, column in file["table"].items()}  # fmt: skip
        pd.testing.assert_frame_equal(pd.DataFrame(columns)[list(TABLE)], pd.DataFrame(TABLE))
        digest = hashlib.sha256()
        for path in sorted([*ARRAYS, *(f"table/{name}" for name in TABLE)]):
            text, array = path == "table/by", file[path]
            digest.update(f"{path} {'text' if text else array.dtype.str} {array.shape}\n".encode())
            digest.update(json.dumps(array.asstr()[:].tolist()).encode() if text else array[:].tobytes())
        assert file.attrs["content_sha256"] == digest.hexdigest()


def test_content_sha256_depends_on_the_results_alone(tmp_path):
    def content(**changes):
        write(tmp_path / "x.h5", **changes)
        return store.read(tmp_path / "x.h5").content_sha256

    one = dict.fromkeys(["a"], np.arange(4, dtype="u1"))
    same = [content(arrays=one, **change) for change in ({}, {"provenance": {}}, {"compression": "lzf"})]
    assert len(set(same)) == 1
    others = [np.array([0, 1, 2, 4], "u1"), np.arange(4, dtype="i1"), np.arange(4, dtype="u1").reshape(2, 2)]
    assert len({*same, *(content(arrays={"a": array}) for array in others)}) == 4


@pytest.mark.parametrize("values", [np.array([1, None]), np.array([b"x"]), [1j], np.array(["2020"], "M8[D]"), [{}]])
def test_objects_are_refused(tmp_path, values):
    with pytest.raises(TypeError, match="array a has dtype"):
        write(tmp_path / "x.h5", arrays={"a": values})
    with pytest.raises(ValueError, match="columns differ in length"):
        write(tmp_path / "x.h5", table={"a": [1, 2], "b": [1]})
    assert not list(tmp_path.iterdir())


# damage


def test_every_altered_byte_is_noticed(artifact):
    whole = artifact.read_bytes()
    for offset in range(len(whole)):
        with open(artifact, "r+b") as file:
            file.seek(offset)
            file.write(bytes([whole[offset] ^ 1 << offset % 8]))
            file.flush()
            with pytest.raises(UsageError, match="delete it and run its command again|repro made|newer program"):
                store.read(artifact)
            file.seek(offset)
            file.write(whole[offset : offset + 1])
    assert store.read(artifact).keys() == sorted(ARRAYS)


def test_arrays_are_checked_without_reading_the_whole_file(artifact):
    whole, noticed = artifact.read_bytes(), 0
    for offset in range(hdf5.SEAL_BYTES, len(whole), 29):
        artifact.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        try:
            opened = store.read_header(artifact)
            for key, values in ARRAYS.items():
                assert np.array_equal(opened[key], values)
            assert opened.table().equals(pd.DataFrame(TABLE))
        except UsageError:
            noticed += 1
    assert noticed > 30


@pytest.mark.parametrize("verify", [True, False])
def test_every_truncation_is_noticed(artifact, verify):
    for length in range(artifact.stat().st_size - 1, -1, -5):
        os.truncate(artifact, length)
        with pytest.raises(UsageError, match="x.h5 is truncated .*: delete it and run its command again"):
            store.read(artifact, verify=verify)


def test_appended_and_edited_files_are_noticed(artifact):
    whole = artifact.read_bytes()
    for edit in (
        lambda file: file.attrs.__setitem__("recipe", "{}"),
        lambda file: file.attrs.__setitem__("provenance", "{}"),
        lambda file: file["table/acc"].__setitem__(0, 0.9),
        lambda file: file.__delitem__("table/acc"),
    ):
        artifact.write_bytes(whole)
        with h5py.File(artifact, "r+") as file:
            edit(file)
        with pytest.raises(UsageError, match="x.h5 (was altered|is truncated)"):
            store.read(artifact)
    artifact.write_bytes(whole + b"\0")
    with pytest.raises(UsageError, match="x.h5 was altered after it was written: delete it and run its command again"):
        store.read_header(artifact)


def test_what_is_no_artifact(tmp_path, monkeypatch):
    def refuses(name, match, **options):
        with pytest.raises(UsageError, match=match):
            store.read(tmp_path / name, **options)

    refuses("none.h5", "none.h5 does not exist: check the path")
    refuses(".", "is not a file")
    (tmp_path / "text.h5").write_text("acc,level\n" * 100)
    refuses("text.h5", "text.h5 is truncated or not an HDF5 file: delete it and run its command again")
    h5py.File(tmp_path / "other.h5", "w").close()
    refuses("other.h5", "other.h5 is an HDF5 file of another program")
    (tmp_path / "work.h5").write_bytes(b"".join(hdf5.pack({}, {"recipe": "{}"}, compression=None)))
    refuses("work.h5", "work.h5 is not an artifact or is damaged")
    write(tmp_path / "x.h5")
    refuses("x.h5", "x.h5 is an imp artifact where a score artifact is needed: give", kind="score")
    with h5py.File(tmp_path / "x.h5") as file:
        attributes = {**file.attrs, "recipe": "{}"}
    (tmp_path / "x.h5").write_bytes(b"".join(hdf5.pack({}, attributes, compression=None)))
    refuses("x.h5", "x.h5 has another identity than its recipe and inputs")
    monkeypatch.setattr(hdf5, "FORMAT_VERSION", 2)
    write(tmp_path / "x.h5")
    monkeypatch.undo()
    refuses("x.h5", "x.h5 has format 2 and this program reads 1: use a newer program")
