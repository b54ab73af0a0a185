"""Pruning criteria against closed forms on two-layer networks, written with NumPy from the papers' definitions."""

import math

import numpy as np
import torch
from torch import nn

from repro.train import criteria
from repro.train.prune import count_to_prune, erk_counts, keep_highest, shared_out, weights_left
from tests.two_layers import by_hand, hessian_product, mean

FIRST, SECOND = "1.weight", "2.weight"
rng = np.random.default_rng(3)
W, V = rng.normal(size=(5, 6)), rng.normal(size=(4, 5))  # logits are V W x
BATCHES = [(rng.normal(size=(7, 6)), rng.integers(0, 4, 7)), (rng.normal(size=(7, 6)), rng.integers(0, 4, 7))]


DENSE = {FIRST: torch.ones(W.shape, dtype=torch.bool), SECOND: torch.ones(V.shape, dtype=torch.bool)}


def two_layers(w=W, v=V):
    first, second = nn.Linear(w.shape[1], len(w), bias=False), nn.Linear(len(w), len(v), bias=False)
    network = nn.Sequential(nn.Flatten(), first, second).double()
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(w))
        second.weight.copy_(torch.from_numpy(v))
    return network


def batches():
    return [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in BATCHES]


def test_gradients_are_those_of_the_mean_over_batches():
    found = criteria.gradients(two_layers(), [FIRST, SECOND], batches())
    for ours, hand in zip(found.values(), mean(by_hand(W, V, x, y)[0] for x, y in BATCHES)):
        np.testing.assert_allclose(ours, hand, atol=1e-14)


def test_snip_is_the_connection_sensitivity():
    found = criteria.snip(two_layers(), [FIRST, SECOND], batches())
    gradients = mean(by_hand(W, V, x, y)[0] for x, y in BATCHES)
    for name, weights, gradient in zip((FIRST, SECOND), (W, V), gradients):
        np.testing.assert_allclose(found[name], abs(weights * gradient), atol=1e-14)


def test_grasp_is_the_weight_times_the_hessian_gradient_product():
    found = criteria.grasp(two_layers(), [FIRST, SECOND], batches(), DENSE)
    temperature = 200.0
    g = mean(by_hand(W, V, x, y, temperature)[0] for x, y in BATCHES)
    products = mean(hessian_product(W, V, x, y, *g, temperature) for x, y in BATCHES)
    for name, weights, product in zip((FIRST, SECOND), (W, V), products):
        np.testing.assert_allclose(found[name], weights * product, rtol=1e-9)
    # the derivative by hand is one: against a difference of gradients
    x, y = BATCHES[0]
    near, far = (by_hand(W + h * g[0], V + h * g[1], x, y, 1.0)[0] for h in (-1e-3, 1e-3))
    exact = hessian_product(W, V, x, y, *g, 1.0)
    for one, two, each in zip(near, far, exact):
        np.testing.assert_allclose((two - one) / 2e-3, each, rtol=1e-4, atol=1e-12)


def test_grasp_goes_along_the_gradients_of_the_weights_that_are_left():
    """Pruned weights are constants: they have no gradient in g, and their directions are not in H."""
    alive = [rng.random(each.shape) < 0.6 for each in (W, V)]
    w, v = W * alive[0], V * alive[1]
    masks = dict(zip((FIRST, SECOND), map(torch.from_numpy, alive)))
    found = criteria.grasp(two_layers(w, v), [FIRST, SECOND], batches(), masks)
    g = [a * b for a, b in zip(mean(by_hand(w, v, x, y, 200.0)[0] for x, y in BATCHES), alive)]
    products = mean(hessian_product(w, v, x, y, *g, 200.0) for x, y in BATCHES)
    for name, weights, product in zip((FIRST, SECOND), (w, v), products):
        np.testing.assert_allclose(found[name], weights * product, rtol=1e-9)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mixed, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, images):
        q, k, v = self.mixed(images.flatten(2).transpose(1, 2)).chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None]).mean((1, 2)))


def test_grasp_through_attention():
    """Its fast forms on a CPU have no second derivative. Against the difference of two gradients."""
    torch.manual_seed(1)
    network, names = Attention().double(), ["mixed.weight", "head.weight"]
    data = [(torch.randn(6, 4, 3, 3, dtype=torch.float64), torch.randint(0, 3, (6,)))]
    weights = [network.get_parameter(name) for name in names]

    def gradients():
        loss = nn.functional.cross_entropy(network(data[0][0]) / 200, data[0][1])
        return torch.autograd.grad(loss, weights)

    g, ends, before = gradients(), [], [weight.detach().clone() for weight in weights]
    for h in (-10.0, 10.0):  # g is small: its largest number is 4e-4
        with torch.no_grad():
            for weight, start, along in zip(weights, before, g):
                weight.copy_(start + h * along)
        ends.append(gradients())
    with torch.no_grad():
        for weight, start in zip(weights, before):
            weight.copy_(start)
    found = criteria.grasp(network, names, data, {name: torch.ones_like(w) for name, w in zip(names, before)})
    for name, weight, near, far in zip(names, before, *ends):
        exact = weight * (far - near) / 20
        assert (found[name] - exact).norm() < 1e-4 * exact.norm()


class Aided(nn.Module):
    """Two layers, and a third that acts in training mode only."""

    def __init__(self):
        super().__init__()
        self.net, self.aid = two_layers(), nn.Linear(6, 4, bias=False).double()

    def forward(self, images):
        return self.net(images) + (self.aid(images.flatten(1)) if self.training else 0)


def test_no_flow_goes_through_a_layer_that_acts_in_training_only():
    found = criteria.synflow(Aided(), ["net.1.weight", "net.2.weight", "aid.weight"], (6, 1, 1))
    np.testing.assert_allclose(found["net.1.weight"], abs(W) * abs(V).sum(0)[:, None], atol=1e-14)
    assert found["aid.weight"].shape == (4, 6) and not found["aid.weight"].any()


def test_synflow_is_the_flow_through_each_weight():
    """Of R = 1ᵀ |V| |W| 1: |w_ij| times the sum of column i of |V|, and |v_ki| times the sum of row i of |W|."""
    found = criteria.synflow(two_layers(), [FIRST, SECOND], (6, 1, 1))
    np.testing.assert_allclose(found[FIRST], abs(W) * abs(V).sum(0)[:, None], atol=1e-14)
    np.testing.assert_allclose(found[SECOND], abs(V) * abs(W).sum(1)[None, :], atol=1e-14)
    # conservation (their theorem 1): what goes into a hidden unit comes out of it
    np.testing.assert_allclose(found[FIRST].sum(1), found[SECOND].sum(0), atol=1e-13)


def test_synflow_looks_through_batch_norm_and_signs():
    """With batch norm between: its weight over its deviation scales each hidden unit, its running mean says nothing."""
    network = nn.Sequential(
        nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 4, bias=False)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy(W)[:, :, None, None])
        network[3].weight.copy_(torch.from_numpy(V))
        network[1].weight.copy_(torch.tensor([1.0, -2.0, 3.0, 0.5, 1.0]))
        network[1].running_mean.fill_(100.0)
        network[1].running_var.fill_(4.0)
    scale = np.array([1, 2, 3, 0.5, 1]) / np.sqrt(4 + 1e-5)
    found = criteria.synflow(network, ["0.weight", "3.weight"], (6, 1, 1))
    w, v = W.astype(np.float32).astype(float), V.astype(np.float32).astype(float)
    np.testing.assert_allclose(found["0.weight"][:, :, 0, 0], abs(w) * (abs(v).sum(0) * scale)[:, None], rtol=1e-12)
    np.testing.assert_allclose(found["3.weight"], abs(v) * (abs(w).sum(1) * scale)[None, :], rtol=1e-12)


def test_erk_densities_by_hand():
    """Sums of the shapes: 15, 22 and 18; sizes: 72, 576 and 80."""
    shapes = [(8, 1, 3, 3), (8, 8, 3, 3), (10, 8)]
    # 300·15/55 = 81.8 > 72 and 300·18/55 = 98.2 > 80: both are dense, and 148 are left for the other
    assert erk_counts(shapes, 300) == [72, 148, 80]
    # 100: 100·15/55 = 27.3, 100·22/55 = 40, 100·18/55 = 32.7: the odd one goes to the largest remainder
    assert erk_counts(shapes, 100) == [27, 40, 33]
    assert erk_counts(shapes, 728) == [72, 576, 80]
    densities = np.array(erk_counts([(64, 32, 3, 3), (128, 256), (256, 128, 3, 3)], 30000)) / [18432, 32768, 294912]
    kernels = np.array([102 / 18432, 384 / 32768, 390 / 294912])
    np.testing.assert_allclose(densities / kernels, 30000 / (102 + 384 + 390), rtol=1e-3)


def test_erk_densities_from_a_mask_of_them_never_grow_back():
    """Level by level: as many weights as asked for, no layer above what it had, and one from the densities at most."""
    shapes = [(8, 1, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3), (5, 7), (10, 16)]
    grown = 0
    for step in (1, 2, 5, 11):
        alive = erk_counts(shapes, total := sum(map(math.prod, shapes)))
        for left in range(total - step, 60, -step):
            now, free = erk_counts(shapes, left, alive), erk_counts(shapes, left)
            assert sum(now) == left and all(a <= b for a, b in zip(now, alive))
            assert max(abs(a - b) for a, b in zip(now, free)) <= 1
            grown += any(a > b for a, b in zip(free, alive))
            alive = now
    assert grown  # or nothing was tried


def test_counts_are_shared_out_exactly():
    assert shared_out(10, [1, 1, 1]) == [4, 3, 3]
    assert shared_out(7, [10, 20, 40]) == [1, 2, 4]
    assert shared_out(0, [3, 5]) == [0, 0]


def test_the_highest_scores_of_each_group_stay_and_of_equal_ones_the_first():
    scores = torch.tensor([5.0, 1.0, 4.0, 9.0, 2.0, 2.0, 2.0, 8.0])
    mask = torch.tensor([True, True, True, False, True, True, True, True])
    assert keep_highest(scores, mask, [4, 4], [2, 3]).int().tolist() == [1, 0, 1, 0, 1, 1, 0, 1]
    assert keep_highest(scores, mask, [8], [3]).int().tolist() == [1, 0, 1, 0, 0, 0, 0, 1]
    many = keep_highest(torch.ones(5000), torch.arange(5000) % 2 == 0, [5000], [700])
    assert many.nonzero().squeeze(1).tolist() == list(range(0, 1400, 2))


def test_as_many_weights_as_imp_leaves():
    for total in (100, 270896):
        remaining = total
        for level in range(5):
            assert weights_left(total, 0.2, level) == remaining
            remaining -= count_to_prune(remaining, 0.2)
