"""CIFAR-10 and CIFAR-100 as they were published: files of pickles, in an archive."""

import hashlib
import os
import pickle
import tarfile
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np

from repro.data.folders import Arrays
from repro.errors import RunError, UsageError

IMAGES = 60_000
"""Images of each set, train and test."""


@dataclass
class Published:
    """Names and MD5 checksums of one set's files, as torchvision has them, whose import takes seconds and 150 MB.

    train, test: file -> checksum, in order; meta: (file, checksum) of the class names, which stand there under ``key``.
    """

    url: str
    archive_md5: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: tuple[str, str]
    key: bytes

    @property
    def archive(self) -> str:
        return self.url.rpartition("/")[2]


PUBLISHED = {
    "cifar10": Published(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        key=b"label_names",
    ),
    "cifar100": Published(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
        key=b"fine_label_names",
    ),
}


def read_cifar(name: str, root: Path, *, download: bool) -> Arrays:
    """CIFAR-10 or CIFAR-100 (fine labels) below `root`, in the published order: train batches, then the test batch.

    torchvision's reader is not used: it reads every file three times, and has one error for a missing file and an
    altered one.
    """
    source = PUBLISHED[name]
    folder = root / source.folder
    if not folder.is_dir():
        _unpack(name, source, root, download=download)

    def unpickled(file: str, md5: str) -> dict:
        return pickle.loads(_verified(folder / file, md5), encoding="bytes")  # the checksum vouches for the pickle

    classes = tuple(label.decode() for label in unpickled(*source.meta)[source.key])
    images, labels, ends = np.empty((IMAGES, 32, 32, 3), dtype=np.uint8), [], [0]
    for file, md5 in (source.train | source.test).items():  # one at a time: a batch takes three times its images
        batch = unpickled(file, md5)
        planes = batch[b"data"].reshape(-1, 3, 32, 32)
        ends.append(ends[-1] + len(planes))
        for channel in range(3):  # five times faster than a transposed copy
            images[ends[-2] : ends[-1], ..., channel] = planes[:, channel]
        labels += batch.get(b"labels") or batch[b"fine_labels"]
    return images[: ends[-1]], np.array(labels, dtype=np.int64), classes, ends[len(source.train)]


def _verified(path: Path, md5: str) -> bytes:
    """The bytes of a file whose MD5 is the published one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: move {path.parent} away and run again with --download") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UsageError(
            f"{path} is damaged or not the published file (MD5 {found}, expected {md5}): "
            f"move {path.parent} away and run again with --download"
        )
    return content


def _unpack(name: str, source: Published, root: Path, *, download: bool) -> None:
    """Put CIFAR's folder below `root`: from the archive there, else from its official address.

    It is unpacked in a scratch folder and renamed: neither a kill nor a second process leaves a folder half filled.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    archive = root / source.archive
    if not archive.is_file() and not download:
        raise UsageError(
            f"no {name} in {root} (looked for {root / source.folder}): run again with --download, or point "
            f"--data-dir at the folder that holds {source.folder}"
        )
    try:
        if archive.is_file() and not check_integrity(archive, source.archive_md5):
            raise UsageError(
                f"{archive} is damaged or not the published archive (expected MD5 {source.archive_md5}): "
                "move it away and run again with --download"
            )
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
            if not archive.is_file():
                download_url(source.url, scratch, filename=source.archive, md5=source.archive_md5)
            with tarfile.open(archive if archive.is_file() else Path(scratch, source.archive)) as packed:
                packed.extraction_filter = getattr(tarfile, "data_filter", None)  # the first of Python 3.11 have none
                packed.extractall(scratch)
            try:
                os.replace(Path(scratch, source.folder), root / source.folder)
            except OSError:
                if not (root / source.folder).is_dir():  # it is there when another process was faster
                    raise
    except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
        action = f"unpacking {archive}" if archive.is_file() else f"downloading {source.url} into {root}"
        raise RunError(f"{action} failed: {error}") from error
