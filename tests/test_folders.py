"""Folders of images as people have them: what is left out is told, and `count_folder` says what `load` does."""

import os
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from repro.data import load
from repro.data.folders import count_folder
from repro.errors import RunError, UsageError


def draw(path, size=(4, 4), mode="RGB", seed=0, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path, **how)
    return path


@pytest.fixture
def pets(tmp_path):
    for seed, half in enumerate(("train", "test")):
        for k, name in enumerate(("cat", "dog")):
            for n in range(2):
                draw(tmp_path / "pets" / half / name / f"{n}.png", seed=100 * seed + 10 * k + n)
    return tmp_path / "pets"


def found(pets) -> tuple[int, int, tuple[str, ...]]:
    """(train images, test images, classes), after a look whether `count_folder` says the same."""
    data, counted = load(f"folder:{pets}"), count_folder(pets)
    sizes = tuple(map(len, data.split(0)))
    assert sizes == (counted["train_images"], counted["test_images"])
    assert (data.num_classes, data.image_size) == (counted["num_classes"], counted["image_size"])
    return *sizes, data.classes


EXIF = Image.Exif()
EXIF[0x0112] = 6
LEFT_OUT = {  # what is done to the folder, and what is said of it
    "notebook": (lambda r: (r / "train/.ipynb_checkpoints").mkdir(), r"pets: 1 hidden, left out \(the first: train/\."),
    "notebooks": (
        lambda r: [draw(r / half / ".ipynb_checkpoints/0-checkpoint.png") for half in ("train", "test")],
        "2 hidden",
    ),
    "mac": (lambda r: (r / "train/cat/._0.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X"), "1 hidden, .*cat/._0.png"),
    "archive": (lambda r: draw(r / "train/__MACOSX/cat/x.png"), "1 hidden, .*train/__MACOSX"),
    "server": (lambda r: draw(r / "train/cat/@eaDir/0.png/x.jpg"), "1 hidden, .*train/cat/@eaDir"),
    "thumbs": (lambda r: (r / "test/dog/Thumbs.db").write_bytes(b""), "1 hidden, .*dog/Thumbs.db"),
    "gif": (lambda r: draw(r / "train/cat/a.gif"), r"1 \.gif, no image by its name and left out .*cat/a.gif"),
    "jfif": (lambda r: draw(r / "train/cat/a.jfif", format="JPEG"), "1 .jfif, no image by its name"),
    "text": (lambda r: (r / "train/cat/readme").write_text(""), "1 without an ending, no image by its name"),
    "flat": (lambda r: draw(r / "train/a.png"), "1 not in the folder of a class, left out .*train/a.png"),
    "val": (lambda r: draw(r / "val/cat/0.png"), "pets: only train and test are read, not val"),
}


@pytest.mark.parametrize("quirk", LEFT_OUT)
def test_what_is_left_out_is_told(quirk, pets, caplog):
    change, said = LEFT_OUT[quirk]
    change(pets)
    assert found(pets) == (4, 4, ("cat", "dog"))
    assert len(caplog.messages) == 1 and re.search(said, caplog.messages[0])


READ = {
    "turned": (lambda r: draw(r / "train/cat/a.jpg", exif=EXIF), "1 to be turned by EXIF, read as stored"),
    "clear": (lambda r: draw(r / "train/cat/a.png", mode="RGBA"), "1 with transparency, which is dropped"),
    "upper": (lambda r: draw(r / "train/cat/A.JPEG"), None),
    "deep": (lambda r: draw(r / "train/cat/more/deep/a.png"), None),
}


@pytest.mark.parametrize("quirk", READ)
def test_what_is_read_in_another_way_is_told(quirk, pets, caplog):
    change, said = READ[quirk]
    change(pets)
    assert found(pets) == (5, 4, ("cat", "dog"))
    assert bool(caplog.messages) == bool(said) and (not said or said in caplog.messages[0])


def test_linked_folders_are_counted_and_read(pets):
    (pets / "train/dog").rename(pets.parent / "dog")
    (pets / "train/dog").symlink_to(pets.parent / "dog")
    draw(pets.parent / "more/x.png")
    (pets / "train/cat/link").symlink_to(pets.parent / "more")
    assert found(pets) == (5, 4, ("cat", "dog"))


def test_the_order_is_that_of_torchvision(pets):
    for name in ("b/z.png", "b/a/0.png", "b.png", "B/0.png", "b0/1.png", "b-c/1.png"):
        draw(pets / "train/cat" / name, seed=len(name))
    data, paths = load(f"folder:{pets}"), [path for path, _ in ImageFolder(pets / "train").samples]
    assert len(paths) == len(data.split(0)[0]) == 10
    for image, path in zip(data.images, paths):
        assert np.array_equal(image.numpy(), np.asarray(Image.open(path).convert("RGB")))


def test_names_in_two_spellings_of_unicode_are_one_class(pets):
    for half, form in (("train", "NFC"), ("test", "NFD")):
        draw(pets / half / unicodedata.normalize(form, "é") / "0.png")
    train, test, classes = found(pets)
    assert (train, test) == (5, 5) and len(classes) == 3
    (pets / "train" / unicodedata.normalize("NFD", "é")).mkdir()
    with pytest.raises(UsageError, match="two classes whose names look alike: rename one of"):
        load(f"folder:{pets}")


def test_a_file_that_is_a_folder_is_none_of_the_images(pets):
    (pets / "train/cat/x.png").mkdir()
    assert found(pets)[:2] == (4, 4)


def test_training_images_among_the_test_images_are_told(pets, caplog):
    os.link(pets / "train/cat/0.png", pets / "test/cat/9.png")
    found(pets)
    assert "1 of the 5 test images are training images as well" in caplog.text


def test_a_constant_channel_is_divided_by_one(pets):
    for path in pets.glob("*/*/*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[..., 2] = 77
        Image.fromarray(pixels).save(path)
    data = load(f"folder:{pets}")
    assert data.std[2] == 1.0 and data.mean[2] == pytest.approx(77 / 255) and 0 < data.std[0] < 0.5


REFUSED = {  # what is done, and what both `load` and `count_folder` say
    "size": (lambda r: draw(r / "test/dog/odd.png", (5, 4)), r"odd.png has 5 x 4 pixels, the first image 4 x 4"),
    "deep": (lambda r: Image.new("I;16", (4, 4)).save(r / "test/dog/odd.png"), "odd.png .*more than 8 bits a channel"),
    "gone": (lambda r: (r / "train/dog/odd.png").symlink_to("/nowhere/x.png"), "odd.png cannot be read as an image"),
    "empty": (lambda r: (r / "train/dog/odd.png").write_bytes(b""), "odd.png cannot be read as an image"),
    "broken": (
        lambda r: (p := r / "train/cat/0.png").write_bytes(p.read_bytes()[:-40]),
        "cat/0.png cannot be read as an image",
    ),
    "class": (lambda r: (r / "test/dog").rename(r / "test/Dog"), r"different classes \('Dog', 'dog'\)"),
    "space": (lambda r: (r / "test/dog").rename(r / "test/dog "), r"different classes \('dog', 'dog '\)"),
    "bare": (lambda r: (r / "train/emu").mkdir(), "train needs a folder with images for each class: emu has no file"),
    "loop": (lambda r: (r / "train/dog/loop").symlink_to(r / "train/dog"), "dog/loop is a link to a folder that it"),
    "valid": (lambda r: (r / "test").rename(r / "valid"), "is no image folder: .* and has train, valid"),
}


@pytest.mark.parametrize("quirk", REFUSED)
def test_what_cannot_be_read_is_refused_alike(quirk, pets):
    change, said = REFUSED[quirk]
    change(pets)
    with pytest.raises(UsageError, match=said) as read:
        load(f"folder:{pets}")
    with pytest.raises(UsageError, match=said) as counted:
        count_folder(pets)
    assert str(read.value) == str(counted.value)


def test_one_class_and_squares(pets):
    for path in pets.glob("*/*/*.png"):
        draw(path, (4, 3))
    for look in (count_folder, lambda root: load(f"folder:{root}")):
        with pytest.raises(UsageError, match="0.png has 4 x 3 pixels, which is no square: scale all"):
            look(pets)
    for half in ("train", "test"):
        (pets / half / "dog").rename(pets.parent / half)
    for look in (count_folder, lambda root: load(f"folder:{root}")):
        with pytest.raises(UsageError, match=r"train holds one class \(cat\): give a folder to each of two"):
            look(pets)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_not_left_out(pets):
    (pets / "train/cat/more").mkdir(mode=0)
    with pytest.raises(RunError, match="cannot read .*cat/more: Permission denied"):
        load(f"folder:{pets}")
