"""What networks begin as: their own code's draws, and state dicts of others, against seeds and numbers by hand."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import stages
from repro.plan import Barrier, Cell, steps
from repro.protocol import own
from repro.recipes.artifacts import DEFAULTS
from repro.stages import trainer as trainer_module
from repro.store import identity, read
from repro.train.random_streams import torch_stream
from tests.command_line import complaint, repro

NETS = """
import numpy as np
import torch
from torch import nn


def drawn(num_classes, in_chans):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, 6), nn.ReLU(), nn.Linear(6, num_classes))
    nn.init.normal_(net[1].weight, std=0.01)
    nn.init.constant_(net[3].bias, 0.5)
    net[3].weight.data += 0.1 * torch.from_numpy(np.random.rand(num_classes, 6))
    return net


def constant(num_classes, in_chans):
    net = drawn(num_classes, in_chans)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.25)
    return net


def fresh(num_classes, in_chans):
    net = drawn(num_classes, in_chans)
    net[1].weight.data += torch.from_numpy(np.random.default_rng().random((6, 64 * in_chans)))
    return net


def loaded(num_classes, in_chans):
    net = drawn(num_classes, in_chans)
    state = torch.load("w.pt")["state_dict"]
    net.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    net[3].bias.data += torch.rand(())
    return net


def broken(num_classes, in_chans):
    net = drawn(num_classes, in_chans)
    net[1].weight.data[0, 0] = float("nan")
    return net
"""
RUN = ("--dataset", "digits", "--steps", 6, "--batch-size", 64, "--milestones", "", "--lr", 0.1, "--engine", "serial")
SEED = 1  # of the protocol of digits
ALIKE = "all networks begin with the same weights: they differ by data order only"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETS, encoding="utf-8")
    return tmp_path


def pretrain(out, init, *more, network="net.py:drawn", t=0, replicates=2):
    words = ("--network", network, "-t", t, "--replicates", replicates, "--init", init, *more)
    return repro("pretrain", *RUN, *words, "--out", out)


def by_hand(replicate, name="drawn", role=""):
    """The numbers of a network whose code draws from generators with the replicate's seed: weights, then biases."""
    address = f"{SEED},{replicate},{role}create".encode()
    number = int.from_bytes(hashlib.sha256(address).digest()[:16], "little") % 2**63
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    made = {}
    exec(NETS, made)
    state = made[name](num_classes=10, in_chans=1).state_dict()
    names = ("1.weight", "3.weight", "1.bias", "3.bias")
    return torch.cat([state[name].flatten() for name in names]).numpy()


def weights(path, replicate, name="weights"):
    return read(path)[f"replicate_{replicate}/{name}"]


@pytest.fixture
def state_dict(here):
    torch.manual_seed(5)
    made = {"1.weight": torch.randn(6, 64), "1.bias": torch.randn(6), "3.weight": torch.randn(10, 6)}
    made["3.bias"] = torch.randn(10)
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in made.items()}}, "w.pt")
    return torch.cat([made[name].flatten() for name in ("1.weight", "3.weight", "1.bias", "3.bias")]).numpy()


def test_a_network_begins_as_its_code_draws_it(here):
    said = pretrain("own.h5", "network")
    assert all(np.array_equal(weights("own.h5", r), by_hand(r)) for r in (0, 1))
    assert ALIKE not in said.stdout and "overwritten" not in said.stderr
    pretrain("paper.h5", "paper")
    assert not np.array_equal(weights("paper.h5", 0), by_hand(0))
    assert read("own.h5").recipe["init"] == "network" and "init" not in read("paper.h5").recipe


def test_numbers_that_the_code_loads_from_a_file_are_part_of_the_recipe(here, state_dict):
    """The pin covers the code alone. Another file must neither be mixed into the artifact nor drawn from again."""
    pretrain("own.h5", "network", network="net.py:loaded", replicates=1)
    digest = hashlib.sha256(by_hand_of_file(state_dict).astype("<f4")).hexdigest()
    assert read("own.h5").recipe["init_sha256"] == digest
    imp = ("imp", "own.h5", "--levels", 1, "--engine", "serial", "--out", "imp.h5")
    repro(*imp)
    branch = ("branch", "imp.h5", "--engine", "serial", "--weights", "reinitialised", "--out", "branch.h5")
    repro(*branch)
    repro("barrier", "imp.h5", "--children", 1, "--engine", "serial", "--out", "barrier.h5")
    torch.save({name: value + 1 for name, value in torch.load("w.pt")["state_dict"].items()}, "other.pt")
    torch.save({"state_dict": torch.load("other.pt")}, "w.pt")
    words = ("--network", "net.py:loaded", "-t", 0, "--init", "network", "--out", "own.h5")
    said = complaint("pretrain", *RUN, *words, "--replicates", 2)
    assert f"init_sha256 is {digest} there and " in said
    assert "computed 0, reused 2" in repro(*imp).stdout  # it begins with what its rewind point keeps
    for again in ((*imp[:-1], "new.h5", "--prune-at", "initialisation"), (*branch, "--force")):
        assert re.search(
            r"\w+.h5 began with other numbers than those that net.py:loaded@\w+ begins with now: bring back the file",
            complaint(*again),
        )


def by_hand_of_file(state_dict):
    """Those of replicate 0, whose code adds a draw to one of the numbers that it loads."""
    number = int.from_bytes(hashlib.sha256(f"{SEED},0,create".encode()).digest()[:16], "little") % 2**63
    torch.manual_seed(number)
    made, found = {}, state_dict.copy()
    exec(NETS, made)
    made["drawn"](10, 1)  # draws first
    found[-10:] += float(torch.rand(()))  # 3.bias
    return found


def test_timms_own_initialisation(here):
    import timm

    name = "test_resnet"
    pretrain("timm.h5", "network", network=name, replicates=1)
    number = int.from_bytes(hashlib.sha256(f"{SEED},0,create".encode()).digest()[:16], "little") % 2**63
    torch.manual_seed(number)
    wanted = timm.create_model(name, num_classes=10, in_chans=1).state_dict()
    repro("export", "timm.h5", "--replicate", 0, "--part", "rewind", "--out", "timm.pt")
    found = torch.load("timm.pt", weights_only=True)
    shared = [key for key, value in wanted.items() if value.is_floating_point()]
    assert shared and all(torch.equal(found[key], wanted[key]) for key in shared)


def test_a_state_dict_is_where_all_replicates_begin(here, state_dict):
    assert ALIKE in pretrain("start.h5", "w.pt", replicates=3).stdout
    assert all(np.array_equal(weights("start.h5", r), state_dict) for r in range(3))
    digest = hashlib.sha256(state_dict.astype("<f4")).hexdigest()
    assert read("start.h5").recipe["init"] == "file" and read("start.h5").recipe["init_sha256"] == digest
    pretrain("later.h5", "w.pt", t=2, replicates=2)
    assert not np.array_equal(weights("later.h5", 0), weights("later.h5", 1))
    said = repro("imp", "start.h5", "--levels", 1, "--engine", "serial", "--out", "imp.h5").stdout
    assert ALIKE in said and np.array_equal(weights("imp.h5", 2, "level_0/rewind_weights"), state_dict)
    ends = [weights("imp.h5", r, "level_1/weights") for r in (0, 1)]
    assert not np.array_equal(*ends)


def test_a_network_of_constants_is_told_too(here):
    assert ALIKE in pretrain("constant.h5", "network", network="net.py:constant").stdout
    assert set(weights("constant.h5", 0)) == {0.25}


def test_every_command_begins_as_it_is_told(here, state_dict, monkeypatch):
    begun = []

    def seen(jobs, *arguments, train=trainer_module.train, **options):
        begun.extend(job.vector.numpy() for job in jobs)
        return train(jobs, *arguments, **options)

    monkeypatch.setattr(trainer_module, "train", seen)
    common = (*RUN, "--network", "net.py:drawn", "--replicates", 2, "--init", "w.pt")
    for verb, *more in (
        ("score", "--networks", 2),
        ("warmup", "--warmup-steps", 2),
        ("gradients", "-t", 2, "--every", 2),
        ("pretrain", "-t", 2),
    ):
        begun.clear()
        said = repro(verb, *common, *more, "--out", f"{verb}.h5").stdout
        assert begun and all(np.array_equal(vector, state_dict) for vector in begun), verb
        assert ALIKE in said and read(f"{verb}.h5").recipe["init"] == "file"


def test_reinitialised_weights_are_drawn_as_the_run_began(here, state_dict):
    for init, wanted in (("network", by_hand(0, role="branch.")), ("w.pt", None)):
        pretrain("start.h5", init, "--force", replicates=1)
        repro("imp", "start.h5", "--levels", 1, "--engine", "serial", "--out", "imp.h5", "--force")
        branch = ("branch", "imp.h5", "--engine", "serial", "--force", "--weights")
        said = repro(*branch, "reinitialised", "--out", "branch.h5").stdout
        found = weights("branch.h5", 0, "rewind_weights")
        assert ALIKE not in said and not np.array_equal(found, state_dict)
        if wanted is None:  # as in the paper: Kaiming normal, from the branch's own stream
            wanted = torch.empty(6, 64)
            torch.nn.init.kaiming_normal_(wanted, generator=torch_stream(SEED, 0, "branch.init"))
            wanted, found = wanted.flatten().numpy(), found[: 6 * 64]
        assert np.array_equal(found, wanted)


def test_the_default_leaves_no_trace(here):
    plain = {"dataset": "digits"}
    fields = stages.inputs.Init().fields
    assert fields == {} and identity("pretrain", plain, {}, DEFAULTS) == identity(
        "pretrain", plain | {"init": "paper", "init_sha256": ""}, {}, DEFAULTS
    )
    pretrain("p.h5", "paper")
    words = ("pretrain", *RUN, "--network", "net.py:drawn", "-t", 0, "--replicates", 2, "--out", "p.h5")
    assert "computed 0, reused 2" in repro(*words).stdout
    assert "init is paper there and network here" in complaint(*words, "--init", "network")


def test_a_figure_of_ones_own_says_what_networks_begin_as(here):
    p = own("digits", network="net.py:drawn", init="network", steps=6, t_star=2, levels=1, replicates=1)
    made = steps([Cell("all_tstar", p, 2), Barrier(Cell("all_tstar", p, 2))], Path("results"))
    pretrained = next(step for step in made if step.verb == "pretrain")
    assert pretrained.command[pretrained.command.index("--init") + 1] == "network"
    assert {step.verb: step.recipe.get("init") for step in made} == {
        "pretrain": "network",
        "imp": "network",
        "barrier": None,
    }
    default = own("digits", network="net.py:drawn", steps=6, t_star=2, levels=1, replicates=1)
    plain = next(step for step in steps([Cell("all_tstar", default, 2)], Path("results")) if step.verb == "pretrain")
    assert "--init" not in plain.command
    assert plain.differing({**plain.recipe, "init": "network"}) == [("init", "network", "paper")]
    assert not plain.differing({name: value for name, value in plain.recipe.items() if name != "init"})


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_nothing_in_a_file_is_run(here):
    torch.save({"state_dict": Harm()}, "harm.pt")
    assert "harm.pt" in complaint(
        "pretrain", *RUN, "--network", "net.py:drawn", "-t", 0, "--init", "harm.pt", "--out", "p.h5"
    )
    assert not Path("harm").exists() and not Path("p.h5").exists()


@pytest.mark.parametrize(
    "network, init, sentence",
    [
        ("drawn", "kaiming", "unknown init 'kaiming': choose paper, network, or the path of a state dict's file"),
        ("drawn", ".", "unknown init '.': choose paper"),
        ("drawn", "net.py", "net.py is .*, not a file of torch.save: write one"),
        ("drawn", "nan.pt", "nan.pt holds NaN or infinity in 1.bias: give a checkpoint that did not diverge"),
        (
            "drawn",
            "shape.pt",
            r"shape.pt has 3.weight of shape \(1000, 6\), net.py:drawn@\w+ on this data set of shape",
        ),
        ("drawn", "lacks.pt", "lacks.pt has no tensor 3.bias of net.py:drawn@"),
        (
            "fresh",
            "network",
            "net.py:fresh@.* begins with other numbers each time it is made, .*: draw them from torch's",
        ),
        ("broken", "network", "network 'net.py:broken@.*' begins with infinity or NaN in 1.weight"),
    ],
)
def test_what_cannot_be_begun_from(network, init, sentence, here):
    good = {"1.weight": torch.ones(6, 64), "1.bias": torch.ones(6), "3.weight": torch.ones(10, 6)}
    good["3.bias"] = torch.ones(10)
    torch.save(good | {"1.bias": torch.full((6,), torch.nan)}, "nan.pt")
    torch.save(good | {"3.weight": torch.ones(1000, 6)}, "shape.pt")
    torch.save({name: value for name, value in good.items() if name != "3.bias"}, "lacks.pt")
    words = ("pretrain", *RUN, "--network", f"net.py:{network}", "--replicates", 1, "-t", 2, "--out", "p.h5")
    assert re.search(sentence, complaint(*words, "--init", init))
    assert not Path("p.h5").exists() and not Path("p.h5.work").exists()
