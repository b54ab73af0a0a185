"""The rows that `repro verify --reference` prints, each computed a second time: of curves from the published CSV itself
by Welch's interval, of points read off a picture by scipy's tests and a bootstrap by hand."""

import csv
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from repro.verify import published
from repro.verify.judge import reference
from repro.verify.reference import from_published
from repro.verify.report import across_datasets

ROOT = Path(__file__).parents[1] / "paper_figures" / "reference"
SIZE = {"cifar10": 3200, "cifar100": 2048, "cinic10": 51200}
NOISE_SIZE = 2048
ROW = re.compile(
    r"  (?P<primary>P| )  (?P<claim>\d+)\. (?P<title>.+?)(?: {2,}|(?=[+-]\d))"
    r"(?:(?P<effect>[+-]\d+\.\d\d)(?: \[(?P<low>[+-]\d+\.\d\d), (?P<high>[+-]\d+\.\d\d)\])?"
    r"(?: (?P<unit>nats|rho|passes))?)?"
    r" *(?P<n>\d+)? +(?P<word>[a-z].*)"
)


@cache
def rows():
    """{(data set, claim, panel): the named parts of its row}."""
    found, dataset = {}, None
    for line in reference().terminal.splitlines():
        if line.endswith(", the paper"):
            dataset = line.partition(",")[0]
        elif match := ROW.fullmatch(line):
            title, _, panel = match["title"].partition(", ")
            key = dataset, int(match["claim"]), panel if panel.endswith("%") else ""
            assert key not in found
            found[key] = match.groupdict() | {"title": title}
    return found


@cache
def curves():
    """{(data set, condition, size, noise): {level: (mean, std, n)}}, percent, as printed in the CSV."""
    found = defaultdict(dict)
    with open(ROOT / "paper_curves.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["figure"] not in ("2/AppE", "4/AppE"):
                continue
            size = int(row["subset_size"].partition(".")[0] or 0)
            condition = re.sub(r"_\d+$", "", row["condition"])
            key = row["dataset"], condition, size, float(row["label_noise"])
            values = 100 * float(row["mean_test_acc"]), 100 * float(row["std_or_err"]), int(row["n_replicates"])
            found[key][int(row["level"])] = values
    return dict(found)


def outcome(dataset, condition, size, noise_size):
    """(mean, variance of the mean, degrees of freedom) of a condition over levels 6 to 10."""
    role, _, noise = condition.partition("~")
    if role == "dense":
        levels = [curves()[dataset, "all_tstar", 0, 0.0][0]]
    else:
        noisy = noise or role.endswith("@noise")
        m = 0 if role.startswith("all") else 256 if role == "smallest" else noise_size if noisy else size
        name = "random" if role == "smallest" else role.removesuffix("@noise")
        if role == "smallest":
            m = min(s for d, c, s, z in curves() if d == dataset and c == "random" and z == 0)
        table = curves()[dataset, name, m, float(noise or 0)]
        levels = [table[k] for k in (6, 7, 8, 9, 10)]
    means, stds, (n, *_) = zip(*levels)
    return np.mean(means), np.mean(stds) ** 2 / (n - 1), n - 1  # ddof 0 to 1, levels as perfectly correlated


def welch(dataset, weights, margin, size, noise_size):
    """(effect, low, high, p of "above the margin", lower 95 % bound)."""
    effect = variance = squares = 0.0
    for condition, weight in weights.items():
        mean, var, df = outcome(dataset, condition, size, noise_size)
        effect, variance = effect + weight * mean, variance + weight**2 * var
        squares += (weight**2 * var) ** 2 / df
    df, se = variance**2 / squares, np.sqrt(variance)
    half, one_sided = stats.t.ppf([0.975, 0.95], df) * se
    p = stats.t.sf((effect - margin) / se, df)
    return effect, effect - half, effect + half, p, effect - one_sided


def above(better, worse, margin=0.0):
    return {better: 1.0, worse: -1.0}, margin, None


GAP, CLEAN = {"all_tstar": 1.0, "all_tstar_half": -1.0}, {"all_tstar": 1.0, "all_t0": -1.0}


def little_better(condition):
    return {condition: -1.0, "all_t0": 0.65, "all_tstar": 0.35}, 0.0, CLEAN


def under(noise):
    """Claims of the panel with this share of randomised labels."""
    easy, random, full, half = (f"{c}~{noise}" for c in ("easy", "random", "all_tstar", "all_tstar_half"))
    less = (
        {"all_tstar": "all_tstar", "random": "random@noise"}
        if noise == 0.1
        else {"all_tstar": "all_tstar~0.1", "random": "random~0.1"}
    )
    found = {
        13: [above(less["all_tstar"], full), above(less["random"], random)],
        16: [above(easy, other) for other in (full, half, random)],
        17: [above(easy, random)],
    }
    if noise == 0.5:
        found[14] = [little_better(c) for c in (full, half, random)]
        found[15] = [({easy: 1.0, "easy@noise": -1.0, "all_tstar": 0.5, "all_tstar_half": -0.5}, 0.0, GAP)]
    return {(claim, f"{100 * noise:.0f} %"): parts for claim, parts in found.items()}


PARTS = {  # claim: parts, each {condition: weight}, margin, and what has to have a gap
    (1, ""): [above("dense", "all_t0")],
    (2, ""): [above("all_tstar", "all_tstar_half"), above("all_tstar_half", "all_t0")],
    (3, ""): [above("all_tstar", "dense", -0.5)],
    (4, ""): [above("dense", "all_tstar_half", 0.5)],
    (5, ""): [({"random": 1.0, "all_tstar_half": -1.5, "all_tstar": 0.5}, 0.0, GAP)],
    (7, ""): [above("random", "smallest")],
    (8, ""): [({"easy": 1.0, "all_tstar": -0.5, "all_tstar_half": -0.5}, 0.0, GAP)],
    (9, ""): [above("easy", "all_tstar_half")],
    (10, ""): [above("easy", "random")],
    (11, ""): [above("all_tstar_half", "hard"), above("random", "hard")],
    (12, ""): [little_better("hard")],
    **under(0.1),
    **under(0.5),
}


def judged(dataset, key, size, noise_size=NOISE_SIZE):
    """(word, effect, low, high) of the least favourable part."""
    found, words = [], []
    for weights, margin, gap in PARTS[key]:
        effect, low, high, p, _ = welch(dataset, weights, margin, size, noise_size)
        words.append("supported" if low > margin else "contradicted" if high < margin else "inconclusive")
        if gap and not welch(dataset, gap, 0.0, size, noise_size)[4] > 0:
            return "inconclusive", effect, low, high
        found.append((p, effect, low, high))
    return next((w for w in ("contradicted", "inconclusive") if w in words), "supported"), *max(found)[1:]


EXACT = [(d, *key) for d, key in product(SIZE, PARTS) if d == "cifar10" or not key[1]]


@pytest.mark.parametrize(("dataset", "claim", "panel"), EXACT)
def test_rows_of_curves(dataset, claim, panel):
    row = rows()[dataset, claim, panel]
    word, *numbers = judged(dataset, (claim, panel), SIZE[dataset])
    assert [row[name] for name in ("effect", "low", "high")] == [f"{x:+.2f}" for x in numbers]
    n = "3" if dataset == "cinic10" and claim in (11, 12) else "4"
    assert row["n"] == n
    expected = word + (f" at n = {n}" if word == "inconclusive" else "")
    assert row["word"].removesuffix(", not claimed of it") in (expected, f"{expected} *")


@pytest.mark.parametrize("dataset", SIZE)
def test_words_at_every_subset_size(dataset):
    """Printed below the table, and in every verdict: the word at each size, and at how many the claim is supported."""
    sizes = {
        noise: sorted({s for d, c, s, z in curves() if (d, c, z) == (dataset, "easy", noise)})
        for noise in (0.0, 0.1, 0.5)
    }
    printed = reference().terminal.partition(f"{dataset}, the paper")[2].partition("the paper\n")[0]
    verdicts = {(v.claim, v.panel.removesuffix(" noise")): v for v in from_published(dataset)}
    for claim, panel in [(c, p) for d, c, p in EXACT if d == dataset and c > 4]:
        noise = float(panel.removesuffix(" %") or 0) / 100
        compared = sizes[noise][1:] if claim == 7 else sizes[noise]  # with the smallest
        words = {m: judged(dataset, (claim, panel), m, m)[0] for m in compared}
        told = {m: word.replace("reproduced", "supported") for m, word in verdicts[claim, panel].sizes}
        assert told == words
        k = Counter(words.values())["supported"]
        line = next(line for line in printed.splitlines() if line.startswith(f"  claim {claim}, ") and panel in line)
        assert f"supported at {k} of {len(words)} sizes" in line
        for word in ("contradicted", "inconclusive"):
            there = ", ".join(str(m) for m in words if words[m] == word)
            assert (f"{word} at {there}" in line) == bool(there)


def test_what_depends_on_the_size():
    """The recorded exceptions, beside the row that stands for each claim."""
    found = {(d, v.claim, v.panel[:2]): dict(v.sizes) for d in SIZE for v in from_published(d)}
    assert [m for m, word in found["cifar10", 5, ""].items() if word == "reproduced"] == [3200]
    assert len(found["cifar10", 5, ""]) == 8
    assert found["cifar10", 15, "50"][1024] == found["cifar10", 16, "10"][512] == "contradicted"
    assert found["cifar10", 16, "50"][1024] == found["cifar10", 17, "50"][1024] == "inconclusive"
    assert found["cifar10", 14, "50"][2048] == "inconclusive"
    assert found["cifar10", 8, ""][256] == found["cifar100", 8, ""][256] == "contradicted"
    assert reference().exit_status == 0 and max(map(len, reference().terminal.splitlines())) < 160


def test_the_row_of_rank_correlations_has_the_parents_averaged():
    """By pandas and scipy: conditions resampled one at a time. Single parents stand in the note."""
    points = published.scatter("cinic10")
    means = points.groupby("group")[["barrier", "pretrain_acc", "final"]].mean()

    def delta(table):
        rho = table.rank().corr()["final"].abs()
        return rho["barrier"] - rho["pretrain_acc"]

    row = rows()["cinic10", 22, ""]
    assert len(means) == 21 and row["n"] == "21" and row["unit"] == "rho"
    assert row["effect"] == f"{delta(means):+.2f}" == "+0.14"
    rng = np.random.default_rng(7)
    drawn = [delta(means.iloc[rng.integers(0, 21, 21)]) for _ in range(4000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high), abs=0.025)
    verdict = next(v for v in from_published("cinic10") if v.claim == 22)
    assert (round(verdict.effect, 3), round(verdict.low, 3), round(verdict.high, 3)) == (0.142, -0.055, 0.39)
    assert low < 0 < high and row["word"] == "inconclusive at n = 21, picture" and verdict.verdict == "inconclusive"
    assert f"{delta(points[['barrier', 'pretrain_acc', 'final']]):+.2f} [+0.05, +0.37], reproduced" in verdict.note


def test_rows_of_points_read_off_a_picture():
    points = published.scatter("cinic10")

    def of(condition, t=None):
        chosen = points[(points.condition == condition) & (True if t is None else points.t == t)]
        return chosen.barrier.to_numpy()

    def shown(claim):
        row = rows()["cinic10", claim, ""]
        return [row[name] for name in ("effect", "low", "high", "n")]

    def interval(test):
        return [f"{x:+.2f}" for x in test.confidence_interval()]

    every = points[points.condition == "all"]
    fit = stats.linregress(-np.log2(every.t), every.barrier)
    half = stats.t.ppf(0.975, 4) * fit.stderr
    assert shown(18) == [f"{x:+.2f}" for x in (fit.slope, fit.slope - half, fit.slope + half)] + ["6"]
    random, half_steps = of("random", 200), of("all", 200)
    test = stats.ttest_ind(random, half_steps, equal_var=False)
    assert shown(19) == [f"{random.mean() - half_steps.mean():+.2f}", *interval(test), "2"]
    percent = {c: 100 * points.loc[points.condition == c, "final"].to_numpy() for c in ("easy", "lmc")}
    test = stats.ttest_ind(percent["easy"], percent["lmc"], equal_var=False)
    assert shown(24) == [f"{percent['easy'].mean() - percent['lmc'].mean():+.2f}", *interval(test), "12"]
    assert shown(25) == [f"{of('all', 800).mean():+.2f}", *interval(stats.ttest_1samp(of("all", 800), 0)), "2"]
    words = {n: rows()["cinic10", n, ""]["word"] for n in (18, 19, 20, 21, 23, 24, 25)}
    assert words == {
        18: "supported, picture",
        19: "inconclusive at n = 2, picture",
        20: "inconclusive, picture",
        21: "inconclusive, picture",
        23: "supported *, picture",
        24: "inconclusive at n = 12, picture",
        25: "inconclusive at n = 2, picture",
    }


def test_rows_of_warm_up():
    """Welch of two means (claim 28: of the least favourable pair, by the larger of two one-sided p)."""
    table = published.warmup_curves()
    table = table[(table.kind != "all") | (table.panel == "easy")].set_index(["kind", "size", "w"])[["mean", "std"]]

    def compared(one, other):
        (a, s), (b, r) = (100 * table.loc[key].to_numpy() for key in (one, other))
        variances = np.array([s, r]) ** 2 / 7
        se, df = np.sqrt(variances.sum()), 7 * variances.sum() ** 2 / (variances**2).sum()
        half = stats.t.ppf(0.975, df) * se
        p = max(stats.t.sf((0.25 - (a - b)) / se, df), stats.t.sf((0.25 + (a - b)) / se, df))
        return p, a - b, a - b - half, a - b + half

    pairs = [(("easy", m, 100), other) for m in (5120, 10240, 25600) for other in (("all", 0, 100), ("random", m, 100))]
    p, *numbers = max(compared(*pair) for pair in pairs)
    row = rows()["cifar10", 28, ""]
    assert p < 0.05 and row["word"] == "supported, picture"
    assert [row[name] for name in ("effect", "low", "high")] == [f"{x:+.2f}" for x in numbers]
    assert rows()["cifar10", 29, ""]["word"] == "the published curve itself, picture"


def test_arithmetic_is_a_word_of_its_own():
    """Outside the counts of what was measured, on every data set and over all of them."""
    for dataset, claim, effect in (("cifar10", 6, 8), ("cifar100", 6, 25), ("cinic10", 6, 2), ("cifar10", 30, 29.97)):
        row = rows()[dataset, claim, ""]
        assert row["word"] == "arithmetic" and row["effect"] == f"{effect:+.2f}" and row["n"] is None
        verdict = next(v for v in from_published(dataset) if v.claim == claim)
        assert verdict.verdict == "by arithmetic" and verdict.p is None
    every = across_datasets([v for d in SIZE for v in from_published(d)])
    assert every[6] == every[30] == "by arithmetic"


def test_rows_without_numbers_say_so():
    empty = {(d, c) for (d, c, _), row in rows().items() if row["effect"] is None}
    barriers = (18, 19, 20, 21, 22, 23, 25)
    assert empty == {("cifar10", 31), *((d, 32) for d in SIZE), *(("cifar100", n) for n in barriers)}
    assert all(rows()[d, c, ""]["word"] == "no numbers published" for d, c in empty)
    assert len(rows()) == 27 + 20 + 21  # the tables of CIFAR-10, CIFAR-100 and CINIC-10
