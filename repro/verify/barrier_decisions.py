"""Claims on barriers decided alike for own and published ones, and the verdicts on the paper's own barriers.

Of the paper's barriers, CINIC-10's panels of Figure 5 were read off a picture. They have two parents a condition at
most, and the step or size of many points can only be inferred, so that most claims stay inconclusive. Published
histograms are of 200 and 400 steps, which stand here for t*/2 and t*; t* is 800 in the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from repro.verify import published, stats
from repro.verify.claims import BARRIER_CLAIMS, CLAIMS
from repro.verify.stats import Advantage, ModeShift, Sample, contrast, decide, interval
from repro.verify.verdict import Verdict

FULL, HALF = "all_tstar", "all_tstar_half"
_UNDECIDED = {"word": "inconclusive", "p": 1.0}
_HALF, _FULL, _RANDOM, _EASY = ("all", 200), ("all", 400), ("random", 200), ("easy", 200)
_T_STAR = 800
_REASONS = {
    "cifar100": "Figure 5's panel of CIFAR-100 was published without its data",
    "cifar10": "the paper has no barriers of CIFAR-10",
}
Bins = Mapping[tuple[str, int], pd.DataFrame]
"""Published histograms by (condition, step)."""


def random_alike(samples: Mapping[str, Sample], note: str = "", *, dataset: str, confidence: float = 0.95) -> Verdict:
    """Claim 19, by two one-sided tests of samples of all@t*/2 (half), all@t* (full) and random.

    The margin, half the gap, is an estimate as well and so takes part in the tests: random - half - gap/2 has to be
    below 0, and random - half + gap/2 above it.
    """
    half, full, random = (samples[condition] for condition in (HALF, FULL, "random"))
    shifted = [[(1.0, random), (-1 - sign / 2, half), (sign / 2, full)] for sign in (1, -1)]
    sides = [contrast(side, confidence=confidence) for side in shifted]
    p = max(side.p / 2 if sign * side.effect < 0 else 1 - side.p / 2 for sign, side in zip((1, -1), sides))
    word = "contradicted" if sides[0].low > 0 or sides[1].high < 0 else "inconclusive"
    if stats.inner_interval(sides[0])[1] < 0 < stats.inner_interval(sides[1])[0]:
        word = "reproduced"
    gap, gap_note = _gap(samples, confidence)
    margin = f"equivalence margin {(half.mean - full.mean) / 2:.2f} either way"
    about = dict(confidence=confidence, word=word, p=float(p), unit="nats")
    about["note"] = "; ".join(filter(None, (f"{margin}, {gap_note}", note)))
    terms, text = [(1.0, random), (-1.0, half)], "barrier of random - all@t*/2"
    return _with_gap(CLAIMS[19].contrasted(terms, dataset, text, **about), gap)


def easy_nearer(samples: Mapping[str, Sample], *, dataset: str, confidence: float) -> Verdict:
    """Claim 20: (half + full)/2 - easy above 0, with half and full the samples of all@t*/2 and all@t*."""
    terms = [(0.5, samples[HALF]), (0.5, samples[FULL]), (-1.0, samples["easy"])]
    gap, note = _gap(samples, confidence)
    about = dict(confidence=confidence, note=note, unit="nats")
    return _with_gap(CLAIMS[20].contrasted(terms, dataset, "barrier of (all@t* + all@t*/2)/2 - easy", **about), gap)


def _gap(samples: Mapping[str, Sample], confidence: float) -> tuple[float, str]:
    """One-sided lower bound of all@t*/2 - all@t*, the assay check, and a note on it."""
    half, full = samples[HALF], samples[FULL]
    bound = float(stats.lower_bound(contrast([(1.0, half), (-1.0, full)], confidence=confidence)))
    return bound, f"gap all@t*/2 - all@t* {half.mean - full.mean:+.2f} (lower bound {bound:+.2f})"


def _with_gap(found: Verdict, bound: float) -> Verdict:
    """The verdict, which decides nothing where the gap that the claim compares with may be 0."""
    return found if bound > 0 else replace(found, verdict="inconclusive", p=None, no_gap=True)


def modes_compared(dataset: str, modes: Mapping[str, float], shift: float | ModeShift, width: float = 0.5) -> Verdict:
    """Claim 21. modes: lower edge of the highest bin by condition; shift: of all@t*/2 - all@t*.

    A shift without an interval, of parents that are not told apart, decides nothing.
    """
    tested = isinstance(shift, ModeShift)
    effect, few = shift.effect if tested else float(shift), tested and shift.n < stats.FEWEST_PARENTS
    notes = [f"no verdict with fewer than {stats.FEWEST_PARENTS} parents" if few else ""]
    notes.append("highest bins: " + ", ".join(f"{name} ({low:g}, {low + width:g}]" for name, low in modes.items()))
    notes.append("" if effect else "no shift is visible at this binning")
    claim, text = CLAIMS[21], "mode of all@t*/2 - all@t*"
    about = dict(note="; ".join(filter(None, notes)), unit="nats")
    if not tested:
        return claim.verdict(dataset, "inconclusive", effect=effect, statistic=f"{text}, described", **about)
    return claim.judged(shift, dataset, text, **about, **(_UNDECIDED if few else {}))


def ranked(dataset: str, found: Advantage, note: str) -> Verdict:
    """Claim 22; with too few conditions nothing is decided."""
    few = found.n < stats.FEWEST_CONDITIONS
    notes = [f"no verdict with fewer than {stats.FEWEST_CONDITIONS} conditions"] if few else []
    notes += [f"rho of barrier {found.rho_barrier:+.2f}, of pre-train accuracy {found.rho_pretrain:+.2f}", note]
    about = dict(note="; ".join(notes), unit="rank correlation", **(_UNDECIDED if few else {}))
    return CLAIMS[22].judged(found, dataset, "|rho| of barrier - |rho| of pre-train accuracy", **about)


# The paper's own barriers


def from_published(dataset: str) -> list[Verdict]:
    """What the paper's own numbers say on claims 18 to 25: 'missing' but for cinic10."""
    if dataset != "cinic10":
        reason = _REASONS.get(dataset, f"the paper has no barriers of {dataset}")
        return [claim.missing(dataset, reason) for claim in BARRIER_CLAIMS]
    return judge_points(published.scatter(dataset), published.histograms(dataset), dataset)


def judge_points(points: pd.DataFrame, bins: pd.DataFrame, dataset: str) -> list[Verdict]:
    """Verdicts from a scatter and histograms as `published` has them."""
    shown = {(condition, int(t)): rows for (condition, t), rows in bins.groupby(["condition", "t"])}
    found = [
        _more_is_lower(points, shown),
        _random_alike(points, shown),
        _easy_nearer(shown),
        _modes(shown),
        _ranked(points),
        _easy_below_random(points),
        _lmc(points),
        _after_tstar(points),
    ]
    return [replace(v, dataset=dataset, note=f"{v.note}; read off a picture") for v in found]


def _mean(bins: pd.DataFrame) -> float:
    return float(np.average(bins["bin_lo"] + 0.25, weights=bins["count"]))


def _histogram_note(shown: Bins, *keys: tuple[str, int]) -> str:
    """The mean of each histogram and its share below 0.5 nats."""
    told = []
    for kind, t in keys:
        bins = shown[kind, t]
        below = float(100 * bins.loc[bins["bin_lo"] < 0.5, "count"].sum() / bins["count"].sum())
        told.append(f"{kind}@{t} mean {_mean(bins):.1f}, {below:.1f} % below 0.5")
    return f"histograms: {', '.join(told)}"


def _at(points: pd.DataFrame, condition: str, t: int | None = None, column: str = "barrier") -> Sample:
    rows = points[(points["condition"] == condition) & (True if t is None else points["t"] == t)]
    x = rows[column].to_numpy()
    return Sample(float(x.mean()), float(x.std(ddof=1)), x.size)


def _more_is_lower(points: pd.DataFrame, shown: Bins) -> Verdict:
    rows = points[points["condition"] == "all"]
    estimate = stats.regression(-np.log2(rows["t"].to_numpy()), rows["barrier"].to_numpy())
    text, note = "fall of the mean barrier of all data per doubling of t", _histogram_note(shown, _HALF, _FULL)
    return CLAIMS[18].judged(estimate, "", text, note=note, unit="nats")


def _random_alike(points: pd.DataFrame, shown: Bins) -> Verdict:
    samples = {HALF: _at(points, *_HALF), FULL: _at(points, *_FULL), "random": _at(points, *_RANDOM)}
    return random_alike(samples, _histogram_note(shown, _RANDOM, _HALF), dataset="")


def _easy_nearer(shown: Bins) -> Verdict:
    # one mean per condition: without spread nothing can be tested, and the verdict stays open
    half, full, easy = (_mean(shown[key]) for key in (_HALF, _FULL, _EASY))
    note = f"no spread is published; {_histogram_note(shown, _EASY, _HALF, _FULL)}"
    about = dict(statistic="barrier of (all@t* + all@t*/2)/2 - easy, of one histogram each", unit="nats", note=note)
    return CLAIMS[20].verdict("", "inconclusive", effect=(half + full) / 2 - easy, **about)


def _modes(shown: Bins) -> Verdict:
    modes = {key: float(bins.loc[bins["count"].idxmax(), "bin_lo"]) for key, bins in shown.items()}
    return modes_compared("", {f"{kind}@{t}": low for (kind, t), low in modes.items()}, modes[_HALF] - modes[_FULL])


def _ranked(points: pd.DataFrame) -> Verdict:
    """Claim 22 by conditions with their parents averaged, as own runs are judged; single parents are in the note."""
    columns = ["barrier", "pretrain_acc", "final"]

    def compared(rows: pd.DataFrame, groups=None) -> Advantage:
        return stats.advantage(*(rows[c].to_numpy() for c in columns), groups)

    def told(found: Advantage) -> str:
        return f"{found.rho_barrier:+.2f} and {found.rho_pretrain:+.2f}, {interval(found)}"

    means, few = (rows.groupby("group")[columns].mean() for rows in (points, points[points["condition"] != "lmc"]))
    single = compared(points, points["group"].to_numpy())
    notes = [
        f"over {len(means)} conditions, parents averaged",
        f"over the {len(points)} single parents, those of a condition resampled together: {told(single)}, "
        f"{decide(single)}",
        f"without LMC-score subsets ({len(few)} conditions): {told(compared(few))}",
    ]
    return ranked("", compared(means), "; ".join(notes))


def _easy_below_random(points: pd.DataFrame) -> Verdict:
    random = points[points["condition"] == "random"]
    steps = sorted(random["t"].dropna().unique())
    terms = [(1 / len(steps), _at(points, "random", t)) for t in steps] + [(-1.0, _at(points, "easy"))]
    note = f"{len(random)} of 12 random points visible, steps weighted alike"
    return CLAIMS[23].contrasted(terms, "", "barrier of random - easy, sizes and steps pooled", note=note, unit="nats")


def _lmc(points: pd.DataFrame) -> Verdict:
    percent = points.assign(percent=100 * points["final"])
    terms = [(sign, _at(percent, c, column="percent")) for sign, c in ((1.0, "easy"), (-1.0, "lmc"))]
    best = percent.groupby("condition")["percent"].max()
    note = f"level 7 only; best points {best['easy']:.2f} and {best['lmc']:.2f} %"
    return CLAIMS[24].contrasted(terms, "", "easy - LMC score, sizes pooled", note=note)


def _after_tstar(points: pd.DataFrame) -> Verdict:
    x = points.loc[(points["condition"] == "all") & (points["t"] == _T_STAR), "barrier"].to_numpy()
    note = f"both parents above 0 ({x.min():.2f} and {x.max():.2f}), and no 0-1 barrier is published"
    estimate = replace(stats.one_sample(x), method="t")
    return CLAIMS[25].judged(estimate, "", f"cross-entropy barrier of all@{_T_STAR}", note=note, unit="nats")
