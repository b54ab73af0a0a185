"""Masks against brute force, and the published counts."""

import math

import numpy as np
import pytest
import torch

from repro.errors import RunError
from repro.train.prune import count_to_prune, prune_by_magnitude, random_mask, shuffle_within_layers


def brute_force(weights, mask, fraction):
    alive = sorted(abs(w) for w, m in zip(weights, mask) if m)
    threshold = alive[math.ceil(fraction * len(alive))]
    return [m and abs(w) > threshold for w, m in zip(weights, mask)]


@pytest.mark.parametrize("total, published", [(270896, [216715, 173371, 138695])])
def test_published_densities_of_resnet20(total, published):
    remaining, seen = total, []
    for _ in published:
        remaining -= count_to_prune(remaining, 0.2)
        seen.append(remaining)
    assert seen == published


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_magnitude_pruning_equals_brute_force_over_levels(fraction):
    rng = np.random.default_rng(1)
    mask = torch.ones(501, dtype=torch.bool)
    for _ in range(4):
        weights = torch.from_numpy(rng.normal(size=501))
        expected = brute_force(weights.tolist(), mask.tolist(), fraction)
        mask = prune_by_magnitude(weights, mask, fraction)
        assert mask.tolist() == expected


def test_large_negative_weights_survive():
    weights = torch.tensor([-9.0, -8.0, 0.1, -0.1, 0.2, 5.0, -7.0, 6.0])
    kept = prune_by_magnitude(weights, torch.ones(8, dtype=torch.bool), 0.2)
    assert kept.tolist() == [True, True, False, False, False, True, True, True]  # ties at 0.1 and the k+1 rule


def test_pruned_weights_stay_pruned_whatever_their_value():
    mask = torch.tensor([True] * 10 + [False] * 5)
    weights = torch.cat([torch.arange(1.0, 11), torch.full((5,), 99.0)])
    assert not prune_by_magnitude(weights, mask, 0.2)[10:].any()


def test_pruning_everything_is_refused():
    with pytest.raises(RunError, match="no weights would be left: 2 remain"):
        prune_by_magnitude(torch.ones(2), torch.ones(2, dtype=torch.bool), 0.5)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(RunError, match="NaN or infinity"):
        prune_by_magnitude(torch.tensor([1.0, float("nan"), 2.0, 3.0, 4.0]), torch.ones(5, dtype=torch.bool))


def test_a_random_mask_keeps_as_many_uniformly_over_the_network():
    mask = torch.tensor([True] * 15 + [False] * 10)
    drawn = torch.stack([random_mask(mask, np.random.default_rng(s)) for s in range(2000)])
    assert (drawn.sum(1) == 15).all()
    expected = 2000 * 15 / 25
    assert (drawn.sum(0) - expected).abs().max() < 5 * math.sqrt(2000 * 0.6 * 0.4)  # five standard errors


def test_shuffling_keeps_each_layers_density():
    mask = torch.cat([torch.arange(100) < 30, torch.arange(50) < 40])
    shuffled = shuffle_within_layers(mask, [100, 50], np.random.default_rng(0))
    assert shuffled[:100].sum() == 30 and shuffled[100:].sum() == 40
    assert not torch.equal(shuffled, mask)
