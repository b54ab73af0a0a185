"""What a step needs: multiply-adds and traffic against brute force, and a loop that stays in registers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import limits, variants
from benchmarks.variants import Variant, masks_of
from repro.nets import create, layout_of
from repro.protocol import DIGITS

TINY = replace(
    DIGITS, network="cifar_resnet8_w4", train_images=64, training=replace(DIGITS.training, batch_size=16, lr=0.1)
)


@pytest.mark.parametrize(
    "size, cin, cout, kernel, stride, padding",
    [(5, 2, 3, 3, 1, 1), (6, 1, 4, 3, 2, 1), (4, 3, 2, 1, 2, 0), (7, 2, 2, (3, 5), (2, 1), (0, 2)), (3, 1, 2, 5, 3, 4)],
)
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_multiply_adds_of_one_convolution_counted_one_by_one(size, cin, cout, kernel, stride, padding, density):
    layer = nn.Conv2d(cin, cout, kernel, stride, padding, bias=False)
    rng = np.random.default_rng(0)
    mask = rng.random(layer.weight.numel()) < density
    (ky, kx), (sy, sx), (py, px) = layer.kernel_size, layer.stride, layer.padding
    rows, columns = ((size + 2 * p - k) // s + 1 for p, k, s in ((py, ky, sy), (px, kx, sx)))
    inside = 0
    for kept, (_, _, dy, dx) in zip(mask, itertools.product(range(cout), range(cin), range(ky), range(kx))):
        for y, x in itertools.product(range(rows), range(columns)):
            inside += kept and 0 <= y * sy - py + dy < size and 0 <= x * sx - px + dx < size
    found = limits.multiply_adds(nn.Sequential(layer), size, cin, torch.from_numpy(mask))
    assert found == 2 * inside > 0  # forward, and for the weights: it reads the images


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_multiply_adds_of_a_network_are_sums_over_ones(density):
    """A convolution of ones with a mask counts its kept weights inside of the image."""
    net = create("cifar_resnet14_w4", num_classes=10, in_chans=3)
    layout = layout_of(net)
    mask = masks_of(Variant(TINY, density=density), layout.num_prunable)[0]
    mask = torch.ones(layout.num_prunable, dtype=torch.bool) if mask is None else mask
    kept = {e.name: mask[e.offset : e.offset + e.size].view(e.shape).double() for e in layout.prunable}
    # the stages' sides of 7, 4 and 2 pixels; every convolution but the first reads what another made
    sides = {"conv": (7, 1), "fc": None}
    for block, (side, stride) in enumerate([(7, 1), (7, 1), (7, 2), (4, 1), (4, 2), (2, 1)]):
        sides |= {f"blocks.{block}.conv1": (side, stride), f"blocks.{block}.conv2": (-(-side // stride), 1)}
        sides |= {f"blocks.{block}.shortcut.0": (side, stride)}
    expected = 0
    for name, weights in kept.items():
        passes = 2 if name == "conv.weight" else 3
        if name == "fc.weight":
            expected += passes * weights.sum()
            continue
        side, stride = sides[name.removesuffix(".weight")]
        ones = torch.ones(1, weights.shape[1], side, side, dtype=torch.float64)
        expected += passes * F.conv2d(ones, weights, stride=stride, padding=weights.shape[2] // 2).sum()
    assert limits.multiply_adds(net, 7, 3, mask) == expected
    if density == 1:
        assert limits.multiply_adds(net, 7, 3) == expected
    assert net.training  # as it was


def test_the_loop_of_multiply_adds_stays_in_registers():
    from repro.engines.sparse.lanes import W

    run = limits.multiply_and_add(variants.PEAK_STEP)
    run(1)
    spin = run.__closure__[[*run.__code__.co_freevars].index("spin")].cell_contents
    (code,) = spin.inspect_asm().values()
    assert variants.PEAK_STEP % (12 * W) == 0
    # 0.5 x + 0.5 goes to 1 from wherever it begins: the sum of twelve vectors
    assert run(1) == 12 * W
    if "vfmadd" in code:
        loops = [part for part in code.split("LBB") if part.count("vfmadd") >= 12]
        assert loops and all("(%rsp)" not in line for part in loops for line in part.splitlines() if "vfmadd" in line)


@pytest.mark.parametrize("size, cin, cout, kernel, stride", [(5, 2, 3, 3, 1), (6, 1, 4, 3, 2), (4, 3, 2, 1, 2)])
def test_traffic_of_one_convolution(size, cin, cout, kernel, stride, monkeypatch):
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
    monkeypatch.setattr(limits, "create", lambda *_, **__: layer.to("meta"))
    written = cout * len(range(0, size + 2 * (kernel // 2) - kernel + 1, stride)) ** 2
    found = limits.traffic_per_image(replace(TINY, image_size=size, in_chans=cin))
    assert found == 3 * (cin * size * size + written)


def test_traffic_of_a_batch_norm_with_a_residual(monkeypatch):
    class Net(nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.bn = nn.BatchNorm2d(2)

        def forward(self, x):
            return F.relu(self.bn(F.relu(self.bn(x), inplace=True)) + x)

    monkeypatch.setattr(limits, "create", lambda *_, **__: Net())
    numbers = 2 * 4 * 4
    each = (2 + 1) + (1 + 1)  # statistics, values, write; rectifier
    found = limits.traffic_per_image(replace(TINY, image_size=4, in_chans=2))
    assert found == 3 * numbers * (each + each + (2 + 1))
