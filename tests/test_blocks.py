"""What an engine makes of one block of steps, and what it measures, against plain PyTorch."""

import numpy as np
import pytest
import torch

from repro.engines import Block, Sgd
from repro.nets import create, layout_of
from tests.test_engine import CLASSES, ENGINES, NETWORK, N, batcher_of, cohort_of, images, initial, labels  # noqa: F401  (images and labels are fixtures)

# ruff: noqa: F811


def block_of(steps, replicas, batch, *, seed=5, augment=False):
    rng = np.random.default_rng(seed)
    shape = steps, replicas, batch
    index = torch.from_numpy(rng.integers(0, N, shape))
    offsets = None
    if augment:
        offsets = tuple(torch.from_numpy(rng.integers(0, high, shape)) for high in (9, 9, 2))
        offsets = (*offsets[:2], offsets[2].bool())
    rates = torch.from_numpy(rng.uniform(0.01, 0.1, shape[:2]))
    return Block(index, offsets, rates)


def loaded(engine, replicas=2, *, precision="fp64"):
    cohort = cohort_of(engine, replicas, precision=precision)
    cohort.load(torch.stack([initial(s, dtype=cohort.dtype) for s in range(replicas)]))
    masks = torch.rand(replicas, cohort.layout.num_prunable, generator=torch.Generator().manual_seed(0)) < 0.4
    cohort.load_masks(masks)
    return cohort


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("augment", [False, True])
def test_a_block_gives_the_losses_and_logits_of_plain_pytorch(images, labels, engine, augment):
    """In float64, with targets and rates of their own for every replica."""
    block, sgd = block_of(4, 2, 16, augment=augment), Sgd(momentum=0.9, weight_decay=1e-3, nesterov=True)
    batcher, targets = batcher_of(images, augment=augment), torch.stack([labels, (labels + 1) % CLASSES])
    cohort = loaded(engine)
    start, masks = cohort.vectors(), cohort.masks.clone()
    losses, logits = cohort.train(block, batcher, targets, sgd, logits=True)
    assert losses.shape == (4, 2) and logits.shape == (4, 2, 16, CLASSES)
    for r in range(2):
        net = create(NETWORK, num_classes=CLASSES, in_chans=2).double()
        layout = layout_of(net)
        net.load_state_dict(layout.state_dict(start[r]), strict=False)
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3, nesterov=True)
        for k in range(4):
            optimizer.param_groups[0]["lr"] = block.rates[k, r].item()
            offsets = block.offsets and tuple(part[k, r] for part in block.offsets)
            x = batcher.normalise(batcher.gather(block.index[k, r], offsets), torch.float64)
            found = net(x.permute(0, 3, 1, 2))
            loss = torch.nn.functional.cross_entropy(found, targets[r][block.index[k, r]])
            torch.testing.assert_close(logits[k, r], found.detach(), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(losses[k, r], loss.detach(), rtol=1e-12, atol=1e-13)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for entry in layout.prunable:
                    kept = masks[r, entry.offset : entry.offset + entry.size].view(entry.shape)
                    net.get_parameter(entry.name).mul_(kept)
        torch.testing.assert_close(cohort.vectors()[r], layout.flatten(net), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_how_steps_are_cut_into_blocks_changes_no_bit(images, labels, engine):
    whole, parts = (loaded(engine, precision="fp32") for _ in range(2))
    block, batcher, sgd = block_of(6, 2, 16, augment=True), batcher_of(images, augment=True), Sgd(0.9, 1e-4, False)
    block.rates = block.rates.float()
    losses, _ = whole.train(block, batcher, labels, sgd)
    pieces = [parts.train(block.steps(rows), batcher, labels, sgd)[0] for rows in (slice(1), slice(1, 4), slice(4, 6))]
    assert torch.equal(losses, torch.cat(pieces))
    assert torch.equal(whole.state, parts.state) and torch.equal(whole.momentum, parts.momentum)


def test_graph_on_a_cpu_equals_serial(images, labels):
    block, batcher, sgd = block_of(13, 2, 16, augment=True), batcher_of(images, augment=True), Sgd(0.9, 1e-4, True)
    found = []
    for engine in ("serial", "graph"):
        cohort = loaded(engine)
        cohort.train(block, batcher, labels, sgd)
        assert cohort.engine == engine
        found.append(cohort.vectors())
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_at_rate_zero_leaves_its_gradient_as_the_momentum(images, labels, engine):
    cohort = loaded(engine)
    cohort.load_masks(None)
    before = cohort.vectors()
    block = block_of(1, 2, 32)
    block.rates.zero_()
    cohort.train(block, batcher_of(images), labels, Sgd(0.0, 0.0, False))
    weights = cohort.layout.num_parameters
    assert torch.equal(cohort.state[:, :weights], before[:, :weights])
    net = create(NETWORK, num_classes=CLASSES, in_chans=2).double()
    for r in range(2):
        net.load_state_dict(cohort.layout.state_dict(before[r]), strict=False)
        x = batcher_of(images).normalise(images[block.index[0, r]], torch.float64).permute(0, 3, 1, 2)
        loss = torch.nn.functional.cross_entropy(net(x), labels[block.index[0, r]])
        gradients = dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters()))))
        expected = torch.cat([gradients[entry.name].flatten() for entry in cohort.layout.parameters])
        torch.testing.assert_close(cohort.momentum_vectors()[r], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_predictions_are_those_of_plain_pytorch_and_leave_no_trace(images, engine, batch_norm, monkeypatch):
    cohort, state = loaded(engine), None
    index = torch.from_numpy(np.random.default_rng(2).integers(0, N, (2, 1100)))  # batches of 1000 and 100
    state, told = cohort.vectors(), []
    found = cohort.predict(batcher_of(images), index, batch_norm=batch_norm, report=told.append)
    assert torch.equal(cohort.vectors(), state) and sum(told) == 2200
    assert found.dtype == torch.float32 and found.shape == (2, 1100, CLASSES)
    for r in range(2):
        net = create(NETWORK, num_classes=CLASSES, in_chans=2).double().train(batch_norm == "batch")
        net.load_state_dict(cohort.layout.state_dict(state[r]), strict=False)
        x = batcher_of(images).normalise(images[index[r]], torch.float64).permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = torch.cat([net(part) for part in x.split(1000)])
        torch.testing.assert_close(found[r], expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_recalibrated_statistics_are_a_cumulative_average(images, engine):
    cohort = loaded(engine)
    index = torch.from_numpy(np.random.default_rng(2).integers(0, N, (2, 1100)))
    before = cohort.vectors()
    cohort.recalibrate(batcher_of(images), index)
    for r in range(2):
        net = create(NETWORK, num_classes=CLASSES, in_chans=2).double()
        net.load_state_dict(cohort.layout.state_dict(before[r]), strict=False)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        x = batcher_of(images).normalise(images[index[r]], torch.float64).permute(0, 3, 1, 2)
        with torch.no_grad():
            for part in x.split(1000):
                net(part)
        torch.testing.assert_close(cohort.vectors()[r], cohort.layout.flatten(net), rtol=1e-9, atol=1e-12)


def test_cohorts_are_made_without_the_global_generator():
    before = torch.random.get_rng_state()
    for engine in ENGINES:
        cohort_of(engine, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
