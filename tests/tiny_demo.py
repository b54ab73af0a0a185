"""The demo with a network, a schedule and an ensemble that take a second: the same cells, options and folds.

Imported as `sitecustomize` by the processes that `environment` is given to: those of make, Slurm or Ray.
"""

import dataclasses
import os
import sys
from pathlib import Path

from repro import protocol
from repro.protocol import DIGITS

ROOT = Path(__file__).parents[1]
REPLICATES, LEVELS = 2, 14
CHOICE = ("SCALE=demo", f"REPLICATES={REPLICATES}", f"LEVELS={LEVELS}")  # of make
FIGURE = "figure2"


def tiny() -> protocol.Protocol:
    training = dataclasses.replace(DIGITS.training, steps=8, milestones=(6,))
    of_scores = dataclasses.replace(DIGITS.scoring.training, steps=6)
    scoring = dataclasses.replace(DIGITS.scoring, network="cifar_resnet8_w4", networks=2, training=of_scores)
    return dataclasses.replace(
        DIGITS,
        network="cifar_resnet8_w4",
        training=training,
        scoring=scoring,
        t_star=4,
        subset_size=80,
        replicates=REPLICATES,
        more_replicates=None,
    )


def environment(folder: Path) -> dict[str, str]:
    """Environment of processes for which the demo is tiny. Writes what they need to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        "from tests import tiny_demo\ntiny_demo.protocol._PROTOCOLS['digits', 'demo'] = tiny_demo.tiny()\n",
        encoding="utf-8",
    )
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "SLURM"))}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"}


def make_command(folder: Path, results: Path, *words: str) -> list[str]:
    """`make FIGURE` of the tiny demo with this Python, whose ``.installed`` is pretended in ``folder``."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / ".installed").touch()
    return [
        "make",
        "-C",
        str(ROOT),
        FIGURE,
        *CHOICE,
        f"VENV={folder}",
        f"REPRO={sys.executable} -m repro",
        f"RESULTS={results}",
        "DEVICE=cpu",
        *words,
    ]
