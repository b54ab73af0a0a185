"""CINIC-10 in the folders that it was published in."""

import logging
from pathlib import Path

from repro.data.folders import Arrays, read_images
from repro.errors import UsageError

log = logging.getLogger(__name__)

SIZES = (180_000, 90_000)
"""Train images, with valid merged in, and test images."""


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
    if sizes != SIZES:
        log.warning(
            f"cinic10 in {home} has {sizes[0]} train and {sizes[1]} test images, not the official {SIZES[0]} "
            f"and {SIZES[1]}: results on it are not results on CINIC-10"
        )
    return arrays
