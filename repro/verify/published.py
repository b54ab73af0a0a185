"""The paper's own numbers, as tables and as outcomes.

They are gathered in `paper_figures/reference` from vector figures and printed values of the authors' repository; those
of Figures 5 and 6 were read off pictures. Curves are means, standard deviations over replicates (ddof 0) and numbers of
replicates at each pruning level. Figure 2 and its sizes are `figure` "2/AppE" there, the label-noise runs "4/AppE"; the
file holds the same conditions again under other figures (CINIC-10 at half the steps, the rebuttal), which are left out.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import RunError, UsageError
from repro.protocol import JUDGED
from repro.verify.outcomes import ALL_DATA, COLUMNS, SUBSETS, Outcomes, condition_key
from repro.verify.stats import Sample

SIZES = {"cifar10": 3200, "cifar100": 2048, "cinic10": 51200}
"""Subset size of Figure 2 per data set of the paper, fixed beforehand (CIFAR-10's is not printed in the paper)."""


NOISE_SIZE = 2048
"""Subset size compared under label noise, fixed beforehand: the paper does not print Figure 4's."""
NOISE = {"cifar10": (0.1, 0.5)}
"""Shares of randomised labels whose curves are published."""
FAMILIES = ("all", "random", "easy", "lmc")
WARMUP_PANELS = ("easy", "hard", "random")
"""Panels of Figure 6. Each draws the curve of all data again."""


def reference_file(name: str) -> Path:
    """A file of `paper_figures/reference`. Raises RunError where it is missing."""
    places = find_spec("paper_figures").submodule_search_locations
    path = next((p for p in (Path(place, "reference", name) for place in places) if p.is_file()), None)
    if path is None:
        raise RunError(f"paper_figures/reference/{name} is missing: install the project again")
    return path


@cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(reference_file(name))


def curves(dataset: str, *, noise: float = 0.0) -> pd.DataFrame:
    """Published summaries, one row per condition, size and level.

    Columns: condition (str: all_tstar, all_tstar_half, all_t0, random, easy, hard, dense), size (int, 0 for all data),
    t (int), noise (float), level (int), mean and std (fractions, ddof 0), n (int). noise: share of randomised labels
    (0, 0.1, 0.5); under noise the runs from step 0 are the clean ones again.
    Raises UsageError where the paper has published nothing.
    """
    table = _read("paper_curves.csv")
    figure = "2/AppE" if noise == 0 else "4/AppE"
    table = table[(table.figure == figure) & (table.dataset == dataset) & (table.label_noise == noise)]
    if table.empty:
        raise UsageError(
            f"the paper has no curves of {dataset} with label noise {noise}: "
            f"choose {', '.join(SIZES)} without noise, or cifar10 with 0.1 or 0.5"
        )
    return pd.DataFrame(
        {
            "condition": table.condition.str.replace(r"_\d+$", "", regex=True),
            "size": table.subset_size.fillna(0).astype(int),
            "t": table.rewind_steps.astype(int),
            "noise": noise,
            "level": table.level,
            "mean": table.mean_test_acc,
            "std": table.std_or_err,
            "n": table.n_replicates,
        }
    ).reset_index(drop=True)


def panels(dataset: str) -> pd.DataFrame:
    """The clean curves and those of every noise panel, as `curves` gives them, one below the other."""
    return pd.concat([curves(dataset, noise=noise) for noise in (0.0, *NOISE.get(dataset, ()))], ignore_index=True)


def outcomes(
    dataset: str,
    *,
    size: int | None = None,
    noise_size: int = NOISE_SIZE,
    table: pd.DataFrame | None = None,
    levels: tuple[int, ...] = JUDGED,
) -> Outcomes:
    """The published counterpart of a runs table: summaries without replicates.

    size: the subset size compared (default: Figure 2's); noise_size: the one under label noise. table: `panels(...)`
    or `curves(...)`, if it has been altered. levels: the judging levels.
    """
    table = panels(dataset) if table is None else table
    samples = _samples(table, levels)
    return _compared(dataset, samples, SIZES[dataset] if size is None else size, noise_size, levels)


def outcomes_by_size(dataset: str) -> dict[int, Outcomes]:
    """`outcomes` compared at every published subset size, without and under label noise alike."""
    samples = _samples(panels(dataset), JUDGED)
    sizes = sorted({size for _, size, _ in samples} - {0})
    return {size: _compared(dataset, samples, size, size, JUDGED) for size in sizes}


def _samples(table: pd.DataFrame, judged: tuple) -> dict[tuple[str, int, float], tuple[dict[int, Sample], Sample]]:
    """{(condition, size, noise): (sample of each level, sample of the judging levels)}."""
    found = {}
    for (condition, size, noise), rows in table.groupby(["condition", "size", "noise"]):
        if condition not in (*ALL_DATA, *SUBSETS):
            continue
        rows = rows.set_index("level")
        n = int(rows.n.iloc[0])
        levels = {int(k): Sample.published([100 * r["mean"]], [100 * r["std"]], n) for k, r in rows.iterrows()}
        x = rows.loc[list(judged)]
        mean = Sample.published(100 * x["mean"].to_numpy(), 100 * x["std"].to_numpy(), n)
        found[condition, int(size), noise] = levels, mean
    return found


def _compared(dataset: str, curves: dict, size: int, noise_size: int, levels: tuple[int, ...]) -> Outcomes:
    keys = {(c, own, noise): condition_key(c, own, noise_size if noise else size, noise) for c, own, noise in curves}
    by_level = {keys[curve]: each for curve, (each, _) in curves.items()}
    samples = {keys[curve]: sample for curve, (_, sample) in curves.items()}
    # like ours, dense is level 0 of all@t*; the line drawn as "dense" for CINIC-10 is level 0 of all@t*/2
    samples["dense"] = by_level["all_tstar"][0]
    sizes = [own for condition, own, noise in curves if condition == "random" and noise == 0]
    return Outcomes(
        dataset=dataset,
        size=size,
        noise_size=noise_size,
        samples=samples,
        by_level=by_level,
        levels=levels,
        smallest=min(sizes, default=size),
    )


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

    Columns: condition (all, random, easy, lmc), t (float, NaN where it is unknown), barrier (nats), pretrain_acc and
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
