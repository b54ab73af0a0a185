"""What the paper's own barriers support: CINIC-10's panels of Figure 5, read off a picture.

Two parents a condition at most, and the step or size of many points can only be inferred, so that most claims stay
inconclusive. Published histograms are of 200 and 400 steps, which stand here for t*/2 and t*; t* is 800 in the text.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from repro.verify.barrier_claims import BY_NUMBER, judged, missing, modes_compared, random_alike, ranked
from repro.verify.correlation import Advantage, advantage, regression
from repro.verify.published_points import histograms, scatter
from repro.verify.stats import Sample, contrast, decide, one_sample
from repro.verify.verdict import Verdict

HALF, FULL, T_STAR = 200, 400, 800
PICTURE = "read off a picture"
_REASONS = {
    "cifar100": "Figure 5's panel of CIFAR-100 was published without its data",
    "cifar10": "the paper has no barriers of CIFAR-10",
}


def from_published(dataset: str) -> list[Verdict]:
    """What the paper's own numbers say on claims 18 to 25: 'missing' but for cinic10."""
    if dataset != "cinic10":
        return [
            missing(n, dataset, _REASONS.get(dataset, f"the paper has no barriers of {dataset}")) for n in BY_NUMBER
        ]
    return judge_points(scatter(dataset), histograms(dataset), dataset)


def judge_points(points: pd.DataFrame, bins: pd.DataFrame, dataset: str) -> list[Verdict]:
    """Verdicts from a scatter and histograms as `published_points` has them."""
    means = {key: _mean(part) for key, part in bins.groupby(["condition", "t"])}
    below = {key: _below_half(part) for key, part in bins.groupby(["condition", "t"])}
    found = [
        _more_is_lower(points, means, below),
        _random_alike(points, means, below),
        _easy_nearer(means, below),
        _modes(bins),
        _ranked(points),
        _easy_below_random(points),
        _lmc(points),
        _after_tstar(points),
    ]
    return [replace(v, dataset=dataset, note=f"{v.note}; {PICTURE}") for v in found]


def _mean(bins: pd.DataFrame) -> float:
    return float(np.average(bins["bin_lo"] + 0.25, weights=bins["count"]))


def _below_half(bins: pd.DataFrame) -> float:
    return float(100 * bins.loc[bins["bin_lo"] < 0.5, "count"].sum() / bins["count"].sum())


def _at(points: pd.DataFrame, condition: str, t: int | None = None, column: str = "barrier") -> Sample:
    rows = points[(points["condition"] == condition) & (True if t is None else points["t"] == t)]
    x = rows[column].to_numpy()
    return Sample(float(x.mean()), float(x.std(ddof=1)), x.size)


def _histogram_note(means, below, keys) -> str:
    return "histograms: " + ", ".join(f"{c}@{t} mean {means[c, t]:.1f}, {below[c, t]:.1f} % below 0.5" for c, t in keys)


def _more_is_lower(points, means, below) -> Verdict:
    rows = points[points["condition"] == "all"]
    estimate = regression(-np.log2(rows["t"].to_numpy()), rows["barrier"].to_numpy())
    note = _histogram_note(means, below, [("all", HALF), ("all", FULL)])
    return judged(18, "", estimate, "fall of the mean barrier of all data per doubling of t", "nats", note=note)


def _random_alike(points, means, below) -> Verdict:
    samples = {
        "half": _at(points, "all", HALF),
        "full": _at(points, "all", FULL),
        "random": _at(points, "random", HALF),
    }
    return random_alike(samples, "", _histogram_note(means, below, [("random", HALF), ("all", HALF)]))


def _easy_nearer(means, below) -> Verdict:
    # one mean per condition: without spread nothing can be tested, and the verdict stays open
    effect = (means["all", HALF] + means["all", FULL]) / 2 - means["easy", HALF]
    note = "no spread is published; " + _histogram_note(means, below, [("easy", HALF), ("all", HALF), ("all", FULL)])
    text = "barrier of (all@t* + all@t*/2)/2 - easy, of one histogram each"
    return Verdict(claim=20, dataset="", verdict="inconclusive", effect=effect, statistic=text, unit="nats", note=note)


def _modes(bins) -> Verdict:
    modes = {
        f"{c}@{t}": float(part.loc[part["count"].idxmax(), "bin_lo"])
        for (c, t), part in bins.groupby(["condition", "t"])
    }
    return modes_compared("", modes, modes[f"all@{HALF}"] - modes[f"all@{FULL}"])


def _ranked(points) -> Verdict:
    """Conditions with their parents averaged, as own runs are judged; single parents in the note."""
    columns = ["barrier", "pretrain_acc", "final"]

    def compared(rows: pd.DataFrame, groups=None) -> Advantage:
        return advantage(*(rows[c].to_numpy() for c in columns), groups)

    rest = points[points["condition"] != "lmc"]
    means, few = (rows.groupby("group")[columns].mean() for rows in (points, rest))
    single, without = compared(points, points["group"].to_numpy()), compared(few)
    notes = [
        f"over {len(means)} conditions, parents averaged",
        f"over the {len(points)} single parents, those of a condition resampled together: {single.rho_barrier:+.2f} "
        f"and {single.rho_pretrain:+.2f}, {single.effect:+.2f} [{single.low:+.2f}, {single.high:+.2f}], "
        f"{decide(single)}",
        f"without LMC-score subsets ({len(few)} conditions): {without.rho_barrier:+.2f} and "
        f"{without.rho_pretrain:+.2f}, {without.effect:+.2f} [{without.low:+.2f}, {without.high:+.2f}]",
    ]
    return ranked("", compared(means), "; ".join(notes))


def _easy_below_random(points) -> Verdict:
    steps = sorted(points.loc[points["condition"] == "random", "t"].dropna().unique())
    terms = [(1 / len(steps), _at(points, "random", t)) for t in steps] + [(-1.0, _at(points, "easy"))]
    note = f"{len(points[points['condition'] == 'random'])} of 12 random points visible, steps weighted alike"
    return judged(23, "", contrast(terms), "barrier of random - easy, sizes and steps pooled", "nats", note=note)


def _lmc(points) -> Verdict:
    percent = points.assign(percent=100 * points["final"])
    terms = [(sign, _at(percent, c, column="percent")) for sign, c in ((1.0, "easy"), (-1.0, "lmc"))]
    best = {c: percent.loc[percent["condition"] == c, "percent"].max() for c in ("easy", "lmc")}
    note = f"level 7 only; best points {best['easy']:.2f} and {best['lmc']:.2f} %"
    return judged(24, "", contrast(terms), "easy - LMC score, sizes pooled", "pp", note=note)


def _after_tstar(points) -> Verdict:
    x = points.loc[(points["condition"] == "all") & (points["t"] == T_STAR), "barrier"].to_numpy()
    note = f"both parents above 0 ({x.min():.2f} and {x.max():.2f}), and no 0-1 barrier is published"
    return judged(
        25, "", replace(one_sample(x), method="t"), f"cross-entropy barrier of all@{T_STAR}", "nats", note=note
    )
