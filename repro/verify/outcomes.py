"""From a table of runs to samples: one outcome per replicate for each condition, and what is missing.

A condition is named by its role: all_tstar, all_tstar_half, all_t0 (all data, rewound to t*, t*/2, 0), random, easy,
hard (subsets of the compared size at t*/2; of another size: "random_256"), and dense, which is level 0 of all_tstar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from repro.errors import UsageError
from repro.verify.stats import LEVELS, Sample

ALL_DATA = ("all_tstar", "all_tstar_half", "all_t0")
SUBSETS = ("random", "easy", "hard")
COLUMNS = ("dataset", "condition", "size", "t", "replicate", "level", "acc", "diverged")
SMALLEST = "random_smallest"
"""The smallest random subset of a size sweep."""

_LABELS = {"all_tstar": "all@t*", "all_tstar_half": "all@t*/2", "all_t0": "all@0", SMALLEST: "smallest random"}

_COLLAPSED = 1.5  # a run at or below this multiple of chance has learned nothing


def condition_key(condition: str, size: int, compared: int) -> str:
    """Name of a condition among the samples: the role alone at the compared size, with its size otherwise."""
    return condition if size in (0, compared) else f"{condition}_{size}"


def label(condition: str) -> str:
    """A condition as people write it: all@t* for all_tstar."""
    return _LABELS.get(condition, condition)


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What is known of one data set, own runs or published summaries, in percent.

    samples: per condition, the mean over levels 6 to 10 (of dense: its accuracy). by_level: per condition and level.
    gaps: per condition, why it cannot be used. failures: (diverged, collapsed) runs per condition, of the replicates.
    smallest: size of the smallest random subset.
    """

    dataset: str
    size: int
    samples: Mapping[str, Sample]
    by_level: Mapping[str, Mapping[int, Sample]]
    smallest: int
    gaps: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def key(self, condition: str) -> str:
        return condition_key("random", self.smallest, self.size) if condition == SMALLEST else condition

    def sample(self, condition: str) -> Sample:
        return self.samples[self.key(condition)]

    def level(self, condition: str, level: int) -> Sample | None:
        """The sample of one level; dense is level 0 whatever the level it is compared with."""
        source, level = ("all_tstar", 0) if condition == "dense" else (self.key(condition), level)
        return self.by_level.get(source, {}).get(level)

    def missing(self, conditions: Iterable[str]) -> str:
        """Why these conditions cannot be compared, one clause each; empty if they can."""
        reasons = []
        for condition in dict.fromkeys(conditions):
            if condition == SMALLEST and self.smallest >= self.size:
                reasons.append("needs the size sweep of figure 3: random subsets of several sizes")
            elif self.key(condition) in self.gaps:
                reasons.append(self.gaps[self.key(condition)])
            elif self.key(condition) not in self.samples:
                size = f" of size {self.size}" if condition in SUBSETS else ""
                reasons.append(f"no run of {label(condition)}{size}")
        return "; ".join(reasons)


def from_runs(
    runs: pd.DataFrame, dataset: str, *, chance: float, size: int | None = None, replicates: int = 2
) -> Outcomes:
    """Outcomes of a runs table (one row per data set, condition, size, replicate and level; see COLUMNS).

    chance: accuracy of guessing (1 / classes); a diverged run counts as chance, from the level where it diverged.
    size: subset size compared (default: the only one, UsageError if there are several). replicates: how many were
    promised of each condition, at least 2; a condition with fewer complete ones is a gap, and so is a replicate that
    lacks one of the levels 6 to 10.
    """
    rows = _valid_rows(runs, dataset)
    size = _compared_size(rows, dataset) if size is None else size
    rows = rows.assign(key=[condition_key(c, s, size) for c, s in zip(rows["condition"], rows["size"])])
    rows = _at_half_step(rows)
    twice = rows[rows.duplicated(["key", "replicate", "level"])]
    if len(twice):
        row = twice.iloc[0]
        raise UsageError(
            f"the runs of {dataset} hold {row['key']}, replicate {row['replicate']}, level {row['level']} "
            f"more than once: verify one recipe at a time"
        )
    samples, by_level, gaps, failures = {}, {}, {}, {}
    for key, group in rows.groupby("key"):
        by_level[key], failures[key] = _levels(group, chance)
        for name, levels in {key: LEVELS, **({"dense": (0,)} if key == "all_tstar" else {})}.items():
            values, gaps[name] = _complete(name, by_level[key], levels, set(group["replicate"]), max(2, replicates))
            if not gaps[name]:
                samples[name] = Sample.of(values)
    by_level = {key: {k: Sample.of(values) for k, values in table.items() if values} for key, table in by_level.items()}
    sizes = rows.loc[(rows["condition"] == "random") & (rows["size"] > 0), "size"]
    return Outcomes(
        dataset=dataset,
        size=size,
        samples=samples,
        by_level=by_level,
        failures=failures,
        gaps={name: gap for name, gap in gaps.items() if gap},
        smallest=int(sizes.min()) if len(sizes) else size,
    )


def _valid_rows(runs: pd.DataFrame, dataset: str) -> pd.DataFrame:
    absent = [c for c in COLUMNS if c not in runs.columns]
    if absent:
        raise UsageError(f"the runs table lacks the column {absent[0]!r}: it needs {', '.join(COLUMNS)}")
    rows = runs[(runs["dataset"] == dataset) & runs["condition"].isin((*ALL_DATA, *SUBSETS, "shuffled"))]
    wrong = rows[(rows["acc"] < 0) | (rows["acc"] > 1)]
    if len(wrong):
        raise UsageError(f"accuracy (={wrong['acc'].iloc[0]}) in the runs of {dataset} is not a fraction of 1")
    return rows


def _compared_size(rows: pd.DataFrame, dataset: str) -> int:
    sizes = sorted(set(rows.loc[rows["condition"].isin(SUBSETS), "size"]))
    if len(sizes) > 1:
        raise UsageError(
            f"the runs of {dataset} hold subsets of several sizes ({', '.join(map(str, sizes))}): "
            "name the size to compare"
        )
    return int(sizes[0]) if sizes else 0


def _at_half_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Subsets are compared at the rewind step of all@t*/2; runs at another step belong to another figure."""
    half = set(rows.loc[rows["condition"] == "all_tstar_half", "t"])
    return rows[~rows["condition"].isin(SUBSETS) | rows["t"].isin(half)] if half else rows


def _levels(group: pd.DataFrame, chance: float) -> tuple[dict[int, dict[int, float]], tuple[int, int]]:
    """{level: {replicate: percent}} and the numbers of (diverged, collapsed) replicates."""
    table = {int(k): {} for k in sorted({*group["level"], *LEVELS})}
    diverged = collapsed = 0
    for replicate, run in group.groupby("replicate"):
        accuracy = run.set_index("level")["acc"]
        failed = run.loc[run["diverged"].astype(bool) | run["acc"].isna(), "level"]
        first = failed.min() if len(failed) else float("inf")
        for level in table:
            if level >= first:
                table[level][int(replicate)] = 100 * chance
            elif level in accuracy.index:
                table[level][int(replicate)] = 100 * float(accuracy[level])
        diverged += len(failed) > 0
        collapsed += len(failed) == 0 and bool((accuracy <= _COLLAPSED * chance).any())
    return table, (diverged, collapsed)


def _complete(name, table, levels, replicates, promised) -> tuple[dict[int, float], str]:
    """{replicate: mean over the levels}, and what is missing ('' if nothing is)."""
    lacking = {int(r): [k for k in levels if r not in table.get(k, {})] for r in sorted(replicates)}
    values = {r: sum(table[k][r] for k in levels) / len(levels) for r, absent in lacking.items() if not absent}
    for replicate, absent in lacking.items():
        if absent:
            return values, f"{label(name)}, replicate {replicate}, lacks level {', '.join(map(str, absent))}"
    if len(values) < promised:
        return values, f"{label(name)} has {len(values)} of {promised} replicates"
    return values, ""
