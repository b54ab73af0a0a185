"""Retrained levels of a stored run: their masks and weights, and what they become in plain PyTorch."""

import re
from importlib import import_module

import numpy as np
import pytest
import torch

from repro import store
from repro.data import Batcher, load
from repro.errors import UsageError
from repro.nets import create, initialise, layout_of
from repro.reading import networks
from repro.recipes.artifacts import DEFAULTS
from repro.recipes.training import Training
from repro.stages import branch, imp, pretrain
from repro.train.random_streams import stream, torch_stream
from tests import plain_imp
from tests.command_line import CPU, TINY, complaint, contents, repro

NETWORK, SEED, T, LATER = "cifar_resnet8_w4", 3, 4, 7
# float64, so that plain PyTorch and the cohort agree to rounding
RECIPE = Training(steps=14, batch_size=64, lr=0.3, milestones=(10,), augment=False, precision="fp64")
LAYOUT = layout_of(create(NETWORK, num_classes=10, in_chans=1))
TRAINER = import_module("repro.stages.trainer")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two levels, and another rewind point, in float64."""
    folder = tmp_path_factory.mktemp("run")
    common = dict(dataset="digits", replicates=2, network=NETWORK, training=RECIPE, seed=SEED)
    pretrain(folder / "w.h5", t=T, **common)
    pretrain(folder / "later.h5", t=LATER, **common)
    imp(folder / "imp.h5", folder / "w.h5", levels=2)
    np.save(folder / "mask.npy", np.random.default_rng(0).random(LAYOUT.num_prunable) < 0.4)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of the command line, in which replicate 0 diverged, and one in which none did."""
    folder = tmp_path_factory.mktemp("short")
    repro("pretrain", "--dataset", "digits", "-t", 4, *TINY, *CPU, "--out", folder / "w.h5")
    good = store.read(folder / "w.h5")
    arrays = {key: good[key] for key in good.keys()}
    arrays["replicate_0/weights"] = arrays["replicate_0/weights"] * np.float32(1e30)
    store.write(
        folder / "broken.h5",
        kind="pretrain",
        recipe=good.recipe,
        inputs={},
        arrays=arrays,
        table=good.table(),
        provenance=good.provenance,
        defaults=good.lineage.defaults,
    )
    for point, name in (("w.h5", "imp.h5"), ("broken.h5", "bad.h5")):
        repro("imp", folder / point, "--levels", 2, "--engine", "serial", *CPU, "--out", folder / name)
    return folder


def mask_of(path, replicate, level):
    packed = store.read(path)[f"replicate_{replicate}/level_{level}/mask"]
    return np.unpackbits(packed, count=LAYOUT.num_prunable).astype(bool)


def layers(mask):
    return np.split(mask, np.cumsum([entry.size for entry in LAYOUT.prunable])[:-1])


def shuffled(mask, replicate, level):
    rng = stream(SEED, replicate, "shuffle", level)
    return np.concatenate([layer[rng.permutation(len(layer))] for layer in layers(mask)])


def plain_network(vector):
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    values = LAYOUT.state_dict(vector.double()).values()
    net.load_state_dict(dict(zip([entry.name for entry in layout_of(net).entries], values)), strict=False)
    return net


def initial(replicate):
    net = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(SEED, replicate, "branch.init"))
    return LAYOUT.flatten(net)


CASES = {
    "shuffled": (dict(mask="shuffled"), "w.h5", T),
    "random": (dict(mask="random", levels=[2]), "w.h5", T),
    "reinitialised": (dict(weights="reinitialised", levels=[1]), None, T),
    "later": (dict(weights="later.h5", levels=[2]), "later.h5", LATER),
    "file": (dict(mask="mask.npy", levels=[2]), "w.h5", T),
    "both": (dict(mask="shuffled", weights="reinitialised", levels=[2]), None, T),
}


@pytest.mark.parametrize("given, point, start", CASES.values(), ids=CASES)
def test_levels_become_what_plain_pytorch_makes_of_mask_and_weights(run, tmp_path, given, point, start):
    out, source = tmp_path / "out.h5", run / "imp.h5"
    options = {key: run / value if "." in str(value) else value for key, value in given.items()}
    branch(out, source, **options)
    made, data = store.read(out), load("digits")
    table, levels = made.table(), given.get("levels", [1, 2])
    assert list(zip(table.replicate, table.level)) == [(r, level) for r in (0, 1) for level in levels]
    assert (table.columns == store.table(source).columns).all() and made.recipe["t"] == start
    x = Batcher(data.images, data.mean, data.std, augment=False).normalise(data.images, torch.float64)
    x = x.permute(0, 3, 1, 2).contiguous()
    for _, row in table.iterrows():
        r, level = row.replicate, row.level
        own, mask = mask_of(source, r, level), mask_of(out, r, level)
        if given.get("mask") == "shuffled":
            assert np.array_equal(mask, shuffled(own, r, level)) and not np.array_equal(mask, own)
        elif given.get("mask") == "random":
            assert mask.sum() == own.sum() and [m.sum() for m in layers(mask)] != [m.sum() for m in layers(own)]
        else:
            assert np.array_equal(mask, np.load(options["mask"]) if "mask" in given else own)
        assert (row.remaining, row.density) == (mask.sum(), mask.sum() / LAYOUT.num_prunable)

        weights = initial(r) if point is None else torch.from_numpy(store.read(run / point)[f"replicate_{r}/weights"])
        net = plain_network(weights)
        by_layer = [torch.from_numpy(m).view(e.shape) for m, e in zip(layers(mask), LAYOUT.prunable)]
        train, test = data.split(r)
        plain_imp.train(
            net,
            by_layer,
            x,
            data.labels,
            train.numpy(),
            start=start,
            stop=14,
            batch=64,
            seed=SEED,
            lr_at=lambda step: 0.3 if step < 10 else 0.03,
            replicate=r,
        )
        expected = torch.cat([net.state_dict()[entry.name].flatten() for entry in layout_of(net).entries])
        np.testing.assert_allclose(made[f"replicate_{r}/level_{level}/weights"], expected, rtol=1e-8, atol=1e-10)
        with torch.no_grad():
            correct = net.eval()(x[test]).argmax(1) == data.labels[test]
        assert row.acc == correct.double().mean().item()
        ticket = networks.state_dict(out, r, level, "ticket", num_classes=10, in_chans=1)
        started = torch.cat([tensor.flatten() for tensor in ticket.values()])
        expected = weights.double().numpy().copy()
        expected[: LAYOUT.num_prunable] *= mask
        assert np.array_equal(started, expected)


def test_random_masks_differ_between_replicates_and_levels(run, tmp_path):
    branch(tmp_path / "out.h5", run / "imp.h5", mask="random")
    masks = [mask_of(tmp_path / "out.h5", r, level) for r in (0, 1) for level in (1, 2)]
    shared = [(a & b).mean() / (a.mean() * b.mean()) for i, a in enumerate(masks) for b in masks[:i]]
    assert all(abs(ratio - 1) < 0.05 for ratio in shared)  # independent: as many in common as by chance


def test_masks_from_artifacts_and_torch_files(run, tmp_path):
    """The same masks, whichever way they are handed over, give the same networks."""
    made = {name: tmp_path / f"{name}.h5" for name in ("shuffled", "artifact", "torch")}
    common = dict(levels=[2], replicates=1, weights="reinitialised")
    branch(made["shuffled"], run / "imp.h5", mask="shuffled", **common)
    branch(made["artifact"], run / "imp.h5", mask=made["shuffled"], **common)
    parts = zip(LAYOUT.prunable, layers(mask_of(made["shuffled"], 0, 2)))
    by_name = {entry.name: torch.from_numpy(part).view(entry.shape).float() for entry, part in parts}
    torch.save(dict(reversed(by_name.items())), tmp_path / "mask.pt")
    branch(made["torch"], run / "imp.h5", mask=tmp_path / "mask.pt", **common)
    assert contents(made["shuffled"]) == contents(made["artifact"]) == contents(made["torch"])
    assert len({store.read(path).identity for path in made.values()}) == 3
    assert store.read(made["artifact"]).inputs.keys() == {"imp", "masks"}


def test_an_imp_artifact_as_weights_is_its_rewind_point(run, tmp_path):
    imp(tmp_path / "later-imp.h5", run / "later.h5", levels=0)
    for name, point in (("a", run / "later.h5"), ("b", tmp_path / "later-imp.h5")):
        branch(tmp_path / f"{name}.h5", run / "imp.h5", levels=[1], weights=point)
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")


def test_a_level_without_a_mask_counts_as_chance_and_harms_nobody(short, tmp_path):
    command = ("--mask", "shuffled", "--engine", "serial", *CPU)
    said = repro("branch", short / "bad.h5", *command, "--out", tmp_path / "bad.h5").stdout
    assert "computed 4, reused 0" in said and "warning: replicates [0] diverged and count as chance" in said
    table = store.table(tmp_path / "bad.h5")
    assert table.diverged.tolist() == [True] * 2 + [False] * 2 and table.acc[:2].tolist() == [0.1] * 2
    repro("branch", short / "imp.h5", *command, "--out", tmp_path / "good.h5")
    assert contents(tmp_path / "bad.h5", "replicate_1") == contents(tmp_path / "good.h5", "replicate_1")
    said = complaint("branch", short / "bad.h5", *command, "--replicates", 1, "--out", tmp_path / "x.h5")
    assert "bad.h5 has no mask for any of these levels, since it diverged: choose other --levels" in said


def test_a_branch_grows_and_takes_up_from_its_checkpoint(short, monkeypatch, tmp_path):
    command = ("branch", short / "imp.h5", "--weights", "reinitialised", "--engine", "serial", *CPU)
    repro(*command, "--out", tmp_path / "whole.h5")
    repro(*command, "--levels", 2, "--replicates", 1, "--out", tmp_path / "grown.h5")
    resumed = []

    def interrupted(*arguments, checkpoint, resume, train=TRAINER.train, **options):
        def save(state):
            checkpoint(state)
            if len(resumed) == 1:
                raise KeyboardInterrupt

        resumed.append(resume and resume.step)
        return train(*arguments, checkpoint=save, resume=resume, **{**options, "checkpoint_seconds": 1e-9})

    monkeypatch.setattr(TRAINER, "train", interrupted)
    complaint(*command, "--out", tmp_path / "grown.h5", code=130)
    dry = repro(*command, "--out", tmp_path / "grown.h5", "--dry-run").stdout
    assert "would compute 3 and reuse 1, 3 × 8 steps" in dry
    assert "computed 3, reused 1" in repro(*command, "--out", tmp_path / "grown.h5").stdout
    assert resumed == [None, 5]
    assert contents(tmp_path / "grown.h5") == contents(tmp_path / "whole.h5")


def test_an_imp_artifact_from_when_it_had_a_pruning_option_is_still_the_same(short, tmp_path):
    old = store.read(short / "imp.h5")
    for pruning, same in (("magnitude", True), ("random", False)):
        store.write(
            tmp_path / "imp.h5",
            kind="imp",
            recipe={**old.recipe, "pruning": pruning},
            inputs=old.inputs,
            arrays={key: old[key] for key in old.keys()},
            table=old.table(),
            provenance=old.provenance,
            defaults={**DEFAULTS, "pruning": "magnitude"},
        )
        command = ("imp", short / "w.h5", "--levels", 2, *CPU, "--out", tmp_path / "imp.h5")
        assert (store.read(tmp_path / "imp.h5").identity == old.identity) == same
        if same:
            assert "computed 0, reused 6" in repro(*command).stdout
        else:
            assert "pruning is random there" in complaint(*command)


REFUSED = r"""
RUN
    the run's own masks and rewound weights would repeat .*imp.h5: give another --mask .* or other --weights
RUN --mask {imp}
    would repeat .*imp.h5
RUN --weights {w}
    would repeat .*imp.h5
RUN --weights {imp}
    would repeat .*imp.h5
RUN --mask shuffle
    unknown mask 'shuffle': choose own, shuffled, random or the path of a file
RUN --weights 20
    unknown weights '20': choose rewound, reinitialised or the path of a file
RUN --mask shuffled --levels 1,x
    levels \(='1,x'\) must be numbers with commas, like 8,10
RUN --mask shuffled --levels 0,1
    level \(=0\) must be 1 or more: level 0 is dense
RUN --mask shuffled --levels 1,3
    imp.h5 has no level 3 of replicate 0: ask for other --levels or fewer --replicates
RUN --mask shuffled --replicates 3
    3 replicates, but .*imp.h5 holds 2: give --replicates 2 here, or run its imp command with --replicates 3
RUN --mask {w}
    w.h5 is a pretrain artifact where --mask needs one of imp or branch
RUN --weights {other}
    other.h5 is of cifar_resnet8_w2, .*imp.h5 of cifar_resnet8_w4: give --weights of the same network
RUN --replicates 1 --mask {few}
    few.h5 has no level 2 of replicate 0: .* or run its imp command with more
RUN --levels 1 --mask {few}
    few.h5 has no level 1 of replicate 1: .* or run its imp command with more
RUN --weights {one}
    one.h5 has no replicate 1: ask for fewer --replicates, or run its pretrain command with more
RUN --weights {whole}
    whole.h5 is trained to the end \(t = 12 of 12 steps\).*smaller -t
RUN --mask {good}
    good.npy is one mask, for which every level would be the same: give the one of --levels
RUN --mask {short}
    short.npy: the mask has shape \(7,\), but \(4964,\) is needed
RUN --mask {values}
    values.npy holds values beside 0 and 1
RUN --mask {nan}
    nan.npy holds values beside 0 and 1
RUN --mask {empty}
    empty.npy keeps no weight: give a mask with some ones
RUN --mask {objects}
    objects.npy cannot be read as a mask \(ValueError\): give a .npy array or a .pt or .safetensors dict
RUN --mask {damaged}
    damaged.pt is a text file, not a file of torch.save: write one with
RUN --mask {list}
    list.pt holds a list: give a dict from names to mask tensors
RUN --mask {missing}
    missing.pt has no mask of conv.weight: give one for each of the 10 prunable tensors
RUN --mask {bias}
    bias.pt has a mask of something that is not prunable, .*bias: give one for each
"""
REFUSED = re.findall(r"^(\w.*)\n {4}(.*)$", REFUSED, re.MULTILINE)


@pytest.fixture(scope="module")
def files(short):
    """Files of masks and weights, by name."""
    size = LAYOUT.num_prunable
    arrays = {
        "good": np.ones(size),
        "short": np.ones(7),
        "values": np.full(size, 2),
        "nan": np.full(size, np.nan),
        "empty": np.zeros(size),
        "objects": np.array([{}] * size),
    }
    for name, array in arrays.items():
        np.save(short / f"{name}.npy", array)
    parts = {entry.name: torch.ones(entry.shape) for entry in LAYOUT.prunable}
    torch.save([1], short / "list.pt")
    torch.save({name: part for name, part in parts.items() if name != "conv.weight"}, short / "missing.pt")
    torch.save(parts | {"head.bias": torch.ones(10)}, short / "bias.pt")
    (short / "damaged.pt").write_bytes(b"nothing")
    point = ("pretrain", "--dataset", "digits", *TINY, *CPU)
    repro(*point, "-t", 4, "--network", "cifar_resnet8_w2", "--out", short / "other.h5")
    repro(*point, "-t", 2, "--replicates", 1, "--out", short / "one.h5")
    repro(*point, "-t", 12, "--out", short / "whole.h5")
    repro("imp", short / "one.h5", "--levels", 1, *CPU, "--out", short / "few.h5")
    return {path.stem: path for path in short.iterdir()}


@pytest.mark.parametrize("command, said", REFUSED, ids=[command for command, _ in REFUSED])
def test_refused(files, command, said, tmp_path):
    words = [word.format(**files) for word in command.split()]
    words = ("branch", files["imp"], *words[1:], "--out", tmp_path / "out.h5")
    sentence = complaint(*words)
    assert re.search(said, sentence) and complaint(*words, "--dry-run") == sentence
    assert not list(tmp_path.iterdir())


def test_masks_of_other_images_are_refused(run, tmp_path):
    old = store.read(run / "imp.h5")
    store.write(
        tmp_path / "imp.h5",
        kind="imp",
        recipe={**old.recipe, "dataset": "folder:digits"},
        inputs=old.inputs,
        arrays={},
        table=old.table(),
        provenance=old.provenance,
        defaults=old.lineage.defaults,
    )
    with pytest.raises(UsageError, match="is of folder:digits, .* of digits: give --mask of the same dataset"):
        branch(tmp_path / "out.h5", run / "imp.h5", mask=tmp_path / "imp.h5")
