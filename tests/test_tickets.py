"""A stored ticket, loaded into a plain network and trained by plain PyTorch, gives the recorded accuracy."""

import shutil

import numpy as np
import pytest
import torch

from repro.data import Batcher, load
from repro.errors import UsageError
from repro.reading import networks
from repro.recipes.training import Training
from repro.stages import imp, pretrain
from repro.store import read
from tests import plain_imp
from tests.command_line import ROOT
from tests.test_export import page_block, without_repro

# float64, so that plain PyTorch and the cohort agree to rounding and every image is classified alike
RECIPE = Training(steps=66, batch_size=64, lr=0.5, milestones=(44,), augment=False, precision="fp64")
T, LEVELS = 5, 2


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tickets")
    pretrain(folder / "w.h5", dataset="digits", t=T, replicates=2, network="cifar_resnet8_w4", training=RECIPE, seed=0)
    imp(folder / "imp.h5", folder / "w.h5", levels=LEVELS)
    return folder / "imp.h5"


def accuracy(net, data, replicate):
    _, test = data.split(replicate)
    x = Batcher(data.images, data.mean, data.std, augment=False).normalise(data.images[test], torch.float64)
    with torch.no_grad():
        return (net(x.permute(0, 3, 1, 2)).argmax(1) == data.labels[test]).double().mean().item()


@pytest.mark.parametrize("replicate", [0, 1])
@pytest.mark.parametrize("level", [0, LEVELS])
def test_trained_weights_give_the_recorded_accuracy(stored, digits, replicate, level):
    net = networks.network(stored, replicate, level, "trained", data=digits).double()
    net.load_state_dict(
        networks.state_dict(stored, replicate, level, "trained", num_classes=10, in_chans=1), strict=False
    )
    row = read(stored).table().query("replicate == @replicate and level == @level").iloc[0]
    assert accuracy(net, digits, replicate) == pytest.approx(row.acc, abs=1e-12)
    zeros = sum(int((w == 0).sum()) for w in plain_imp.prunable(net))
    assert zeros == round((1 - row.density) * row.remaining / row.density)


def test_a_ticket_trained_by_plain_pytorch_gives_the_recorded_accuracy(stored, digits):
    train_index, _ = digits.split(1)
    x = Batcher(digits.images, digits.mean, digits.std, augment=False).normalise(digits.images, torch.float64)
    ticket = networks.state_dict(stored, 1, LEVELS, "ticket", num_classes=10, in_chans=1)
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    own = [name for name in net.state_dict() if "num_batches" not in name]
    by_name = dict(zip(_order(net), ticket.values()))
    net.load_state_dict({name: by_name[name] for name in own}, strict=False)
    masks = [w.detach() != 0 for w in plain_imp.prunable(net)]
    plain_imp.train(
        net,
        masks,
        x.permute(0, 3, 1, 2).contiguous(),
        digits.labels,
        train_index.numpy(),
        start=T,
        stop=RECIPE.steps,
        lr_at=RECIPE.lr_at,
        batch=64,
        seed=0,
        replicate=1,
    )
    row = read(stored).table().query("replicate == 1 and level == @LEVELS").iloc[0]
    assert accuracy(net.eval(), digits, 1) == pytest.approx(row.acc, abs=1e-12)


def _order(net):
    from repro.nets import layout_of

    return [entry.name for entry in layout_of(net).entries]


def test_ticket_and_trained_weights_are_not_mixed_up(stored):
    ticket, trained = (
        networks.state_dict(stored, 0, 1, part, num_classes=10, in_chans=1) for part in ("ticket", "trained")
    )
    rewind = read(stored)["replicate_0/level_0/rewind_weights"]
    flat = torch.cat([tensor.flatten() for tensor in ticket.values()]).numpy()
    kept = flat != 0
    assert np.array_equal(flat[kept], rewind[kept]) and not kept.all()
    assert not torch.equal(ticket["conv.weight"], trained["conv.weight"])


def test_a_level_that_is_not_there_is_refused(stored):
    with pytest.raises(UsageError, match="no level 9 of replicate 0"):
        networks.state_dict(stored, 0, 9, "ticket", num_classes=10, in_chans=1)


@pytest.mark.parametrize("level", [0, LEVELS])
def test_an_exported_network_gives_the_recorded_accuracy_in_a_plain_program(stored, digits, tmp_path, level):
    """Strictly loaded into a network written for the tests alone, from the file alone."""
    file = networks.export(stored, tmp_path / "net.pt", replicate=1, level=level, part="trained")
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    held = torch.load(file, weights_only=True)
    words = {"conv": "stem", "blocks": "layers", "shortcut": "project"}  # what the tests' network calls its modules
    net.load_state_dict({".".join(words.get(word, word) for word in name.split(".")): w for name, w in held.items()})
    row = read(stored).table().query("replicate == 1 and level == @level").iloc[0]
    assert accuracy(net.eval(), digits, 1) == pytest.approx(row.acc, abs=1e-12)


def test_what_data_would_say_about_the_network_is_found_in_the_file(stored, digits):
    ours = [networks.network(stored, 0, 1, "ticket", **given).state_dict() for given in ({}, {"data": digits})]
    assert ours[0].keys() == ours[1].keys() and all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])


def test_the_file_of_a_network_stands_alone(stored, tmp_path):
    """repro/nets/resnet.py is all that a ticket of a CIFAR ResNet needs. Nothing of repro can be imported."""
    shutil.copy(ROOT / "repro" / "nets" / "resnet.py", tmp_path)
    networks.export(stored, tmp_path / "ticket.pt", replicate=0, level=LEVELS, part="ticket")
    lines = page_block("A CIFAR ResNet is as plain").replace("CifarResNet(14", "CifarResNet(8")
    printed = without_repro(
        lines + "\nprint(int((net.fc.weight == 0).sum()), net.eval()(torch.ones(2, 1, 8, 8)).shape)", tmp_path
    )
    ticket = networks.state_dict(stored, 0, LEVELS, "ticket", num_classes=10, in_chans=1)
    assert printed == f"{int((ticket['fc.weight'] == 0).sum())} torch.Size([2, 10])\n"
