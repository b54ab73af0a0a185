"""Artifacts and images that are not what they should be: one sentence, the right status, nothing finished lost."""

import re
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from repro import store
from tests.command_line import CPU, TINY, chain_of_artifacts, complaint, contents, repro


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return chain_of_artifacts(tmp_path_factory.mktemp("given"))


def test_another_recipe_at_out_is_named_and_kept(given, tmp_path):
    out = tmp_path / "rewind.h5"
    shutil.copy(given["rewind"], out)
    command = ("pretrain", "--subset", given["easy"], "-t", 4, *TINY, "--out", out)
    said = complaint(*command, "--lr", 0.5, "--steps", 13)
    assert said == (
        f"{out} was made with another recipe: lr is 1.0 there and 0.5 here, steps is 12 there and 13 here; "
        "choose another --out or pass --force to start anew"
    )
    size = ("--size", 80, "--replicates", 2)
    repro("select", "--kind", "random", "--dataset", "digits", *size, "--out", tmp_path / "r.h5")
    said = complaint("pretrain", "--subset", tmp_path / "r.h5", "-t", 4, *TINY, "--out", out)
    assert "subset.subset is easy there and random here" in said
    assert f"{out} was made with another recipe: kind is pretrain there and imp here" in complaint(
        "imp", given["rewind"], "--levels", 1, "--out", out
    )
    assert out.read_bytes() == given["rewind"].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"rewind.h5", "r.h5"}
    repro(*command, "--lr", 0.5, "--force")
    assert store.read(out).recipe["lr"] == 0.5


def test_a_correction_after_a_refusal_runs(given, tmp_path):
    """What was refused leaves no work folder in the way of the right command."""
    out = tmp_path / "easy.h5"
    command = ("select", "--kind", "easy", "--scores", given["scores"], "--replicates", 2, "--out", out)
    complaint(*command, "--size", 60000)
    assert f"{out}: computed 2, reused 0" in repro(*command, "--size", 60).stdout
    complaint("pretrain", "--subset", out, "-t", 2, *TINY, "--out", tmp_path / "rewind.h5")  # 60 is no full batch
    right = ("pretrain", "--subset", out, "-t", 2, *TINY, "--batch-size", 60, "--out", tmp_path / "rewind.h5")
    assert "rewind.h5: computed 2, reused 0" in repro(*right).stdout
    assert {path.name for path in tmp_path.iterdir()} == {"easy.h5", "rewind.h5"}


def rewrite(path, **recipe) -> None:
    """The artifact with other values in its recipe, as if it had been made with them."""
    old = store.read(path)
    arrays = {key: old[key] for key in old.keys()}
    store.write(
        path,
        kind=old.kind,
        recipe={**old.recipe, **recipe},
        inputs=old.inputs,
        arrays=arrays,
        table=old.table(),
        provenance=old.provenance,
        defaults=old.lineage.defaults,
    )


def test_other_images_are_noticed(given, tmp_path):
    shutil.copy(given["rewind"], tmp_path / "rewind.h5")
    rewrite(tmp_path / "rewind.h5", data_sha256="0123456789abcdef" * 4)
    said = complaint("imp", tmp_path / "rewind.h5", "--levels", 1, "--out", tmp_path / "imp.h5")
    assert re.fullmatch(
        r".*rewind.h5 was made from other images of digits \(sha256 0123456789ab…, here \w{12}…\): "
        "point --data-dir to the same data",
        said,
    )


DAMAGE = {
    "truncated": (lambda whole: whole[:-100], r"is truncated \(\d+ of \d+ bytes are there\)"),
    "altered": (lambda whole: whole[:2000] + bytes(b ^ 1 for b in whole[2000:]), "was altered after it was"),
    "empty": (lambda whole: b"", "is an empty file"),
    "text": (lambda whole: b"level,acc\n" * 90, "is a text file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_artifacts(damage, given, tmp_path):
    spoil, words = DAMAGE[damage]
    advice = (
        "give an artifact that repro made" if damage in ("empty", "text") else "delete it and run its command again"
    )
    bad = tmp_path / "bad.h5"
    commands = {
        "rewind": [
            ("imp", bad, "--levels", 1, "--out", tmp_path / "imp.h5"),
            ("inspect", bad),
            ("export", bad, "--out", tmp_path / "table.csv"),
        ],
        "scores": [("select", "--kind", "easy", "--scores", bad, "--replicates", 2, "--out", tmp_path / "imp.h5")],
        "imp": [("imp", given["rewind"], "--levels", 1, "--out", bad)],
    }
    for name, damaged in commands.items():
        bad.write_bytes(spoil(given[name].read_bytes()))
        for command in damaged:
            told = rf"^{bad} {words}.*: {advice}$"
            if name == "imp" and damage in ("empty", "text"):
                told = rf"^--out {bad} is there and {words}, not an artifact that repro made: choose another --out$"
            assert re.search(told, complaint(*command))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5"]
    assert bad.read_bytes() == spoil(given["imp"].read_bytes())


def test_hdf5_of_another_program(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.ones(3)
    said = complaint("inspect", tmp_path / "other.h5")
    assert said == f"{tmp_path}/other.h5 is an HDF5 file of another program: give an artifact that repro made"


def test_a_folder_of_images_that_moved(tmp_path):
    """Its name is kept in the recipe; the place is given anew."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 4)):
        for label in ("cat", "dog"):
            (tmp_path / "pets" / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / label / f"{i}.png")
    rewind, moved = tmp_path / "rewind.h5", tmp_path / "elsewhere"
    repro("pretrain", "--dataset", f"folder:{tmp_path}/pets", "-t", 2, *TINY, "--out", rewind)
    repro("imp", rewind, "--levels", 0, *CPU, "--data-dir", tmp_path, "--out", tmp_path / "before.h5")
    moved.mkdir()
    (tmp_path / "pets").rename(moved / "pets")
    for place in ((), ("--data-dir", tmp_path)):
        said = complaint("imp", rewind, "--levels", 0, *place, "--out", tmp_path / "after.h5")
        assert said == "no folder pets of images: point --data-dir at the folder that holds pets"
    repro("imp", rewind, "--levels", 0, *CPU, "--data-dir", moved, "--out", tmp_path / "after.h5")
    assert contents(tmp_path / "before.h5") == contents(tmp_path / "after.h5")
    said = complaint("score", "--dataset", f"folder:{tmp_path}/gone", "--out", tmp_path / "s.h5")
    assert said == f"no folder {tmp_path}/gone of images: point --data-dir at the folder that holds gone"


def test_a_network_that_cannot_take_the_images(tmp_path):
    said = complaint(
        "pretrain",
        "--dataset",
        "digits",
        "--network",
        "vit_tiny_patch16_224",
        "-t",
        1,
        "--replicates",
        1,
        "--out",
        tmp_path / "x.h5",
    )
    assert said.startswith("network 'vit_tiny_patch16_224' cannot take the 8 x 8 images of digits (") and "(8)" in said


def test_more_memory_than_there_is(tmp_path):
    command = ("pretrain", "--dataset", "digits", "-t", 1, "--replicates", 1, "--out", tmp_path / "x.h5")
    said = complaint(*command, "--network", "cifar_resnet8_w3000000", code=1)
    assert said.startswith("out of memory: ask for fewer --replicates at a time")
