"""What was measured, as tables (`Evidence`), and the outcomes of the pruned runs in them (`Outcomes`).

The outcome of a replicate is its mean accuracy over the judging levels. A condition is named by its role: all_tstar,
all_tstar_half, all_t0 (all data, rewound to t*, t*/2, 0), random, easy, hard (subsets of the compared size at t*/2),
and dense, which is level 0 of all_tstar; the appendix has more subsets (lmc, forgetting, ...). A run that differs from
its role says so: "random_256" is of another size, "easy@400" of another rewind step, and "easy~0.5" was pre-trained
with half of the labels randomised (there the compared size is that of the noise panels).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.protocol import JUDGED, Protocol
from repro.verify.stats import Sample, shared_replicates

COLUMNS = {
    name: tuple(columns.split())
    for name, columns in {
        "runs": "dataset condition size t noise replicate level acc density diverged",
        "barriers": "dataset condition size t noise replicate level a b fresh batch_norm train_ce test_ce train_error "
        "test_error train_ce_max train_error_max test_error_max share_below_half acc_a acc_b pretrain_acc "
        "pretrain_acc_recalibrated diverged",
        "histograms": "dataset condition size t batch_norm replicate bin_lo count",
        "paths": "dataset condition size t batch_norm replicate alpha train_loss train_error test_loss test_error",
        "warmup": "dataset kind size w replicate acc diverged",
        "subsets": "dataset condition kind size noise replicate wrong_labels missing_classes",
        "scores": "dataset noise fold half_correlation",
        "gradients": "dataset trained_on replicate step cosine acc",
        "growth": "dataset artifact before after",
    }.items()
}
"""Columns of each table. Accuracies, errors and shares are fractions, losses and barriers are in nats. Rows that a
user's labels went into have the path of the label file in one more column, ``labels``."""


def _empty(name: str):
    return field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS[name])))


@dataclass(frozen=True, eq=False)
class Evidence:
    """The tables that figures are drawn from and claims are judged on; a table that nobody measured is empty.

    runs: accuracy of each replicate and level. barriers: one row per pair of children (alpha = 1/2). histograms: counts
    of per-example barriers over all pairs of a parent, in bins of 0.5 on [-5, 10] (the outermost bins take what lies
    outside). paths: means along the line, over the pairs of a parent. warmup, subsets, scores, gradients: one row per
    measurement. growth: artifacts that were once complete with fewer replicates (``before``) than now (``after``).
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
        """The rows of one data set."""
        return self._each(lambda table: table[table["dataset"] == dataset])

    def without_own_labels(self) -> Evidence:
        """The rows that no user's labels went into: claims are about those alone."""
        return self._each(own_labels)

    def _each(self, change) -> Evidence:
        return Evidence(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


def same_replicates(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The rows of the replicates that every arm has, so that all arms of a panel are of the same test folds.

    arms: columns that tell arms apart, and levels or steps where a replicate may lack some.
    """
    arm = table.groupby(list(arms), sort=False).ngroup()
    arm = arm[arm >= 0]  # an arm without a name (NaN) is none
    if arm.empty:
        return table
    complete = arm.groupby(table["replicate"]).nunique() == arm.nunique()
    return table[table["replicate"].isin(complete.index[complete])]


def own_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without a user's labels, which the paper's figures and claims are about, and without their column."""
    return table[table["labels"].fillna("") == ""].drop(columns="labels") if "labels" in table else table


ALL_DATA = ("all_tstar", "all_tstar_half", "all_t0")
SUBSETS = ("random", "easy", "hard")
_NEEDED = tuple(column for column in COLUMNS["runs"] if column not in ("noise", "density"))
SMALLEST = "random_smallest"
"""The smallest random subset of a size sweep."""
AT_NOISE_SIZE = "@noise"
"""Ending of a clean condition at the subset size of the noise panels."""

_LABELS = {
    "all_tstar": "all@t*",
    "all_tstar_half": "all@t*/2",
    "all_t0": "all@0",
    SMALLEST: "smallest random",
    "easy_unbalanced": "easy unbalanced",
    "easy_balanced": "easy balanced",
    "random_like_easy": "random like easy",
}
_OWN_STEP = (*ALL_DATA, "shuffled")  # roles that say their rewind step

_COLLAPSED = 1.5  # a run at or below this multiple of chance has learned nothing


def condition_key(condition: str, size: int, compared: int, noise: float = 0.0) -> str:
    """Name of a condition among the samples: the role, with its size if another than the compared, with its noise."""
    return (condition if size in (0, compared) else f"{condition}_{size}") + (f"~{noise:g}" if noise else "")


def noise_panel(noise: float) -> str:
    """Name of the panel of Figure 4 with this share of randomised labels."""
    return f"{noise:.0%} noise".replace("%", " %")


def levels_in_words(levels: Sequence[int]) -> str:
    """Like "levels 6 to 10", or "levels 6, 8, 10" where some between are left out."""
    between = list(levels) == list(range(levels[0], levels[-1] + 1)) and len(levels) > 1
    return f"levels {levels[0]} to {levels[-1]}" if between else f"levels {', '.join(map(str, levels))}"


def label(condition: str) -> str:
    """A condition as people write it: all@t* for all_tstar, "easy, 50 % noise" for easy~0.5."""
    role, _, noise = condition.partition("~")
    if role.endswith(AT_NOISE_SIZE):
        return f"clean {label(role.removesuffix(AT_NOISE_SIZE))}"
    return _LABELS.get(role, role) + (f" ({noise_panel(float(noise))})" if noise else "")


def sized(condition: str) -> bool:
    """Whether a condition is a subset of the compared size."""
    return condition.partition("~")[0].removesuffix(AT_NOISE_SIZE) in SUBSETS


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What is known of one data set, own runs or published summaries, in percent.

    samples: per condition, the mean over the judging ``levels`` (of dense: its accuracy). by_level: per condition and
    level. gaps: per condition, why it cannot be used. failures: (diverged, collapsed) runs per condition, of the
    replicates. smallest: size of the smallest random subset. noise_size: subset size of the noise panels. balanced:
    "easy" is the class-balanced one.
    """

    dataset: str
    size: int
    samples: Mapping[str, Sample]
    by_level: Mapping[str, Mapping[int, Sample]]
    smallest: int
    noise_size: int
    levels: tuple[int, ...] = JUDGED
    balanced: bool = False
    gaps: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def key(self, condition: str) -> str:
        if condition == SMALLEST:
            return condition_key("random", self.smallest, self.size)
        if condition.endswith(AT_NOISE_SIZE):
            return condition_key(condition.removesuffix(AT_NOISE_SIZE), self.noise_size, self.size)
        return "easy" if condition == ("easy_balanced" if self.balanced else "easy_unbalanced") else condition

    def sample(self, condition: str) -> Sample:
        return self.samples[self.key(condition)]

    def level(self, condition: str, level: int) -> Sample | None:
        """The sample of one level; dense is level 0 whatever the level it is compared with."""
        source, level = ("all_tstar", 0) if condition == "dense" else (self.key(condition), level)
        return self.by_level.get(source, {}).get(level)

    def shared(self, conditions: Iterable[str]) -> Outcomes:
        """The same over the replicates that all of these conditions have; unchanged for summaries, and where they
        share fewer than two."""
        samples = {condition: self.sample(condition) for condition in conditions}
        common = shared_replicates(list(samples.values()))
        if common is None:
            return self

        def within(table: Mapping) -> dict:
            return {key: sample.within(common) for key, sample in table.items() if common & set(sample.values)}

        by_level = {key: within(table) for key, table in self.by_level.items()}
        return replace(self, samples=within(self.samples), by_level=by_level)

    def missing(self, conditions: Iterable[str]) -> str:
        """Why these conditions cannot be compared, one clause each; empty if they can."""
        reasons = []
        for condition in dict.fromkeys(conditions):
            if condition == SMALLEST and self.smallest >= self.size:
                reasons.append("needs the size sweep of figure 3: random subsets of several sizes")
            elif self.key(condition) in self.gaps:
                reasons.append(self.gaps[self.key(condition)])
            elif self.key(condition) not in self.samples:
                noisy = "~" in condition or condition.endswith(AT_NOISE_SIZE)
                subset = condition.partition("~")[0] not in (*_OWN_STEP, "dense")
                size = self.smallest if condition == SMALLEST else self.noise_size if noisy else self.size
                size = f" of size {size}" if subset else ""
                reasons.append(f"no run of {label(condition)}{size}")
        return "; ".join(reasons)


def from_runs(runs: pd.DataFrame, p: Protocol) -> Outcomes:
    """The outcomes on one data set of a runs table: a row per condition, size, t, noise, replicate and level (COLUMNS).

    A table without the column "noise" is of clean runs. Runs with a user's labels are left out. A diverged run counts
    as guessing from the level where it diverged. A condition is a gap when it has fewer complete replicates than were
    promised (by the column "promised", else by the protocol, at least 2) or when one lacks a judging level.
    Raises UsageError for a table that lacks a column, holds a run twice or has accuracies that are no fractions.
    """
    rows, chance = _valid_rows(runs, p.dataset), 1 / p.num_classes
    rows = rows.assign(key=_keys(rows, p))
    twice = rows[rows.duplicated(["key", "replicate", "level"])]
    if len(twice):
        row = twice.iloc[0]
        raise UsageError(
            f"the runs of {p.dataset} hold {row['key']}, replicate {row['replicate']}, level {row['level']} "
            f"more than once: verify one recipe at a time"
        )
    samples, by_level, gaps = {}, {}, {}
    known = rows.groupby("key")["promised"].max().dropna() if "promised" in rows else {}
    measured, failures = _by_condition(rows, p.judging_levels, chance)
    for key, table in measured.items():
        promised = max(2, int(known.get(key, p.replicates)))
        for name, needed in {key: p.judging_levels, **({"dense": (0,)} if key == "all_tstar" else {})}.items():
            values, gap = _complete(name, table, needed, promised)
            if gap:
                gaps[name] = gap
            else:
                samples[name] = Sample.of(values)
        by_level[key] = {k: Sample.of(values) for k, values in table.items() if values}
    return Outcomes(
        **dict(dataset=p.dataset, size=p.subset_size, noise_size=p.noise_size, balanced=p.balanced),
        **dict(smallest=min(p.sizes, default=p.subset_size), levels=p.judging_levels),
        **dict(samples=samples, by_level=by_level, gaps=gaps, failures=failures),
    )


def _valid_rows(runs: pd.DataFrame, dataset: str) -> pd.DataFrame:
    absent = [c for c in _NEEDED if c not in runs.columns]
    if absent:
        raise UsageError(f"the runs table lacks the column {absent[0]!r}: it needs {', '.join(_NEEDED)}")
    rows = own_labels(runs[runs["dataset"] == dataset])
    wrong = rows[(rows["acc"] < 0) | (rows["acc"] > 1)]
    if len(wrong):
        raise UsageError(f"accuracy (={wrong['acc'].iloc[0]}) in the runs of {dataset} is not a fraction of 1")
    return rows.assign(noise=rows["noise"].astype(float).fillna(0.0) if "noise" in rows else 0.0)


def _keys(rows: pd.DataFrame, p: Protocol) -> list[str]:
    """The name of each row's condition. Subsets are compared at the rewind step of all@t*/2; runs at another step
    belong to another figure."""
    half = set(rows.loc[rows["condition"] == "all_tstar_half", "t"])

    def name(condition: str, own: int, t: float, noise: float) -> str:
        elsewhere = condition == "all_t" or (condition not in _OWN_STEP and half and t not in half)
        key = condition_key(condition, own, p.noise_size if noise else p.subset_size)
        return key + (f"@{int(t)}" if elsewhere else "") + (f"~{noise:g}" if noise else "")

    arms = list(zip(*(rows[column] for column in ("condition", "size", "t", "noise"))))
    names = {arm: name(*arm) for arm in set(arms)}
    return [names[arm] for arm in arms]


def accuracies(
    rows: pd.DataFrame, run: Sequence[str], levels: Sequence[int], chance: float
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """(the runs, sorted by ``run``; their accuracies, shape (runs, levels); which of them diverged, shape (runs,)).

    run: the columns that tell runs apart. Accuracies are fractions, NaN where a run lacks a level. A diverged run
    counts as chance from the level at which it diverged.
    """
    rows = rows.dropna(subset=list(run))
    number = rows.groupby(list(run)).ngroup().to_numpy()
    runs = rows[list(run)].iloc[np.unique(number, return_index=True)[1]].reset_index(drop=True)
    level, acc = rows["level"].to_numpy(float), rows["acc"].to_numpy(float)
    failed = rows["diverged"].to_numpy(bool) | np.isnan(acc)
    first = np.full(len(runs), np.inf)
    np.minimum.at(first, number[failed], level[failed])
    found, column = np.full((len(runs), len(levels)), np.nan), pd.Index(levels).get_indexer(level)
    found[number[column >= 0], column[column >= 0]] = acc[column >= 0]
    return runs, np.where(np.asarray(levels) >= first[:, None], chance, found), np.isfinite(first)


def _by_condition(rows: pd.DataFrame, judging: tuple[int, ...], chance: float):
    """({key: {level: {replicate: percent}}}, {key: numbers of (diverged, collapsed) replicates})."""
    levels = sorted({*rows["level"], *judging})
    runs, found, diverged = accuracies(rows, ("key", "replicate"), levels, chance)
    low = rows.loc[rows["acc"] <= _COLLAPSED * chance, ["key", "replicate"]]
    collapsed = pd.MultiIndex.from_frame(runs).isin(pd.MultiIndex.from_frame(low)) & ~diverged
    own_levels, measured, failures = rows.groupby("key")["level"].agg(set), {}, {}
    for key, numbers in runs.groupby("key").indices.items():
        replicates = [int(r) for r in runs["replicate"].to_numpy()[numbers]]
        measured[key] = {
            int(level): {r: float(x) for r, x in zip(replicates, column) if not np.isnan(x)}
            for level, column in zip(levels, 100 * found[numbers].T)
            if level in own_levels[key] or level in judging
        }
        failures[key] = int(diverged[numbers].sum()), int(collapsed[numbers].sum())
    return measured, failures


def _complete(name, table, levels, promised) -> tuple[dict[int, float], str]:
    """{replicate: mean over the levels}, and what is missing ('' if nothing is)."""
    replicates = sorted(set().union(*table.values()))
    lacking = {r: [k for k in levels if r not in table.get(k, {})] for r in replicates}
    # NumPy's sum: that of Python 3.12 has other last digits than that of 3.11
    values = {r: float(np.mean([table[k][r] for k in levels])) for r, absent in lacking.items() if not absent}
    for replicate, absent in lacking.items():
        if absent:
            return values, f"{label(name)}, replicate {replicate}, lacks level {', '.join(map(str, absent))}"
    if len(values) < promised:
        return values, f"{label(name)} has {len(values)} of {promised} replicates"
    return values, ""
