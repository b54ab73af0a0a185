"""What is not finite before the first step is never blamed on the learning rate."""

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import load
from repro.errors import UsageError
from repro.stages import inputs, trained
from tests.command_line import repro

NETS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.fc = nn.Linear(64 * in_chans, num_classes)
        self.register_buffer("mask", torch.zeros(num_classes))
    def forward(self, x):
        return self.fc(x.flatten(1)) + self.mask
def masked(num_classes, in_chans):
    net = Net(num_classes, in_chans)
    net.mask[3] = float("-inf")
    return net
class Root(Net):
    def forward(self, x):
        return super().forward(x).clamp(max=-1).sqrt()
class InTraining(Net):
    def forward(self, x):
        return super().forward(x) / (0 if self.training else 1)
"""
ONE = ("--steps", 4, "--batch-size", 64, "--milestones", "", "--replicates", 1, "--lr", 0.01, "--device", "cpu")


def folder(path, channels=3) -> str:
    """8 images whose last channel is 77 everywhere."""
    rng = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            (path / half / name).mkdir(parents=True)
            for k in range(4):
                pixels = rng.integers(0, 256, (8, 8, channels), np.uint8)
                pixels[..., -1] = 77
                Image.fromarray(pixels).save(path / half / name / f"{k}.png")
    return f"folder:{path}"


def test_a_constant_channel_becomes_zero(tmp_path):
    data = load(folder(tmp_path / "pictures"))
    assert data.std[2] == 1 and all(0 < deviation < 1 for deviation in data.std[:2])
    pixels = data.images[:8].double() / 255
    expected = pixels[..., :2].std(dim=(0, 1, 2), unbiased=False)
    assert torch.allclose(torch.tensor(data.std[:2], dtype=torch.float64), expected, rtol=1e-12)
    assert ((pixels[..., 2] - data.mean[2]) / data.std[2]).abs().max() < 1e-12


def test_images_with_a_constant_channel_are_trained_on(tmp_path):
    words = (
        "--dataset",
        folder(tmp_path / "pictures"),
        "-t",
        2,
        "--network",
        "cifar_resnet8_w4",
        *ONE[:3],
        4,
        *ONE[4:],
    )
    assert "diverged" not in repro("pretrain", *words, "--out", tmp_path / "x.h5").stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("masked", "begins with infinity or NaN in mask"),
        ("Root", "gives infinity or NaN for images of digits before the first step"),
        ("InTraining", "before any update, so the learning rate (=0.01) is not why"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "score"])
def test_networks_that_are_not_finite(name, said, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETS, encoding="utf-8")
    own = ("-t", 2) if command == "pretrain" else ("--networks", 1)
    words = (command, "--dataset", "digits", "--network", f"net.py:{name}", *own, *ONE, "--out", "x.h5")
    told = repro(*words, code=1 if name == "InTraining" else 2).stderr.splitlines()[-1]
    assert said in told and "lower --lr" not in told


def test_a_loss_that_explodes_later_is_the_learning_rate():
    assert trained.advice(3, 0, 1e9) == "lower --lr (=1000000000.0)"
    assert trained.advice(20, 20, 0.1).startswith("that was before any update")


@pytest.mark.parametrize(("value", "fits"), [(-1e9, True), (float("-inf"), False)])
def test_a_network_with_an_ordinary_mask_is_let_through(value, fits):
    made = {}
    exec(NETS, made)
    network = made["Net"](10, 1)
    network.mask[3] = value
    if not fits:
        with pytest.raises(UsageError, match="'mine' begins with infinity or NaN in mask"):
            inputs.require_finite(network, "mine", load("digits"))
        return
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert inputs.require_finite(network, "mine", load("digits")) is None
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    logits = network(load("digits").images[:16].permute(0, 3, 1, 2) / 16)
    assert logits.isfinite().all() and (logits.argmin(1) == 3).all()
