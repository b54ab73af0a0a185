"""What the stages wire together, against plain PyTorch and NumPy: who trains on what, and how it is measured."""

import dataclasses

import numpy as np
import pytest
import torch

from repro import protocol
from repro.data import Batcher, load
from repro.nets import create, initialise, layout_of
from repro.protocol import Scoring
from repro.recipes.training import Training
from repro.stages import Machine, imp, pretrain, score, select
from repro.stages.score import half_ensemble_correlation
from repro.stages.trainer import Trainer
from repro.store import read
from repro.train.random_streams import torch_stream
from tests import plain_imp

NETWORK = "cifar_resnet8_w4"
RECIPE = Training(steps=30, batch_size=64, lr=0.3, milestones=(15, 24), augment=False, precision="fp64")
SEED = 11


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def x(digits):
    whole = Batcher(digits.images, digits.mean, digits.std, augment=False).normalise(digits.images, torch.float64)
    return whole.permute(0, 3, 1, 2).contiguous()


def plain(replicate, role=""):
    """A replicate's network at its initialisation, in plain PyTorch."""
    ours = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(SEED, replicate, role + "init"))
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    values = layout_of(ours).state_dict(layout_of(ours).flatten(ours)).values()
    net.load_state_dict(dict(zip([e.name for e in layout_of(net).entries], values)), strict=False)
    return net


def trained(net, x, labels, subset, *, start=0, stop, replicate, role=""):
    masks = [torch.ones_like(w, dtype=torch.bool) for w in plain_imp.prunable(net)]
    plain_imp.train(
        net,
        masks,
        x,
        labels,
        subset,
        start=start,
        stop=stop,
        lr_at=literal_rate,
        batch=64,
        seed=SEED,
        replicate=replicate,
        role=role,
    )
    return net


def literal_rate(step):
    return 0.3 if step < 15 else 0.03 if step < 24 else 0.003


def test_the_learning_rate_falls_at_its_milestones():
    assert [RECIPE.lr_at(s) for s in (0, 14, 15, 23, 24, 29)] == pytest.approx([0.3, 0.3, 0.03, 0.03, 0.003, 0.003])
    assert [protocol.CIFAR10.training.lr_at(s) for s in (31199, 31200, 46800)] == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    "p, steps, batch, milestones, drop_last, t_star, size, network",
    [
        (protocol.CIFAR10, 62400, 128, (31200, 46800), False, 400, 3200, "cifar_resnet20"),
        (protocol.CIFAR100, 62400, 128, (31200, 46800), False, 800, 2048, "cifar_resnet32"),
        (protocol.CINIC10, 31250, 256, (15625, 23440), True, 800, 51200, "cifar_resnet56"),
    ],
)
def test_published_protocols(p, steps, batch, milestones, drop_last, t_star, size, network):
    t = p.training
    assert (t.steps, t.batch_size, t.milestones, t.drop_last) == (steps, batch, milestones, drop_last)
    assert (t.lr, t.momentum, t.weight_decay, t.nesterov, t.augment) == (0.1, 0.9, 1e-4, False, True)
    assert (p.t_star, p.subset_size, p.network, p.replicates, p.prune_fraction) == (t_star, size, network, 4, 0.2)
    assert (p.scoring.networks, p.scoring.batch_norm, p.balanced) == (10, "batch", False)


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_el2n_is_the_mean_error_norm_of_networks_trained_on_the_fold(tmp_path, digits, x, batch_norm):
    scoring = Scoring(NETWORK, RECIPE, networks=2, batch_norm=batch_norm)
    score(tmp_path / "s.h5", dataset="digits", scoring=scoring, replicates=2, seed=SEED)
    stored = read(tmp_path / "s.h5")
    for fold in (0, 1):
        train_index, test_index = (index.numpy() for index in digits.splits[fold])
        assert not set(stored[f"fold_{fold}/index"]) & set(test_index)
        norms = []
        for k in range(2):
            role = f"score{fold}."
            net = trained(plain(k, role), x, digits.labels, train_index, stop=30, replicate=k, role=role)
            net.train(batch_norm == "batch")
            with torch.no_grad():
                logits = torch.cat([net(x[rows]) for rows in np.split(train_index, [1000])]).numpy()
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(p)), digits.labels[train_index].numpy()] -= 1
            norms.append(np.sqrt((p**2).sum(1)))
            np.testing.assert_allclose(stored[f"fold_{fold}/network_{k}/el2n"], norms[k], atol=2e-5)  # float32 logits
        np.testing.assert_allclose(stored[f"fold_{fold}/el2n"], np.mean(norms, 0), atol=2e-5)


def test_replicates_differ_in_initialisation_order_and_fold_and_measures_are_right(tmp_path, digits, x):
    pretrain(tmp_path / "w.h5", dataset="digits", t=6, replicates=6, network=NETWORK, training=RECIPE, seed=SEED)
    imp(tmp_path / "imp.h5", tmp_path / "w.h5", levels=0)
    rewind, level0 = read(tmp_path / "w.h5"), read(tmp_path / "imp.h5")
    table = level0.table().set_index("replicate")
    for r in (0, 1, 5):  # 5 shares the fold of 0
        train_index, test_index = (index.numpy() for index in digits.splits[r % 5])
        net = trained(plain(r), x, digits.labels, train_index, stop=6, replicate=r)
        entries = layout_of(net).entries
        state = torch.cat([net.state_dict()[e.name].flatten() for e in entries])
        np.testing.assert_allclose(rewind[f"replicate_{r}/weights"], state, rtol=1e-8, atol=1e-10)
        trained(net, x, digits.labels, train_index, start=6, stop=30, replicate=r)
        net.eval()
        with torch.no_grad():
            test, train = net(x[test_index]), net(x[train_index])
        truth = digits.labels[test_index]
        assert table.loss[r] == pytest.approx(torch.nn.functional.cross_entropy(test, truth).item(), rel=1e-5)
        assert table.acc[r] == (test.argmax(1) == truth).double().mean().item()
        bits = np.unpackbits(level0[f"replicate_{r}/level_0/test_correct"], count=len(truth))
        assert np.array_equal(bits, (test.argmax(1) == truth).numpy())
        own = train[np.arange(len(train)), digits.labels[train_index]]
        train[np.arange(len(train)), digits.labels[train_index]] = -np.inf
        margin = level0[f"replicate_{r}/level_0/train_margin"]
        np.testing.assert_allclose(margin, (own - train.max(1).values).numpy(), rtol=2e-3, atol=2e-3)  # float16


def test_permuted_scores_choose_other_images(tmp_path):
    scoring = Scoring(NETWORK, dataclasses.replace(RECIPE, precision="fp32"), networks=2, batch_norm="running")
    result = score(tmp_path / "s.h5", dataset="digits", scoring=scoring, replicates=1)
    assert "half-ensembles" in result.lines[0] and "warning: below 0.7" in result.lines[0]
    for name, permuted in (("a", False), ("b", True)):
        select(
            tmp_path / f"{name}.h5",
            kind="easy",
            size=200,
            scores=tmp_path / "s.h5",
            permute_scores=permuted,
            replicates=1,
        )
    a, b = (set(read(tmp_path / f"{name}.h5")["replicate_0/index"]) for name in "ab")
    assert len(a & b) < 100  # 28 expected by chance


def test_training_flushes_denormals(digits):
    """Weights of pruned networks decay into them, and arithmetic on them is many times slower."""
    torch.set_flush_denormal(False)
    try:
        tiny = torch.tensor([1e-39])
        assert (tiny * 1).item() != 0  # this processor has them
        Trainer(digits, NETWORK, RECIPE, Machine(device="cpu"))
        assert (tiny * 1).item() == 0
    finally:
        torch.set_flush_denormal(True)


def test_half_ensemble_correlation_equals_scipy_for_two_networks():
    from scipy.stats import spearmanr

    scores = np.random.default_rng(0).random((2, 50))
    found = half_ensemble_correlation(scores, np.random.default_rng(1))
    assert found == pytest.approx(spearmanr(*scores).statistic)
