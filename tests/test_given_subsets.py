"""Subsets of others, and bands of the scores: by plain Python that sorts and counts."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from repro.data.images import load
from repro.data.subsets import band
from repro.data.user_indices import read_indices
from repro.errors import UsageError
from repro.store import read
from tests.command_line import complaint, repro

LISTED = [17, 3, 250, 4, 1200]


def lines(*rows: str) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def saved(content, tmp_path) -> bytes:
    torch.save(content, tmp_path / "content")
    return (tmp_path / "content").read_bytes()


def npy(content, tmp_path) -> bytes:
    np.save(tmp_path / "content.npy", content)
    return (tmp_path / "content.npy").read_bytes()


WRITTEN = {  # what others publish, each of which lists LISTED
    "a.npy": lambda tmp: npy(np.array(LISTED, np.int32), tmp),
    "column.npy": lambda tmp: npy(np.array(LISTED)[:, None], tmp),
    "a.txt": lambda tmp: lines(*map(str, LISTED)),
    "savetxt.txt": lambda tmp: lines(*(f"{index:.18e}" for index in LISTED)),
    "line.txt": lambda tmp: lines(" ".join(map(str, LISTED))),
    "line.csv": lambda tmp: lines(",".join(map(str, LISTED))),
    "headed.csv": lambda tmp: lines("index", *map(str, LISTED)),
    "pandas.csv": lambda tmp: pd.DataFrame({"idx": LISTED}).to_csv().encode(),
    "a.json": lambda tmp: json.dumps(LISTED).encode(),
    "object.json": lambda tmp: json.dumps({"selected": LISTED, "fraction": 0.1}).encode(),
    "tensor.pt": lambda tmp: saved(torch.tensor(LISTED), tmp),
    "list.pt": lambda tmp: saved(LISTED, tmp),
    "coreset.pt": lambda tmp: saved({"indices": np.array(LISTED), "weights": torch.ones(5), "epoch": 3}, tmp),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_lists_of_others_are_read_in_their_order(name, tmp_path):
    (tmp_path / name).write_bytes(WRITTEN[name](tmp_path))
    found = read_indices(tmp_path / name)
    assert found.dtype == np.int64 and found.tolist() == LISTED
    assert read_indices(tmp_path / name, size=5).tolist() == LISTED


def test_the_heading_of_a_column_without_a_name_is_told_by_the_size(tmp_path):
    pd.Series([5, 8]).to_csv(tmp_path / "a.csv", index=False)  # its first line is 0
    assert read_indices(tmp_path / "a.csv", size=2).tolist() == [5, 8]
    assert read_indices(tmp_path / "a.csv").tolist() == [0, 5, 8]


class Evil:
    def __reduce__(self):
        return print, ("run",)


REFUSED = {
    "no.npy": (None, r"cannot read .*no.npy \(No such file or directory\): give a file of indices"),
    "a.doc": (lambda tmp: b"1", r"its name must end in one of .npy .csv .* not in .doc"),
    "empty.txt": (lambda tmp: b"", r"\(it is empty\)"),
    "empty.json": (lambda tmp: b"[]", r"\(it has no index\)"),
    "two.npy": (lambda tmp: npy(np.ones((2, 3), int), tmp), r"holds int64 of shape \(2, 3\): give one list"),
    "mask.npy": (
        lambda tmp: npy(np.ones(3, bool), tmp),
        "holds true and false: give the indices, as numpy.flatnonzero",
    ),
    "objects.npy": (lambda tmp: npy(np.array([Evil()]), tmp), "it holds Python objects, not numbers"),
    "minus.txt": (lambda tmp: lines("4", "-3"), "holds -3, which is no image: give whole numbers from 0 on"),
    "half.csv": (lambda tmp: lines("index", "4", "2.5"), "holds 2.5, which is no image"),
    "nan.npy": (lambda tmp: npy(np.array([1.0, np.nan]), tmp), "holds nan, which is no image"),
    "word.csv": (lambda tmp: lines("index", "4", "cat"), "line 3: 'cat' is no number"),
    "twice.json": (lambda tmp: b"[4, 9, 7, 9, 7]", "has 2 images more than once, the first of them 7: leave each"),
    "columns.csv": (lambda tmp: lines("a,b", "1,2"), "it has the columns a, b, of which not one alone is called index"),
    "scored.csv": (
        lambda tmp: lines("image,score", "4,0.5", "9,0.1"),
        "scored.csv has scores too: choose by --scores, or give the indices alone",
    ),
    "labelled.csv": (lambda tmp: lines(",index,label", "0,4,cat", "1,9,dog"), "labelled.csv has label too: choose by"),
    "scored.json": (
        lambda tmp: b'{"index": [4, 9], "scores": [0.5, 0.1]}',
        r"^\S*scored.json has scores too: choose by",
    ),
    "bare.csv": (lambda tmp: lines("0,5", "1,8"), "it has 2 columns, of which not one alone is called index"),
    "torn.json": (lambda tmp: b"[4, 9", "cannot be read as one list of image numbers"),
    "names.json": (lambda tmp: b'{"a": [1], "b": [2]}', "it holds a, b, of which not one alone is a list called index"),
    "text.json": (lambda tmp: b'"many"', "it holds a str"),
    "evil.pt": (lambda tmp: saved({"indices": Evil()}, tmp), "of which not one alone is a list called index"),
    "model.pt": (lambda tmp: saved({"w": torch.ones(2), "b": torch.ones(2)}, tmp), "it holds w, b, of which not"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_list_of_images_is_refused_in_one_sentence(name, tmp_path, capsys):
    content, message = REFUSED[name]
    if content:
        (tmp_path / name).write_bytes(content(tmp_path))
    with pytest.raises(UsageError, match=message):
        read_indices(tmp_path / name)
    assert "run" not in capsys.readouterr().out.split()


SCORES = np.random.default_rng(0).integers(0, 12, 120) / 8  # many equal ones
POOL = np.random.default_rng(1).permutation(120)[:90]


@pytest.mark.parametrize("low, high", [(0, 10), (10, 40), (40, 100), (0, 100), (33, 34)])
def test_a_band_is_a_slice_of_the_ranking(low, high):
    ranked = sorted(POOL.tolist(), key=lambda index: (SCORES[index], index))
    start, stop = (int(Fraction(share, 100) * 90 + Fraction(1, 2)) for share in (low, high))
    found = band(low / 100, high / 100, pool=POOL, scores=SCORES, count=90)
    assert found.dtype == np.int64 and found.tolist() == ranked[start:stop]


def test_bands_that_meet_are_all_images_once():
    edges = np.linspace(0, 1, 8)
    parts = [band(a, b, pool=POOL, scores=SCORES, count=90) for a, b in zip(edges, edges[1:])]
    assert sorted(np.concatenate(parts).tolist()) == sorted(POOL.tolist())


@pytest.mark.parametrize(
    "low, high, message",
    [
        (0.4, 0.1, "the band from 40% to 10% does not ascend"),
        (0.1, 0.1, "the band from 10% to 10% does not ascend"),
        (0.1, 1.1, "the band from 10% to 110% does not ascend within 0% and 100%: give --from below --to"),
        (0.5, 0.501, r"the band from 50% to 50.1% of 90 training images holds none: give a wider one"),
    ],
)
def test_bands_that_cannot_be_are_explained(low, high, message):
    with pytest.raises(UsageError, match=message):
        band(low, high, pool=POOL, scores=SCORES, count=90)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.mark.parametrize("suffix", ["npy", "csv", "txt", "json", "pt"])
def test_a_subset_goes_out_and_comes_back(suffix, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("s.csv", -np.arange(len(digits.labels)), fmt="%d")
    chosen = ("--scores", "s.csv", "--dataset", "digits", "--replicates", 2)
    repro("select", "--from", "0%", "--to", "2%", *chosen, "--out", "band.h5")
    ours = read("band.h5")["replicate_1/index"]
    assert ours.tolist() == digits.split(1)[0].numpy()[::-1][:29].tolist()  # 1,437 images
    repro("export", "band.h5", "--replicate", 1, "--part", "indices", "--out", f"a.{suffix}")
    there = {
        "npy": np.load,
        "json": lambda p: json.loads(Path(p).read_text()),
        "pt": lambda p: torch.load(p, weights_only=True),
        "csv": lambda p: pd.read_csv(p)["index"],
        "txt": lambda p: np.loadtxt(p, dtype=int),
    }
    theirs = there[suffix](f"a.{suffix}")
    subset = torch.utils.data.Subset(torch.utils.data.TensorDataset(digits.labels), theirs)
    assert [int(subset[k][0]) for k in range(29)] == digits.labels[ours].tolist()

    train = digits.split(0)[0].numpy()
    np.save("mine.npy", train[5:80:3])
    repro("select", "--indices", "mine.npy", "--dataset", "digits", "--replicates", 1, "--out", "given.h5")
    repro("export", "given.h5", "--replicate", 0, "--part", "indices", "--out", f"b.{suffix}")
    again = repro("select", "--indices", f"b.{suffix}", "--dataset", "digits", "--replicates", 1, "--out", "given.h5")
    assert "computed 0, reused 1" in again.stdout
    made = read("given.h5")
    assert made["replicate_0/index"].tolist() == train[5:80:3].tolist()
    assert made.recipe["subset"] == "given" and made.recipe["size"] == 25 and "seed" not in made.recipe
    assert made["replicate_0/histogram"].tolist() == np.bincount(digits.labels[train[5:80:3]], minlength=10).tolist()


COMPLAINTS = r"""
select --dataset digits
    select takes one of --kind easy, hard or random; --indices FILE; --from and --to: give one
select --kind easy --indices a.npy --dataset digits
    select takes one of --kind
select --from 10% --scores s.csv --dataset digits
    a band of the scores needs --from and --to, like 10% and 40%: give --to too
select --from 10 --to 40% --scores s.csv --dataset digits
    --from \(='10'\) must be a percentage from 0% to 100%, like 10%
select --from 10% --to 140% --scores s.csv --dataset digits
    --to \(='140%'\) must be a percentage
select --from 10% --to nan% --scores s.csv --dataset digits
    --to \(='nan%'\) must be a percentage
select --from 40% --to 10% --scores s.csv --dataset digits
    the band from 40% to 10% does not ascend
select --from 10% --to 40% --dataset digits
    kind 'band' needs --scores
select --from 10% --to 40% --scores s.csv --dataset digits --size 20
    --size 20, but --from and --to say how many images a band has
select --from 10% --to 40% --scores s.csv --dataset digits --balanced
    a band subset has the classes that its images have: leave --balanced out
select --indices a.npy
    select needs --dataset
select --indices a.npy --scores s.csv --dataset digits
    kind 'given' takes no scores
select --indices a.npy --dataset digits --size 4
    --size 4, but a.npy has 3 indices: leave --size out, or mend the file
select --indices a.npy --dataset digits --replicates 3
    a.npy names image 2, a test image of replicate 1: digits rotates its folds, so give --replicates 1$
select --indices far.npy --dataset digits --replicates 1
    far.npy names image 1797, and digits has the images 0 to 1796
select --indices test.npy --dataset folder:few
    test.npy names image 12, a test image of replicate 0: the training images of folder:few are 0 to 11
"""


def test_options_that_cannot_be_are_refused_in_one_sentence(digits, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "few" / place).mkdir(parents=True)
        for k in range(6 if "train" in place else 3):
            Image.new("L", (8, 8), 9 * k).save(tmp_path / "few" / place / f"{k}.png")
    np.savetxt("s.csv", np.arange(len(digits.labels)), fmt="%d")
    np.save("a.npy", digits.split(0)[0].numpy()[[0, 1, 2]])
    np.save("far.npy", [0, len(digits.labels)])
    np.save("test.npy", [3, 12])
    given = iter(COMPLAINTS.strip().splitlines())
    for command, expected in zip(given, given):
        with pytest.raises(AssertionError, match=expected.strip()):  # the whole sentence, shown where it is another
            raise AssertionError(complaint(*command.split(), "--out", "out.h5"))
    assert not (tmp_path / "out.h5").exists()

    repro("select", "--indices", "a.npy", "--dataset", "digits", "--replicates", 1, "--out", "given.h5")
    export = ("export", "given.h5", "--part", "indices", "--out")
    assert "a.doc ends in .doc: take .npy, .csv, .txt, .json or .pt" in complaint(*export, "a.doc", "--replicate", 0)
    assert "say --replicate" in complaint(*export, "b.npy")
    assert "has no replicate 1: see repro inspect given.h5" in complaint(*export, "b.npy", "--replicate", 1)
    assert "--level 2, but a subset has none" in complaint(*export, "b.npy", "--replicate", 0, "--level", 2)
    sentence = complaint(*export, "far.npy", "--replicate", 0)
    assert "far.npy is there and is a NumPy array, not the same list of images: choose another --out" in sentence
