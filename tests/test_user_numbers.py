"""Scores and labels as other programs write them: read right, or refused with the reason; never read wrong."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from repro.data.user_numbers import read_numbers, split_key
from repro.errors import UsageError
from repro.plan.items import Subset
from repro.protocol import DIGITS
from tests.command_line import complaint, repro

SIZE, TRAIN = 20, np.arange(12)
SCORES = np.random.default_rng(7).random(SIZE).round(6)
ORDER = np.argsort(SCORES)
LINES = list(enumerate(SCORES.tolist()))


def pairs(part: str, first: int = 0, lines=LINES) -> str:
    return "\n".join(f"{i + first}{part}{x}" for i, x in lines)


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array


WRITERS = {  # file name: what writes it
    "lines.csv": lambda p: p.write_text("\n".join(map(str, SCORES)), encoding="utf-8"),
    "crlf.csv": lambda p: p.write_bytes(b"index,score\r\n" + pairs(",").replace("\n", "\r\n").encode()),
    "mac.csv": lambda p: p.write_bytes(b"index,score\r" + pairs(",").replace("\n", "\r").encode()),
    "excel.csv": lambda p: p.write_bytes(("index\tscore\n" + pairs("\t")).encode("utf-16")),
    "decimal_comma.csv": lambda p: p.write_text("index;score\n" + pairs(";").replace(".", ","), encoding="utf-8"),
    "tabs.tsv": lambda p: p.write_text("Image_ID\tEL2N\n" + pairs("\t"), encoding="utf-8"),
    "spaces.txt": lambda p: np.savetxt(p, np.c_[np.arange(SIZE), SCORES]),
    "savetxt.txt": lambda p: np.savetxt(p, np.c_[SCORES, np.arange(SIZE)], delimiter=",", header="score,index"),
    "column.txt": lambda p: np.savetxt(p, SCORES, header="made on a Friday, by hand"),
    "comments.csv": lambda p: p.write_text("# run 3, seed 7\n\nindex,score\n" + pairs(",") + "\n# the end\n"),
    "series.csv": lambda p: pd.Series(SCORES).to_csv(p),
    "shuffled.csv": lambda p: pd.Series(SCORES, name="score").sample(frac=1, random_state=1).to_csv(p),
    "frame.csv": lambda p: pd.DataFrame(SCORES).to_csv(p, index=False),
    "frame_train.csv": lambda p: pd.DataFrame(SCORES[TRAIN]).to_csv(p, index=False),
    "labelled.csv": lambda p: pd.DataFrame({"index": range(SIZE), "label": 3, "score": SCORES}).to_csv(p),
    "quoted.csv": lambda p: pd.DataFrame({"score": SCORES, "idx": range(SIZE)}).to_csv(p, quoting=1, index=False),
    "comma_at_end.csv": lambda p: p.write_text("index,score,\n" + pairs(",").replace("\n", ",\n") + ",\n"),
    "ranks.csv": lambda p: p.write_text("index,score\n" + pairs(",", lines=enumerate(np.argsort(ORDER).tolist()))),
    "half.npy": lambda p: np.save(p, SCORES.astype(np.float32)[:, None]),
    "row.npy": lambda p: np.save(p, SCORES.astype(">f8")[None]),
    "fields.npy": lambda p: np.save(
        p, np.array([(i, SCORES[i]) for i in ORDER], dtype=[("index", "i4"), ("el2n", "f8")])
    ),
    "archive.npz": lambda p: np.savez(p, idx=ORDER, scores=SCORES[ORDER]),
    "tensor.pt": lambda p: torch.save(torch.from_numpy(SCORES), p),
    "dict.pt": lambda p: torch.save({"index": torch.from_numpy(ORDER), "el2n": SCORES[ORDER], "epoch": 3}, p),
    "bare.h5": lambda p: h5(p, el2n=SCORES),
    "index.h5": lambda p: h5(p, index=ORDER, score=SCORES[ORDER]),
    "nested.h5": lambda p: h5(p, a__index=ORDER, a__el2n=SCORES[ORDER][:, None]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_other_programs_are_read_right(name, tmp_path):
    WRITERS[name](tmp_path / name)
    found = read_numbers(tmp_path / name, "score", size=SIZE, train=TRAIN)
    wanted = np.argsort(ORDER) if name == "ranks.csv" else SCORES
    np.testing.assert_allclose(found[TRAIN], wanted[TRAIN], rtol=1e-6)


REFUSED = {  # file name: (what writes it, what is said)
    "decimal.csv": (lambda p: p.write_text("\n".join(map(str, SCORES)).replace(".", ",")), "is no decimal comma"),
    "one.csv": (lambda p: p.write_text("index,score\n" + pairs(",", 1)), "indices 1 to 20, and the first image is 0"),
    "one_train.csv": (lambda p: p.write_text("index,score\n" + pairs(",", 1, LINES[:12])), "the indices 1 to 12, and"),
    "unknown.csv": (lambda p: p.write_text("rank,score\n" + pairs(",")), "rank, score and none called index"),
    "files.csv": (lambda p: p.write_text("file,score\na/0.png,0.1\n"), "file, score and none called index"),
    "index_only.csv": (lambda p: p.write_text("index\n" + "\n".join(map(str, range(SIZE)))), "no scores, only index"),
    "labels.csv": (lambda p: p.write_text("index,label\n" + pairs(",")), "index, label, which says nothing of scores"),
    "rank.csv": (lambda p: p.write_text("index,rank\n" + pairs(",")), "index, rank, which says nothing of scores"),
    "three.csv": (lambda p: p.write_text("index,el2n,grand\n1,2,3\n"), "say which is meant, like .*three.csv:el2n"),
    "gap.csv": (lambda p: p.write_text("index,score\n0,1\n1,\n", encoding="utf-8"), "line 3 has no score"),
    "ragged.csv": (lambda p: p.write_text("index,score\n0,1\n1,2,3\n4,5\n"), "line 3 has 3 columns, and the last"),
    "words.csv": (lambda p: p.write_text("index,score\n0,1\n1,n/a\n", encoding="utf-8"), "line 3: 'n/a' is no number"),
    "latin.csv": (lambda p: p.write_bytes("index,größe\n".encode("latin-1")), "it is no text in UTF-8"),
    "twins.csv": (lambda p: p.write_text("index,score,score\n1,2,3\n", encoding="utf-8"), "two columns of one name"),
    "inf.csv": (lambda p: p.write_text("inf\n" + "\n".join(map(str, SCORES[1:]))), "1 of the 20 scores .* infinite"),
    "argsort.npy": (lambda p: np.save(p, ORDER), "each number from 0 to 19 once, .* an order of images .argsort. or"),
    "order.txt": (lambda p: np.savetxt(p, ORDER + 1, "%d"), "each number from 1 to 20 once, .* order of images"),
    "enumerated.csv": (lambda p: p.write_text(pairs(",", lines=enumerate(ORDER.tolist()))), "may be an order of"),
    "chosen.npy": (lambda p: np.save(p, SCORES > 0.5), "holds true and false, by which images cannot be ranked"),
    "networks.npy": (lambda p: np.save(p, np.stack([SCORES] * 3)), r"shape \(3, 20\): give one number per image"),
    "objects.npy": (lambda p: np.save(p, np.array({"noise": SCORES}), allow_pickle=True), "holds Python objects, not"),
    "folds.h5": (lambda p: h5(p, a__el2n=SCORES, b__el2n=SCORES), "say which is meant, like .*folds.h5:a/el2n"),
    "uneven.h5": (lambda p: h5(p, index=np.arange(3), score=SCORES), "it has 3 indices and 20 of score"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_understood_in_two_ways_is_refused(name, tmp_path):
    write, said = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(UsageError, match=said):
        read_numbers(tmp_path / name, "score", size=SIZE, train=TRAIN)


def test_a_heading_or_a_score_is_not_guessed(tmp_path):
    (tmp_path / "a.csv").write_text("0\n" + "\n".join(["0.5"] * 19))  # 20 of 20, or 19 training images below pandas' 0
    assert len(read_numbers(tmp_path / "a.csv", "score", size=20, train=TRAIN)) == 20
    with pytest.raises(UsageError, match="its first line, 0, is a heading or a number"):
        read_numbers(tmp_path / "a.csv", "score", size=20, train=np.arange(19))


def test_ranks_are_told_and_what_ranks_alike_either_way_is_not(tmp_path, caplog):
    WRITERS["ranks.csv"](tmp_path / "ranks.csv")
    read_numbers(tmp_path / "ranks.csv", "score", size=SIZE, train=TRAIN)
    assert "each number from 0 to 19 once: they are taken for the ranks of the images" in caplog.text
    caplog.clear()
    for numbers in (np.arange(20), np.arange(20)[::-1]):
        np.save(tmp_path / "a.npy", numbers)
        assert np.array_equal(read_numbers(tmp_path / "a.npy", "score", size=SIZE, train=TRAIN), numbers)
    assert not caplog.text


# --- labels of several people, as they are published: a dict of arrays ------------------------------------------------


@pytest.fixture
def human(tmp_path):
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 10, 12) for name in ("clean_label", "worse_label")}
    torch.save(labels, tmp_path / "human.pt")
    return tmp_path / "human.pt", labels


def test_one_of_several_labels_is_named(human):
    path, labels = human
    found = read_numbers(f"{path}:worse_label", "label", size=SIZE, train=TRAIN)
    assert np.array_equal(found[TRAIN], labels["worse_label"]) and np.isnan(found[12:]).all()
    with pytest.raises(UsageError, match=r"clean_label, worse_label, .* like .*human.pt:clean_label$"):
        read_numbers(path, "label", size=SIZE, train=TRAIN)
    with pytest.raises(UsageError, match="has nothing called noisy among clean_label, worse_label: say which is meant"):
        read_numbers(f"{path}:noisy", "label", size=SIZE, train=TRAIN)
    assert split_key(path) == (path, None) and split_key("a:b.csv") == (type(path)("a:b.csv"), None)


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemError('it was run')",)


def test_nothing_in_a_file_of_labels_is_run(tmp_path):
    labels = np.arange(12) % 10
    torch.save({"worse_label": labels, "options": Harm()}, tmp_path / "a.pt")
    assert np.array_equal(read_numbers(tmp_path / "a.pt", "label", size=SIZE, train=TRAIN)[TRAIN], labels)
    torch.save({"worse_label": Harm()}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match=r"b.pt calls for .*exec, which is not run: write the tensors alone"):
        read_numbers(tmp_path / "b.pt", "label", size=SIZE, train=TRAIN)


def test_subsets_by_two_arrays_of_one_file_have_names_of_their_own():
    subsets = [Subset("easy", 9, score=f"own.npz:{key}") for key in ("a/el2n", "grand")]
    assert [subset.name(DIGITS) for subset in subsets] == ["easy9-own-a-el2n", "easy9-own-grand"]


def test_the_options_take_a_key(tmp_path):
    labels = np.random.default_rng(0).integers(0, 10, 1797)
    torch.save({"clean": labels * 0, "worse": labels}, tmp_path / "human.pt")
    np.savez(tmp_path / "scores.npz", el2n=labels + 0.5, grand=labels)
    command = ("select", "--kind", "easy", "--size", 9, "--unbalanced", "--replicates", 1, "--dataset", "digits")
    command += ("--scores", f"{tmp_path}/scores.npz:el2n", "--out", tmp_path / "e.h5")
    assert "labels that are not the data set's own" in repro(*command, "--labels", f"{tmp_path}/human.pt:worse").stdout
    assert "clean, worse" in complaint(*command[:-1], tmp_path / "f.h5", "--labels", tmp_path / "human.pt")
