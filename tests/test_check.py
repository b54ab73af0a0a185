"""Networks that could not be trained, or not with the same result again, are refused before the first step."""

import random
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from repro.data import load
from repro.errors import UsageError
from repro.nets import create
from repro.nets.check import idle_parameters, require_batches, require_trainable
from repro.protocol import DIGITS
from repro.stages.machine import Machine
from repro.stages.trainer import Trainer
from tests.command_line import complaint, repro

SHAPE = (1, 8, 8)


def head(*body, width=8):
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def conv(**options):
    return nn.Conv2d(1, 8, 3, padding=1, **options)


class With(nn.Module):
    """A convolution, whatever is done to its features, and a head."""

    def __init__(self, do, **buffers):
        super().__init__()
        self.conv, self.fc, self.do = conv(), nn.Linear(8, 10), do
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.fc(self.do(self, torch.relu(self.conv(x)).mean((2, 3))))


def count(self, x):
    if self.training:
        self.steps += 1
    return x


def attention():
    return nn.Sequential(
        nn.Conv2d(1, 8, 2, stride=2),
        nn.Flatten(2),
        nn.TransformerEncoderLayer(16, 2, 16, batch_first=True),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def biases_alone(net):
    for key, parameter in net.named_parameters():
        parameter.requires_grad_(key.endswith("bias"))
    return net


REFUSED = {
    "momentum": (lambda: head(conv(), nn.BatchNorm2d(8, momentum=None)), "batch norm 1 with momentum=None"),
    "rrelu": (lambda: head(conv(), nn.RReLU()), r"draws random numbers while it is trained in 1 \(RReLU\)"),
    "attention": (attention, r"while it is trained in 2.self_attn \(MultiheadAttention\), .*: set its dropout"),
    "depth": (lambda: With(lambda s, x: x * (random.random() < 2 if s.training else 1)), "draws random numbers while"),
    "numpy": (lambda: With(lambda s, x: x * (np.random.rand() < 2 if s.training else 1)), "draws random numbers while"),
    "measured": (lambda: With(lambda s, x: x + 0 * torch.randn(8)), "draws random numbers when it is measured"),
    "order": (
        lambda: With(lambda s, x: x[:, s.order], order=torch.randperm(8)),
        "draws its buffer order anew .* int64 are",
    ),
    "closure": (lambda: With(lambda s, x, by=torch.rand(8): x * by), "two constructions of net with equal parameters"),
    "layers": (lambda: head(*[conv()] + [nn.Conv2d(8, 8, 1)] * next(COUNTER)), "other layers each time it is constr"),
    "steps": (lambda: With(count, steps=torch.tensor(0)), "changes its buffer steps while it is trained, .* int64 are"),
    "weight_norm": (lambda: head(parametrizations.weight_norm(conv())), "computes weights of 0 from other parameters"),
    "spectral": (lambda: head(parametrizations.spectral_norm(conv())), "computes weights of 0 from other parameters"),
    "pruned": (lambda: head(prune.identity(conv(), "weight")), "computes weights of 0 from other parameters"),
    "complex": (lambda: With(lambda s, x: x, c=torch.zeros(2) + 0j), "the buffer c of type complex64: only real"),
    "meta": (lambda: head(conv(device="meta")), "no numbers for 0.weight .it is on the meta device.: construct it on"),
    "outputs": (
        lambda: With(lambda s, x: x.double() if s.training else x),
        "cannot be trained on 8 x 8 images .*dtype",
    ),
    "frozen": (lambda: head(conv()).requires_grad_(False), "has no parameter to train: each is frozen"),
    "frozen_weights": (lambda: biases_alone(head(conv())), "has no weights to prune: each one of its Conv2d and"),
}
COUNTER = iter(range(10**6))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, said = REFUSED[name]
    with pytest.raises(UsageError, match=said) as refused:
        require_trainable(make, "net", SHAPE, 10)
    assert "\n" not in str(refused.value)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = head(conv())

    def forward(self, x):
        return (self.body(x), self.body(x)) if self.training else self.body(x)


def test_auxiliary_outputs_are_refused():
    with pytest.raises(UsageError, match=r"net gives a tuple for 2 images while it is trained: .* shape \(2, 10\)"):
        require_trainable(TwoOutputs, "net", SHAPE, 10)


GOOD = {
    "plain": lambda: head(conv(), nn.BatchNorm2d(8), nn.ReLU()),
    "no_affine": lambda: head(conv(), nn.BatchNorm2d(8, affine=False)),
    "no_statistics": lambda: head(conv(), nn.BatchNorm2d(8, track_running_stats=False)),
    "drawn_floats": lambda: With(lambda s, x: x * s.scale, scale=torch.rand(8)),  # part of the flat vector
    "fixed_order": lambda: With(lambda s, x: x[:, s.order], order=torch.arange(8).flip(0)),
    "no_dropout": lambda: head(conv(), nn.Dropout(0.0)),
    "minus_infinity": lambda: With(lambda s, x: (x + s.mask).softmax(1), mask=torch.tensor([0.0] * 7 + [-torch.inf])),
    "timm": lambda: timm.create_model("resnet18", num_classes=10, in_chans=1),
    "ours": lambda: create("cifar_resnet8_w4", num_classes=10, in_chans=1),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_networks_pass_and_no_random_number_is_used_up(name):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert require_trainable(GOOD[name], "net", SHAPE, 10) == []
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and np.array_equal(before[2], after[2])


DENSE = {
    "transposed": (lambda: head(nn.ConvTranspose2d(1, 8, 3), nn.Conv2d(8, 8, 1)), 72 / (72 + 64 + 80), "0.weight"),
    "conv1d": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(124, 10)),
        6 / 1246,
        "1.weight",
    ),
    "attention": (
        lambda: nn.Sequential(*[m.eval() or m for m in attention()]),
        768 / (32 + 768 + 768 + 1280),
        "2.self_attn.in_p",
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_the_share_of_weights_that_stay_dense_is_told(name):
    make, share, first = DENSE[name]

    def without_dropout():
        network = make()
        for module in network.modules():
            for rate in ("p", "dropout"):
                if isinstance(getattr(module, rate, None), float):
                    setattr(module, rate, 0.0)
        return network

    (line,) = require_trainable(without_dropout, "net", SHAPE, 10)
    assert line.startswith(f"{100 * share:.1f} % of the weights of net stay dense") and f"pruned: {first}" in line


def test_idle_parameters_are_those_that_sgd_leaves_alone():
    class Net(With):
        def __init__(self):
            super().__init__(lambda s, x: x)
            self.spare = nn.Linear(8, 8)
            self.conv.bias.requires_grad_(False)

    torch.manual_seed(0)
    net = Net()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    idle = idle_parameters(net, SHAPE)
    assert idle == {"conv.bias": "frozen", "spare.weight": "unused", "spare.bias": "unused"}
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    net(torch.rand(4, *SHAPE)).square().sum().backward()
    optimizer.step()
    assert {key for key, value in net.state_dict().items() if torch.equal(value, state[key])} == idle.keys()


@pytest.mark.parametrize(
    "size, batch, drop_last, refused",
    [(65, 64, False, True), (65, 64, True, False), (66, 64, False, False), (64, 64, False, False), (9, 1, True, True)],
)
def test_a_batch_of_one_image_is_found_where_batch_norm_has_no_variance(size, batch, drop_last, refused):
    def normed():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))

    sizes = {"size": size, "batch_size": batch, "drop_last": drop_last, "advice": "another --batch-size"}
    require_batches(lambda: head(conv(), nn.BatchNorm2d(8)), "net", SHAPE, **sizes)  # 64 values of one image
    if not refused:
        return require_batches(normed, "net", SHAPE, **sizes)
    with pytest.raises(UsageError, match="is one image, and batch norm of net .* two values a channel: give another"):
        require_batches(normed, "net", SHAPE, **sizes)


# --- by the command line ----------------------------------------------------------------------------------------------

NETS = """
import torch
from torch import nn
def mlp(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, num_classes))
def no_affine(num_classes, in_chans):
    norm = nn.BatchNorm2d(4, affine=False)
    return nn.Sequential(nn.Conv2d(in_chans, 4, 3), norm, nn.Flatten(), nn.Linear(144, num_classes))
def whole_numbers(num_classes, in_chans):
    net = mlp(num_classes, in_chans)
    net.table = nn.Parameter(torch.arange(3), requires_grad=False)
    return net
def imaginary(num_classes, in_chans):
    net = mlp(num_classes, in_chans)
    net.wave = nn.Parameter(torch.zeros(3) + 0j)
    return net
def shuffled(num_classes, in_chans):
    net = mlp(num_classes, in_chans)
    net.register_buffer("order", torch.randperm(8))
    return net
"""
POINT = ("pretrain", "--dataset", "digits", "-t", 2, "--steps", 4, "--milestones", "", "--replicates", 1, "--network")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETS, encoding="utf-8")


def test_batch_norm_without_affine_is_trained(here):
    repro(*POINT, "net.py:no_affine", "--batch-size", 64, "--out", "w.h5")
    assert "computed 2" in repro("imp", "w.h5", "--levels", 1, "--out", "imp.h5").stdout


def test_an_initialisation_that_is_overwritten_is_told_once(here):
    Path("other.py").write_text(NETS, encoding="utf-8")  # what was told of net.py before is not told again
    command = (*POINT, "other.py:mlp", "--replicates", 3, "--batch-size", 64, "--out", "w.h5")
    assert "is overwritten" not in repro(*command, "--dry-run").stderr
    assert repro(*command).stderr.count("warning: other.py:mlp") == 1
    assert "overwritten" not in repro("imp", "w.h5", "--levels", 0, "--out", "imp.h5").stderr
    assert "overwritten" not in repro(*POINT, "lenet300_s8", "--batch-size", 64, "--out", "lenet.h5").stderr


@pytest.mark.parametrize(
    "name, said",
    [
        ("whole_numbers", "has the parameter table of type int64: only real floating-point ones are trained"),
        ("imaginary", "has the parameter wave of type complex64: only real floating-point ones"),
        ("shuffled", "draws its buffer order anew each time it is constructed"),
    ],
)
def test_networks_that_are_refused_leave_no_file(name, said, here, tmp_path):
    assert said in complaint(*POINT, f"net.py:{name}", "--batch-size", 64, "--out", "w.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]


def test_a_last_batch_of_one_image_is_found_before_the_first_step(here, tmp_path):
    """1437 training images of fold 0: 4 batches of 359 and one of 1; a subset of 65: one batch of 64, one of 1."""
    small = ("select", "--kind", "random", "--dataset", "digits", "--replicates", 1, "--unbalanced", "--size", 65)
    repro(*small, "--out", "small.h5")
    training = ("--network", "net.py:mlp", "--steps", 4, "--milestones", "", "--replicates", 1, "--keep-last")
    for size, batch, words in (
        (1437, 359, ("pretrain", "--dataset", "digits", "-t", 2)),
        (65, 64, ("pretrain", "--subset", "small.h5", "-t", 2)),
        (65, 64, ("gradients", "--subset", "small.h5", "-t", 2)),
        (65, 64, ("warmup", "--subset", "small.h5", "--warmup-steps", 2)),
        (1437, 359, ("score", "--dataset", "digits", "--networks", 1)),
    ):
        said = complaint(*words, *training, "--batch-size", batch, "--out", "x.h5")
        assert f"the last batch of {size} images in batches of {batch} is one image" in said
        assert "give --drop-last, or another --batch-size" in said
    (tmp_path / "x.h5.lock").unlink(missing_ok=True)
    assert not list(tmp_path.glob("x.h5*"))
    assert "computed 1" in repro(*POINT, "net.py:mlp", "--batch-size", 359, "--drop-last", "--out", "w.h5").stdout
    trainer = Trainer(load("digits"), "net.py:mlp", DIGITS.training, Machine(device="cpu"))
    trainer.require_batches(1001)
    with pytest.raises(
        UsageError, match="the last batch of 1001 images in batches of 1000 .*give --batch-norm running"
    ):
        trainer.require_batches(1001, scoring=True)
