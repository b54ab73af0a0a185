"""Cohorts, engines and the training loop, held equal to networks trained alone and to plain PyTorch, in float64."""

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from repro import engines
from repro.data import Batcher
from repro.engines import Block, Sgd, choice, choose
from repro.engines.graph import GraphCohort
from repro.errors import UsageError
from repro.nets import create, initialise, layout_of
from repro.train.loop import NEVER, Job, train
from repro.train.prune import prune_by_magnitude
from repro.train.schedule import Training
from tests import plain_imp

SPARSE = find_spec("repro.engines.sparse") is not None
ENGINES = ["serial", "graph", *["sparse"] * SPARSE]
NETWORK = "cifar_resnet8_w4"
RECIPE = Training(steps=30, batch_size=16, lr=0.1, milestones=(15, 24), augment=False, precision="fp64")
N, CLASSES, SIZE = 160, 5, 8


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 2), dtype=np.uint8))


@pytest.fixture(scope="module")
def labels():
    return torch.from_numpy(np.random.default_rng(1).integers(0, CLASSES, N))


def batcher_of(images, *, augment=False):
    return Batcher(images, (0.4, 0.5), (0.2, 0.3), augment=augment)


def initial(seed, network=NETWORK, dtype=torch.float64):
    net = initialise(create(network, num_classes=CLASSES, in_chans=2), torch.Generator().manual_seed(seed))
    return layout_of(net).flatten(net).to(dtype)


def cohort_of(engine, replicas, *, precision="fp64", network=NETWORK):
    return engines.create(engine, network, replicas=replicas, num_classes=CLASSES, in_chans=2, image_size=SIZE,
                          device=torch.device("cpu"), precision=precision)  # fmt: skip


def run(jobs, images, labels, *, engine="serial", recipe=RECIPE, network=NETWORK, **options):
    return train(
        jobs, recipe, batcher=batcher_of(images, augment=recipe.augment), labels=labels, **options,
        cohort_of=lambda some: cohort_of(engine, len(some), precision=recipe.precision, network=network),
    )  # fmt: skip


def various_jobs(labels, *, dtype=torch.float64):
    """Jobs that differ in mask, subset, labels, learning rate, first and last step, seed and replicate."""
    layout = layout_of(create(NETWORK, num_classes=CLASSES, in_chans=2))
    rng = np.random.default_rng(3)
    mask = torch.from_numpy(rng.random(layout.num_prunable) < 0.4)
    other = torch.from_numpy(rng.random(layout.num_prunable) < 0.8)
    noisy = torch.from_numpy(rng.integers(0, CLASSES, N))
    everything = np.arange(N)
    return [
        Job(initial(0, dtype=dtype), everything, 0, 30, seed=0, replicate=0),
        Job(initial(1, dtype=dtype), everything[5:70], 3, 30, seed=0, replicate=1, mask=mask),
        Job(initial(2, dtype=dtype), everything[40:150], 0, 26, seed=7, replicate=2, mask=other, labels=noisy),
        Job(initial(3, dtype=dtype), everything[::2], 6, 27, seed=0, replicate=3, lr_scale=0.3),
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("augment", [False, True])
def test_cohort_equals_each_network_trained_alone(images, labels, engine, augment):
    recipe = dataclasses.replace(RECIPE, augment=augment)
    jobs = various_jobs(labels)
    together = run(jobs, images, labels, engine=engine, recipe=recipe)
    for j, job in enumerate(jobs):
        alone = run([job], images, labels, engine="serial", recipe=recipe)
        assert not torch.equal(alone.vectors[0], job.vector)
        torch.testing.assert_close(together.vectors[j], alone.vectors[0], rtol=1e-9, atol=1e-11)
        kept = torch.ones_like(alone.momentum[0], dtype=torch.bool)
        if job.mask is not None:
            kept[: len(job.mask)] = job.mask  # the momentum of a pruned weight means nothing
        torch.testing.assert_close(together.momentum[j][kept], alone.momentum[0][kept], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_cohort_stays_within_tolerance_of_float64(images, labels, engine):
    recipe = dataclasses.replace(RECIPE, steps=4, precision="fp32", lr=0.01)
    exact = dataclasses.replace(recipe, precision="fp64")
    single = [dataclasses.replace(j, start=0, stop=4) for j in various_jobs(labels, dtype=torch.float32)]
    double = [dataclasses.replace(j, vector=j.vector.double()) for j in single]
    a = run(single, images, labels, engine=engine, recipe=recipe)
    b = run(double, images, labels, engine=engine, recipe=exact)
    torch.testing.assert_close(a.vectors.double(), b.vectors, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_diverging_replica_changes_no_bit_of_its_neighbours(images, labels, engine):
    recipe = dataclasses.replace(RECIPE, precision="fp32")
    jobs = various_jobs(labels, dtype=torch.float32)
    jobs[3] = dataclasses.replace(jobs[3], start=0, stop=30)
    healthy = run(jobs, images, labels, engine=engine, recipe=recipe)
    jobs[3] = dataclasses.replace(jobs[3], lr_scale=1e30)
    sick = run(jobs, images, labels, engine=engine, recipe=recipe)
    assert 0 < sick.diverged_at[3] < 5 and not sick.vectors[3].isfinite().all()
    assert list(sick.diverged_at[:3]) == [NEVER] * 3
    assert torch.equal(healthy.vectors[:3], sick.vectors[:3])
    assert torch.equal(healthy.momentum[:3], sick.momentum[:3])


def test_weights_outside_the_mask_are_exactly_zero_after_training(images, labels):
    jobs = various_jobs(labels)[1:3]
    end = run(jobs, images, labels)
    for j, job in enumerate(jobs):
        prunable = end.vectors[j][: len(job.mask)]
        assert (prunable[~job.mask] == 0).all() and (prunable[job.mask] != 0).all()
        assert (end.momentum[j][: len(job.mask)][~job.mask] != 0).any()  # momentum alone would have revived them


def test_jobs_are_not_trained_outside_their_steps(images, labels):
    seen = []
    jobs = [dataclasses.replace(job, start=5, stop=5) for job in various_jobs(labels)]
    end = run(jobs, images, labels, report=lambda step, n: seen.append(step))
    assert seen == [] and torch.equal(end.vectors, torch.stack([job.vector for job in jobs]))


def test_the_inputs_of_a_job_are_left_as_they_were(images, labels):
    jobs = various_jobs(labels)
    before = [job.vector.clone() for job in jobs]
    run(jobs, images, labels)
    assert all(torch.equal(job.vector, kept) for job, kept in zip(jobs, before))


@pytest.mark.parametrize("engine", ENGINES)
def test_taking_up_from_a_checkpoint_gives_the_same_bits(images, labels, engine, monkeypatch):
    monkeypatch.setattr(GraphCohort, "steps_at_once", 1)
    recipe = dataclasses.replace(RECIPE, precision="fp32", augment=True)
    jobs, states = various_jobs(labels, dtype=torch.float32), []
    whole = run(jobs, images, labels, engine=engine, recipe=recipe)
    saving = run(jobs, images, labels, engine=engine, recipe=recipe, checkpoint=states.append, checkpoint_seconds=0)
    assert torch.equal(whole.vectors, saving.vectors) and len(states) > 20
    for state in states[::7]:
        resumed = run(jobs, images, labels, engine=engine, recipe=recipe, resume=state)
        assert torch.equal(whole.vectors, resumed.vectors) and torch.equal(whole.momentum, resumed.momentum)


def test_repetition_gives_the_same_bits(images, labels):
    recipe = dataclasses.replace(RECIPE, precision="bf16")
    jobs = various_jobs(labels, dtype=torch.float32)
    assert torch.equal(
        run(jobs, images, labels, recipe=recipe).vectors, run(jobs, images, labels, recipe=recipe).vectors
    )


def test_unequal_batches_in_one_cohort_are_refused(images, labels):
    recipe = dataclasses.replace(RECIPE, drop_last=False)
    with pytest.raises(RuntimeError, match="differ in size"):
        run(various_jobs(labels), images, labels, recipe=recipe)


@pytest.mark.parametrize("engine", ENGINES)
def test_nesterov_and_last_partial_batch_equal_torch(images, labels, engine):
    recipe = dataclasses.replace(RECIPE, drop_last=False, nesterov=True, steps=12, batch_size=48, weight_decay=5e-4)
    everything = np.arange(N)
    jobs = [Job(initial(s), everything, 0, 12, seed=0, replicate=s) for s in (0, 1)]
    end = run(jobs, images, labels, engine=engine, recipe=recipe)
    x = batcher_of(images).normalise(images, torch.float64).permute(0, 3, 1, 2)
    for j, job in enumerate(jobs):
        net = create(NETWORK, num_classes=CLASSES, in_chans=2).double()
        net.load_state_dict(layout_of(net).state_dict(job.vector), strict=False)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        for step in range(12):
            order = plain_imp.stream(0, j, "order", step // 4).permutation(N)  # 160 images: 48, 48, 48, 16
            rows = order[step % 4 * 48 : step % 4 * 48 + 48]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
            optimizer.step()
        torch.testing.assert_close(end.vectors[j], layout_of(net).flatten(net), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("engine", ENGINES)
def test_imp_equals_plain_pytorch_from_pretraining_through_two_levels(images, labels, engine):
    t, levels = 7, 2
    subset, full = np.arange(N)[20:84], np.arange(N)
    x = batcher_of(images).normalise(images, torch.float64).permute(0, 3, 1, 2).contiguous()
    replicates = (0, 1, 2)
    start = [initial(10 + r) for r in replicates]

    def jobs(vectors, index, first, last, masks):
        return [Job(v, index, first, last, seed=4, replicate=r, mask=m) for r, v, m in zip(replicates, vectors, masks)]

    rewind = run(jobs(start, subset, 0, t, [None] * 3), images, labels, engine=engine).vectors
    size = layout_of(create(NETWORK, num_classes=CLASSES, in_chans=2)).num_prunable
    masks, ours = [torch.ones(size, dtype=torch.bool)] * 3, []
    for _ in range(levels + 1):
        end = run(jobs(rewind, full, t, RECIPE.steps, masks), images, labels, engine=engine).vectors
        ours.append((masks, end))
        masks = [prune_by_magnitude(end[r][:size], masks[r]) for r in replicates]

    for r in replicates:
        plain = plain_imp.PlainResNet(8, 4, 2, CLASSES).double()
        ordered = layout_of(create(NETWORK, num_classes=CLASSES, in_chans=2)).state_dict(start[r])
        own = layout_of(plain)
        plain.load_state_dict({k: v for k, v in zip(own.state_dict(start[r]), ordered.values())}, strict=False)
        results = plain_imp.imp(plain, x, labels, subset, full, t=t, steps=RECIPE.steps, levels=levels,
                                lr_at=RECIPE.lr_at, batch=16, seed=4, replicate=r)  # fmt: skip
        for (our_masks, our_end), (masks, state) in zip(ours, results):
            assert torch.equal(our_masks[r], torch.cat([m.flatten() for m in masks]))
            theirs = torch.cat([state[e.name].flatten() for e in own.entries])
            torch.testing.assert_close(our_end[r], theirs, rtol=1e-8, atol=1e-10)


def test_pretraining_then_level_0_is_dense_training_but_for_the_momentum(images, labels):
    """With momentum 0, so that its reset at step t does not matter."""
    recipe = dataclasses.replace(RECIPE, momentum=0.0, augment=True)
    full, t = np.arange(N), 13
    dense = run([Job(initial(0), full, 0, 30, seed=0, replicate=0)], images, labels, recipe=recipe).vectors
    early = run([Job(initial(0), full, 0, t, seed=0, replicate=0)], images, labels, recipe=recipe).vectors
    late = run([Job(early[0], full, t, 30, seed=0, replicate=0)], images, labels, recipe=recipe).vectors
    torch.testing.assert_close(dense, late, rtol=1e-12, atol=1e-14)


def test_momentum_is_not_carried_into_a_job(images, labels):
    full = np.arange(N)
    dense = run([Job(initial(0), full, 0, 30, seed=0, replicate=0)], images, labels).vectors
    early = run([Job(initial(0), full, 0, 13, seed=0, replicate=0)], images, labels).vectors
    late = run([Job(early[0], full, 13, 30, seed=0, replicate=0)], images, labels).vectors
    assert (dense - late).abs().max() > 1e-6


# --- one block ----------------------------------------------------------------------------------------------------


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


# --- which engine -------------------------------------------------------------------------------------------------

SHAPE = dict(image_size=32, in_chans=3, num_classes=10)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def obstacle(monkeypatch):
    """Plants what the sparse engine cannot have, by network; and a CPU with instructions for bfloat16."""
    found = {}
    monkeypatch.setattr(choice, "_obstacle", lambda network, **_: found.get(network))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: found.get("bf16", True))
    choice._say_once.cache_clear()
    return found


@pytest.mark.parametrize("network, size, density, device, precision, engine", [
    ("cifar_resnet14_w4", 8, 1.0, CPU, "fp32", "sparse"),
    ("cifar_resnet14_w8", 16, 1.0, CPU, "fp32", "sparse"),
    ("cifar_resnet20", 32, 1.0, CPU, "fp32", "serial"),
    ("cifar_resnet20", 32, 0.5, CPU, "bf16", "serial"),
    ("cifar_resnet20", 32, 0.4, CPU, "bf16", "sparse"),
    ("cifar_resnet20", 32, 0.1, CPU, "fp64", "sparse"),
    ("cifar_resnet20", 16, 1.0, CPU, "fp32", "sparse"),
    ("cifar_resnet20_w15", 32, 1.0, CPU, "fp32", "sparse"),
    ("cifar_resnet20", 32, 0.1, CUDA, "fp32", "graph"),
    ("resnet18", 8, 1.0, CUDA, "bf16", "graph"),
])  # fmt: skip
def test_auto_chooses_by_rule(network, size, density, device, precision, engine, obstacle):
    shape = {**SHAPE, "image_size": size}
    assert choose("auto", network, **shape, density=density, device=device, precision=precision) == engine
    assert choose("serial", network, **shape, density=density, device=device, precision=precision) == "serial"


def test_dense_bf16_needs_instructions_for_it(obstacle):
    obstacle["bf16"] = False
    assert choose("auto", "cifar_resnet20", **SHAPE, density=1.0, device=CPU, precision="bf16") == "sparse"


def test_a_layer_that_sparse_has_not_is_named_once(obstacle, capsys):
    obstacle["mine"] = "a ConvTranspose2d ('up1')"
    for _ in range(3):
        assert choose("auto", "mine", **SHAPE, density=0.1, device=CPU, precision="fp32") == "serial"
    assert capsys.readouterr().err == (
        "mine has a ConvTranspose2d ('up1'), which engine sparse cannot train: it is trained by engine serial\n"
    )
    with pytest.raises(UsageError, match=r"cannot train 'mine', which has a ConvTranspose2d \('up1'\): use --engine serial"):
        choose("sparse", "mine", **SHAPE, density=0.1, device=CPU, precision="fp32")
    with pytest.raises(UsageError, match="--engine sparse needs a CPU, not cuda: use --engine graph"):
        choose("sparse", "cifar_resnet20", **SHAPE, density=0.1, device=CUDA, precision="fp32")


def test_cohorts_are_made_without_the_global_generator():
    before = torch.random.get_rng_state()
    for engine in ENGINES:
        cohort_of(engine, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
