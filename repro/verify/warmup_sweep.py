"""A warm-up study as samples: own runs, or the paper's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from repro.protocol import Protocol
from repro.verify.published_points import warmup_curves
from repro.verify.stats import Sample


@dataclass(frozen=True)
class Sweep:
    """cells: accuracies (percent) by (kind, size, w), size 0 for all data. replicates: promised of each cell.
    confidence: of intervals."""

    dataset: str
    cells: Mapping[tuple[str, int, int], Sample]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    replicates: int
    notes: tuple[str, ...] = ()
    confidence: float = 0.95

    @property
    def inner(self) -> str:
        """The interval of two one-sided tests: '90 %' beside one of 95 %."""
        return f"{100 * (2 * self.confidence - 1):g} %"

    def gap(self, curves: Sequence[tuple[str, int]], steps: Sequence[int]) -> str:
        """What is missing of these curves, '' if nothing is."""
        for kind, size in curves:
            for w in steps:
                n = self.cells[kind, size, w].n if (kind, size, w) in self.cells else 0
                if n < max(2, self.replicates):
                    return f"{curve_name(kind, size)}, w = {w}, has {n} of {max(2, self.replicates)} replicates"
        return ""

    def at(self, kind: str, size: int, w: int) -> Sample:
        return self.cells[kind, size, w]

    def mean(self, kind: str, size: int, steps: Sequence[int]) -> Sample:
        """The outcome averaged over several w."""
        cells = [self.at(kind, size, w) for w in steps]
        if any(cell.values is None for cell in cells):
            mean, std = (float(np.mean([getattr(cell, name) for cell in cells])) for name in ("mean", "std"))
            return Sample(mean, std, min(cell.n for cell in cells))
        shared = set.intersection(*(set(cell.values) for cell in cells))
        return Sample.of({r: float(np.mean([cell.values[r] for cell in cells])) for r in sorted(shared)})


def own_sweep(rows: pd.DataFrame, protocol: Protocol) -> Sweep:
    """The study of `protocol` from the rows of `Evidence.warmup`, which hold one data set."""
    failed = rows["diverged"].astype(bool) | rows["acc"].isna()
    percent = 100 * rows["acc"].astype(float).where(~failed, 1 / protocol.num_classes)
    sizes = rows["size"].where(rows["kind"] != "all", 0)
    cells = {
        (kind, int(size), int(w)): Sample.of(
            {int(r): float(x) for r, x in zip(rows.loc[part.index, "replicate"], part)}
        )
        for (kind, size, w), part in percent.groupby([rows["kind"], sizes, rows["w"]])
    }
    notes = (f"runs diverged: {int(failed.sum())}",) if failed.any() else ()
    study = protocol.warmup
    return Sweep(
        protocol.dataset,
        cells,
        tuple(sorted(study.steps)),
        tuple(sorted(study.sizes)),
        study.replicates,
        notes,
        protocol.confidence,
    )


def published_sweep(panel: str, table: pd.DataFrame | None = None) -> Sweep:
    """The published curves, with all data as drawn in one panel. table: `warmup_curves()`, if it has been altered."""
    rows = warmup_curves() if table is None else table
    rows = rows[(rows["kind"] != "all") | (rows["panel"] == panel)]
    cells = {
        (kind, size, w): Sample.published([100 * mean], [100 * std], n)
        for kind, size, w, mean, std, n in zip(*(rows[c] for c in ("kind", "size", "w", "mean", "std", "n")))
    }
    steps, sizes = sorted(set(rows["w"])), sorted(set(rows["size"]) - {0})
    return Sweep("cifar10", cells, tuple(steps), tuple(sizes), 8, ("read off a picture",))


def curve_name(kind: str, size: int) -> str:
    """A curve as people write it: easy 5120, all data."""
    return f"{kind} {size}" if size else "all data"
