"""How conditions look in every figure (colours, lines and markers of the published panels), and how files are saved."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files: no display is needed or touched

import pandas as pd
from matplotlib.figure import Figure

from repro.errors import RunError


@dataclass(frozen=True)
class Look:
    """Colour (a colour-blind palette), line and marker of one condition, and its label with {size} and {t}."""

    label: str
    color: str
    line: str
    marker: str | None = None


LOOKS = {
    "dense": Look("dense", "#7f7f7f", "-."),
    "all_tstar": Look("all data, t = {t} (t*)", "#0173b2", "--", "s"),
    "all_tstar_half": Look("all data, t = {t} (t*/2)", "#de8f05", "--", "D"),
    "all_t0": Look("all data, t = 0", "#c9b400", "--", "v"),
    "random": Look("random {size:,}, t = {t}", "#029e73", "-", "o"),
    "easy": Look("easiest {size:,}, t = {t}", "#d55e00", "-", "^"),
    "hard": Look("hardest {size:,}, t = {t}", "#cc78bc", "-", "X"),
    "shuffled": Look("IMP's masks shuffled, t = {t}", "#555555", ":", "P"),
}


def save(figure: Figure, table: pd.DataFrame, stem: Path) -> list[Path]:
    """Write ``stem``.pdf, .png and .csv (what was plotted). Raises RunError when that cannot be written."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png", "csv")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        # without dates in the files, the same runs give the same bytes
        figure.savefig(paths[0], bbox_inches="tight", metadata={"CreationDate": None})
        figure.savefig(paths[1], bbox_inches="tight", dpi=200, metadata={"Software": None})
        table.to_csv(paths[2], index=False, float_format="%.6g")
    except OSError as error:
        raise RunError(
            f"cannot write the figure {stem}: {error.strerror}: free space or choose another --results"
        ) from error
    return paths
