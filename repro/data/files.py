"""Image sets as they lie on disk: CIFAR's python batches and CINIC-10's folders (others: `repro.data.folders`).

Each reader returns (images uint8 [N, H, W, C], labels int64 [N], class names, number of train images); the train images
come first. What is missing or altered raises UsageError with the file's name, before any of it is used.
"""

import hashlib
import logging
import os
import pickle
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from repro.data.folders import Arrays, read_images
from repro.errors import RunError, UsageError

log = logging.getLogger(__name__)

CINIC10_SIZES = (180_000, 90_000)
"""Train (with valid merged in) and test images of the official CINIC-10."""

CIFAR_IMAGES = 60_000
"""Images of CIFAR-10 and of CIFAR-100."""


def read_cifar(name: str, root: Path, *, download: bool) -> Arrays:
    """CIFAR-10 or CIFAR-100 (fine labels) below `root`, in the published order: train batches, then the test batch.

    Checksums, file names and address are torchvision's. Its reader is not used: it reads every file three times, and
    answers a missing file and an altered one alike.
    """
    from torchvision import datasets  # here, because it takes seconds and other sets do without

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / source.base_folder
    if not folder.is_dir():
        _unpack_cifar(name, source, root, download=download)

    def unpickled(file: str, md5: str) -> dict:
        return pickle.loads(_verified(folder / file, md5), encoding="bytes")  # the checksum vouches for the pickle

    meta = unpickled(source.meta["filename"], source.meta["md5"])
    images, labels, ends = np.empty((CIFAR_IMAGES, 32, 32, 3), dtype=np.uint8), [], [0]
    for file, md5 in source.train_list + source.test_list:  # one at a time: a batch takes three times its images
        batch = unpickled(file, md5)
        planes = batch[b"data"].reshape(-1, 3, 32, 32)
        ends.append(ends[-1] + len(planes))
        for channel in range(3):  # five times faster than a transposed copy
            images[ends[-2] : ends[-1], ..., channel] = planes[:, channel]
        labels += batch.get(b"labels") or batch[b"fine_labels"]
    classes = tuple(label.decode() for label in meta[source.meta["key"].encode()])
    return images[: ends[-1]], np.array(labels, dtype=np.int64), classes, ends[len(source.train_list)]


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


def _unpack_cifar(name: str, source: type, root: Path, *, download: bool) -> None:
    """Put CIFAR's folder below `root`: from the archive there, else from its official address.

    It is unpacked in a scratch folder and renamed: neither a kill nor a second process leaves a folder half filled.
    """
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive

    archive = root / source.filename
    if not archive.is_file() and not download:
        raise UsageError(
            f"no {name} in {root} (looked for {root / source.base_folder}): run again with --download, or point "
            f"--data-dir at the folder that holds {source.base_folder}"
        )
    try:
        if archive.is_file() and not check_integrity(archive, source.tgz_md5):
            raise UsageError(
                f"{archive} is damaged or not the published archive (expected MD5 {source.tgz_md5}): "
                "move it away and run again with --download"
            )
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
            if archive.is_file():
                extract_archive(str(archive), scratch)
            else:
                download_and_extract_archive(source.url, scratch, filename=source.filename, md5=source.tgz_md5)
            try:
                os.replace(Path(scratch, source.base_folder), root / source.base_folder)
            except OSError:
                if not (root / source.base_folder).is_dir():  # it is there when another process was faster
                    raise
    except (OSError, HTTPException, RuntimeError) as error:
        action = f"unpacking {archive}" if archive.is_file() else f"downloading {source.url} into {root}"
        raise RunError(f"{action} failed: {error}") from error


def read_cinic10(root: Path) -> Arrays:
    """CINIC-10 in its official layout, {train,valid,test}/<class>/*.png, in `root`/cinic10 or in `root` itself.

    train and valid make up the train set (protocol section 1), in this order, each by class and file name. One core
    decodes some 12,000 files a second: threads made it slower, and a cache could go stale.
    """
    home = next((home for home in (root / "cinic10", root) if (home / "train").is_dir()), None)
    if home is None:
        raise UsageError(
            f"no cinic10 in {root} (looked for {root / 'cinic10' / 'train'} and {root / 'train'}): unpack the official "
            f"CINIC-10.tar.gz into {root / 'cinic10'}, or point --data-dir at the folder that holds it"
        )
    arrays = read_images(home, ["train", "valid"], ["test"])
    sizes = arrays[3], len(arrays[0]) - arrays[3]
    if sizes != CINIC10_SIZES:
        log.warning(
            f"cinic10 in {home} has {sizes[0]} train and {sizes[1]} test images, not the official {CINIC10_SIZES[0]} "
            f"and {CINIC10_SIZES[1]}: results on it are not results on CINIC-10"
        )
    return arrays
