"""Artifacts: identity and round trips."""

import hashlib
import json
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
        columns = {
            n: column.asstr()[:] if h5py.check_string_dtype(column.dtype) else column[:]
            for n, column in file["table"].items()
        }
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
