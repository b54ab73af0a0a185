"""What was measured, as tables: everything that figures are drawn from and claims are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import pandas as pd

COLUMNS = {
    "runs": ("dataset", "condition", "size", "t", "noise", "replicate", "level", "acc", "density", "diverged"),
    "barriers": (
        "dataset",
        "condition",
        "size",
        "t",
        "noise",
        "replicate",
        "level",
        "a",
        "b",
        "fresh",
        "batch_norm",
        "train_ce",
        "test_ce",
        "train_error",
        "test_error",
        "train_ce_max",
        "train_error_max",
        "test_error_max",
        "share_below_half",
        "acc_a",
        "acc_b",
        "pretrain_acc",
        "pretrain_acc_recalibrated",
        "diverged",
    ),
    "histograms": ("dataset", "condition", "size", "t", "batch_norm", "replicate", "bin_lo", "count"),
    "paths": (
        "dataset",
        "condition",
        "size",
        "t",
        "batch_norm",
        "replicate",
        "alpha",
        "train_loss",
        "train_error",
        "test_loss",
        "test_error",
    ),
    "warmup": ("dataset", "kind", "size", "w", "replicate", "acc", "diverged"),
    "subsets": ("dataset", "condition", "kind", "size", "noise", "replicate", "wrong_labels", "missing_classes"),
    "scores": ("dataset", "noise", "fold", "half_correlation"),
    "gradients": ("dataset", "trained_on", "replicate", "step", "cosine", "acc"),
    "growth": ("dataset", "artifact", "before", "after"),
}
"""Columns that each table has. Accuracies, errors and shares are fractions, losses and barriers of them in nats. What
was made with a user's labels has the path of their file in a further column, ``labels``."""


def _empty(name: str):
    return field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS[name])))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Tables of one or more figures; a table nobody measured is empty.

    runs: accuracy of each replicate and level. barriers: one row per pair of children (alpha = 1/2). histograms: of
    per-example barriers, summed over the pairs of a parent, in bins of 0.5 on [-5, 10] (the outermost take what is
    outside). paths: means along the line, over the pairs of a parent. warmup, subsets, scores, gradients: one row per
    measurement. growth: artifacts that were complete with fewer replicates ``before`` they had those shown now.
    """

    runs: pd.DataFrame = _empty("runs")
    barriers: pd.DataFrame = _empty("barriers")
    histograms: pd.DataFrame = _empty("histograms")
    paths: pd.DataFrame = _empty("paths")
    warmup: pd.DataFrame = _empty("warmup")
    subsets: pd.DataFrame = _empty("subsets")
    scores: pd.DataFrame = _empty("scores")
    gradients: pd.DataFrame = _empty("gradients")
    growth: pd.DataFrame = _empty("growth")

    def of(self, dataset: str) -> Evidence:
        """The same of one data set."""
        tables = {f.name: getattr(self, f.name) for f in fields(self)}
        return Evidence(**{name: table[table["dataset"] == dataset] for name, table in tables.items()})

    def without_own_labels(self) -> Evidence:
        """The same without what was made with a user's labels: no claim is about it."""
        return Evidence(**{f.name: own_labels(getattr(self, f.name)) for f in fields(self)})


def same_replicates(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The rows of the replicates that every arm has, so that all arms of a panel are of the same test folds.

    arms: columns that tell arms apart, and levels or steps where a replicate may lack some.
    """
    groups = table.groupby(list(arms), sort=False)["replicate"].agg(set)
    return table[table["replicate"].isin(set.intersection(*groups))] if len(groups) else table


def own_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without a user's labels, which the paper's figures and claims are about, and without their column."""
    return table[table["labels"].fillna("") == ""].drop(columns="labels") if "labels" in table else table
