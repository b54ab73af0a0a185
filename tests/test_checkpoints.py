"""The barrier between two PyTorch checkpoints, against plain PyTorch; files that do not fit are refused."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import repro.cli.stages  # noqa: F401  (registers the command)
from repro.data import Batcher, load
from repro.nets import create, initialise, layout_of
from repro.store import read
from tests.command_line import complaint
from tests.command_line import repro as run
from tests.plain_lines import NETWORK, on_the_line


@pytest.fixture
def states(tmp_path):
    """Two untrained networks, as the files A.pt and, wrapped as training programs do, B.pt."""
    states = []
    for seed in (1, 2):
        net = initialise(create(NETWORK, num_classes=10, in_chans=1), torch.Generator().manual_seed(seed))
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean += 0.1 * seed
        states.append(net.state_dict())
    torch.save(states[0], tmp_path / "A.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in states[1].items()}, "epoch": 3}, tmp_path / "B.pt")
    return states


def test_two_checkpoints(states, tmp_path):
    digits = load("digits")
    whole = Batcher(digits.images, digits.mean, digits.std, augment=False).normalise(digits.images, torch.float64)
    x = whole.permute(0, 3, 1, 2).contiguous()
    entries = layout_of(create(NETWORK, num_classes=10, in_chans=1)).entries
    a, b = (np.concatenate([state[e.name].double().numpy().ravel() for e in entries]) for state in states)
    words = (
        "barrier",
        tmp_path / "A.pt",
        tmp_path / "B.pt",
        "--network",
        NETWORK,
        "--dataset",
        "digits",
        "--alphas",
        "0.25",
        "--batch-norm",
        "both",
        "--device",
        "cpu",
    )
    printed = run(*words, "--out", tmp_path / "ab.h5").stdout.splitlines()[1:]
    stored = read(tmp_path / "ab.h5", kind="barrier")
    for mode, first in (("averaged", 2), ("recalibrated", 8)):
        assert printed[first - 2] == f"{mode} batch norm"
        for j, alpha in enumerate((0, 0.25, 0.5, 1)):
            at = on_the_line(a, b, alpha, x, digits, 0, recalibrated=mode == "recalibrated")
            losses = stored[f"replicate_0/pair_0_1/{mode}/test_loss"]
            np.testing.assert_allclose(losses[j], at["test_loss"], rtol=1e-3, atol=1e-4)
            found = [float(word) for word in printed[first + j].split() if word != "%"]
            assert found[0] == alpha
            means = [at[f"{part}_{what}"].mean() for part in ("train", "test") for what in ("loss", "wrong")]
            assert found[1::2] == pytest.approx(means[::2], abs=2e-4)
            shares = [100 * share for share in means[1::2]]
            assert found[2::2] == pytest.approx(shares, abs=0.3)  # float32: an image on the edge may differ
    assert "computed 0, reused 2" in run(*words, "--out", tmp_path / "ab.h5").stdout


def test_without_out_the_line_is_printed_alone(states, tmp_path):
    words = ("barrier", tmp_path / "A.pt", tmp_path / "A.pt", "--network", NETWORK, "--dataset", "digits")
    rows = run(*words).stdout.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["0", "0.5", "1"] and len({row[6:] for row in rows}) == 1
    assert not list(tmp_path.glob("*.h5"))


def _broken(name, states, path):
    state = dict(states[0])
    if name == "missing":
        del state["bn.running_mean"]
    elif name == "extra":
        state["stranger"] = torch.zeros(2)
    elif name == "shape":
        state["fc.weight"] = torch.zeros(7, 16)
    elif name == "nan":
        state["fc.bias"] = torch.full((10,), torch.nan)
    elif name == "nothing":
        return path.write_text("no checkpoint", encoding="utf-8")
    elif name == "object":
        return torch.save({"state_dict": [1, 2]}, path)
    elif name == "code":
        return torch.save(SimpleNamespace(a=1), path)
    torch.save(state, path)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("missing", r"X.pt has no tensor bn.running_mean of cifar_resnet8_w4"),
        ("extra", r"X.pt has a tensor stranger that cifar_resnet8_w4 has not"),
        ("shape", r"X.pt has fc.weight of shape \(7, 16\), cifar_resnet8_w4 on this data set of shape \(10, 16\)"),
        ("nan", r"X.pt holds NaN or infinity in fc.bias"),
        ("nothing", r"X.pt is a text file, not a file of torch.save: write one with"),
        ("object", r"X.pt holds no state dict \(a dict of tensors\), but a dict of state_dict"),
        ("code", r"X.pt holds no state dict \(a dict of tensors\), but a whole SimpleNamespace"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(states, tmp_path, name, sentence):
    _broken(name, states, tmp_path / "X.pt")
    found = complaint("barrier", tmp_path / "A.pt", tmp_path / "X.pt", "--network", NETWORK, "--dataset", "digits")
    assert re.search(sentence, found), found


def test_a_checkpoint_under_another_name_is_the_same_network(states, tmp_path):
    words = ("--network", NETWORK, "--dataset", "digits", "--out", tmp_path / "ab.h5")
    run("barrier", tmp_path / "A.pt", tmp_path / "B.pt", *words)
    torch.save(states[0], tmp_path / "renamed.pt")  # other bytes: the name is inside
    assert (tmp_path / "renamed.pt").read_bytes() != (tmp_path / "A.pt").read_bytes()
    assert "reused 1" in run("barrier", tmp_path / "renamed.pt", tmp_path / "B.pt", *words).stdout
    assert "another recipe: a_sha256 is" in complaint("barrier", tmp_path / "B.pt", tmp_path / "B.pt", *words)
