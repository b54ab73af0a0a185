"""Agreement of own runs with the paper's curves: what it notices, what it cannot notice, and how it is told."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from repro.protocol import protocol
from repro.verify import published
from repro.verify.checks import agreement
from repro.verify.outcomes import label
from repro.verify.report import Judgement
from repro.verify.stats import ddof1
from tests.test_published import DATASETS, row


def agreed(runs, dataset):
    return agreement(runs, replace(protocol(dataset), replicates=2))


def replication(dataset, *, n=8, seed=0, shift=None):
    """Runs of a perfect replication: the published means, off by their own standard error, plus the spread of
    replicates, each the same at every level; shift: {condition: pp}."""
    rng = np.random.default_rng(seed)
    table = published.curves(dataset)
    table = table[(table["size"].isin((0, published.SIZES[dataset]))) & (table.condition != "dense")]
    rows = []
    for (condition, size), curve in table.groupby(["condition", "size"]):
        std = ddof1(curve.loc[curve["level"].between(6, 10), "std"].mean(), curve["n"].iloc[0])
        spread = std * (rng.normal(size=n) + rng.normal() / np.sqrt(curve["n"].iloc[0]))
        same = {"dataset": dataset, "condition": condition, "size": size, "t": curve["t"], "level": curve["level"]}
        acc = curve["mean"] + (shift or {}).get(condition, 0) / 100
        rows.extend(
            pd.DataFrame({**same, "replicate": replicate, "diverged": False, "acc": acc + spread[replicate]})
            for replicate in range(n)
        )
    return pd.concat(rows, ignore_index=True)


@pytest.mark.heavy
@pytest.mark.parametrize("dataset", DATASETS)
def test_replications_agree(dataset):
    found = [agreed(replication(dataset, seed=seed), dataset) for seed in range(10)]
    assert sum(f.verdict == "agrees" for f in found) >= 8
    assert found[0].bound == pytest.approx(2.631, abs=0.001)
    assert [c.condition for c in found[0].conditions] == ["all_tstar_half", "all_t0", "random", "easy", "hard", "dense"]
    assert [k.level for k in found[0].levels] == sorted(set(published.curves(dataset).level))


def test_a_common_offset_is_shown_and_agrees():
    conditions = ("all_tstar", "all_tstar_half", "all_t0", "random", "easy", "hard")
    plain = agreed(replication("cifar10"), "cifar10")
    offset = agreed(replication("cifar10", shift=dict.fromkeys(conditions, 0.33)), "cifar10")
    assert offset.largest_z == pytest.approx(plain.largest_z)
    for a, b in zip(plain.conditions, offset.conditions):
        assert b.offset - a.offset == pytest.approx(0.33) and a.own == pytest.approx(b.own)
    assert [b.bias - a.bias for a, b in zip(plain.levels, offset.levels)] == pytest.approx([0.33] * len(plain.levels))


def test_one_wrong_condition_disagrees():
    found = agreed(replication("cifar10", shift={"easy": -1.5}), "cifar10")
    assert found.verdict == "disagrees"
    assert max(found.conditions, key=lambda c: abs(c.z)).condition == "easy"


def exact(dataset, n):
    """Runs with the published means and about the published spread, the same at every level."""
    runs = replication(dataset, n=n)
    means = runs.groupby(["condition", "level"])["acc"].transform("mean")
    table = published.curves(dataset)
    table = table[table["size"].isin((0, published.SIZES[dataset]))].set_index(["condition", "level"])["mean"]
    return runs.assign(acc=runs["acc"] - means + [table[c, k] for c, k in zip(runs["condition"], runs["level"])])


@pytest.mark.heavy
@pytest.mark.parametrize(("dataset", "n"), [("cifar10", 4), ("cifar10", 8), ("cifar100", 8), ("cinic10", 4)])
def test_exchanges_that_agreement_cannot_notice_are_those_it_does_not(dataset, n):
    """Each pair of conditions exchanged in runs that are the published ones: the word stays, or turns."""
    runs = exact(dataset, n)
    found = agreed(runs, dataset)
    assert found.verdict == "agrees" and found.largest_z < 1e-6
    conditions = ["all_tstar", "all_tstar_half", "all_t0", "random", "easy", "hard"]
    kept = []
    for a, b in combinations(conditions, 2):
        swapped = runs.assign(acc=0.0)
        for name, other in {**dict(zip(conditions, conditions)), a: b, b: a}.items():
            values = runs.loc[runs.condition == other].sort_values(["replicate", "level"])["acc"].to_numpy()
            order = runs[runs.condition == name].sort_values(["replicate", "level"]).index
            swapped.loc[order, "acc"] = values
        # the dense networks are level 0 of all@t*, whatever is exchanged
        dense = (swapped.condition == "all_tstar") & (swapped.level == 0)
        swapped.loc[dense, "acc"] = runs.loc[dense, "acc"]
        if agreed(swapped, dataset).verdict == "agrees":
            kept.append((a, b))
    assert list(found.unnoticed) == kept
    for a, b in kept:
        assert f"{label(a)} with {label(b)}" in found.limits[1]


@pytest.mark.parametrize("n", [4, 8])
def test_the_allowed_difference_is_told_beside_the_word(n):
    """Bound times s times sqrt(2/n + 2/4): at the published spread 0.76 to 0.88 points on CIFAR-10, more than
    easy - random."""
    found = agreed(exact("cifar10", n), "cifar10")
    expected = found.bound * found.s * np.sqrt(2 / n + 2 / 4)
    assert all(c.allowed == pytest.approx(expected) for c in found.conditions)
    assert 0.6 < expected < 0.95 and ("random", "easy") in found.unnoticed
    assert found.limits[0] == f"differences of up to {expected:.2f} points are allowed"
    judgement = Judgement("paper", agreements=[found])
    told = judgement.terminal, judgement.markdown, judgement.json
    for clause in found.limits:
        assert clause in told[0] and clause in told[1]
    assert json.loads(told[2])["agreement"][0]["unnoticed"] == [list(pair) for pair in found.unnoticed]
    gone = agreed(replication("cifar10", shift={"easy": -1.5}), "cifar10")
    assert gone.verdict == "disagrees" and "points are allowed" in gone.limits[0]
    assert agreed(replication("cifar10")[:0], "cifar10").limits == ()


def test_agreement_compares_the_same_replicates():
    runs = exact("cifar10", 8)
    more = runs[(runs.condition == "hard") | (runs.replicate < 4)]
    less = runs[runs.replicate < 4]
    assert agreed(more, "cifar10") == agreed(less, "cifar10")


def test_agreement_never_passes_on_missing_data():
    runs = replication("cifar10")
    found = agreed(runs[runs.condition != "hard"], "cifar10")
    assert (found.verdict, found.largest_z) == ("missing", None) and "no run of hard" in found.note
    assert agreed(runs[runs.replicate == 0], "cifar10").verdict == "missing"
    assert agreed(runs.assign(dataset="digits"), "digits").verdict == "no published curves"


def test_level_description_by_hand():
    runs = replication("cinic10", seed=3)
    found = {k.level: k for k in agreed(runs, "cinic10").levels}[8]
    table, errors = published.curves("cinic10"), []
    for condition, group in runs[runs.level == 8].groupby("condition"):
        paper = row(table, condition, group["size"].iloc[0], 8)
        errors.append(100 * (group["acc"].mean() - paper["mean"]))
    assert (found.points, found.bias) == (6, pytest.approx(np.mean(errors)))
    assert found.rms == pytest.approx(np.sqrt(np.mean(np.square(errors)))) and 0 <= found.share_within <= 1
