"""Parameters that `torch.optim.SGD` leaves alone are not drawn, trained, decayed or pruned: frozen and unused ones."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro import engines, store
from repro.data import Batcher
from repro.engines import Block, Sgd
from repro.nets import create, freeze, initialise, layout_of
from repro.reading.networks import state_dict
from repro.recipes.artifacts import DEFAULTS
from tests.command_line import complaint, repro

NETWORKS = f"{Path(__file__).parent / 'feedforward.py'}:"
ENGINES = ["serial", "graph", *["sparse"] * (find_spec("repro.engines.sparse") is not None)]
IDLE = {
    "Frozen": ["conv.weight", "bn.weight", "unused.weight", "unused.bias"],
    "FrozenMiddle": [
        "spare.weight",
        "spare.bias",
        "first.bias",
        "middle.weight",
        "bn2.bias",
        "fc.bias",
        "spare_norm.weight",
        "spare_norm.bias",
    ],
}
PRUNABLE = {"Frozen": ["fc.weight"], "FrozenMiddle": ["first.weight", "last.weight", "fc.weight"]}
SHAPE = dict(num_classes=5, in_chans=2)
N, STEPS, REPLICAS, BATCH, SIDE = 60, 5, 2, 16, 8


def network(name, **shape):
    return create(NETWORKS + name, **SHAPE, **shape)


@pytest.mark.parametrize("name", IDLE)
def test_they_stand_behind_those_that_are_trained(name):
    net = network(name, image_size=SIDE)
    layout, sizes = layout_of(net), {key: p.numel() for key, p in net.named_parameters()}
    assert [entry.name for entry in layout.idle] == IDLE[name]
    assert [entry.name for entry in layout.prunable] == PRUNABLE[name]
    assert layout.num_prunable == sum(sizes[key] for key in PRUNABLE[name])
    assert layout.num_parameters - layout.num_trained == sum(sizes[key] for key in IDLE[name])
    assert layout.num_parameters == sum(sizes.values())
    assert all(
        torch.equal(tensor, net.state_dict()[key]) for key, tensor in layout.state_dict(layout.flatten(net)).items()
    )


@pytest.mark.parametrize("name", IDLE)
def test_they_keep_the_values_they_were_created_with(name):
    net = network(name, image_size=SIDE)
    created = {key: p.clone() for key, p in net.named_parameters()}
    initialise(net, torch.Generator().manual_seed(0))
    # the biases of batch norms are 0 before and after
    assert {key for key, p in net.named_parameters() if torch.equal(p, created[key])} - {"bn.bias", "bn1.bias"} == set(
        IDLE[name]
    )


def by_torch(net, mask, block, r, batcher, targets, sgd):
    """The same steps by PyTorch's own optimizer, of a network that knows nothing of idle parameters."""
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1.0, momentum=sgd.momentum, weight_decay=sgd.weight_decay, nesterov=sgd.nesterov
    )
    for k in range(len(block)):
        images, labels = block.images(k, batcher, torch.float64), block.labels(targets)[k]
        optimizer.param_groups[0]["lr"] = block.rates[k, r].item()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images[r].permute(0, 3, 1, 2)), labels[r]).backward()
        optimizer.step()
        with torch.no_grad():
            for key, part in mask.items():
                net.get_parameter(key).mul_(part)
    return net.state_dict()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", IDLE)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_leaves_them_alone_as_sgd_does(engine, name, nesterov):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (N, SIDE, SIDE, 2), dtype=np.uint8))
    batcher = Batcher(images, (0.4, 0.5), (0.2, 0.3), augment=False)
    targets = torch.from_numpy(rng.integers(0, 5, (REPLICAS, N)))
    index = torch.from_numpy(rng.integers(0, N, (STEPS, REPLICAS, BATCH)))
    block = Block(index, None, torch.from_numpy(rng.uniform(0.05, 0.2, (STEPS, REPLICAS))))
    sgd = Sgd(0.9, 0.01, nesterov)
    cohort = engines.create(
        engine,
        NETWORKS + name,
        replicas=REPLICAS,
        image_size=SIDE,
        device=torch.device("cpu"),
        precision="fp64",
        **SHAPE,
    )
    nets = [initialise(network(name, image_size=SIDE), torch.Generator().manual_seed(r)) for r in range(REPLICAS)]
    cohort.load(torch.stack([cohort.layout.flatten(net).double() for net in nets]))
    masks = torch.from_numpy(rng.random((REPLICAS, cohort.layout.num_prunable)) < 0.6)
    cohort.load_masks(masks)
    before = cohort.vectors()
    cohort.train(block, batcher, targets, sgd)
    assert cohort.engine == engine
    assert not cohort.momentum_vectors()[:, cohort.layout.num_trained :].any()
    for r in range(REPLICAS):
        plain, start = network(name).double().train(), cohort.layout.state_dict(before[r])
        plain.load_state_dict(start, strict=False)
        mask = {e.name: masks[r, e.offset : e.offset + e.size].view(e.shape) for e in cohort.layout.prunable}
        wanted = by_torch(plain, mask, block, r, batcher, targets, sgd)
        for key, found in cohort.layout.state_dict(cohort.vectors()[r]).items():
            torch.testing.assert_close(found, wanted[key], rtol=1e-11, atol=1e-13)
            still = torch.equal(found, start[key])
            assert still if key in IDLE[name] or key.startswith("spare") else not still, key


# --- from scores to exported networks ---------------------------------------------------------------------------------

TINY = ("--steps", 6, "--batch-size", 64, "--milestones", "3", "--replicates", 2, "--network")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idle")
    point, run = folder / "point.h5", folder / "imp.h5"
    told = repro("pretrain", "--dataset", "digits", "-t", 2, *TINY, NETWORKS + "Frozen", "--out", point).stderr
    repro("imp", point, "--levels", 2, "--out", run)
    return point, run, told


def test_stages_say_so_and_count_what_can_be_pruned(made):
    point, run, told = made
    said = "warning: 4 parameters of feedforward.py:Frozen@"
    assert told.count(said) == 1 and "neither trained nor pruned: conv.weight, bn.weight, unused.weight, …" in told
    table = store.read(run).table()
    assert list(table[table.replicate == 0].remaining) == [40, 31, 23]  # fc.weight is 10 x 4; ceil(0.2 n) + 1 go
    assert store.read(point).recipe["idle"] == store.read(run).recipe["idle"] == IDLE["Frozen"]
    assert state_dict(run, 1, 2, "mask").keys() == {"fc.weight"}
    for r in range(2):
        start = state_dict(point, r, None, "rewind")
        for level, part in ((0, "trained"), (1, "ticket"), (2, "trained")):
            found = state_dict(run, r, level, part)
            assert all(torch.equal(found[key], start[key]) for key in IDLE["Frozen"])
    assert not torch.equal(state_dict(point, 0, None, "rewind")["conv.weight"], start["conv.weight"])  # drawn for each


def test_later_commands_take_them_up(made, tmp_path):
    point, run, _ = made
    assert "computed 4" in repro("branch", run, "--mask", "shuffled", "--out", tmp_path / "branch.h5").stdout
    repro("barrier", run, "--children", 1, "--level", 1, "--replicates", 1, "--out", tmp_path / "barrier.h5")
    repro("barrier", run, "--successive", "--replicates", 1, "--out", tmp_path / "successive.h5")
    assert (
        "computed 1"
        in repro(
            "pretrain", "--dataset", "digits", "-t", 2, *TINY[:-2], 3, "--network", NETWORKS + "Frozen", "--out", point
        ).stdout
    )


def made_before(path, folder):
    """The artifact as a version made it that trained every parameter."""
    artifact = store.read(path)
    old = {field: value for field, value in artifact.recipe.items() if field != "idle"}
    store.write(
        folder / path.name,
        kind=artifact.kind,
        recipe=old,
        inputs=artifact.inputs,
        defaults=DEFAULTS,
        arrays={key: artifact[key] for key in artifact.keys()},
        table=artifact.table(),
        provenance=artifact.provenance,
    )
    return folder / path.name


def test_artifacts_made_before_are_refused(made, tmp_path):
    point, run, _ = made
    old, said = made_before(point, tmp_path), "was made when conv.weight of feedforward.py:Frozen@"
    assert said in complaint("imp", old, "--levels", 1, "--out", tmp_path / "imp.h5")
    assert said in complaint("barrier", made_before(run, tmp_path), "--successive", "--out", tmp_path / "b.h5")
    assert said in complaint("export", old, "--replicate", 0, "--part", "rewind", "--out", tmp_path / "r.pt")
    assert "idle" in complaint("pretrain", "--dataset", "digits", "-t", 2, *TINY, NETWORKS + "Frozen", "--out", old)
    assert not (tmp_path / "r.pt").exists()


def test_recipes_of_other_networks_say_nothing_of_it(tmp_path):
    repro("pretrain", "--dataset", "digits", "-t", 0, *TINY, "cifar_resnet8_w4", "--out", tmp_path / "w.h5")
    assert "idle" not in store.read(tmp_path / "w.h5").recipe


def test_freezing_by_name():
    net = network("Frozen")
    freeze(net, ["unused.weight"])
    assert [key for key, p in net.named_parameters() if not p.requires_grad] == [
        "conv.weight",
        "bn.weight",
        "unused.weight",
    ]
