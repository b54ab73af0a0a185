"""The sparse engine, held equal to plain PyTorch in float64, layer by layer and to the bit with itself."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro import engines
from repro.data import Batcher
from repro.engines import Block, Sgd
from repro.errors import UsageError
from repro.nets import initialise

NETWORKS = f"{Path(__file__).parent / 'feedforward.py'}:"
N, CLASSES = 150, 5
MEAN, STD = (0.4, 0.5, 0.45), (0.2, 0.3, 0.25)

# network, side, channels, batch, density, nesterov
RESNETS = [
    ("cifar_resnet8_w4", 8, 1, 64, 1.0, False),
    ("cifar_resnet14_w4", 8, 1, 37, 0.3, True),
    ("cifar_resnet8_w4", 16, 3, 70, 0.03, False),
    ("cifar_resnet8_w8", 12, 3, 128, 0.8, False),
    ("cifar_resnet8_w5", 3, 2, 70, 0.5, False),
    ("cifar_resnet8_w4", 7, 2, 20, 1.0, True),
    ("cifar_resnet8_w4", 8, 3, 1, 0.3, False),
    ("cifar_resnet8_w1", 8, 1, 64, 0.0, False),
]
OTHERS = [
    ("convolutional", 8, 1, 37, 1.0, False),
    ("convolutional", 8, 3, 64, 0.03, False),
    ("perceptron", 8, 1, 70, 0.3, False),
    ("perceptron", 8, 3, 1, 1.0, False),
    ("vgg", 8, 3, 64, 0.3, False),
    ("ParameterFreeShortcut", 8, 3, 70, 1.0, False),
    ("ParameterFreeShortcut", 7, 1, 20, 0.3, False),
    ("OddWindows", 13, 2, 40, 1.0, False),
    ("OddWindows", 13, 1, 70, 0.3, True),
    ("Stream", 6, 2, 33, 0.6, False),
]
CASES = RESNETS + [(NETWORKS + name, *rest) for name, *rest in OTHERS]


class Setting:
    """Cohorts of one network by several engines from equal state, and batches for them."""

    def __init__(
        self, network, side, channels, batch, density, nesterov, *, replicas=2, steps=3, precision="fp64", seed=0
    ):
        rng = np.random.default_rng(seed)
        self.how = dict(num_classes=CLASSES, in_chans=channels, image_size=side, device=torch.device("cpu"))
        self.network, self.replicas, self.precision = network, replicas, precision
        images = torch.from_numpy(rng.integers(0, 256, (N, side, side, channels), dtype=np.uint8))
        border = min(4, side - 1)
        self.batcher = Batcher(images, MEAN[:channels], STD[:channels], augment=True, border=border)
        self.targets = torch.from_numpy(rng.integers(0, CLASSES, (replicas, N)))
        shape = (steps, replicas, batch)
        crop = torch.from_numpy(rng.integers(0, 2 * border + 1, (2, *shape)))
        flip = torch.from_numpy(rng.random(shape) < 0.5)
        rates = torch.from_numpy(rng.uniform(0.02, 0.1, (steps, replicas)))
        index = torch.from_numpy(rng.integers(0, N, shape))
        self.sgd = Sgd(0.9, 5e-4, nesterov)
        plain = self.cohort("serial")
        self.block = Block(index, (crop[0], crop[1], flip), rates.to(plain.dtype))
        initial = [initialise(plain.module(), torch.Generator().manual_seed(r)) for r in range(replicas)]
        self.vectors = torch.stack([plain.layout.flatten(module) for module in initial]).to(plain.dtype)
        prunable, parameters = plain.layout.num_prunable, plain.layout.num_parameters
        # A channel without taps, its batch norm's bias 0, would sit on the edge of its rectifier.
        others = rng.uniform(-0.3, 0.3, (replicas, parameters - prunable))
        self.vectors[:, prunable:parameters] += torch.from_numpy(others)
        self.masks = torch.from_numpy(rng.random((replicas, prunable)) < density)
        second = plain.layout.prunable[1]
        self.masks[0, second.offset : second.offset + second.size] = False
        self.masks[0, second.offset] = density > 0.1  # a layer of one tap, or of none
        self.shown = torch.ones(replicas, parameters, dtype=torch.bool)  # not the momentum of pruned weights
        self.shown[:, :prunable] = self.masks

    def cohort(self, engine, rows=slice(None), **how):
        replicas = len(range(self.replicas)[rows])
        return engines.create(engine, self.network, replicas=replicas, precision=self.precision, **self.how, **how)

    def loaded(self, engine, rows=slice(None), **how):
        cohort = self.cohort(engine, rows, **how)
        cohort.load(self.vectors[rows])
        cohort.load_masks(self.masks[rows])
        return cohort

    def trained(self, engine, rows=slice(None), parts=1, rates=None, **how):
        """State, momentum, losses and logits after all steps, in so many calls."""
        cohort, found = self.loaded(engine, rows, **how), []
        block = Block(
            self.block.index[:, rows], tuple(o[:, rows] for o in self.block.offsets), self.block.rates[:, rows]
        )
        if rates is not None:
            block.rates = rates[:, rows]
        for part in np.array_split(np.arange(len(block)), parts):
            steps = block.steps(slice(part[0], part[-1] + 1))
            found.append(cohort.train(steps, self.batcher, self.targets[rows], self.sgd, logits=True))
        losses, logits = (torch.cat(each) for each in zip(*found))
        return cohort.vectors(), cohort.momentum_vectors() * self.shown[rows], losses, logits


def apart(found, wanted):
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].rpartition(':')[2]}-{case[1]}-{case[3]}-{case[4]}")
def test_each_step_equals_plain_pytorch(case):
    setting = Setting(*case)
    sparse, serial = setting.loaded("sparse"), setting.loaded("serial")
    for k in range(len(setting.block)):
        sparse.load(serial.vectors())
        sparse.load_momentum(serial.momentum_vectors())
        step = setting.block.steps(slice(k, k + 1))
        found, wanted = (
            (
                *cohort.train(step, setting.batcher, setting.targets, setting.sgd, logits=True),
                cohort.vectors(),
                cohort.momentum_vectors() * setting.shown,
            )
            for cohort in (sparse, serial)
        )
        assert max(map(apart, found, wanted)) < 1e-12
    assert (sparse.vectors()[:, : sparse.layout.num_prunable][~setting.masks] == 0).all()


@pytest.mark.parametrize("case", [RESNETS[0], RESNETS[1], CASES[12]], ids=["dense", "sparse", "vgg"])
def test_twenty_steps_equal_plain_pytorch(case):
    setting = Setting(*case, steps=20, seed=1)
    assert max(map(apart, setting.trained("sparse"), setting.trained("serial"))) < 1e-10


@pytest.mark.parametrize("case", [RESNETS[1], CASES[11]], ids=["ragged", "one-image"])
def test_label_smoothing_equals_plain_pytorch(case):
    setting = Setting(*case)
    plain = setting.trained("sparse")
    setting.sgd = Sgd(0.9, 5e-4, True, label_smoothing=0.3)
    found, wanted = setting.trained("sparse"), setting.trained("serial")
    assert max(map(apart, found, wanted)) < 1e-11 and apart(plain[0], wanted[0]) > 1e-4


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_the_gradient_is_that_of_finite_differences(smoothing):
    """Central differences of the loss, which is asked of a training step at rate 0."""
    setting = Setting("cifar_resnet8_w4", 6, 1, 20, 0.5, False, replicas=1, steps=1)
    setting.sgd, setting.block.rates = Sgd(0.0, 0.0, False, smoothing), torch.zeros(1, 1, dtype=torch.float64)
    cohort = setting.loaded("sparse")

    def loss(vector):
        cohort.load(vector[None])
        return cohort.train(setting.block, setting.batcher, setting.targets, setting.sgd)[0].item()

    vector = cohort.vectors()[0]
    loss(vector)
    gradient = cohort.momentum_vectors()[0]
    kept = torch.cat([setting.masks[0], torch.ones(cohort.layout.num_parameters - cohort.layout.num_prunable).bool()])
    places = kept.nonzero().squeeze(1)[:: kept.sum() // 40]
    h = 1e-6
    for at in places.tolist():
        step = torch.zeros_like(vector)
        step[at] = h
        assert (loss(vector + step) - loss(vector - step)) / (2 * h) == pytest.approx(
            gradient[at].item(), rel=1e-4, abs=1e-7
        )


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_bits_do_not_depend_on_calls_company_or_threads(precision):
    setting = Setting("cifar_resnet8_w4", 8, 1, 64, 0.3, False, replicas=3, steps=8, precision=precision)
    whole = setting.trained("sparse")
    for other in (
        setting.trained("sparse", parts=3),
        setting.trained("sparse", threads=2),
        setting.trained("sparse", threads=3),
    ):
        assert all(map(torch.equal, whole, other))
    alone = setting.trained("sparse", slice(1, 2))
    assert torch.equal(whole[0][1:2], alone[0]) and torch.equal(whole[1][1:2], alone[1])


def test_a_neighbour_that_diverges_changes_no_bit():
    setting = Setting("cifar_resnet8_w4", 8, 1, 64, 0.3, False, replicas=3, steps=6, precision="fp32")
    wild = setting.block.rates.clone()
    wild[:, 0] = 1e30  # the first of three, whose work arrays the others get
    calm, beside = setting.trained("sparse"), setting.trained("sparse", rates=wild)
    assert not beside[2][:, 0].isfinite().all()
    assert all(torch.equal(a[1:], b[1:]) for a, b in zip(calm[:2], beside[:2]))


@pytest.mark.parametrize("network", ["cifar_resnet8_w4", NETWORKS + "vgg"])
def test_measuring_equals_plain_pytorch(network):
    setting = Setting(network, 8, 3, 64, 0.5, False)
    sparse, serial = setting.loaded("sparse"), setting.loaded("serial")
    vectors = setting.vectors.clone()
    p = serial.layout.num_parameters
    vectors[:, p:] = vectors[:, p:] * 0.3 + 0.1  # running statistics that matter
    index = torch.from_numpy(np.random.default_rng(3).integers(0, N, (2, 1011)))
    for cohort in (sparse, serial):
        cohort.load(vectors)
        cohort.load_masks(setting.masks)
    before = sparse.vectors()
    for mode in ("running", "batch"):
        found, wanted = (c.predict(setting.batcher, index, batch_norm=mode) for c in (sparse, serial))
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)  # rounded to float32 at the end
    assert torch.equal(sparse.vectors(), before)
    for cohort in (sparse, serial):
        cohort.recalibrate(setting.batcher, index)
    assert apart(sparse.vectors(), serial.vectors()) < 1e-12


@pytest.mark.parametrize("pixel", range(4))
def test_a_maximum_over_a_number_that_is_not_one_is_none(pixel):
    """As in PyTorch, wherever in the window it stands: a network that has diverged shows it.

    The first convolution makes infinity of the bright pixel (1,000 times 1e308), the second infinity less infinity.
    """
    images = torch.zeros(4, 4, 4, 1, dtype=torch.uint8)
    images[2:, pixel // 2, pixel % 2] = 255
    batcher, index = Batcher(images, (0.0,), (0.001,), augment=False), torch.arange(4)[None]
    how = dict(replicas=1, num_classes=2, in_chans=1, image_size=4, device=torch.device("cpu"), precision="fp64")
    answers = []
    for engine in ("sparse", "serial"):
        cohort = engines.create(engine, NETWORKS + "maximum", **how)
        numbers = {"0.weight": [1e308, 1e308], "1.weight": [1.0, -1.0]}
        values = [numbers.get(entry.name, [1.0] * entry.size) for entry in cohort.layout.entries]
        cohort.load(torch.tensor(sum(values, []), dtype=torch.float64)[None])
        answers.append(cohort.predict(batcher, index)[0].isnan().any(1).tolist())
    assert answers == [[False, False, True, True]] * 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_far_apart_give_the_right_loss(smoothing):
    """The engine's own exponential: classes hundreds of nats apart, and equal ones."""
    setting = Setting(NETWORKS + "perceptron", 8, 1, 64, 1.0, False, replicas=1, steps=1)
    cohort, setting.sgd = setting.loaded("sparse"), Sgd(0.9, 5e-4, False, smoothing)
    for scale in (0.0, 1.0, 50.0, 1e4):
        cohort.load(setting.vectors * scale)
        losses, logits = cohort.train(setting.block, setting.batcher, setting.targets, setting.sgd, logits=True)
        labels = setting.targets[0][setting.block.index[0, 0]]
        wanted = F.cross_entropy(logits[0, 0], labels, label_smoothing=smoothing)
        assert losses.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_images_of_another_size_are_refused():
    setting = Setting("cifar_resnet8_w4", 8, 1, 16, 1.0, False)
    other = Setting("cifar_resnet8_w4", 12, 1, 16, 1.0, False)
    with pytest.raises(UsageError, match=r"images of shape \(12, 12, 1\) for networks of 8 x 8 x 1"):
        setting.loaded("sparse").train(setting.block, other.batcher, setting.targets, setting.sgd)


def test_a_batch_of_one_value_has_no_statistics():
    setting = Setting("cifar_resnet8_w4", 3, 1, 1, 1.0, False, steps=1)
    with pytest.raises(UsageError, match="--drop-last"):
        setting.loaded("sparse").train(setting.block, setting.batcher, setting.targets, setting.sgd)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [{"REPRO_ENGINE_DEBUG": "1"}, {"REPRO_ENGINE_WIDTH": "4"}, {"REPRO_ENGINE_WIDTH": "8"}],
    ids=["bounds-checked", "width-4", "width-8"],
)
def test_bounds_checks_and_other_widths(variables):
    """Compiled with checks of every access, and for other registers, the engine gives the same results."""
    command = [sys.executable, "-m", "pytest", __file__, "-k", "each_step or measuring or far_apart"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
