"""`repro.load`: tables, arrays and networks by name, compared with h5py and NumPy; and what it shows of itself."""

from html.parser import HTMLParser

import h5py
import numpy as np
import pandas as pd
import pytest

import repro
from repro import store
from repro.errors import UsageError
from repro.nets import create
from tests.test_export import by_hand, split, write, write_network

IMAGES = 13  # no multiple of 8: three bits of padding


@pytest.fixture
def net(tmp_path):
    groups = write_network(tmp_path / "net.h5", "cifar_resnet8_w4", 10, 1)
    return tmp_path / "net.h5", groups


def test_networks_and_masks_by_name(net):
    path, groups = net
    with h5py.File(path) as file:
        rewind, trained = file["replicate_0/level_0/rewind_weights"][:], file["replicate_0/level_2/weights"][:]
        bits = np.unpackbits(file["replicate_0/level_2/mask"][:]).astype(bool)
    count = sum(int(np.prod(shape)) for shape in groups[0].values())
    assert count % 8, "the last byte of the mask is to be padded"
    run, masks, ticket = repro.load(path), split(bits[:count], groups[0]), rewind.copy()
    ticket[:count] *= bits[:count]
    for found, expected in [
        (run.masks(0, 2), masks),
        (run.ticket(0, 2), split(ticket, *groups)),
        (run.weights(0, 2), split(trained, *groups)),
        (run.rewind_weights(0), split(rewind, *groups)),
    ]:
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
    assert np.array_equal(run["replicate_0/level_2/mask"], bits[:count])
    with pytest.raises(UsageError, match="has no level 7 of replicate 0"):
        run.masks(0, 7)
    with pytest.raises(UsageError, match="has no test bits of level 7 of replicate 0"):
        run.test_correct(0, 7)


def test_the_rest_of_an_artifact_is_as_it_was_written(net):
    run, artifact = repro.load(net[0]), store.read(net[0])
    pd.testing.assert_frame_equal(run.table, artifact.table())
    assert (run.recipe, run.identity, run.kind) == (
        {"dataset": "digits", "network": "cifar_resnet8_w4"},
        artifact.identity,
        "imp",
    )
    assert run.provenance == {} and run.content_sha256 == artifact.content_sha256
    assert list(run.arrays) == artifact.keys() and len(run.arrays) == 5
    assert np.array_equal(run.arrays["replicate_0/level_2/weights"], artifact["replicate_0/level_2/weights"])
    with pytest.raises(
        KeyError, match="no array 'replicate_0/level_2/mass' in .*net.h5; there is replicate_0/level_2/mask"
    ):
        run["replicate_0/level_2/mass"]


def test_pretrain_has_weights_without_a_level(tmp_path):
    vector = np.random.default_rng(1).standard_normal(5310, "f4")
    recipe = {"dataset": "digits", "network": "cifar_resnet8_w4"}
    write(
        tmp_path / "p.h5", "pretrain", recipe=recipe, table={"replicate": [0]}, arrays={"replicate_0/weights": vector}
    )
    expected = split(vector, *by_hand(create("cifar_resnet8_w4", num_classes=10, in_chans=1)))
    run = repro.load(tmp_path / "p.h5")
    for found in (run.weights(0), run.rewind_weights(0)):
        assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


def test_bits_of_images_are_as_many_as_there_are_images(tmp_path):
    """Of runs with folds of two sizes; a network that diverged, or is never right, does not say how many."""
    rng = np.random.default_rng(2)
    correct = {
        "all/w8/replicate_0": rng.random(IMAGES) < 0.7,
        "all/w9/replicate_0": np.zeros(IMAGES, bool),
        "all/w8/replicate_1": rng.random(IMAGES + 1) < 0.5,
        "all/w9/replicate_1": rng.random(IMAGES + 1) < 0.5,
    }
    names = sorted(correct, reverse=True)
    diverged = [name == "all/w9/replicate_1" for name in names]
    acc = [0.1 if lost else correct[name].mean() for name, lost in zip(names, diverged, strict=True)]
    write(
        tmp_path / "w.h5",
        "warmup",
        table={"piece": names, "acc": acc, "diverged": diverged},
        arrays={f"{name}/test_correct": np.packbits(bits) for name, bits in correct.items()},
    )
    run = repro.load(tmp_path / "w.h5")
    for name, bits in correct.items():
        assert np.array_equal(run[f"{name}/test_correct"], bits)


def test_bits_on_a_line_are_as_many_as_losses(tmp_path):
    wrong = np.random.default_rng(3).random((3, IMAGES)) < 0.4
    pair = "replicate_0/pair_0_1/averaged"
    write(
        tmp_path / "b.h5",
        "barrier",
        arrays={f"{pair}/test_wrong": np.packbits(wrong, axis=1), f"{pair}/test_loss": np.zeros((3, IMAGES), "f4")},
    )
    assert np.array_equal(repro.load(tmp_path / "b.h5")[f"{pair}/test_wrong"], wrong)


def test_bits_of_no_known_number(tmp_path):
    write(
        tmp_path / "w.h5",
        "warmup",
        table={"piece": ["all/w8/replicate_0"], "acc": [0.0], "diverged": [False]},
        arrays={"all/w8/replicate_0/test_correct": np.zeros(2, "u1")},
    )
    with pytest.raises(UsageError, match="how many test images the bits of all/w8/replicate_0 are of cannot be told"):
        repro.load(tmp_path / "w.h5")["all/w8/replicate_0/test_correct"]


def test_folders_and_tables(net, tmp_path):
    (tmp_path / "figure.csv").write_text("condition,acc\nall,0.30000000000000004\n", encoding="utf-8")
    pd.testing.assert_frame_equal(repro.load(tmp_path), repro.runs(tmp_path))
    assert repro.load(str(tmp_path / "figure.csv")).acc.tolist() == [0.1 + 0.2]
    from repro.reading.export_tables import export

    export(tmp_path, tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(repro.load(tmp_path / "all.parquet"), repro.runs(tmp_path))


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        (
            "none",
            None,
            "none does not exist: give an artifact, a folder of them, or a .csv or .parquet file (image sets: "
            "repro.data.load)",
        ),
        (
            "figure.pdf",
            b"%PDF",
            "figure.pdf is none of what repro.load reads: give an artifact, a folder of them, or a "
            ".csv or .parquet file",
        ),
        ("x.h5", b"\x89HDF", "x.h5 is a file of another program: give an artifact that repro made"),
        ("x.csv", b"", "x.csv cannot be read as a table: give a .csv file that repro wrote"),
        ("x.csv", b"\xff\xfe\xfa", "x.csv cannot be read as a table: give a .csv file that repro wrote"),
        ("x.parquet", b"PAR1", "x.parquet cannot be read as a table: give a .parquet file that repro wrote"),
    ],
)
def test_wrong_paths(name, contents, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(UsageError) as told:
        repro.load(name)
    assert str(told.value) == said


class Tags(HTMLParser):
    """Complains of a tag that is not closed in its turn, and keeps the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_it_shows_what_is_inside(net, tmp_path):
    text = repr(repro.load(net[0]))
    for part in (
        "imp artifact net, identity ",
        "network=cifar_resnet8_w4",
        "3 rows: replicate, level,",
        "replicate_*/level_*/mask (2)",
        ".masks(), .ticket(), .weights(), .rewind_weights()",
    ):
        assert part in text
    write(
        tmp_path / "s.h5",
        "score",
        recipe={"note": "<script>"},
        table={"name": ["<b>"]},
        arrays={"fold_0/el2n": np.ones(2), "fold_1/el2n": np.ones(2)},
    )
    run = repro.load(tmp_path / "s.h5")
    assert "fold_*/el2n (2)" in repr(run) and ".masks" not in repr(run)
    page = Tags()
    page.feed(run._repr_html_())
    assert page.open == [] and "<script>" in page.text and "<b>" in page.text and "fold_*/el2n" in page.text
