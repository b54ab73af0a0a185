"""The claims judged on the paper's own numbers, and what those verdicts support, in words.

Of curves only means and standard deviations of 4 (warm-up: 8) replicates are published, so the tests are unpaired. Of
barriers CINIC-10's panels of Figure 5 were read off a picture: two parents a condition at most, and the step or size of
many points can only be inferred, so that most claims stay inconclusive. Published histograms are of 200 and 400 steps,
which stand here for t*/2 and t*; t* is 800 in the text.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from repro.verify import pruned_runs, published, warmup
from repro.verify.barriers import judged, missing, modes_compared, random_alike, ranked
from repro.verify.claims import BARRIER_CLAIMS, CLAIMS, RUN_CLAIMS
from repro.verify.outcomes import sized
from repro.verify.stats import Advantage, Sample, advantage, contrast, decide, interval, one_sample, regression
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, PAPER_DATASETS, Verdict, unshrunk, with_holm

NO_NUMBERS = "no numbers published"
_WORDS = {"reproduced": "supported", "missing": NO_NUMBERS}
_SHORT = {"cifar10": "C10", "cifar100": "C100", "cinic10": "CINIC"}

HALF, FULL, T_STAR = 200, 400, 800
PICTURE = "read off a picture"
_REASONS = {
    "cifar100": "Figure 5's panel of CIFAR-100 was published without its data",
    "cifar10": "the paper has no barriers of CIFAR-10",
}


def from_published(
    dataset: str, *, size: int | None = None, noise_size: int = published.NOISE_SIZE, table: pd.DataFrame | None = None
) -> list[Verdict]:
    """What the paper's own numbers support, by the same claims; no claim is promised.

    size, noise_size, table: see `published.outcomes`; without them a claim about subsets has its word at every size
    too. Claims that nothing was published about are missing.
    """
    found = pruned_runs.judge(published.outcomes(dataset, size=size, noise_size=noise_size, table=table))
    if size is None and table is None and noise_size == published.NOISE_SIZE:
        words = _words_by_size(dataset)
        found = [replace(v, sizes=words.get((v.claim, v.panel), ())) for v in found]
    found += _published_elsewhere(dataset)
    found += [
        Verdict.missing(CLAIMS[number], dataset, "the paper has published no numbers")
        for number in CLAIMS.keys() - {v.claim for v in found}
    ]
    return with_holm([replace(v, promised=False) for v in sorted(found, key=lambda v: v.claim)])


@cache
def _published_elsewhere(dataset: str) -> tuple[Verdict, ...]:
    """Claims on other tables than that of pruned runs."""
    return pruned_runs.passes(dataset), *barriers(dataset), *warmup.from_published(dataset)


@cache
def _words_by_size(dataset: str) -> dict[tuple[int, str], tuple[tuple[int, str], ...]]:
    """{(claim, panel): ((size, verdict), ...)} of the published curves, for claims that depend on the subset size."""
    found = {}
    for size, outcomes in published.outcomes_by_size(dataset).items():
        for claim in RUN_CLAIMS:
            for panel in claim.panels:
                parts = [part for part in claim.parts if part.panel == panel]
                conditions = {c for part in parts for c in part.conditions}
                if any(sized(c) for c in conditions) and not outcomes.missing(conditions):
                    word = pruned_runs.decided(parts, outcomes).word
                    found.setdefault((claim.number, panel), []).append((size, word))
    return {key: tuple(words) for key, words in found.items()}


# What the verdicts support, in words


def support(published: Verdict, *, at_n: bool = True) -> str:
    """A verdict on the paper's own numbers: "supported", "inconclusive at n = 4", "contradicted", or why there is
    none."""
    claim = CLAIMS[published.claim]
    if claim.source == "none" or published.verdict == "missing":
        return NO_NUMBERS
    if published.statistic == ITSELF:
        return ITSELF
    if claim.source == "arithmetic":
        return "arithmetic" if published.verdict == BY_ARITHMETIC else "arithmetic: contradicted"
    word = _WORDS.get(published.verdict, published.verdict)
    return f"{word} at n = {published.n}" if word == "inconclusive" and at_n and published.n else word


def published_support(number: int, dataset: str, panel: str = "") -> str:
    """What the paper's own numbers support, in words: with effect and interval on a data set of the paper, over all
    the data sets it claims this for otherwise."""
    words: dict[str, list[str]] = {}
    dataset = unshrunk(dataset)
    for name, verdict in _published_on(number, dataset, panel).items():
        numbers = f" ({interval(verdict)})" if name == dataset and verdict.low is not None else ""
        words.setdefault(support(verdict) + numbers, []).append(name)
    if not words:
        return NO_NUMBERS
    several = dataset not in PAPER_DATASETS and not {"arithmetic", NO_NUMBERS} & {*words}
    text = "; ".join(f"{word} ({', '.join(names)})" if several else word for word, names in words.items())
    return text + (", read off a picture" if CLAIMS[number].source == "picture" and NO_NUMBERS not in words else "")


def short_support(number: int, dataset: str, panel: str = "") -> str:
    """The same for a narrow column: "inconclusive; supported (C100)" is inconclusive on all but CIFAR-100."""
    words: dict[str, list[str]] = {}
    dataset = unshrunk(dataset)
    for name, verdict in _published_on(number, dataset, panel).items():
        words.setdefault(support(verdict, at_n=dataset in PAPER_DATASETS), []).append(_SHORT[name])
    if not words:
        return NO_NUMBERS
    ordered = sorted(words, key=lambda word: -len(words[word]))
    text = "; ".join([ordered[0], *(f"{word} ({', '.join(words[word])})" for word in ordered[1:])])
    return text + (", picture" if CLAIMS[number].source == "picture" and NO_NUMBERS not in words else "")


def by_size(published: Verdict) -> str:
    """What published numbers support at every size: 'supported at 1 of 8 sizes (3200; inconclusive at 256, …)'."""
    at: dict[str, list[str]] = {}
    for size, word in published.sizes:
        at.setdefault(_WORDS.get(word, word), []).append(str(size))
    rest = [f"{word} at {', '.join(at[word])}" for word in ("contradicted", "inconclusive") if word in at]
    inside = "; ".join(filter(None, (", ".join(at.get("supported", [])), *rest)))
    return f"supported at {len(at.get('supported', []))} of {len(published.sizes)} sizes ({inside})"


def sizes_supported(verdict: Verdict) -> str:
    """A clause on the subset sizes at which the paper's numbers support a claim."""
    dataset = unshrunk(verdict.dataset)
    found = _published_on(verdict.claim, dataset, verdict.panel).items()
    several = dataset not in PAPER_DATASETS
    told = [by_size(v) + (f" of {name}" if several else "") for name, v in found if v.sizes]
    return f"; {', '.join(told)}" if told else ""


def _published_on(number: int, dataset: str, panel: str) -> dict[str, Verdict]:
    """The published verdicts that count: of this data set if it is one of the paper's, else of those that have one."""
    datasets = [dataset] if dataset in PAPER_DATASETS else CLAIMS[number].datasets
    found = {}
    for name in datasets:
        for verdict in _published(name):
            if verdict.claim == number and verdict.panel == panel and (verdict.verdict != "missing" or name == dataset):
                found[name] = verdict
    return found


@cache
def _published(dataset: str) -> tuple[Verdict, ...]:
    return tuple(from_published(dataset))


# Barriers


def barriers(dataset: str) -> list[Verdict]:
    """What the paper's own numbers say on claims 18 to 25: 'missing' but for cinic10."""
    if dataset != "cinic10":
        reason = _REASONS.get(dataset, f"the paper has no barriers of {dataset}")
        return [missing(claim.number, dataset, reason) for claim in BARRIER_CLAIMS]
    return judge_points(published.scatter(dataset), published.histograms(dataset), dataset)


def judge_points(points: pd.DataFrame, bins: pd.DataFrame, dataset: str) -> list[Verdict]:
    """Verdicts from a scatter and histograms as `published` has them."""
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
    return judged(18, estimate, "", "fall of the mean barrier of all data per doubling of t", note=note, unit="nats")


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
    return Verdict.on(CLAIMS[20], "", "inconclusive", effect=effect, statistic=text, unit="nats", note=note)


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
        f"and {single.rho_pretrain:+.2f}, {interval(single)}, "
        f"{decide(single)}",
        f"without LMC-score subsets ({len(few)} conditions): {without.rho_barrier:+.2f} and "
        f"{without.rho_pretrain:+.2f}, {interval(without)}",
    ]
    return ranked("", compared(means), "; ".join(notes))


def _easy_below_random(points) -> Verdict:
    steps = sorted(points.loc[points["condition"] == "random", "t"].dropna().unique())
    terms = [(1 / len(steps), _at(points, "random", t)) for t in steps] + [(-1.0, _at(points, "easy"))]
    note = f"{len(points[points['condition'] == 'random'])} of 12 random points visible, steps weighted alike"
    return judged(23, contrast(terms), "", "barrier of random - easy, sizes and steps pooled", note=note, unit="nats")


def _lmc(points) -> Verdict:
    percent = points.assign(percent=100 * points["final"])
    terms = [(sign, _at(percent, c, column="percent")) for sign, c in ((1.0, "easy"), (-1.0, "lmc"))]
    best = {c: percent.loc[percent["condition"] == c, "percent"].max() for c in ("easy", "lmc")}
    note = f"level 7 only; best points {best['easy']:.2f} and {best['lmc']:.2f} %"
    return judged(24, contrast(terms), "", "easy - LMC score, sizes pooled", note=note)


def _after_tstar(points) -> Verdict:
    x = points.loc[(points["condition"] == "all") & (points["t"] == T_STAR), "barrier"].to_numpy()
    note = f"both parents above 0 ({x.min():.2f} and {x.max():.2f}), and no 0-1 barrier is published"
    text = f"cross-entropy barrier of all@{T_STAR}"
    return judged(25, replace(one_sample(x), method="t"), "", text, note=note, unit="nats")
