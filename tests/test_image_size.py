"""Shrunken images are box means, rounded, under a name and an identity of their own; another border has one too."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from repro import store
from repro.data import load, sized, split_size
from repro.data.images import shrink
from repro.errors import UsageError
from repro.protocol import protocol
from repro.recipes.artifacts import DEFAULTS, training_of
from repro.recipes.training import Training
from repro.stages import Machine, pretrain
from tests.command_line import CPU, TINY, complaint, repro

CROPPED = Training(steps=8, batch_size=64, lr=0.1, precision="fp64", border=1)
NETWORK = "cifar_resnet8_w4"


def brute(images: np.ndarray, size: int) -> np.ndarray:
    """Every mean by itself, in float64; a half goes up."""
    k = images.shape[1] // size
    small = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for n, y, x, c in np.ndindex(small.shape):
        box = images[n, y * k : (y + 1) * k, x * k : (x + 1) * k, c].astype(np.float64)
        small[n, y, x, c] = math.floor(math.fsum(box.ravel()) / k**2 + 0.5)
    return small


@pytest.mark.parametrize("side, size, channels", [(8, 4, 1), (12, 4, 3), (12, 3, 3), (6, 1, 2), (15, 3, 1)], ids=str)
def test_shrunken_images_are_box_means(side, size, channels):
    images = np.random.default_rng(0).integers(0, 256, (30, side, side, channels), dtype=np.uint8)
    images[0], images[1] = 255, 0
    images[2:4] = images[2:4] % 2  # ties
    small = shrink(images, size, "noise")
    assert small.dtype == np.uint8 and np.array_equal(small, brute(images, size))


def test_chunks_join(monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, (10_003, 2, 2, 1), dtype=np.uint8)
    assert np.array_equal(shrink(images, 1, "noise"), brute(images, 1))


def test_a_shrunken_data_set_is_another_one():
    whole, small = load("digits"), load("digits@4")
    assert (small.name, small.image_size, small.in_chans) == ("digits@4", 4, 1)
    assert np.array_equal(small.images.numpy(), brute(whole.images.numpy(), 4))
    assert torch.equal(small.labels, whole.labels) and small.checksum != whole.checksum
    for ours, theirs in zip(small.splits, whole.splits, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    values = small.images.double() / 255
    assert (small.mean[0], small.std[0]) == pytest.approx((values.mean().item(), values.std(correction=0).item()))


def test_a_folder_shrinks_and_one_that_is_named_so_does_not(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "mine" / place).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(tmp_path / "mine" / place / "0.png")
    whole, small = (load(f"folder:{tmp_path}/mine{end}") for end in ("", "@3"))
    assert small.name == "folder:mine@3" and np.array_equal(small.images.numpy(), brute(whole.images.numpy(), 3))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").rename(tmp_path / "mine@3")
    assert load("folder:mine@3").image_size == 6 and load("folder:mine@3").name == "folder:mine@3"


@pytest.mark.parametrize("size", [0, 3, 8, 16])
def test_a_size_that_does_not_divide_is_refused(size):
    with pytest.raises(UsageError, match=rf"image size \(={size}\) .* digits, .*: choose 1, 2, 4, or leave it out"):
        load(f"digits@{size}")


def test_the_option_names_the_data_set(tmp_path):
    out = tmp_path / "w.h5"
    repro("pretrain", "--dataset", "digits", "--image-size", 4, "-t", 1, *TINY, *CPU, "--out", out)
    recipe = store.read_header(out).recipe
    assert (recipe["dataset"], recipe["data_sha256"]) == ("digits@4", load("digits@4").checksum)
    repro("imp", out, "--levels", 0, *CPU, "--out", tmp_path / "imp.h5")  # finds the images by the name
    again, small = ("pretrain", "-t", 1, *TINY, *CPU, "--out", out, "--dataset"), ("--image-size", 4)
    assert "computed 0, reused 2" in repro(*again, "digits@4").stdout
    assert "dataset is digits@4 there and digits here" in complaint(*again, "digits")
    assert "image size (=4), but digits@4 says 4 itself" in complaint(*again, "digits@4", *small)
    assert "choose 1, 2, 4" in complaint(*again, "digits", "--image-size", 5)
    assert "give that one too" in complaint("select", "--kind", "easy", "--scores", out, *small, "--out", out)


def test_names():
    assert split_size(sized("cifar10", 16)) == ("cifar10", 16) and split_size("cifar10") == ("cifar10", None)
    small, whole = protocol("cifar10@8", "paper"), protocol("cifar10", "paper")
    assert small == replace(whole, dataset="cifar10@8", image_size=8)


@pytest.mark.parametrize("border", [0, 1, 4])
def test_the_border_is_what_engines_crop_by(border, tmp_path):
    """The two CPU engines share nothing but the batcher's bytes; plain crops are in test_augment."""
    found = {}
    for engine in ("serial", "sparse"):
        training = replace(CROPPED, border=border)
        out = tmp_path / f"{engine}.h5"
        pretrain(
            out,
            dataset="digits",
            t=8,
            network=NETWORK,
            training=training,
            replicates=1,
            seed=3,
            machine=Machine(device="cpu", engine=engine),
        )
        artifact = store.read(out)
        found[engine] = np.concatenate([artifact[k].ravel() for k in sorted(artifact.keys()) if "weights" in k])
    assert len(found["serial"]) and np.allclose(found["serial"], found["sparse"], rtol=0, atol=1e-9)


def test_the_published_border_is_not_in_an_identity_and_another_one_is(tmp_path):
    identities = {}
    for border in (4, 1):
        out = tmp_path / f"{border}.h5"
        command = ("pretrain", "--dataset", "digits", "--augment", "-t", 1, *TINY, *CPU, "--out", out)
        repro(*command, "--border", border)
        made = store.read(out)
        before = {field: value for field, value in made.recipe.items() if field != "border"}
        old = store.identity(made.kind, before, made.inputs, {k: v for k, v in DEFAULTS.items() if k != "border"})
        assert (old == made.identity) == (border == 4)
        assert made.recipe["border"] == border and training_of(before).border == 4
        identities[border] = made.identity
    assert identities[1] != identities[4]
    assert "border is 1 there and 4 here" in complaint(*command)


def test_a_border_wider_than_an_image_is_refused(tmp_path):
    command = ("pretrain", "--dataset", "digits", "--augment", "-t", 1, *TINY, *CPU, "--out", tmp_path / "w.h5")
    assert complaint(*command, "--border", 9).startswith("border (=9) is wider than the images of 8 x 8 pixels: ")
