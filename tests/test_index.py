"""The index beside a folder of artifacts: it saves reading, and nothing that it says is believed of another file."""

import os

import h5py
import numpy as np
import pandas as pd
import pytest

from repro import store
from repro.errors import UsageError
from repro.reading import query
from repro.store import index
from repro.store.index import flat

COUNT = 30


def write(path, acc=0.5, level=0, **recipe):
    recipe = {"dataset": "digits", "lr": 0.1, "milestones": [4, 6], "size": None, **recipe}
    table = {"piece": ["a", "b"], "level": [level, level + 1], "acc": np.float32([acc, np.nan])}
    store.write(
        path,
        kind="imp",
        recipe=recipe,
        inputs={},
        arrays={"mask": np.arange(9)},
        table=table,
        provenance={"runs": []},
        defaults={},
    )


@pytest.fixture
def folder(tmp_path):
    for k in range(COUNT):
        write(tmp_path / "results" / f"a{k}.h5", acc=k / 100, seed=k)
    return tmp_path / "results"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that HDF5 opens."""
    names, usual = [], h5py.File

    def file(name, *args, **options):
        names.append(os.path.basename(name))
        return usual(name, *args, **options)

    monkeypatch.setattr(h5py, "File", file)
    return names


def test_a_second_look_opens_nothing_and_says_the_same(folder, opened):
    first = query.runs(folder)
    assert len(opened) == COUNT and index.beside(folder).parent == folder.parent
    opened.clear()
    pd.testing.assert_frame_equal(query.runs(folder), first)
    with store.Index() as look:
        assert look(folder / "a7.h5").recipe["seed"] == 7 and look(folder / "a7.h5").pieces == {"a", "b"}
    assert opened == []


def test_only_what_changed_is_read_again(folder, opened):
    query.runs(folder)
    write(folder / "a3.h5", acc=0.99, seed=3)
    os.utime(folder / "a4.h5", ns=(1, 1))
    os.remove(folder / "a5.h5")
    os.replace(folder / "a7.h5", folder / "a6.h5")
    opened.clear()
    found = query.runs(folder)
    assert sorted(opened) == ["a3.h5", "a4.h5", "a6.h5"]
    assert found[found.path == str(folder / "a3.h5")].acc.iloc[0] == np.float32(0.99)
    assert found[found.path == str(folder / "a6.h5")].seed.iloc[0] == 7 and len(found) == 2 * (COUNT - 2)


def test_contents_are_compared_whatever_the_index_says(folder, capsys):
    """A byte of an array is turned, and size and time are those of before."""
    query.runs(folder)
    path = folder / "a9.h5"
    with h5py.File(path, "r", locking=False) as file:
        place = file["mask"].id.get_chunk_info(0).byte_offset
    before, content = path.stat(), bytearray(path.read_bytes())
    for offset in (place, place + 512):  # from the start of the file, or of the image in it
        content[offset] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert str(path) not in set(query.runs(folder).path)
    assert "a9.h5 was altered after it was written" in capsys.readouterr().err
    with pytest.raises(UsageError, match="altered"):
        store.Index(verify=True)(path)


def test_what_was_read_without_comparing_is_compared_for_who_asks(folder, opened):
    with store.Index() as look:
        for path in folder.iterdir():
            look(path)
    opened.clear()
    query.runs(folder)
    assert len(opened) == COUNT
    opened.clear()
    query.runs(folder)
    assert opened == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-40],
        lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],
        lambda content: b"",
        lambda content: content.replace(b"format 1", b"format 0"),
    ],
    ids=["truncated", "altered", "empty", "other format"],
)
def test_a_damaged_index_costs_time_alone(folder, spoil, opened):
    first, path = query.runs(folder), index.beside(folder)
    path.write_bytes(spoil(path.read_bytes()))
    opened.clear()
    pd.testing.assert_frame_equal(query.runs(folder), first)
    assert len(opened) == COUNT


def test_an_index_that_cannot_be_written_costs_time_alone(folder, monkeypatch):
    def refused(path, blocks):
        raise store.files.write_failure(path, PermissionError(13, "Permission denied"))

    monkeypatch.setattr(store.files, "write_whole", refused)
    assert len(query.runs(folder)) == 2 * COUNT and not index.beside(folder).exists()


@pytest.mark.parametrize("stands", ["file", "folder"])
def test_what_is_no_index_is_left_alone(folder, stands):
    path = index.beside(folder)
    path.mkdir() if stands == "folder" else path.write_text("mine", encoding="utf-8")
    assert len(query.runs(folder)) == 2 * COUNT
    assert path.is_dir() if stands == "folder" else path.read_text(encoding="utf-8") == "mine"


def test_a_folder_of_few_has_no_index(tmp_path):
    write(tmp_path / "results" / "a.h5")
    query.runs(tmp_path / "results")
    assert os.listdir(tmp_path) == ["results"]


def test_columns_are_those_of_a_frame_for_each_artifact(folder):
    """Compared with pandas.concat of frames, one an artifact; a recipe's value may be of another type in each."""
    for k, value in enumerate([1, 2**63, 0.5, True, "text", [1, 2], -1, None]):
        write(folder / f"b{k}.h5", odd=value, other=value if k == 4 else 7, level=k)
    store.write(
        folder / "c.h5",
        kind="score",
        recipe={"level": 3, "acc": "none", "kind": "el2n"},
        inputs={},
        arrays={},
        table={"name": ["x"], "flag": [True], "level": np.uint8([4])},
        provenance={},
        defaults={},
    )
    frames, whole = [], {"i": "Int64", "u": "UInt64", "b": "boolean"}
    for path in sorted(folder.iterdir()):
        artifact = store.read(path)
        table = artifact.table().rename(columns={"name": "table_name"})
        fields, _ = flat(artifact.lineage, artifact.columns())
        head = {"path": str(path), "kind": artifact.kind, "name": artifact.name, "identity": artifact.identity}
        parts = [pd.DataFrame(head, table.index), table, pd.DataFrame(fields, table.index)]
        frame = pd.concat(parts, axis=1)
        frames.append(frame.astype({name: whole[d.kind] for name, d in frame.dtypes.items() if d.kind in whole}))
    pd.testing.assert_frame_equal(query.runs(folder), pd.concat(frames, ignore_index=True))
