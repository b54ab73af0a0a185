"""Cohorts, engines and the training loop, held equal to networks trained alone and to plain PyTorch, in float64."""

import dataclasses

import numpy as np
import pytest
import torch

from repro import engines
from repro.data import Batcher
from repro.engines.graph import GraphCohort
from repro.nets import create, initialise, layout_of
from repro.recipes.training import Training
from repro.train.loop import NEVER, Job, Pace, train
from repro.train.prune import prune_by_magnitude
from tests import plain_imp

ENGINES = ["serial", "graph", "sparse"]
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
    return engines.create(
        engine,
        network,
        replicas=replicas,
        num_classes=CLASSES,
        in_chans=2,
        image_size=SIZE,
        device=torch.device("cpu"),
        precision=precision,
    )


def run(jobs, images, labels, *, engine="serial", recipe=RECIPE, network=NETWORK, **options):
    return train(
        jobs,
        recipe,
        batcher=batcher_of(images, augment=recipe.augment),
        labels=labels,
        **options,
        cohort_of=lambda some: cohort_of(engine, len(some), precision=recipe.precision, network=network),
    )


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
        results = plain_imp.imp(
            plain,
            x,
            labels,
            subset,
            full,
            t=t,
            steps=RECIPE.steps,
            levels=levels,
            lr_at=RECIPE.lr_at,
            batch=16,
            seed=4,
            replicate=r,
        )
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


@pytest.mark.parametrize(
    "multiple, seconds_a_step, found",
    [
        (1, 1e-6, [1, 2, 4, 8, 16, 32, 50, 50]),  # twice as many each time, and not more than 50
        (1, 0.1, [1, 2, 4, 8, 10, 10]),
        (1, 7.0, [1, 1]),
        (10, 1e-6, [10, 20, 40, 50, 50]),
        (10, 0.03, [10, 20, 30, 30]),
        (10, 7.0, [10, 10]),
        (3, 1e-6, [3, 6, 12, 24, 48, 48]),
    ],
)
def test_blocks_take_about_a_second(multiple, seconds_a_step, found):
    pace, steps = Pace(multiple), []
    for _ in found:
        steps.append(pace.steps)
        pace.took = pace.steps * seconds_a_step * 0.999
        pace.limit(1.0)
    assert steps == found
