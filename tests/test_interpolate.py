"""Lines, grids, barriers and the onset of connectivity, by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro.errors import UsageError
from repro.recipes.onset import onset
from repro.stages.barriers.measure import numbers
from repro.train import interpolate


def test_the_barrier_of_a_convex_loss_is_never_positive():
    rng = np.random.default_rng(0)
    features, labels = torch.from_numpy(rng.normal(size=(200, 5))), torch.from_numpy(rng.integers(0, 3, 200))
    a, b = torch.from_numpy(rng.normal(size=(2, 3, 5)))
    alphas = interpolate.grid(11)
    losses = [F.cross_entropy(features @ interpolate.mix(a, b, w).T, labels, reduction="none") for w in alphas]
    found = interpolate.barrier(torch.stack(losses).numpy(), alphas)
    assert (found <= 1e-12).all() and found[5].mean() < -0.01
    assert np.array_equal(found[0], np.zeros(200)) and np.array_equal(found[-1], np.zeros(200))


def test_barriers_by_hand():
    values = np.array([[1.0, 0.0], [2.0, 4.0], [5.0, 1.0], [3.0, 2.0]])
    found = interpolate.barrier(values, (0.0, 0.25, 0.5, 1.0))
    np.testing.assert_allclose(found, [[0, 0], [0.5, 3.5], [3, 0], [0, 0]])
    wrong = np.array([[0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    row = numbers(
        {"train_loss": values, "train_wrong": wrong, "test_loss": values, "test_wrong": wrong}, (0.0, 0.25, 0.5, 1.0)
    )
    assert row["train_ce"] == 1.5 and row["train_ce_max"] == 2 and row["share_below_half"] == 0.5
    assert row["test_error"] == 0.375 and row["test_error_max"] == 1 - 0.1875
    assert (row["acc_a"], row["acc_b"]) == (0.75, 1)


@pytest.mark.parametrize(
    "given, expected",
    [
        ("0.5", (0, 0.5, 1)),
        ("2", (0, 0.5, 1)),
        ("5", (0, 0.25, 0.5, 0.75, 1)),
        ("4", (0, 1 / 3, 0.5, 2 / 3, 1)),
        ("0.9,0.1", (0, 0.1, 0.5, 0.9, 1)),
        ("0,1", (0, 0.5, 1)),
        ((0.5, 0.2), (0, 0.2, 0.5, 1)),
    ],
)
def test_grids_hold_the_ends_and_the_middle(given, expected):
    assert interpolate.grid(given) == expected


@pytest.mark.parametrize("given", ["1", "0", "-1", "1.5", "0.5,nan", "x", "", "1001", (2.0,)])
def test_grids_that_cannot_be_are_refused(given):
    with pytest.raises(UsageError, match="alphas .* like 11, or values from 0 to 1"):
        interpolate.grid(given)


@pytest.mark.parametrize(
    "t, error, expected",
    [
        ([0, 10, 20], [0.5, 0.1, 0.01], 20),
        ([0, 10, 20], [0.01, 0.0, -0.01], 0),
        ([0, 10, 20], [0.5, 0.01, 0.02], None),  # not below at the last step
        ([0, 10, 20, 40], [0.01, 0.3, 0.019, 0.0], 20),  # below, above, below: the first does not count
        ([40, 0, 20, 10], [0.0, 0.5, 0.01, 0.01], 10),  # any order
        ([10, 10, 20, 20], [0.0, 0.06, 0.0, 0.03], 20),  # means of parents: 0.03 and 0.015
        ([10, 20, 20], [0.0, float("nan"), 0.01], 10),
        ([10, 20], [0.0, float("nan")], None),
        ([], [], None),
    ],
)
def test_onset_by_hand(t, error, expected):
    assert onset(t, error) == expected


def test_onset_has_a_threshold():
    assert onset([1, 2], [0.04, 0.03], threshold=0.05) == 1
