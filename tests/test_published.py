"""The paper's own numbers: the CSV as summaries, and what they support."""

import numpy as np
import pytest
from scipy.stats import t

from repro.errors import UsageError
from repro.verify import published
from repro.verify.reference import from_published
from repro.verify.stats import ddof1, pooled_std

DATASETS = tuple(published.SIZES)


def verdicts(dataset, **options):
    return {v.claim: v for v in from_published(dataset, **options) if v.claim <= 12}


def row(table, condition, size, level):
    found = table[(table.condition == condition) & (table["size"] == size) & (table.level == level)]
    assert len(found) == 1
    return found.iloc[0]


def mean_over_levels(table, better, worse, levels=range(1, 13)):
    """Mean published difference in pp over pruning levels 1 to 12; conditions as (role, size)."""
    return 100 * np.mean([row(table, *better, k)["mean"] - row(table, *worse, k)["mean"] for k in levels])


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "noise", "condition", "size", "level", "mean", "std"),
    [
        ("cifar10", 0, "dense", 0, 0, 0.9132, 0.0015),
        ("cifar10", 0, "all_tstar", 0, 6, 0.9120, 0.0027),
        ("cifar10", 0, "easy", 3200, 8, 0.9093, 0.0013),
        ("cifar10", 0, "hard", 12800, 12, 0.8644, 0.0050),
        ("cifar100", 0, "dense", 0, 0, 0.6791, 0.0032),
        ("cifar100", 0, "random", 2048, 10, 0.6528, 0.0158),
        ("cinic10", 0, "all_tstar_half", 0, 12, 0.8376, 0.0094),
        ("cinic10", 0, "hard", 51200, 8, 0.8538, 0.0014),
        ("cifar10", 0.1, "easy", 2048, 10, 0.9048, 0.0031),
        ("cifar10", 0.5, "all_tstar", 0, 12, 0.8632, 0.0048),
    ],
)
def test_curves_hold_the_published_values(dataset, noise, condition, size, level, mean, std):
    found = row(published.curves(dataset, noise=noise), condition, size, level)
    assert (found["mean"], found["std"]) == pytest.approx((mean, std), abs=5.1e-5)


@pytest.mark.parametrize(("dataset", "t"), [("cifar10", 400), ("cifar100", 800), ("cinic10", 800)])
def test_every_condition_is_figure_2s_alone(dataset, t):
    """CINIC-10 is also in the CSV at half the steps, CIFAR-10's easy also beside the forgetting scores."""
    table = published.curves(dataset)
    assert not table.duplicated(["condition", "size", "level"]).any()
    steps = table[table.condition != "dense"].groupby("condition")["t"].unique()
    assert steps["all_tstar"] == [t] and steps["all_t0"] == [0]
    assert all(steps[c] == [t // 2] for c in ("all_tstar_half", "random", "easy", "hard"))
    hard = table.loc[table.condition == "hard", "n"]
    assert set(table.loc[table.condition != "hard", "n"]) == {4} and set(hard) == {3 if dataset == "cinic10" else 4}


@pytest.mark.parametrize(("dataset", "noise"), [("digits", 0.0), ("cifar100", 0.5), ("cifar10", 0.2)])
def test_what_was_not_published_is_a_usage_error(dataset, noise):
    with pytest.raises(UsageError, match=f"no curves of {dataset} with label noise {noise}"):
        published.curves(dataset, noise=noise)


@pytest.mark.parametrize(
    ("dataset", "levels", "pooled"),
    [
        ("cifar10", (6, 8, 10, 12), (0.28, 0.29, 0.44, 0.55)),
        ("cifar100", (6, 8, 10, 12), (0.47, 0.60, 0.79, 0.97)),
        ("cinic10", (6, 8), (0.14, 0.17)),
    ],
)
def test_pooled_standard_deviations(dataset, levels, pooled):
    table = published.curves(dataset)
    for level, expected in zip(levels, pooled):
        at = table[(table.level == level) & (table.condition != "dense")]
        assert pooled_std(100 * ddof1(at["std"], at["n"]), at["n"]) == pytest.approx(expected, abs=0.0051)


def test_pooled_random_spread_exceeds_easys():
    at = published.curves("cifar10").query("level == 12 and size < 25600")  # random 25600 is the all-data run
    spread = {c: pooled_std(100 * ddof1(g["std"], g["n"]), g["n"]) for c, g in at.groupby("condition")}
    assert spread["random"] == pytest.approx(0.83, abs=0.005)
    everywhere = published.curves("cifar10").query("level == 12 and condition == 'easy'")
    assert pooled_std(100 * ddof1(everywhere["std"], 4), everywhere["n"]) == pytest.approx(0.35, abs=0.005)


# --- the recorded differences, pp over levels 1 to 12 --------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "better", "worse", "expected"),
    [
        ("cifar10", ("all_tstar", 0), ("all_tstar_half", 0), 0.77),
        ("cifar10", ("all_tstar_half", 0), ("all_t0", 0), 1.32),
        ("cifar100", ("all_tstar", 0), ("all_tstar_half", 0), 1.69),
        ("cifar100", ("all_tstar_half", 0), ("all_t0", 0), 1.94),
        ("cinic10", ("all_tstar", 0), ("all_tstar_half", 0), 0.37),
        ("cinic10", ("all_tstar_half", 0), ("all_t0", 0), 3.17),
        ("cifar10", ("random", 3200), ("all_tstar_half", 0), 0.34),
        ("cifar10", ("random", 25600), ("all_tstar_half", 0), 0.0),
        ("cifar100", ("random", 2048), ("all_tstar_half", 0), 0.49),
        ("cinic10", ("random", 51200), ("all_tstar_half", 0), -0.20),
        ("cifar10", ("easy", 3200), ("all_tstar", 0), -0.20),
        ("cifar10", ("easy", 12800), ("all_tstar", 0), -0.11),
        ("cifar100", ("easy", 2048), ("all_tstar", 0), -0.32),
        ("cinic10", ("easy", 51200), ("all_tstar", 0), -0.13),
        ("cifar10", ("easy", 3200), ("all_tstar_half", 0), 0.57),
        ("cifar100", ("easy", 2048), ("all_tstar_half", 0), 1.37),
        ("cinic10", ("easy", 51200), ("all_tstar_half", 0), 0.24),
        ("cifar10", ("easy", 256), ("all_tstar_half", 0), -0.41),
        ("cifar10", ("easy", 3200), ("random", 3200), 0.23),
        ("cifar100", ("easy", 2048), ("random", 2048), 0.88),
        ("cinic10", ("easy", 51200), ("random", 51200), 0.44),
        ("cifar10", ("hard", 3200), ("all_tstar_half", 0), -0.98),
        ("cifar100", ("hard", 2048), ("all_tstar_half", 0), -0.80),
        ("cinic10", ("hard", 51200), ("all_tstar_half", 0), -1.08),
        ("cifar10", ("hard", 3200), ("all_t0", 0), 0.34),
    ],
)
def test_recorded_differences(dataset, better, worse, expected):
    assert mean_over_levels(published.curves(dataset), better, worse) == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize(
    ("dataset", "claim", "above"),
    [
        ("cifar10", 2, 11),
        ("cifar100", 2, 11),
        ("cinic10", 2, 12),
        ("cifar10", 9, 11),
        ("cifar100", 9, 10),
        ("cinic10", 9, 12),
    ],
)
def test_signs_by_level(dataset, claim, above):
    effects = [level.effect for level in verdicts(dataset)[claim].levels if level.level <= 12]
    assert len(effects) == 12 and sum(e > 0 for e in effects) == above


@pytest.mark.parametrize(
    ("dataset", "condition", "last"),
    [
        ("cifar10", "all_tstar", 9),
        ("cifar100", "all_tstar", 9),
        ("cinic10", "all_tstar", 12),
        ("cifar10", "all_tstar_half", 4),
        ("cifar100", "all_tstar_half", 3),
        ("cinic10", "all_tstar_half", 11),
    ],
)
def test_last_level_within_half_a_point_of_dense(dataset, condition, last):
    table = published.curves(dataset)
    dense = row(table, "dense", 0, 0)["mean"]
    assert max(k for k in range(1, 13) if row(table, condition, 0, k)["mean"] >= dense - 0.005) == last


# --- what the published numbers support ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "size", "fraction"),
    [("cifar10", 3200, 0.79), ("cifar10", 12800, 0.92), ("cifar100", 2048, 0.88), ("cinic10", 51200, 0.78)],
)
def test_retained_fraction_of_easy(dataset, size, fraction):
    found = published.outcomes(dataset, size=size)
    easy, full, half = (found.sample(c).mean for c in ("easy", "all_tstar", "all_tstar_half"))
    assert (easy - half) / (full - half) == pytest.approx(fraction, abs=0.0051)
    assert f"F = {(easy - half) / (full - half):.2f}" in verdicts(dataset, size=size)[8].note


EXPECTED = {  # claim: verdicts on cifar10, cifar100, cinic10
    1: "RRR",
    2: "RRR",
    3: "IIR",
    4: "RRC",
    5: "RRI",
    7: "RRI",
    8: "IRI",
    9: "RRR",
    10: "IIR",
    11: "RII",
    12: "IIC",
}


@pytest.mark.parametrize("claim", EXPECTED)
def test_what_the_published_numbers_support(claim):
    found = [verdicts(dataset)[claim] for dataset in DATASETS]
    assert "".join(v.verdict[0].upper() for v in found) == EXPECTED[claim]
    assert all(v.statistic.endswith("Welch t") and v.n in (3, 4) and v.median is None for v in found)
    assert not any(v.promised for v in found)


def test_matching_interval_by_hand():
    """Claim 8 on CIFAR-100, from the table itself."""
    table = published.curves("cifar100")
    terms = []
    for weight, condition, size in ((1, "easy", 2048), (-0.5, "all_tstar", 0), (-0.5, "all_tstar_half", 0)):
        levels = [row(table, condition, size, k) for k in (6, 7, 8, 9, 10)]
        std = np.mean([r["std"] for r in levels]) * np.sqrt(4 / 3)
        terms.append((weight * np.mean([r["mean"] for r in levels]), (weight * std) ** 2 / 4))
    found = verdicts("cifar100")[8]
    assert found.effect == pytest.approx(100 * sum(mean for mean, _ in terms))
    se = (found.high - found.low) / 2 / 100 / np.sqrt(sum(v for _, v in terms))
    df = 3 * sum(v for _, v in terms) ** 2 / sum(v**2 for _, v in terms)
    assert se == pytest.approx(t.ppf(0.975, df)) and found.low > 0


def test_only_easy_under_half_noise_survives_holm_over_six():
    primary = {(d, v.claim): v.p_holm for d in DATASETS for v in from_published(d) if v.p_holm is not None}
    assert {key for key, p in primary.items() if p <= 0.05 and key[1] in (5, 8, 16)} == {("cifar10", 16)}


@pytest.mark.parametrize(
    ("dataset", "first", "second", "turned"),
    [
        ("cifar10", "easy", "hard", (8, 9)),
        ("cinic10", "easy", "all_t0", (8, 9, 10)),
        ("cifar100", "all_tstar_half", "all_t0", (2,)),
        ("cifar100", "all_tstar", "all_t0", (2, 3)),
    ],
)
def test_swapped_conditions_turn_the_verdict(dataset, first, second, turned):
    table = published.curves(dataset)
    before = verdicts(dataset, table=table)
    swapped = table.assign(condition=table.condition.replace({first: second, second: first}))
    after = verdicts(dataset, table=swapped)
    for claim in turned:
        assert before[claim].verdict != after[claim].verdict == "contradicted"


def test_swapping_the_rewind_steps_leaves_no_gap():
    table = published.curves("cifar100")
    swapped = table.assign(
        condition=table.condition.replace({"all_tstar": "all_tstar_half", "all_tstar_half": "all_tstar"})
    )
    found = verdicts("cifar100", table=swapped)
    assert found[2].verdict == "contradicted"
    for claim in (5, 8):
        assert found[claim].verdict == "inconclusive" and found[claim].no_gap
