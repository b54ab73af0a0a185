"""The work folder of a long stage: taken up, refused, damaged, another's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repro import store
from repro.errors import UsageError
from repro.store import hdf5
from tests.test_store_writes import CELL, killed_when_ready


def test_work_folder_round_trip(tmp_path):
    work = store.WorkFolder(tmp_path / "x.h5", **CELL)
    assert work.names() == [] and work.load("level_0") is None
    arrays = {"weights": np.ones((2, 3), "f4"), "replicate_0/rng": np.array("state"), "step": np.int64(7)}
    work.save("level_0", arrays, {"acc": 0.5, "seen": [1, 2]})
    work.save("checkpoint", {"a": np.arange(3)})
    work.save("checkpoint", {"b": np.arange(4)}, {"step": 9})
    again = store.WorkFolder(tmp_path / "x.h5", **CELL)
    assert again.names() == ["checkpoint", "level_0"]
    back, attrs = again.load("level_0")
    assert attrs == {"acc": 0.5, "seen": [1, 2]} and sorted(back) == sorted(arrays)
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)
    back["weights"] += 1  # belongs to the caller
    assert list(again.load("checkpoint")[0]) == ["b"] and again.load("checkpoint")[1] == {"step": 9}
    again.remove("checkpoint")
    assert again.names() == ["level_0"]
    again.discard()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="work name '../x'"):
        again.save("../x", {})


def test_work_of_another_recipe_is_not_taken_up(tmp_path):
    store.WorkFolder(tmp_path / "x.h5", **CELL).save("level_0", {"a": np.arange(3)})
    other = {**CELL, "recipe": {**CELL["recipe"], "steps": 90}}
    with pytest.raises(
        UsageError, match="x.h5.work was made with another recipe: steps is 80 there and 90 here; .*force"
    ):
        store.WorkFolder(tmp_path / "x.h5", **other)
    assert store.WorkFolder(tmp_path / "x.h5", **CELL).names() == ["level_0"]
    assert store.WorkFolder(tmp_path / "x.h5", **other, force=True).names() == []
    assert store.WorkFolder(tmp_path / "x.h5", **other).names() == []


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: whole[:-9] + bytes(9)])
def test_damaged_work_is_done_again(tmp_path, capsys, damage):
    work = store.WorkFolder(tmp_path / "x.h5", **CELL)
    work.save("level_0", {"a": np.arange(3)})
    file = tmp_path / "x.h5.work" / "level_0.h5"
    file.write_bytes(damage(file.read_bytes()))
    assert work.load("level_0") is None
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {file} ") and warning.endswith(": it is computed again\n")


def test_work_without_a_known_recipe_is_done_again(tmp_path, capsys):
    store.WorkFolder(tmp_path / "x.h5", **CELL).save("level_0", {"a": np.arange(3)})
    (tmp_path / "x.h5.work" / "lineage.json").write_text('{"kind": "im', encoding="utf-8")
    assert store.WorkFolder(tmp_path / "x.h5", **CELL).names() == []
    assert "x.h5.work does not say which recipe it belongs to: its work is done again" in capsys.readouterr().err
    (tmp_path / "y.h5.work").mkdir()
    (tmp_path / "y.h5.work" / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="y.h5.work holds other files: move them away, or pass --force"):
        store.WorkFolder(tmp_path / "y.h5", **CELL)
    store.WorkFolder(tmp_path / "y.h5", **CELL, force=True).save("level_0", {})


def test_kill_while_saving_work_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "x.h5"
    store.WorkFolder(path, **CELL).save("checkpoint", {"a": np.arange(3)})
    killed_when_ready(
        "work = store.WorkFolder(path, **CELL)\nos.replace = lambda *_: ready()\n"
        "work.save('checkpoint', {'a': np.arange(9)})",
        path,
    )
    assert len(list((tmp_path / "x.h5.work").iterdir())) == 3
    work = store.WorkFolder(path, **CELL)
    assert work.load("checkpoint")[0]["a"].tolist() == [0, 1, 2]
    assert sorted(file.name for file in (tmp_path / "x.h5.work").iterdir()) == ["checkpoint.h5", "lineage.json"]


# one name, one folder


@pytest.mark.parametrize(("one", "other"), [("run.a", "run.b"), ("x", "x.h5"), ("x.h5", "x.h5.bak"), ("a", "a.b.h5")])
def test_names_that_differ_share_nothing(tmp_path, one, other):
    first, second = (store.WorkFolder(tmp_path / name, **CELL) for name in (one, other))
    assert first.folder != second.folder
    first.save("checkpoint", {"a": np.arange(3)})
    second.save("checkpoint", {"a": np.arange(5)})
    leftover = tmp_path / f".{other}.node-1.77.tmp"
    leftover.write_text("being written", encoding="utf-8")
    with store.writer_lock(tmp_path / one):
        assert len(store.WorkFolder(tmp_path / one, **CELL).load("checkpoint")[0]["a"]) == 3
    assert leftover.exists() and len(second.load("checkpoint")[0]["a"]) == 5
    with store.writer_lock(tmp_path / other):
        assert not leftover.exists()
    first.discard()
    assert len(second.load("checkpoint")[0]["a"]) == 5


def earlier(path: Path, monkeypatch, kind=CELL) -> Path:
    """Work as earlier versions left it: the folder named from the stem, no identity in its files."""
    work = store.WorkFolder(path, **kind)
    work.save("level_0", {"a": np.arange(3)}, {"acc": 0.5})
    with monkeypatch.context() as patch:
        pack = hdf5.pack
        patch.setattr(
            hdf5,
            "pack",
            lambda arrays, attributes, **options: pack(
                arrays, {key: value for key, value in attributes.items() if key != "identity"}, **options
            ),
        )
        work.save("level_0", {"a": np.arange(3)}, {"acc": 0.5})
    told = json.loads((work.folder / "lineage.json").read_text(encoding="utf-8"))
    del told["of"]
    (work.folder / "lineage.json").write_text(json.dumps(told), encoding="utf-8")
    return work.folder.rename(path.with_name(f"{path.stem}.work"))


def test_work_of_earlier_versions_is_taken_over(tmp_path, monkeypatch):
    older = earlier(tmp_path / "x.h5", monkeypatch)
    work = store.WorkFolder(tmp_path / "x.h5", **CELL)
    assert work.load("level_0")[1] == {"acc": 0.5} and not older.exists()
    older = earlier(tmp_path / "y.h5", monkeypatch)
    other = {**CELL, "recipe": {**CELL["recipe"], "steps": 90}}
    assert store.WorkFolder(tmp_path / "y.h5", **other).names() == [] and (older / "level_0.h5").exists()


def test_work_in_progress_of_another_name_is_not_taken_over(tmp_path):
    store.WorkFolder(tmp_path / "x", **CELL).save("level_0", {"a": np.arange(3)})
    assert store.WorkFolder(tmp_path / "x.h5", **CELL).names() == []
    assert store.WorkFolder(tmp_path / "x", **CELL).names() == ["level_0"]


def test_a_checkpoint_of_another_artifact_is_not_loaded(tmp_path, capsys):
    other = {**CELL, "recipe": {**CELL["recipe"], "steps": 90}}
    store.WorkFolder(tmp_path / "y.h5", **other).save("checkpoint", {"a": np.arange(3)})
    work = store.WorkFolder(tmp_path / "x.h5", **CELL)
    shutil.copy(tmp_path / "y.h5.work" / "checkpoint.h5", work.folder / "checkpoint.h5")
    assert work.load("checkpoint") is None
    assert f"{work.folder / 'checkpoint.h5'} is of another artifact: it is computed again" in capsys.readouterr().err


def test_stray_files_in_a_work_folder(tmp_path, capsys):
    work = store.WorkFolder(tmp_path / "x.h5", **CELL)
    assert work.next_name("pieces-") == "pieces-00000"
    work.save("pieces-00009", {"a": np.arange(3)})
    work.save("pieces-00010", {"a": np.arange(3)})
    work.save("pieces-old", {"a": np.arange(3)})
    (work.folder / "pieces-mine.h5").write_text("mine", encoding="utf-8")
    (work.folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert work.numbered("pieces-") == ["pieces-00009", "pieces-00010"] and work.next_name("pieces-") == "pieces-00011"
    work.discard()
    assert sorted(path.name for path in work.folder.iterdir()) == ["notes.txt", "pieces-mine.h5"]
    assert "holds notes.txt, which is none of this program's files: it stays" in capsys.readouterr().err
