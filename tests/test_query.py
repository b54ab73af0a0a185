"""Looking at artifacts: one frame over all of them, queries, descriptions, CSV."""

import csv
import io

import h5py
import numpy as np
import pandas as pd
import pytest

from repro import load, store
from repro.errors import RunError, UsageError
from repro.reading import query
from repro.reading.export_tables import export

DEFAULTS = {"balanced": False}


def write(path, kind, recipe, inputs=None, *, table, arrays=None):
    provenance = {"runs": [{"device": "cpu", "packages": {"numpy": "2"}}, {"device": "cuda"}]}
    store.write(
        path,
        kind=kind,
        recipe=recipe,
        inputs=inputs or {},
        defaults=DEFAULTS,
        arrays=arrays or {},
        table=table,
        provenance=provenance,
    )
    return store.read(path)


@pytest.fixture
def results(tmp_path):
    """score -> subset -> pretrain -> imp, and the imp of all data, which has no subset."""
    scores = write(tmp_path / "score.h5", "score", {"dataset": "digits", "epochs": 2, "lr": 0.5}, table={})
    recipe = {"dataset": "digits", "kind": "easy", "size": 600, "balanced": False}
    subset = write(tmp_path / "easy600.h5", "subset", recipe, {"scores": scores}, table={"classes": [10]})
    pretrain = {"dataset": "digits", "lr": 0.1, "size": None, "seed": 0}
    some = write(tmp_path / "p1.h5", "pretrain", pretrain, {"subset": subset}, table={"replicate": [0, 1]})
    full = write(tmp_path / "p2.h5", "pretrain", pretrain, table={"replicate": [0]})
    imp = {"dataset": "digits", "lr": 1.0, "milestones": [4, 6], "seed": 0}
    rows = {"replicate": [0, 0, 1], "level": [0, 8, 8], "acc": [0.9, np.nan, 0.7], "diverged": [False, True, False]}
    masks = {f"replicate_{r}/level_{n}/mask": np.zeros(5, "u1") for r, n in ((0, 0), (0, 8), (1, 8))}
    inputs = {"rewind_point": some, "subset": subset}
    write(tmp_path / "deep" / "easy.h5", "imp", imp, inputs, table=rows, arrays=masks)
    write(tmp_path / "deep" / "all.h5", "imp", imp, {"rewind_point": full}, table={"replicate": [0], "level": [8]})
    return tmp_path


def test_runs_has_a_row_for_every_row_of_every_table(results):
    runs = query.runs(results)
    assert runs.groupby("name").size().to_dict() == {"score": 1, "easy600": 1, "p1": 2, "p2": 1, "easy": 3, "all": 1}
    imp = runs[runs.name == "easy"]
    assert imp.path.unique().tolist() == [str(results / "deep" / "easy.h5")]
    assert imp.identity.unique().tolist() == [store.read(results / "deep" / "easy.h5").identity]
    assert imp.level.tolist() == [0, 8, 8] and imp.diverged.tolist() == [False, True, False]
    assert runs.level.dtype == "Int64" and runs.diverged.dtype == "boolean"
    assert imp.milestones.unique().tolist() == ["[4, 6]"]


def test_lineage_becomes_columns_and_the_nearer_field_wins(results):
    runs = query.runs(results).set_index("name")
    imp = runs.loc["easy"].iloc[0]
    assert (imp.lr, imp.rewind_point_lr, imp.scores_lr, imp["size"], imp.epochs) == (1.0, 0.1, 0.5, 600, 2)
    assert runs.loc["p1"].lr.tolist() == [0.1, 0.1] and runs.loc["score"].lr == 0.5
    assert imp.kind == "imp" and imp.subset_kind == "easy" and runs.loc["easy600"].recipe_kind == "easy"
    assert pd.isna(runs.loc["all"]["size"]) and pd.isna(runs.loc["all"].subset_kind)
    # what is the same everywhere has one column
    assert not {"rewind_point_seed", "rewind_point_dataset", "subset_dataset", "scores_dataset"} & set(runs.columns)


def test_a_broken_file_is_skipped_and_said(results, capsys):
    (results / "broken.h5").write_bytes((results / "score.h5").read_bytes()[:-3])
    work = store.WorkFolder(results / "easy.h5", kind="imp", recipe={}, inputs={}, defaults={})
    work.save("level_0", {"a": np.ones(2)})
    (results / ".score.h5.77.tmp").write_text("half", encoding="utf-8")
    assert set(query.runs(results).name) == {"score", "easy600", "p1", "p2", "easy", "all"}
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {results}/broken.h5 is truncated (")
    assert warning.endswith("; skipped\n") and warning.count("\n") == 1


def test_every_byte_is_compared(results, capsys):
    """Also those of arrays that no table shows."""
    path = results / "deep" / "easy.h5"
    with h5py.File(path, "r", locking=False) as file:
        dataset = file["replicate_0/level_8/mask"]
        place = dataset.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    for offset in (place, place + 512):  # from the start of the file, or of the image in it
        content[offset] ^= 255
    path.write_bytes(content)
    for read in (query.runs, load):
        assert "easy" not in set(read(results).name)
        assert "easy.h5 was altered after it was written" in capsys.readouterr().err
    export(results, results / "all.csv")
    assert "easy.h5 was altered after it was written" in capsys.readouterr().err


def test_runs_of_nothing(tmp_path):
    with pytest.raises(UsageError, match="holds no artifacts: give the folder that holds them"):
        query.runs(tmp_path)
    with pytest.raises(UsageError, match="none is not a folder: give the one that holds the artifacts"):
        query.runs(tmp_path / "none")


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('dataset == "digits" and level == 8', ["all", "easy", "easy"]),
        ("diverged", ["easy"]),
        ("not diverged and level < 1", ["easy"]),
        ("acc > 0.5", ["easy", "easy"]),
        ("size >= 600 and kind == 'imp'", ["easy", "easy", "easy"]),
        ("acc.isna() and level == 8", ["all", "easy"]),
        ('path.str.contains("deep/all@|ll.h5")', ["all"]),
        ('name in ["p1", "p2"] and replicate == 0', ["p1", "p2"]),
        ("(level - 4) * 2 >= 8 & ~diverged.isna() and level // 8 == 1", ["easy", "easy"]),
        ("name.isin(['p1', 'p2']) and replicate.between(0, 0)", ["p1", "p2"]),
        ('name == "a`b" or `kind` == "score"', ["score"]),
        ("`level` == 8 | `level` == 0 and lr == 1", ["all", "easy", "easy", "easy"]),
    ],
)
def test_select_rows(results, expression, names):
    found = query.select(query.runs(results), expression)
    assert sorted(found.name) == names and found.index.tolist() == list(range(len(names)))


def test_select_columns_in_their_order(results):
    runs = query.runs(results)
    found = query.select(runs, "level == 8 and replicate == 1", ["acc", "level"])
    assert found.to_csv(index=False) == "acc,level\n0.7,8\n"
    assert query.select(runs).equals(runs)
    with pytest.raises(UsageError, match="there is no column acuracy, densty: the columns are path, kind, .*level"):
        query.select(runs, columns=["acuracy", "level", "densty"])


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("levl == 8", "name 'levl' is not defined"),
        ("level ==", "invalid syntax"),
        ("level = 8", "invalid syntax"),
        ("level", "is not true or false of a row"),
        ("8 == 8", "is not true or false of a row"),
        ("", ""),
        ("name > 3", ""),
        ("level == (8", ""),
        ("import os", ""),
        ("open('x') == 1", ""),
        ("level == @level", "does more than compare"),
        ("name.__class__ == 1", "does more than compare"),
        ("name.to_csv('stolen')", "does more than compare"),
        ("name . to_pickle('stolen')", "does more than compare"),
        ("name.str\n.to_csv('stolen')", ""),
        ("name.str.contains('a', regex=name.to_csv('stolen'))", "does more than compare"),
        ("name.str.contains(name.to_csv('stolen'))", "does more than compare"),
        ("'\\'' + name.to_csv('stolen') + '\\''", "does more than compare"),
        ("`level` == 8 and name.to_csv(`name`)", "does more than compare"),
        ("name.ｔo_csv('stolen')", "does more than compare"),
        ("f'{name.to_csv(chr(115))}' == name", "does more than compare"),
        ("[name.to_csv('stolen') for level in name]", "does more than compare"),
        ("(lambda: name)() == 1", "does more than compare"),
        ("name[0] == 1", "does more than compare"),
        ("level ** 9 ** 9 ** 9 == 1", "does more than compare"),
        ("name == 'a' * 1000000000", "does more than compare"),
        ("name.str.contains.__globals__ == 1", "does more than compare"),
        ("name.isna().to_csv('stolen')", "does more than compare"),
        ("exec('1') == 1", "does more than compare"),
        ("@pd.io == 1", "does more than compare"),
        ("pd == 1", "name 'pd' is not defined"),
        ("(" * 3000 + "level" + ")" * 3000, "invalid syntax"),
        ("level == 8\nlevel == 9", "invalid syntax"),
    ],
)
def test_a_wrong_query_is_echoed_with_the_columns(results, expression, reason, monkeypatch):
    monkeypatch.chdir(results)
    runs = query.runs(results)
    with pytest.raises(UsageError) as told:
        query.select(runs, expression)
    message = str(told.value)
    assert message.startswith(f"the query {expression!r} ") and reason in message and "\n" not in message
    assert "path, kind, name" in message or "does more than compare: use columns and values" in message
    assert not (results / "stolen").exists()


def test_describe_says_what_there_is(results):
    text = query.describe(results / "deep" / "easy.h5")
    for expected in [
        f"{results}/deep/easy.h5: imp artifact easy",
        f"identity {store.read(results / 'deep' / 'easy.h5').identity}",
        "  milestones               [4, 6]",
        f"rewind_point: pretrain artifact p1, identity {store.read(results / 'p1.h5').identity[:12]}…",
        "    scores: score artifact score, identity ",
        "    balanced               False (default)",
        "  runs 1\n    device                 cuda",
        "    packages\n      numpy                2",
        "table, 3 rows",
        "contents, 3 arrays in ",
        "  replicate_*/level_*/mask  uint8    (5,)                  3 x 5 bytes",
    ]:
        assert expected in text, expected
    with pytest.raises(UsageError, match=r"no.h5 does not exist"):
        query.describe(results / "no.h5")


def test_export_keeps_every_digit(results):
    table = {"acc": [0.1 + 0.2, 1 / 3], "name": ['a,"b"', "ü"], "n": [1, 2]}
    write(results / "x.h5", "imp", {}, table=table)
    for target, file in [(results / "out.csv", results / "out.csv"), (results / "deep", results / "deep" / "x.csv")]:
        assert export(results / "x.h5", target) == file
        header, *rows = csv.reader(io.StringIO(file.read_text(encoding="utf-8")))
        assert header == list(table)
        assert [(float(acc), name, int(n)) for acc, name, n in rows] == list(zip(*table.values(), strict=True))
    with pytest.raises(UsageError, match="score.h5 has no table to export"):
        export(results / "score.h5", results / "out.csv")
    with pytest.raises(RunError, match="cannot write"):
        export(results / "x.h5", results / "x.h5" / "out.csv")


def test_a_table_is_printed_as_pandas_does():
    rng, n = np.random.default_rng(0), 200
    table = pd.DataFrame(
        {
            "few": rng.integers(0, 3, n),
            "floats": rng.choice([0.0, -0.0, 1.5, np.nan, np.inf, 1e-12, 123456.789], n),
            "text": rng.choice(["a", "äöü", "", "two\nlines", "long " * 30], n),
            "flag": rng.integers(0, 2, n).astype(bool),
            "whole or none": pd.array(rng.choice([1, 2, None], n), dtype="Int64"),
            "anything": pd.Series([[1], 1, True, 1.0, None, "x"] * n, dtype=object)[:n],
        }
    )
    for rows in (table, table[:1], table[:0], table[["few"]], table[table.few == 1]):
        assert query.text(rows) == rows.to_string(index=False)
