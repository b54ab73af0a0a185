"""Agreement of mini-batch gradients against plain PyTorch in float64, and training undisturbed by the measurement."""

from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro import store
from repro.data import Batcher, load
from repro.nets import create, initialise, layout_of
from repro.recipes.training import Training
from repro.stages import gradients, select
from repro.train.random_streams import stream, torch_stream
from tests import plain_imp
from tests.command_line import CPU, TINY, complaint, contents, repro
from tests.test_engine import ENGINES

NETWORK, SEED, SIZE, BATCHES = "cifar_resnet8_w4", 5, 150, 5
RECIPE = Training(steps=14, batch_size=64, lr=0.3, milestones=(), augment=False, precision="fp64")
MODULE = import_module("repro.stages.trainer")


def subset(path, *, size, **noise):
    """A random subset of two replicates, with labels of its own if there is noise."""
    select(path, kind="random", dataset="digits", size=size, replicates=2, seed=SEED, balanced=False)
    if noise:
        old = store.read(path)
        arrays = {key: old[key] for key in old.keys()} | noise
        store.write(
            path,
            kind="subset",
            recipe={**old.recipe, "label_noise": 0.5},
            inputs=old.inputs,
            arrays=arrays,
            table=old.table(),
            provenance=old.provenance,
            defaults=old.lineage.defaults,
        )
    return path


def plain_network(replicate):
    ours = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(SEED, replicate, "init"))
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    values = layout_of(ours).state_dict(layout_of(ours).flatten(ours)).values()
    net.load_state_dict(dict(zip([e.name for e in layout_of(net).entries], values)), strict=False)
    return net


def plain_cosines(net, x, labels, images, replicate, step):
    """Batches of 64 of the 150 images: two from each new order, without the 22 that are left over."""
    orders = [stream(SEED, replicate, "gradients.order", step, i).permutation(SIZE) for i in range(3)]
    parts = [order[first : first + 64] for order in orders for first in (0, 64)][:BATCHES]
    each = []
    net.train()
    for rows in (images[part] for part in parts):
        loss = F.cross_entropy(net(x[rows]), labels[rows])
        each.append(np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    mean = np.mean(each, 0)
    return [g @ mean / np.sqrt((g @ g) * (mean @ mean)) for g in each]


def test_cosines_equal_plain_pytorch_along_the_whole_training(tmp_path):
    data = load("digits")
    noisy = torch.from_numpy(np.random.default_rng(0).integers(0, 10, len(data.labels)))
    path = subset(tmp_path / "subset.h5", size=SIZE, labels=noisy.numpy())
    gradients(
        tmp_path / "g.h5",
        subset=path,
        t=5,
        every=2,
        batches=BATCHES,
        replicates=2,
        network=NETWORK,
        training=RECIPE,
        seed=SEED,
    )
    made = store.read(tmp_path / "g.h5")
    table = made.table().set_index(["replicate", "step"])
    assert list(table.index) == [(r, step) for r in (0, 1) for step in (0, 2, 4, 5)]
    x = Batcher(data.images, data.mean, data.std, augment=False).normalise(data.images, torch.float64)
    x = x.permute(0, 3, 1, 2).contiguous()
    for r in (0, 1):
        net, images, test = plain_network(r), store.read(path)[f"replicate_{r}/index"], data.split(r)[1]
        masks = [torch.ones_like(w, dtype=torch.bool) for w in plain_imp.prunable(net)]
        for step in (0, 2, 4, 5):
            # the oracle's momentum starts at zero, so it trains from the initialisation each time
            net = plain_network(r)
            plain_imp.train(
                net, masks, x, noisy, images, start=0, stop=step, lr_at=lambda _: 0.3, batch=64, seed=SEED, replicate=r
            )
            with torch.no_grad():
                correct = net.eval()(x[test]).argmax(1) == data.labels[test]  # measured by the true labels
            expected = plain_cosines(net, x, noisy, images, r, step)
            np.testing.assert_allclose(made[f"replicate_{r}/step_{step}/cosines"], expected, rtol=0, atol=1e-9)
            assert table.cosine[r, step] == pytest.approx(np.mean(expected), abs=1e-9)
            assert table.acc[r, step] == correct.double().mean().item()
    assert table.cosine.min() < 0.9  # there is something to disagree about


@pytest.mark.parametrize("engine", ENGINES)
def test_the_training_is_that_of_pretrain_bit_for_bit(engine, tmp_path):
    command = ("--dataset", "digits", "-t", 8, *TINY, *CPU, "--augment", "--engine", engine)
    repro("pretrain", *command, "--out", tmp_path / "w.h5")
    said = repro("gradients", *command, "--every", 3, "--batches", 2, "--out", tmp_path / "g.h5").stdout
    assert "computed 8, reused 0" in said
    point, made = store.read(tmp_path / "w.h5"), store.read(tmp_path / "g.h5")
    for r in (0, 1):
        assert np.array_equal(made[f"replicate_{r}/step_8/weights"], point[f"replicate_{r}/weights"])
    assert made.table().query("step == 8").acc.tolist() == point.table().acc.tolist()
    assert (
        "computed 0, reused 8"
        in repro("gradients", *command, "--every", 3, "--batches", 2, "--out", tmp_path / "g.h5").stdout
    )


def test_identical_batches_agree_fully(tmp_path):
    path = subset(tmp_path / "one-batch.h5", size=64)
    repro("gradients", "--subset", path, "-t", 6, *TINY, *CPU, "--every", 6, "--out", tmp_path / "g.h5")
    np.testing.assert_allclose(store.table(tmp_path / "g.h5").cosine, 1, rtol=0, atol=1e-5)


def test_an_interrupted_command_keeps_what_it_measured(monkeypatch, tmp_path):
    command = ("gradients", "--dataset", "digits", "-t", 9, *TINY, *CPU, "--every", 3, "--batches", 2)
    repro(*command, "--out", tmp_path / "whole.h5")
    command = (*command, "--checkpoint-seconds", 1e-6)
    resumed = []

    def interrupted(jobs, *arguments, resume, train=MODULE.train, **options):
        resumed.append(resume and resume.step)
        if len(resumed) == 3:  # on the way from step 3 to step 6
            raise KeyboardInterrupt
        return train(jobs, *arguments, resume=resume, **options)

    monkeypatch.setattr(MODULE, "train", interrupted)
    complaint(*command, "--out", tmp_path / "g.h5", code=130)
    assert "would compute 8" in repro(*command, "--out", tmp_path / "g.h5", "--dry-run").stdout  # none is finished
    assert "computed 4, reused 4" in repro(*command, "--out", tmp_path / "g.h5").stdout
    assert resumed == [None, 0, 3, 3, 3, 6]
    assert contents(tmp_path / "g.h5") == contents(tmp_path / "whole.h5")
    grown = repro(*command, "--replicates", 3, "--out", tmp_path / "g.h5").stdout
    assert "computed 4, reused 8" in grown


def test_divergence_fails_with_the_rate(tmp_path):
    command = ("gradients", "--dataset", "digits", "-t", 9, *TINY, *CPU, "--lr", 1e30, "--out", tmp_path / "g.h5")
    said = complaint(*command, code=1)
    assert said == "all replicates of g diverged (loss not finite): lower --lr (=1e+30) and pass --force"


@pytest.mark.parametrize(
    "words, said",
    [
        (("--every", 0), "steps between measurements (=0) must be at least 1: try --every 10"),
        (("-t", 13), "step t (=13) must be between 0 and the 12 steps of the schedule"),
        (("--batches", 1), "Invalid value for '--batches': 1 is not in the range 2<=x<=1000."),
        (("--subset", "x.h5"), "gradients needs either --dataset (all its training images) or --subset"),
        (("--batch-size", 1438, "--keep-last"), "a subset of 1437 images has no full batch of 1438 to measure"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_refused(words, said, tmp_path):
    sentence = complaint("gradients", "--dataset", "digits", "-t", 4, *TINY, *words, "--out", tmp_path / "g.h5")
    assert sentence.startswith(said)
    assert not list(tmp_path.iterdir())
