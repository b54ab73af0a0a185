"""Label noise: who gets a wrong label, who trains on it, and who must never see it."""

import dataclasses
import math
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch

from repro import store
from repro.data import load
from repro.data.user_numbers import read_numbers
from repro.errors import UsageError
from repro.protocol import Scoring
from repro.recipes.artifacts import DEFAULTS
from repro.stages import imp, labels, pretrain, score, select
from repro.stages.labels import corrupt
from repro.store import read
from repro.train.random_streams import stream
from tests import plain_imp
from tests.command_line import TINY, complaint, repro
from tests.test_stages import NETWORK, RECIPE, SEED, plain, trained, x  # noqa: F401  (x is a fixture)

QUICK = dataclasses.replace(RECIPE, precision="fp32", steps=4, milestones=())
SMALL = dict(network=NETWORK, training=QUICK)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def by_the_rule(clean, fraction, replicate, seed=SEED):
    """ceil(fraction * N) images, each with a uniform label, one at a time."""
    rng = stream(seed, replicate, "labels")
    drawn, order = rng.integers(0, 10, len(clean)), rng.permutation(len(clean))
    wrong = clean.clone().numpy()
    for image in order[: math.ceil(fraction * len(clean))]:
        wrong[image] = drawn[image]
    return torch.from_numpy(wrong)


# --- the draw ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction, count", [(0, 0), (0.1, 31), (0.5, 151), (1, 301)])
def test_as_many_images_are_drawn_as_published_and_none_outside_the_pool(fraction, count):
    pool = np.arange(100, 401)
    result = corrupt(np.full(500, -1), fraction, num_classes=10, pool=pool, rng=stream(0, 0, "x"))
    changed = np.flatnonzero(result != -1)  # no class is -1, so each image that was drawn shows
    assert len(changed) == count and set(changed) <= set(pool)


def test_random_labels_are_uniform_over_all_classes_so_some_keep_theirs():
    n = 20000
    result = corrupt(np.zeros(n, int), 1.0, num_classes=10, pool=np.arange(n), rng=stream(0, 0, "x"))
    assert np.abs(np.bincount(result, minlength=10) - n / 10).max() < 5 * math.sqrt(n * 0.09)  # five sigma


def test_draws_are_addressed_and_a_larger_one_contains_a_smaller_one(digits):
    def draw(fraction, replicate=0, seed=0, kind="shared"):
        return labels.labels_in_use(digits, label_noise=fraction, noise_draw=kind, seed=seed).of(replicate)

    clean = digits.labels.numpy()
    assert np.array_equal(draw(0.1), by_the_rule(digits.labels, 0.1, 0, seed=0))
    assert np.array_equal(draw(0.1, 3), draw(0.1, 0)) and np.array_equal(draw(0.1, 0, kind="replicate"), draw(0.1))
    one, other = draw(0.5, 1, kind="replicate"), draw(0.5, 2, kind="replicate")
    assert not np.array_equal(one, other) and not np.array_equal(draw(0.1), draw(0.1, seed=1))
    both = ((one != clean) & (other != clean)).mean()  # independent: 0.45 squared
    assert both == pytest.approx(0.45**2, abs=0.05)
    few, many = draw(0.1), draw(0.5)
    assert np.array_equal(many[few != clean], few[few != clean])


def test_without_folds_only_training_images_get_noise(digits):
    data = dataclasses.replace(digits, splits=(digits.splits[2],))
    wrong = labels.labels_in_use(data, label_noise=1.0, seed=0).of(0)
    train, test = (index.numpy() for index in data.splits[0])
    assert np.array_equal(wrong[test], data.labels[test]) and (wrong[train] != data.labels.numpy()[train]).mean() > 0.8


# --- who sees them ----------------------------------------------------------------------------------------------------


def test_noise_is_for_pre_training_alone(tmp_path, digits, x):  # noqa: F811
    """A plain oracle pre-trains on its replicate's noisy labels, then trains, prunes and trains on the clean ones."""
    recipe, noise = dataclasses.replace(RECIPE, steps=18), dict(label_noise=0.5, noise_draw="replicate")
    pretrain(
        tmp_path / "w.h5", dataset="digits", t=8, replicates=2, network=NETWORK, training=recipe, seed=SEED, **noise
    )
    imp(tmp_path / "imp.h5", tmp_path / "w.h5", levels=1)
    point, pruned = read(tmp_path / "w.h5"), read(tmp_path / "imp.h5")
    for r in (0, 1):
        train_index, test_index = (index.numpy() for index in digits.splits[r])
        wrong = by_the_rule(digits.labels, 0.5, r)
        assert np.array_equal(point[f"replicate_{r}/labels"], wrong)
        net = trained(plain(r), x, wrong, train_index, stop=8, replicate=r)
        start = {name: value.clone() for name, value in net.state_dict().items()}
        np.testing.assert_allclose(point[f"replicate_{r}/weights"], flat(net), rtol=1e-8, atol=1e-10)
        with torch.no_grad():
            accuracy = (net.eval()(x[test_index]).argmax(1) == digits.labels[test_index]).double().mean().item()
        assert point.table().acc[r] == accuracy  # by clean labels
        trained(net, x, digits.labels, train_index, start=8, stop=18, replicate=r)
        np.testing.assert_allclose(pruned[f"replicate_{r}/level_0/weights"], flat(net), rtol=1e-7, atol=1e-9)
        masks = plain_imp.prune(net, [torch.ones_like(w, dtype=torch.bool) for w in plain_imp.prunable(net)])
        net.load_state_dict(start)
        plain_imp.train(
            net,
            masks,
            x,
            digits.labels,
            train_index,
            start=8,
            stop=18,
            lr_at=recipe.lr_at,
            batch=64,
            seed=SEED,
            replicate=r,
        )
        np.testing.assert_allclose(pruned[f"replicate_{r}/level_1/weights"], flat(net), rtol=1e-7, atol=1e-9)


def flat(net):
    from repro.nets import layout_of

    state = net.state_dict()
    return torch.cat([state[entry.name].flatten() for entry in layout_of(net).entries])


def test_what_is_made_from_noisy_scores_keeps_their_labels_whatever_its_seed(tmp_path, digits):
    scoring = Scoring(NETWORK, QUICK, networks=2, batch_norm="running")
    for draw, key in (("shared", "labels"), ("replicate", "replicate_1/labels")):
        out = {name: tmp_path / f"{draw}-{name}.h5" for name in ("scores", "easy", "like", "w", "grown")}
        score(out["scores"], dataset="digits", scoring=scoring, replicates=2, seed=5, label_noise=0.5, noise_draw=draw)
        said = select(out["easy"], kind="easy", size=200, scores=out["scores"], replicates=2, seed=6)
        select(out["like"], kind="random", size=200, like=out["easy"], replicates=2, seed=7)
        pretrain(out["w"], subset=out["easy"], t=2, replicates=2, seed=8, **SMALL)
        wrong = by_the_rule(digits.labels, 0.5, int(draw == "replicate"), seed=5).numpy()
        for artifact in map(read, (out["scores"], out["easy"], out["like"], out["w"])):
            assert np.array_equal(artifact[key], wrong)
            assert [artifact.recipe[f] for f in ("label_noise", "noise_draw", "noise_seed")] == [0.5, draw, 5]
        for name in ("easy", "like"):
            chosen = read(out[name])
            index = chosen["replicate_1/index"]
            share = np.mean([wrong[i] != digits.labels[i] for i in index])
            assert chosen.table().wrong_labels[1] == pytest.approx(share) and 0 < share < 1
            assert np.array_equal(chosen["replicate_1/histogram"], np.bincount(wrong[index], minlength=10))
        mean = 100 * read(out["easy"]).table().wrong_labels.mean()
        assert said.lines[-1] == f"labels that are not the data set's own: {mean:.1f} % (n=2)"


def test_random_subsets_are_balanced_by_the_labels_in_use(tmp_path, digits):
    select(tmp_path / "r.h5", kind="random", size=200, dataset="digits", replicates=2, seed=SEED, label_noise=0.5)
    wrong = by_the_rule(digits.labels, 0.5, 0)
    for r in (0, 1):
        index = read(tmp_path / "r.h5")[f"replicate_{r}/index"]
        assert np.bincount(wrong[index]).tolist() == [20] * 10 != np.bincount(digits.labels[index]).tolist()


def test_replicates_added_later_get_their_own_draw(tmp_path, digits):
    noise = dict(label_noise=0.5, noise_draw="replicate", seed=SEED)
    for replicates in (1, 3):
        pretrain(tmp_path / "w.h5", dataset="digits", t=1, replicates=replicates, **SMALL, **noise)
    for r in range(3):
        assert np.array_equal(read(tmp_path / "w.h5")[f"replicate_{r}/labels"], by_the_rule(digits.labels, 0.5, r))


# --- labels from a file -----------------------------------------------------------------------------------------------


def as_file(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["label"] = values
    else:
        path.write_text("".join(f"{v}\n" for v in values), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".npy", ".h5"])
def test_labels_from_a_file_travel_with_what_is_made_of_them(suffix, tmp_path, digits):
    human = np.random.default_rng(0).integers(0, 10, 1797)
    path = as_file(tmp_path / f"human{suffix}", human)
    options = ("--dataset", "digits", "--labels", path, "--out", tmp_path / "r.h5")
    repro("select", "--kind", "random", "--size", 100, *options, "--replicates", 2)
    path.unlink()
    repro("pretrain", "--subset", tmp_path / "r.h5", "-t", 2, *TINY, "--out", tmp_path / "w.h5")
    for artifact in (read(tmp_path / "r.h5"), read(tmp_path / "w.h5")):
        assert np.array_equal(artifact["labels"], human) and len(artifact.recipe["labels_sha256"]) == 64
    assert np.bincount(human[read(tmp_path / "r.h5")["replicate_0/index"]]).tolist() == [10] * 10


def test_other_labels_are_another_recipe(tmp_path):
    command = ("pretrain", "--dataset", "digits", "-t", 1, *TINY, "--out", tmp_path / "w.h5", "--labels")
    repro(*command, as_file(tmp_path / "a.npy", np.zeros(1797, int)))
    repro(*command, as_file(tmp_path / "a.csv", np.zeros(1797, int)))  # the same in another format
    said = complaint(*command, as_file(tmp_path / "b.npy", np.ones(1797, int)))
    assert "w.h5 was made with another recipe: labels_sha256 is" in said


TRAIN = np.arange(0, 20, 2)
FILES = {
    "whole.csv": ("\n".join(map(str, range(20))), range(20)),
    "header.csv": ("\ufefflabel\n" + "\n".join(map(str, range(20))), range(20)),
    "training.txt": ("\n".join(map(str, range(10))), [i // 2 if i % 2 == 0 else None for i in range(20)]),
    "indexed.csv": ("index, label\n3, 7\n0, 8\n", [8, None, None, 7] + [None] * 16),
    "turned.csv": ("label,index\n7,3\n8,0\n", [8, None, None, 7] + [None] * 16),
    "bare.csv": ("3,7\n0,8\n", [8, None, None, 7] + [None] * 16),
}


@pytest.mark.parametrize("name", FILES)
def test_layouts_of_text_files(name, tmp_path):
    text, wanted = FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_numbers(tmp_path / name, "label", size=20, train=TRAIN)
    assert [None if math.isnan(v) else v for v in found] == list(wanted)


def test_data_sets_of_hdf5_files(tmp_path):
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["a/b"] = np.arange(10)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["label"], file["other"] = np.arange(20), np.zeros(20)
    one, two = (read_numbers(tmp_path / f"{name}.h5", "label", size=20, train=TRAIN) for name in ("one", "two"))
    assert np.array_equal(one[TRAIN], np.arange(10)) and np.array_equal(two, np.arange(20))
    with pytest.raises(
        UsageError, match=r"two.h5 has label, other, .* called score: say which is meant, like .*two.h5:other"
    ):
        read_numbers(tmp_path / "two.h5", "score", size=20, train=TRAIN)


BAD = {
    "short.csv": ("1\n2\n", r"short.csv has 2 labels where 20 \(all images\) or 10 \(training images\) are needed"),
    "nan.csv": ("nan\n" * 20, "20 of the 20 labels in .*nan.csv are NaN: give each image a number"),
    "words.csv": ("label\ncat\n", "words.csv cannot be read as one label per image .*cat"),
    "comment.csv": ("# nothing\n", r"\(it is empty\)"),
    "PK.npy": ("PK\x03\x04 broken", "PK.npy cannot be read as one label per image"),
    "wide.csv": ("1,2,3\n", "it has 3 columns, not one, or index and label"),
    "twice.csv": ("1,2\n1,3\n", "must name each image once, by an index from 0 to 19"),
    "beyond.csv": ("20,1\n", "must name each image once, by an index from 0 to 19"),
    "labels.pt": ("1\n", "labels.pt is a text file, not a file of torch.save"),
    "labels.json": ("[1]", "its name must end in one of .csv .tsv .txt .npy .npz .pt .pth .h5 .hdf5, not in .json"),
    "empty.csv": ("", r"empty.csv cannot be read as one label per image \(it is empty\)"),
    "header.csv": ("label\n", r"\(it is empty\)"),
    "empty.npy": ("", "empty.npy cannot be read as one label per image"),
    "bytes.npy": ("no array", "bytes.npy cannot be read as one label per image"),
    "bytes.h5": ("no file", "bytes.h5 cannot be read as one label per image"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_refused(name, tmp_path):
    text, said = BAD[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_numbers(tmp_path / name, "label", size=20, train=TRAIN)


def test_a_file_that_is_not_there_and_arrays_of_another_kind(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*no.npy \(No such file or directory\)"):
        read_numbers(tmp_path / "no.npy", "label", size=20, train=TRAIN)
    np.save(tmp_path / "square.npy", np.zeros((20, 2)))
    with pytest.raises(UsageError, match=r"square.npy holds float64 of shape \(20, 2\): give one number per image"):
        read_numbers(tmp_path / "square.npy", "label", size=20, train=TRAIN)
    np.save(tmp_path / "pickled.npy", np.array([{"clean": 1}]), allow_pickle=True)
    with pytest.raises(UsageError, match=r"pickled.npy cannot be read as one label per image"):
        read_numbers(tmp_path / "pickled.npy", "label", size=20, train=TRAIN)


def test_options_that_cannot_be(tmp_path, digits):
    path = as_file(tmp_path / "human.csv", digits.labels.tolist())
    command = ("pretrain", "--dataset", "digits", "-t", 1, *TINY, "--out", tmp_path / "w.h5")
    for share in (1.5, -0.1, "nan"):
        assert complaint(*command, "--label-noise", share) == (
            f"label noise (={float(share)}) must be a share from 0 to 1"
        )
    assert "give one of them" in complaint(*command, "--label-noise", 0.1, "--labels", path)
    assert "--noise-draw replicate draws label noise: give --label-noise" in complaint(
        *command, "--noise-draw", "replicate"
    )
    as_file(tmp_path / "ten.npy", np.full(1797, 10))
    said = complaint(*command, "--labels", tmp_path / "ten.npy")
    assert said.endswith("ten.npy gives image 0 the label 10: labels of digits are the whole numbers 0 to 9")
    repro(
        "select", "--kind", "random", "--dataset", "digits", "--size", 64, "--replicates", 2, "--out", tmp_path / "r.h5"
    )
    said = complaint(
        "pretrain", "--subset", tmp_path / "r.h5", "-t", 1, *TINY, "--label-noise", 0.1, "--out", tmp_path / "w.h5"
    )
    assert said.endswith("r.h5 has its labels already: leave --label-noise, --noise-draw and --labels out")
    assert {p.name for p in tmp_path.iterdir()} == {"human.csv", "ten.npy", "r.h5"}


def test_clean_recipes_have_the_identity_they_had(tmp_path):
    """Artifacts of before there was noise are taken up, so the new fields must not show at their defaults."""
    scoring = Scoring(NETWORK, QUICK, networks=1, batch_norm="running")
    score(tmp_path / "scores.h5", dataset="digits", scoring=scoring, replicates=1)
    select(tmp_path / "easy.h5", kind="easy", size=64, scores=tmp_path / "scores.h5", replicates=1)
    pretrain(tmp_path / "w.h5", subset=tmp_path / "easy.h5", t=1, replicates=1, **SMALL)
    new = {"label_noise", "noise_draw", "labels_sha256", "grand", "score"}
    for path in tmp_path.glob("*.h5"):
        found = read(path)
        before = {field: value for field, value in found.recipe.items() if field not in new}
        if found.kind == "score":
            before["score"] = "el2n"
        defaults = {field: value for field, value in DEFAULTS.items() if field not in new - {"score"}}
        assert store.identity(found.kind, before, found.inputs, defaults) == found.identity
        assert "labels" not in found


def test_labels_of_a_part_of_the_training_images_are_refused(tmp_path, digits):
    few = tmp_path / "few.csv"
    few.write_text("".join(f"{i},0\n" for i in range(20)), encoding="utf-8")
    said = complaint("pretrain", "--dataset", "digits", "-t", 1, *TINY, "--labels", few, "--out", tmp_path / "w.h5")
    assert said == f"{few} has no label for 1777 training images, the first of them 20: label them all"


def test_more_replicates_of_an_interrupted_run_keep_their_labels(tmp_path, monkeypatch):
    """Two replicates are computed and the artifact never written; asked for one, it holds the labels of both."""
    command = (
        "score",
        "--dataset",
        "digits",
        "--networks",
        1,
        *TINY[:-2],
        "--label-noise",
        0.2,
        "--noise-draw",
        "replicate",
        "--out",
        tmp_path / "s.h5",
    )
    with monkeypatch.context() as broken:
        never = Mock(side_effect=KeyboardInterrupt)
        broken.setattr("repro.stages.artifact_writer.ArtifactWriter.finish", never)
        complaint(*command, "--replicates", 2, code=130)
    repro(*command, "--replicates", 1)
    assert "computed 0, reused 2" in repro(*command, "--replicates", 2).stdout
    select = ("select", "--kind", "easy", "--size", 40, "--scores", tmp_path / "s.h5", "--replicates", 2)
    repro(*select, "--out", tmp_path / "e.h5")
