"""What was measured, as tables: everything that figures are drawn from and claims are judged on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pandas as pd

COLUMNS = {
    "runs": ("dataset", "condition", "size", "t", "noise", "replicate", "level", "acc", "density", "diverged"),
    "barriers": (
        "dataset", "condition", "size", "t", "noise", "replicate", "level", "a", "b", "fresh", "batch_norm",
        "train_ce", "test_ce", "train_error", "test_error", "train_ce_max", "train_error_max", "test_error_max",
        "share_below_half", "acc_a", "acc_b", "pretrain_acc", "pretrain_acc_recalibrated", "diverged",
    ),
    "histograms": ("dataset", "condition", "size", "t", "batch_norm", "bin_lo", "count"),
    "paths": ("dataset", "condition", "size", "t", "batch_norm", "alpha", "train_loss", "train_error", "test_loss",
              "test_error", "n"),
    "warmup": ("dataset", "kind", "size", "w", "replicate", "acc", "diverged"),
    "subsets": ("dataset", "condition", "kind", "size", "noise", "replicate", "wrong_labels", "missing_classes"),
    "scores": ("dataset", "noise", "fold", "half_correlation"),
    "gradients": ("dataset", "trained_on", "replicate", "step", "cosine", "acc"),
}  # fmt: skip
"""Columns that each table has. Accuracies, errors and shares are fractions, losses and barriers of them in nats."""


def _empty(name: str):
    return field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS[name])))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Tables of one or more figures; a table nobody measured is empty.

    runs: accuracy of each replicate and level. barriers: one row per pair of children (alpha = 1/2). histograms: of
    per-example barriers, summed over parents and pairs, in bins of 0.5 on [-5, 10] (the outermost take what is
    outside). paths: means along the line. warmup, subsets, scores, gradients: one row per measurement.
    """

    runs: pd.DataFrame = _empty("runs")
    barriers: pd.DataFrame = _empty("barriers")
    histograms: pd.DataFrame = _empty("histograms")
    paths: pd.DataFrame = _empty("paths")
    warmup: pd.DataFrame = _empty("warmup")
    subsets: pd.DataFrame = _empty("subsets")
    scores: pd.DataFrame = _empty("scores")
    gradients: pd.DataFrame = _empty("gradients")

    def of(self, dataset: str) -> Evidence:
        """The same of one data set."""
        tables = {f.name: getattr(self, f.name) for f in fields(self)}
        return Evidence(**{name: table[table["dataset"] == dataset] for name, table in tables.items()})
