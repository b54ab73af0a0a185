"""A network by the path of its code: what is made of it, how it is pinned, and what is refused."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from repro import usercode
from repro.errors import UsageError
from repro.nets import create
from tests.command_line import repro

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * in_chans, num_classes))
    def forward(self, x):
        return self.layers(x)
def wrong(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, num_classes + 1))
def fails(num_classes, in_chans):
    return {}[num_classes]
def other(num_classes, in_chans):
    return 7
def weightless(num_classes, in_chans):
    return nn.Sequential(nn.BatchNorm2d(in_chans))
def lazy(num_classes, in_chans):
    return nn.LazyLinear(num_classes)
"""
SHAPE = dict(num_classes=10, in_chans=1)
TINY = ("--steps", 6, "--batch-size", 64, "--milestones", "3", "--replicates", 1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")
    return tmp_path


def test_a_network_is_made_without_dropout(here):
    net = create("net.py:Net", **SHAPE)
    assert isinstance(net, nn.Module) and [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.0]
    x = torch.rand(3, 1, 8, 8)
    expected = x.flatten(1) @ net.layers[2].weight.T + net.layers[2].bias
    assert torch.allclose(net.train()(x), expected, atol=1e-6)


def test_the_pin_is_the_sha256_of_the_file(here, monkeypatch):
    name = usercode.pinned(f"{here}/net.py:Net")
    assert name == f"net.py:Net@{hashlib.sha256(NET.encode()).hexdigest()[:12]}" == usercode.pinned("net.py:Net")
    assert usercode.pinned(name) == name and usercode.pinned("cifar_resnet20") == "cifar_resnet20"
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert isinstance(create(name, **SHAPE), nn.Module)  # as it was found before
    usercode._given.clear()
    with pytest.raises(UsageError, match="there is no file net.py for network"):
        create(name, **SHAPE)
    monkeypatch.syspath_prepend(here)
    assert isinstance(create(name, **SHAPE), nn.Module)
    (here / "net.py").write_text(NET + "#", encoding="utf-8")
    with pytest.raises(UsageError, match=r"net\.py is not the code of network .*: bring that file back"):
        create(name, **SHAPE)
    (elsewhere / "net.py").write_text(NET, encoding="utf-8")  # the one of the pin, wherever it is found
    assert isinstance(create(name, **SHAPE), nn.Module)


def test_a_module_of_a_package(here, monkeypatch):
    package = here / "bag"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "nets.py").write_text(NET, encoding="utf-8")
    monkeypatch.syspath_prepend(here)
    assert usercode.pinned("bag.nets:Net") == f"bag.nets:Net@{hashlib.sha256(NET.encode()).hexdigest()[:12]}"
    assert isinstance(create("bag.nets:Net", **SHAPE), nn.Module)


@pytest.mark.parametrize(
    "name, message",
    [
        ("net.py:absent", r"net\.py has no absent: choose one of what it defines \(Net, wrong, fails, "),
        ("net.py:fails", r"fails of net\.py fails with num_classes=10, in_chans=1 \(KeyError: 10, line 12\)"),
        ("net.py:other", "other of net.py returns int: it has to be a torch.nn.Module"),
        ("net.py:weightless", "has no weights to prune: it needs an nn.Conv2d or an nn.Linear"),
        ("absent.py:Net", "there is no file absent.py for network"),
        ("no.such.module:Net", "cannot import no.such.module|there is no module no.such.module"),
        ("net.py:", "unknown network 'net.py:': one of your own is FILE.py:NAME"),
        ("broken.py:Net", r"broken\.py cannot be run \(NameError: .*line 1\): mend it"),
    ],
)
def test_what_cannot_be_trained_is_refused(name, message, here):
    Path("broken.py").write_text("undefined", encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        create(name, **SHAPE)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_layers_are_refused(here):
    with pytest.raises(UsageError, match="lazy of net.py has parameters that cannot be laid out .*: give every layer"):
        create("net.py:lazy", **SHAPE)


def test_logits_of_another_shape_are_refused_at_the_first_pass(here):
    net = create("net.py:wrong", **SHAPE)
    with pytest.raises(UsageError, match=r"wrong of net\.py gives shape \(2, 11\) .* logits of shape \(2, 10\)"):
        net(torch.zeros(2, 1, 8, 8))


def test_every_stage_finds_it_again(here):
    name = usercode.pinned("net.py:Net")
    common = ("--dataset", "digits", "--network", name, *TINY)
    repro("score", *common, "--networks", 1, "--out", "scores.h5")
    repro("select", "--kind", "easy", "--size", 70, "--replicates", 1, "--scores", "scores.h5", "--out", "easy.h5")
    repro("pretrain", "--subset", "easy.h5", "--network", name, "-t", 2, *TINY, "--out", "point.h5")
    repro("imp", "point.h5", "--levels", 1, "--out", "imp.h5")
    repro("barrier", "imp.h5", "--out", "barrier.h5")
    assert "branch.h5: computed 1" in repro("branch", "imp.h5", "--mask", "shuffled", "--out", "branch.h5").stdout
