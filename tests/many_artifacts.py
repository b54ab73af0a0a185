"""A folder of 3,006 small artifacts and the figure that needs them, to measure commands on: the figures of the load in
docs/performance.md.

    python -m tests.many_artifacts FOLDER
    /usr/bin/time -v repro ls --results FOLDER/results
    /usr/bin/time -v repro status FOLDER/many.py --results FOLDER/results

`python -m tests.many_artifacts FOLDER --pictures` makes an image folder of 60,000 PNGs of 32×32 pixels instead.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from repro.study.study import Study
from tests import simulated_artifacts

SIZES = 1001
FIGURE = '''"""Everything that easy subsets of many sizes need: {count} artifacts."""

from repro.plan import Cell, Subset
from repro.protocol import own

PROTOCOL = own("digits", replicates=2, levels=4, t_star=10, subset_size=100, sizes=(100,), sweep_levels=(4,),
               judging_levels=(3, 4), barrier_level=4)


def needed(p):
    easy = [Cell("easy", p, p.t_star, Subset("easy", 100 + k)) for k in range({sizes})]
    return [Cell("all_tstar", p, p.t_star), *easy]
'''


def make(folder: Path, sizes: int = SIZES) -> Study:
    """Writes ``many.py`` and ``results/``: three artifacts a size, all data's two, and the scores."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "many.py").write_text(FIGURE.format(count=3 * sizes + 3, sizes=sizes), encoding="utf-8")
    study = Study(str(folder / "many.py"), results=folder / "results")
    with mock.patch("os.fsync"):  # nothing of it has to survive a power cut
        simulated_artifacts.make(study)
    return study


def pictures(folder: Path, count: int = 60_000) -> None:
    """Writes an image folder of ten classes, five sixths of it to train on."""
    rng = np.random.default_rng(0)
    for n in range(count):
        home = folder / ("train" if n // 10 % 6 else "test") / f"class{n % 10}"
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(home / f"{n:05d}.png", compress_level=1)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    pictures(place) if "--pictures" in sys.argv else make(place)
