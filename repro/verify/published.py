"""The paper's own curves as summaries: what was published for each condition of each data set.

The numbers are the vector figures and printed values of the authors' repository, gathered in
`paper_figures/reference/paper_curves.csv`: mean, standard deviation over replicates (ddof 0) and number of replicates
at each pruning level. Figure 2 and its sizes are `figure` "2/AppE", the label-noise runs "4/AppE"; the CSV holds the
same conditions again under other figures (CINIC-10 at half the steps, the rebuttal), which are left aside here.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from repro.errors import RunError, UsageError
from repro.verify.outcomes import ALL_DATA, SUBSETS, Outcomes, condition_key
from repro.verify.stats import LEVELS, Sample

SIZES = {"cifar10": 3200, "cifar100": 2048, "cinic10": 51200}
"""Subset size of Figure 2 per data set of the paper, fixed beforehand (CIFAR-10's is not printed in the paper)."""


@cache
def _csv() -> pd.DataFrame:
    places = find_spec("paper_figures").submodule_search_locations
    path = next((p for p in (Path(place, "reference", "paper_curves.csv") for place in places) if p.is_file()), None)
    if path is None:
        raise RunError(
            "the paper's curves (paper_figures/reference/paper_curves.csv) are missing: install the project again"
        )
    return pd.read_csv(path)


def curves(dataset: str, *, noise: float = 0.0) -> pd.DataFrame:
    """Published summaries, one row per condition, size and level.

    Columns: condition (str: all_tstar, all_tstar_half, all_t0, random, easy, hard, dense), size (int, 0 for all data),
    t (int), level (int), mean and std (fractions, ddof 0), n (int). noise: share of randomised labels (0, 0.1, 0.5).
    Raises UsageError where the paper has published nothing.
    """
    table = _csv()
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
            "level": table.level,
            "mean": table.mean_test_acc,
            "std": table.std_or_err,
            "n": table.n_replicates,
        }
    ).reset_index(drop=True)


def outcomes(
    dataset: str, *, noise: float = 0.0, size: int | None = None, table: pd.DataFrame | None = None
) -> Outcomes:
    """The published counterpart of a runs table: summaries without replicates.

    size: the subset size compared (default: Figure 2's). table: `curves(...)`, if it has been altered.
    """
    table = curves(dataset, noise=noise) if table is None else table
    size = SIZES[dataset] if size is None else size
    samples, by_level = {}, {}
    sizes = sorted(table.loc[table.condition == "random", "size"].unique())
    for (condition, own_size), rows in table.groupby(["condition", "size"]):
        if condition not in (*ALL_DATA, *SUBSETS):
            continue
        key = condition_key(condition, int(own_size), size)
        rows = rows.set_index("level")
        n = int(rows.n.iloc[0])
        by_level[key] = {int(k): Sample.published([100 * r["mean"]], [100 * r["std"]], n) for k, r in rows.iterrows()}
        x = rows.loc[list(LEVELS)]
        samples[key] = Sample.published(100 * x["mean"].to_numpy(), 100 * x["std"].to_numpy(), n)
    # like ours, dense is level 0 of all@t*; the line drawn as "dense" for CINIC-10 is level 0 of all@t*/2
    samples["dense"] = by_level["all_tstar"][0]
    return Outcomes(
        dataset=dataset, size=size, samples=samples, by_level=by_level, smallest=int(min(sizes, default=size))
    )
