"""Image sets: what is loaded is what lies on disk, split as documented, and damaged or missing files are named."""

import hashlib
import os
import pickle
import re
import tarfile
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from repro.data import cifar, images, load
from repro.data.images import IMAGENET
from repro.errors import RunError, UsageError


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def cifar10(data_root):
    return load("cifar10", data_dir=data_root)


def write_images(folder: Path, sizes: dict[str, int], *, side: int = 4, seed: int = 0) -> None:
    """`sizes[class]` random RGB images for each class."""
    rng = np.random.default_rng(seed)
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def checksum(image_set) -> str:
    return hashlib.sha256(image_set.images.numpy().tobytes() + image_set.labels.numpy().tobytes()).hexdigest()


def test_digits_are_scikit_learns(digits):
    images, labels = load_digits(return_X_y=True)
    assert digits.images.shape == (1797, 8, 8, 1) and digits.images.dtype == torch.uint8
    assert digits.labels.dtype == torch.int64 and digits.labels.tolist() == labels.tolist()
    levels = [round(value * 255 / 16) for value in range(17)]
    assert digits.images.flatten().tolist() == [levels[int(value)] for value in images.flatten()]
    assert (digits.num_classes, digits.in_chans, digits.image_size) == (10, 1, 8)
    assert digits.checksum == checksum(digits)
    values = digits.images.numpy() / 255
    assert digits.mean == pytest.approx([values.mean()], rel=1e-12)
    assert digits.std == pytest.approx([values.std()], rel=1e-12)


def test_each_digit_is_tested_in_one_fold(digits):
    assert len(digits.splits) == 5
    everything = torch.arange(1797)
    assert torch.equal(torch.cat([test for _, test in digits.splits]).sort().values, everything)
    for train, test in digits.splits:
        assert len(test) in (359, 360)
        assert torch.equal(torch.cat([train, test]).sort().values, everything)
        assert (train.diff() > 0).all() and (test.diff() > 0).all()


def test_folds_rotate_by_replicate_and_never_change(digits):
    for replicate in range(12):
        assert digits.split(replicate) is digits.splits[replicate % 5]
    assert digits.splits[0][1][:6].tolist() == [3, 7, 9, 11, 12, 13]  # other folds would make other results


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_files_and_checksums_are_torchvisions(name):
    ours, theirs = cifar.PUBLISHED[name], getattr(torchvision.datasets, name.upper())
    assert (ours.url, ours.archive_md5, ours.folder) == (theirs.url, theirs.tgz_md5, theirs.base_folder)
    assert ours.archive == theirs.filename
    assert [list(each) for each in ours.train.items()] == theirs.train_list
    assert [list(each) for each in ours.test.items()] == theirs.test_list
    assert dict(filename=ours.meta[0], key=ours.key.decode(), md5=ours.meta[1]) == theirs.meta


def test_cifar10_is_what_torchvision_reads(cifar10, data_root):
    train = torchvision.datasets.CIFAR10(data_root, train=True)
    test = torchvision.datasets.CIFAR10(data_root, train=False)
    assert np.array_equal(cifar10.images[:50_000].numpy(), train.data)
    assert np.array_equal(cifar10.images[50_000:].numpy(), test.data)
    assert cifar10.labels.tolist() == train.targets + test.targets
    assert cifar10.classes == tuple(train.classes)
    assert cifar10.checksum == checksum(cifar10)


def test_cifar10_has_the_published_split_and_moments(cifar10):
    train, test = cifar10.split(3)
    assert torch.equal(train, torch.arange(50_000)) and torch.equal(test, torch.arange(50_000, 60_000))
    assert torch.bincount(cifar10.labels[train]).tolist() == [5000] * 10
    assert torch.bincount(cifar10.labels[test]).tolist() == [1000] * 10
    assert (cifar10.mean, cifar10.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    values = torch.arange(256) / 255
    for channel, mean, std in zip(cifar10.images[:50_000].unbind(3), cifar10.mean, cifar10.std, strict=True):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        found = (share * values).sum()
        assert round(found.item(), 4) == mean
        assert round((share * (values - found) ** 2).sum().sqrt().item(), 4) == std


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_cifar_file_is_named(damage, data_root, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (data_root / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file)
    victim = folder / "data_batch_2"
    content = bytearray(victim.read_bytes())
    content[20_000_000] ^= damage == "flipped"
    victim.unlink()
    victim.write_bytes(content[:-1] if damage == "truncated" else content)
    with pytest.raises(UsageError, match=rf"^{re.escape(str(victim))} is damaged .*--download$"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("name, folder", [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_missing_cifar_says_where_it_looked_and_what_to_do(name, folder, tmp_path):
    message = rf"no {name} in {re.escape(str(tmp_path))} .*{folder}.*--download.*--data-dir"
    with pytest.raises(UsageError, match=message):
        load(name, data_dir=tmp_path)


def test_a_wrong_archive_is_named(tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half an archive")
    with pytest.raises(UsageError, match=rf"^{re.escape(str(archive))} is damaged.*: move it away"):
        load("cifar10", data_dir=tmp_path)


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    """A CIFAR-100 of 6 + 4 images, published by a server on this machine: (its folder, the batches)."""
    published = tmp_path / "published"
    folder = published / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def batch(n: int) -> dict:
        labels = rng.integers(0, 3, n).tolist()
        return {b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), b"fine_labels": labels, b"coarse_labels": []}

    parts = {"train": batch(6), "test": batch(4), "meta": {b"fine_label_names": [b"ant", b"bee", b"cow"]}}
    md5 = {}
    for name, part in parts.items():
        (folder / name).write_bytes(pickle.dumps(part))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    archive = published / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    source = cifar.PUBLISHED["cifar100"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=published))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(source, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(source, "archive_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for part in ("train", "test"):
        monkeypatch.setattr(source, part, {part: md5[part]})
    monkeypatch.setattr(source, "meta", ("meta", md5["meta"]))
    yield published, parts
    server.shutdown()
    server.server_close()


def test_cifar100_is_downloaded_once_and_only_when_asked(small_cifar100, tmp_path):
    published, parts = small_cifar100
    root = tmp_path / "new" / "data"
    with pytest.raises(UsageError, match="no cifar100"):
        load("cifar100", data_dir=root)
    assert not root.exists()
    image_set = load("cifar100", data_dir=root, download=True)
    assert os.listdir(root) == ["cifar-100-python"]
    (published / "cifar-100-python.tar.gz").unlink()
    again = load("cifar100", data_dir=root, download=True)
    assert again.checksum == image_set.checksum

    pixels = np.concatenate([parts["train"][b"data"], parts["test"][b"data"]])
    for image, row in zip(image_set.images, pixels, strict=True):
        assert np.array_equal(image.permute(2, 0, 1).flatten().numpy(), row)
    assert image_set.labels.tolist() == parts["train"][b"fine_labels"] + parts["test"][b"fine_labels"]
    assert image_set.classes == ("ant", "bee", "cow")
    assert [len(index) for index in image_set.split(0)] == [6, 4]


def test_an_archive_in_the_data_folder_is_unpacked_without_download(small_cifar100, tmp_path):
    published, _ = small_cifar100
    root = tmp_path / "data"
    root.mkdir()
    (published / "cifar-100-python.tar.gz").rename(root / "cifar-100-python.tar.gz")
    assert len(load("cifar100", data_dir=root).images) == 10
    assert sorted(os.listdir(root)) == ["cifar-100-python", "cifar-100-python.tar.gz"]


@pytest.mark.parametrize("fault", ["unreachable", "altered"])
def test_a_failed_download_leaves_nothing(fault, small_cifar100, tmp_path):
    published, _ = small_cifar100
    archive = published / "cifar-100-python.tar.gz"
    if fault == "unreachable":
        archive.unlink()
    else:
        archive.write_bytes(archive.read_bytes()[:-1])
    root = tmp_path / "data"
    with pytest.raises(RunError, match=rf"^downloading http://127.*gz into {re.escape(str(root))} failed: "):
        load("cifar100", data_dir=root, download=True)
    assert os.listdir(root) == []


def test_a_cifar_file_that_is_not_there_is_named(small_cifar100):
    published, _ = small_cifar100
    (published / "cifar-100-python" / "train").unlink()
    with pytest.raises(UsageError, match="cifar-100-python/train is missing"):
        load("cifar100", data_dir=published)


def test_cinic10_merges_train_and_valid(data_root, caplog, tmp_path):
    sample = data_root / "cinic-10-sample"
    if not sample.is_dir():
        pytest.skip(f"no CINIC-10 sample in {data_root}: put cinic-10-sample there")
    image_set = load("cinic10", data_dir=sample)
    assert "1400 train and 600 test images" in caplog.text
    train, test = image_set.split(0)
    assert torch.equal(train, torch.arange(1400)) and torch.equal(test, torch.arange(1400, 2000))
    assert torch.bincount(image_set.labels[train]).tolist() == [140] * 10
    assert torch.bincount(image_set.labels[test]).tolist() == [60] * 10
    assert image_set.mean == (0.4789, 0.4723, 0.4305) and image_set.checksum == checksum(image_set)
    paths = [path for part in ("train", "valid", "test") for path in sorted((sample / part).rglob("*.png"))]
    for path, image, label in list(zip(paths, image_set.images, image_set.labels, strict=True))[::7]:
        assert image_set.classes[label] == path.parent.name
        with Image.open(path) as pixels:
            assert np.array_equal(image.numpy(), np.asarray(pixels.convert("RGB")))

    (tmp_path / "cinic10").symlink_to(sample)
    assert load("cinic10", data_dir=tmp_path).checksum == image_set.checksum


def test_a_cinic10_of_official_size_is_not_warned_about(tmp_path, monkeypatch, caplog):
    for part, count in (("train", 2), ("valid", 1), ("test", 2)):
        write_images(tmp_path / part, {"cat": count, "dog": count})
    monkeypatch.setattr("repro.data.images.CINIC10_SIZES", (6, 4))
    load("cinic10", data_dir=tmp_path)
    assert caplog.text == ""


def test_missing_cinic10_says_how_to_get_it(tmp_path):
    with pytest.raises(UsageError, match=rf"no cinic10 in {re.escape(str(tmp_path))} .*CINIC-10.tar.gz.*--data-dir"):
        load("cinic10", data_dir=tmp_path, download=True)


@pytest.mark.parametrize("test_folder", ["test", "val"])
@pytest.mark.parametrize("prefix", ["folder:", ""])
def test_a_folder_of_images(test_folder, prefix, tmp_path):
    root = tmp_path / "pets"
    write_images(root / "train", {"cat": 3, "dog": 2})
    write_images(root / test_folder, {"cat": 1, "dog": 1}, seed=1)
    image_set = load(f"{prefix}{root}")
    assert image_set.name == "folder:pets" and image_set.classes == ("cat", "dog")
    assert image_set.labels.tolist() == [0, 0, 0, 1, 1, 0, 1]
    assert [index.tolist() for index in image_set.split(5)] == [[0, 1, 2, 3, 4], [5, 6]]
    values = image_set.images[:5].view(-1, 3).double() / 255
    assert image_set.mean == pytest.approx(values.mean(0).tolist(), rel=1e-12)
    assert image_set.std == pytest.approx(values.std(0, correction=0).tolist(), rel=1e-12)
    plain = load(f"{prefix}{root}", normalization="imagenet")
    assert (plain.mean, plain.std) == IMAGENET and plain.checksum == image_set.checksum


FAULTS = {
    "size": lambda root: Image.new("RGB", (5, 4)).save(root / "train" / "dog" / "odd.png"),
    "file": lambda root: (root / "train" / "dog" / "odd.png").write_bytes(b"no image"),
    "classes": lambda root: write_images(root / "test", {"emu": 1}),
    "empty": lambda root: (root / "train" / "emu").mkdir(),
    "no test": lambda root: (root / "test").rename(root / "other"),
}


@pytest.mark.parametrize(
    "fault, message",
    [
        ("size", r"odd\.png has 5 x 4 pixels, the first image 4 x 4: scale"),
        ("file", r"odd\.png cannot be read as an image .*: mend it or leave it out"),
        ("classes", r"different classes \('emu'\)"),
        ("empty", r"train needs a folder with images for each class: .*emu"),
        ("no test", r"is no image folder: it needs train/ and test/"),
    ],
)
def test_a_faulty_folder_is_explained(fault, message, tmp_path):
    write_images(tmp_path / "train", {"cat": 1, "dog": 1})
    write_images(tmp_path / "test", {"cat": 1, "dog": 1})
    FAULTS[fault](tmp_path)
    with pytest.raises(UsageError, match=message):
        load(f"folder:{tmp_path}")


def test_unknown_names_are_echoed():
    with pytest.raises(UsageError, match="unknown data set 'cifar11': choose cifar10, cifar100, cinic10, digits or"):
        load("cifar11")
    with pytest.raises(UsageError, match="unknown normalization 'batch'"):
        load("digits", normalization="batch")
    with pytest.raises(UsageError, match="imagenet is for 3 channels, digits has 1"):
        load("digits", normalization="imagenet")


def test_moments_take_little_memory_beside_the_images():
    """Of 4,000 images, whose values as int64 would take 98 MB, and their squares as much."""
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 3), dtype=np.uint8)
    expected = (pixels / 255).mean((0, 1, 2)), (pixels / 255).std((0, 1, 2))
    tracemalloc.start()
    try:
        mean, std = images._moments(pixels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    np.testing.assert_allclose([mean, std], expected, rtol=1e-10)  # of the sums in float64
