"""The paper's own numbers of Figures 5 and 6 and of the rebuttal, as tables. Figures 5 and 6 were read off pictures."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import RunError
from repro.verify.outcomes import COLUMNS

FAMILIES = ("all", "random", "easy", "lmc")
PANELS = ("easy", "hard", "random")
"""Panels of Figure 6. Each draws the curve of all data again."""


@cache
def _read(name: str) -> pd.DataFrame:
    places = find_spec("paper_figures").submodule_search_locations
    path = next((p for p in (Path(place, "reference", name) for place in places) if p.is_file()), None)
    if path is None:
        raise RunError(f"the paper's numbers (paper_figures/reference/{name}) are missing: install the project again")
    return pd.read_csv(path)


def histograms(dataset: str) -> pd.DataFrame:
    """Histograms of per-example loss barriers (Figure 5, left); empty but for cinic10.

    Columns as `Evidence.histograms` without the replicate: counts are over 2 parents and 3 pairs, +-1200. condition:
    all, random or easy (all data at two steps: the column t tells them apart).
    """
    table = _read("paper_lmc_hist.csv")
    table = table[table.dataset == dataset]
    parts = table.condition.str.extract(r"^(?P<condition>[a-z]+?)(?:_(?P<size>\d+))?_t(?P<t>\d+)$")
    frame = pd.DataFrame(
        {
            "dataset": table.dataset,
            "condition": parts["condition"],
            "size": parts["size"].fillna("0").astype(int),
            "t": parts["t"].astype(int),
            "batch_norm": "averaged",
            "bin_lo": table.bin_lo,
            "count": table["count"],
        }
    )
    return frame[[column for column in COLUMNS["histograms"] if column in frame]].reset_index(drop=True)


def scatter(dataset: str) -> pd.DataFrame:
    """Points of Figure 5's scatter panels, one per parent (level 7); empty but for cinic10.

    Columns: condition (all, random, easy, lmc), t (float, NaN where nobody can tell), barrier (nats), pretrain_acc and
    final (fractions), group (int). The two panels are matched by the rank of the final accuracy, which both show.
    group is the condition a point belongs to as far as it can be inferred: points next to each other in final accuracy
    among those of one family and step are taken for the two parents of one condition. The random point that is not
    visible lies below the axis, so that the lowest visible one of its step is alone.
    """
    table = _read("paper_lmc_scatter.csv")
    table = table[table.dataset == dataset]
    frames, group = [], 0
    for family in FAMILIES:
        rows = table[table.condition == family]
        barrier, pretrain = (
            rows[rows.x_quantity == quantity].sort_values("final_test_acc_level7", kind="stable")
            for quantity in ("mean_train_loss_barrier", "pretrain_test_acc")
        )
        frame = pd.DataFrame(
            {
                "condition": family,
                "t": barrier.rewind_steps.to_numpy(dtype=float),
                "barrier": barrier.x.to_numpy(),
                "pretrain_acc": pretrain.x.to_numpy(),
                "final": barrier.final_test_acc_level7.to_numpy(),
                "group": 0,
            }
        )
        for _, block in frame.groupby("t", dropna=False):
            frame.loc[block.index, "group"] = group + (np.arange(len(block)) + len(block) % 2) // 2
            group += (len(block) + 1) // 2
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def warmup_curves() -> pd.DataFrame:
    """Curves of Figure 6 (CIFAR-10, ResNet-20, 8 replicates).

    Columns: panel (easy, hard, random), kind (all, easy, random, hard), size (int, 0 for all data), w (int), mean and
    std (fractions, ddof 0), n (int).
    """
    table = _read("paper_curves.csv")
    table = table[table.figure.astype(str) == "6"]
    parts = table.condition.str.extract(r"^warmup_(?P<kind>[a-z]+)_(?P<size>\d+)(?:\(as drawn in (?P<panel>[a-z]+))?")
    return pd.DataFrame(
        {
            "panel": parts["panel"].fillna(parts["kind"]),
            "kind": parts["kind"],
            "size": parts["size"].astype(int).where(parts["kind"] != "all", 0),
            "w": table.warmup_steps.astype(int),
            "mean": table.mean_test_acc,
            "std": table.std_or_err,
            "n": table.n_replicates.astype(int),
        }
    ).reset_index(drop=True)


def rebuttal_curves() -> pd.DataFrame:
    """Gradient agreement and accuracies of one ResNet-50 on CIFAR-100 (protocol section 13), exact.

    Columns: quantity, trained_on (all or easiest 2048, as written in the CSV), step (int), value, n_replicates.
    """
    columns = ["quantity", "trained_on", "step", "value", "n_replicates"]
    return _read("paper_rebuttal_curves.csv")[columns].reset_index(drop=True)
