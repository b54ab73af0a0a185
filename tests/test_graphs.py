"""Static steps, as CUDA graphs replay them: on a CPU the same bits as eager training; what happens when they fail."""

import dataclasses
import gc
import os
import subprocess
import sys
import warnings
import weakref
from functools import cache

import numpy as np
import pytest
import torch

from repro.data import Batcher, load
from repro.engines import Sgd, create, graph
from repro.engines.comparison import apart, distrust_norms, right_updates
from repro.engines.graph import GraphCohort
from repro.engines.recording import kernels_of, uncollected
from repro.engines.serial import SerialCohort, masked_sgd, set_gradients
from repro.errors import RunError
from repro.nets import create as create_network
from repro.nets import layout_of
from repro.recipes.training import Training
from repro.stages import Machine
from repro.stages.trainer import Trainer
from repro.train.job import NEVER, Job
from repro.train.loop import train
from repro.train.scores import Forgetting
from tests.test_blocks import block_of, loaded
from tests.test_engine import CLASSES, NETWORK, SIZE, N, batcher_of, initial, various_jobs

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 2), dtype=np.uint8))
LABELS = torch.from_numpy(np.random.default_rng(1).integers(0, CLASSES, N))
# 57 images make batches of 16, 16, 16 and 9: a block of three steps, and one alone
RECIPE = Training(steps=25, batch_size=16, lr=0.1, milestones=(10, 18), drop_last=False, nesterov=True)


@pytest.fixture(autouse=True)
def blocks_of_three(monkeypatch):
    monkeypatch.setattr(GraphCohort, "steps_at_once", 3)
    monkeypatch.setattr("repro.train.loop.MOST_STEPS", 3)


class Cohorts(dict):
    """Cohorts of one engine by size, each made once, as a `Trainer` does."""

    def __init__(self, engine, *, precision="fp32", network=NETWORK, device="cpu"):
        self.engine, self.network = engine, network
        self.how = {"precision": precision, "device": torch.device(device), "num_classes": CLASSES, "in_chans": 2}

    def __missing__(self, replicas: int):
        self[replicas] = create(self.engine, self.network, replicas=replicas, image_size=SIZE, **self.how)
        return self[replicas]

    def of(self, jobs):
        return self[len(jobs)]

    @property
    def used(self):
        return {cohort.engine for cohort in self.values()}


@cache
def shared(engine, precision) -> Cohorts:
    return Cohorts(engine, precision=precision)


BATCHERS = {}  # by augmentation


def run(jobs, engine, *, recipe=RECIPE, cohorts=None, **options):
    """Train with cohorts of one's own, or else those that all tests share: what was recorded has to serve any job."""
    cohorts = shared(engine, recipe.precision) if cohorts is None else cohorts
    batcher = BATCHERS.setdefault(recipe.augment, batcher_of(IMAGES, augment=recipe.augment))
    return train(jobs, recipe, cohort_of=cohorts.of, batcher=batcher, labels=LABELS, **options)


def all_kinds_of_jobs(stop=25):
    """Four jobs that differ in mask, learning rate, warm-up, first and last step."""
    everything, mask = np.arange(N), torch.from_numpy(np.random.default_rng(3).random(sizes().num_prunable) < 0.4)
    noisy = torch.from_numpy(np.random.default_rng(4).integers(0, CLASSES, N))
    return [
        Job(initial(0, dtype=torch.float32), everything[:57], 0, stop, seed=0, replicate=0, mask=mask),
        Job(initial(1, dtype=torch.float32), everything[60:117], 3, stop, seed=0, replicate=1, labels=noisy),
        Job(
            initial(2, dtype=torch.float32),
            everything[20:77],
            0,
            stop - 2,
            seed=7,
            replicate=2,
            lr_scale=0.3,
            role="child1.",
        ),
        Job(
            initial(3, dtype=torch.float32),
            everything[:57],
            0,
            stop,
            seed=0,
            replicate=3,
            warmup=13,
            then=everything[90:147],
        ),
    ]


def sizes():
    return layout_of(create_network(NETWORK, num_classes=CLASSES, in_chans=2))


def same(a, b):
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("vectors", "momentum", "diverged_at")]
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


# --- the same bits as the eager engines ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_static_steps_give_the_bits_of_serial(precision):
    recipe = dataclasses.replace(RECIPE, precision=precision)
    jobs = all_kinds_of_jobs()
    eager = run(jobs, "serial", recipe=recipe)
    assert same(run(jobs, "graph", recipe=recipe), eager)
    assert shared("graph", precision).used == {"graph"}
    assert all(not torch.equal(eager.vectors[j], job.vector) for j, job in enumerate(jobs))
    again = [dataclasses.replace(job, labels=None, mask=None) for job in all_kinds_of_jobs(7)]  # nothing is remembered
    assert same(run(again, "graph", recipe=recipe), run(again, "serial", recipe=recipe))


def test_without_augmentation_on_dense_networks():
    recipe = dataclasses.replace(RECIPE, augment=False, nesterov=False, steps=21)
    jobs = [Job(initial(r, dtype=torch.float32), np.arange(N), 0, 21, seed=1, replicate=r) for r in range(2)]
    assert same(run(jobs, "graph", recipe=recipe), run(jobs, "serial", recipe=recipe))


def test_checkpoints_of_either_are_taken_up_by_the_other():
    jobs, eager, static = all_kinds_of_jobs(), [], []
    recipe = dataclasses.replace(RECIPE, drop_last=True)  # blocks of three all along
    whole = run(jobs, "serial", recipe=recipe, checkpoint=eager.append, checkpoint_seconds=0)
    assert same(run(jobs, "graph", recipe=recipe, checkpoint=static.append, checkpoint_seconds=0), whole)
    assert [state.step for state in static] == [6, 9, 12, 15, 18, 21]  # segments end at 3, 23 and 25
    for state in eager:
        if state.step in (7, 19):
            assert same(run(jobs, "graph", recipe=recipe, resume=state), whole)
    for state in static[3:4]:
        assert same(run(jobs, "serial", recipe=recipe, resume=state), whole)


def test_a_diverging_replica_is_dated_to_the_step_and_alone():
    jobs = various_jobs(LABELS, dtype=torch.float32)
    recipe = dataclasses.replace(RECIPE, drop_last=True)
    healthy = run(jobs, "graph", recipe=recipe)
    jobs[0] = dataclasses.replace(jobs[0], lr_scale=1e30)
    sick = run(jobs, "graph", recipe=recipe)
    assert same(sick, run(jobs, "serial", recipe=recipe))
    assert 0 < sick.diverged_at[0] < 5 and list(sick.diverged_at[1:]) == [NEVER] * 3
    assert torch.equal(sick.vectors[1:], healthy.vectors[1:])


def test_observers_see_every_step():
    class Watch:
        def __init__(self):
            self.state, self.seen = {}, []

        def __call__(self, step, rows, index, logits):
            for k, (batch, found) in enumerate(zip(index, logits)):
                self.seen.append((step + k, rows, batch.clone(), found.float().clone()))

    watches, reports = {}, {}
    for each in ("graph", "serial"):
        watches[each], reports[each] = Watch(), []
        run(
            all_kinds_of_jobs(16),
            each,
            observe=watches[each],
            report=lambda step, images, told=reports[each]: told.append((step, images)),
        )
    for ours, theirs in zip(watches["graph"].seen, watches["serial"].seen, strict=True):
        assert ours[:2] == theirs[:2] and torch.equal(ours[2], theirs[2]) and torch.equal(ours[3], theirs[3])
    ours, theirs = reports["graph"], reports["serial"]
    assert ours[-1][0] == theirs[-1][0] == 16
    assert sum(n for _, n in ours) == sum(n for _, n in theirs)


def test_a_network_of_timm_is_trained_by_graph():
    recipe = dataclasses.replace(RECIPE, steps=3, augment=False)
    net = create_network("test_resnet", num_classes=CLASSES, in_chans=2)
    jobs = [Job(layout_of(net).flatten(net) * (1 + r / 9), np.arange(57), 0, 3, seed=0, replicate=r) for r in (0, 1)]
    ends = []
    for engine in ("graph", "serial"):
        cohorts = Cohorts(engine, network="test_resnet")
        ends.append(run(jobs, engine, recipe=recipe, cohorts=cohorts))
        assert cohorts.used == {engine}
    assert same(*ends) and not torch.equal(ends[0].vectors[0], jobs[0].vector)


def test_a_parameter_that_is_not_used_gets_no_gradient():
    net = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 1), "idle": torch.nn.Linear(3, 1)})
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.0)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    set_gradients(net["used"](x).sum(), list(net.parameters()))
    assert torch.equal(net["used"].weight.grad, x) and not net["idle"].weight.grad.any()


def test_each_of_fifty_steps_equals_serial_in_float64():
    """Each from the state that serial has reached, with masks, augmentation and labels of each replica's own."""
    block, batcher, sgd = block_of(50, 2, 16, augment=True), batcher_of(IMAGES, augment=True), Sgd(0.9, 1e-3, True, 0.1)
    noise = torch.from_numpy(np.random.default_rng(4).integers(0, CLASSES, (2, N)))
    serial, static = loaded("serial"), loaded("graph")
    for k in range(50):
        static.load(serial.vectors())
        static.load_momentum(serial.momentum_vectors())
        losses = [each.train(block.steps(slice(k, k + 1)), batcher, noise, sgd)[0] for each in (serial, static)]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(static.state, serial.state, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(static.momentum, serial.momentum, rtol=1e-12, atol=1e-14)
    assert static.engine == "graph" and not static.state[:, : sizes().num_prunable][~static.masks].any()


def test_rounding_is_no_difference_in_twenty_seeds_on_digits(capsys, monkeypatch):
    """A GPU's algorithms sum in another order, and rectifiers near 0 flip. So does a CPU without oneDNN."""
    found, inner = [], GraphCohort._steps

    def otherwise(self, static):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TF32 on another maker's GPUs
            with torch.backends.mkldnn.flags(enabled=False):
                inner(self, static)

    def watched(mine, its):
        found.append(apart(mine, its).max().item())
        return apart(mine, its)

    monkeypatch.setattr(GraphCohort, "_steps", otherwise)
    monkeypatch.setattr(graph, "apart", watched)
    recipe = dataclasses.replace(RECIPE, batch_size=64, steps=3)
    trainer = Trainer(load("digits"), "cifar_resnet14_w4", recipe, Machine(device="cpu", engine="graph"))
    for seed in range(20):
        trainer.run([Job(trainer.initial(seed, 0), np.arange(1437), 0, 3, seed=seed, replicate=0)])
        trainer.cohort(1, "graph").statics.clear()
    assert capsys.readouterr().err == "" and trainer.engines == {"graph"} and len(found) == 20 * 4
    assert 1e-4 < max(found[2::4]) < 0.05 and 0 < max(found[0::4] + found[1::4]) < 1e-5


@pytest.mark.parametrize("by, rounding, good", [(5e-6, 0, 1), (2e-5, 0, 0), (2e-5, 1e-5, 1), (8e-5, 1e-5, 0)])
def test_rounding_that_a_network_amplifies_is_measured(by, rounding, good, monkeypatch):
    """Where float32 is further from float64 than the tolerance, a recording may be as far, a few times."""

    def apart_by(self, static, inner=GraphCohort._steps):
        inner(self, static)
        static.losses.mul_(1 + by)

    def by_serial(self, static, start, precision, inner=GraphCohort._by_serial):
        losses, *others = inner(self, static, start, "fp32")
        return losses * (1 + (rounding if precision == "fp64" else 0)), *others

    monkeypatch.setattr(GraphCohort, "_steps", apart_by)
    monkeypatch.setattr(GraphCohort, "_by_serial", by_serial)
    cohort = loaded("graph", precision="fp32")
    block, targets = block_of(3, 2, 16), LABELS.expand(2, N)
    block.rates = block.rates.float()
    static = cohort._static(block, batcher_of(IMAGES), block.labels(targets), Sgd(0.9, 1e-4, False), logits=False)
    assert cohort._compare(static) == bool(good)


# --- the update ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_the_update_is_torchs_sgd_then_the_mask(nesterov, dense):
    generator = torch.Generator().manual_seed(0)
    rates, n, m = torch.tensor([0.3, 0.0, 0.7], dtype=torch.float64), 50, 31
    rows = torch.randn(3, n + 4, generator=generator, dtype=torch.float64)  # float buffers stand behind the weights
    masks = None if dense else torch.rand(3, m, generator=generator) < 0.5
    weights, momentum, behind = rows[:, :n], torch.zeros(3, n, dtype=torch.float64), rows[:, n:].clone()
    plain = [torch.nn.Parameter(row.clone()) for row in weights]
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": rate.item()} for p, rate in zip(plain, rates)],
        lr=1.0,
        momentum=0.9,
        weight_decay=0.01,
        nesterov=nesterov,
    )
    for _ in range(4):
        gradients = torch.randn(3, n, generator=generator, dtype=torch.float64)
        for parameter, gradient in zip(plain, gradients):
            parameter.grad = gradient.clone()
        optimizer.step()
        if not dense:
            with torch.no_grad():
                for parameter, mask in zip(plain, masks):
                    parameter[:m].mul_(mask)
        masked_sgd(weights, gradients, momentum, masks, rates, Sgd(0.9, 0.01, nesterov))
    for row, parameter in zip(weights, plain):
        torch.testing.assert_close(row, parameter.detach(), rtol=1e-13, atol=1e-15)
    assert torch.equal(rows[:, n:], behind)


TRITON = """
import torch
from repro.engines import Sgd
from repro.engines.triton_update import triton_masked_sgd
from repro.engines.serial import masked_sgd
torch.manual_seed(0)
n, m = 2500, 1700  # neither a multiple of the kernel's block
masks = torch.rand(3, m) < 0.5
for nesterov in (False, True):
    rows, gradients, momentum = torch.randn(3, n + 7), torch.randn(3, n), torch.randn(3, n)
    ours, theirs = ([tensor.clone() for tensor in (rows, gradients, momentum)] for _ in range(2))
    for update, (state, gradients, momentum) in ((triton_masked_sgd, ours), (masked_sgd, theirs)):
        update(state[:, :n], gradients, momentum, masks, torch.tensor([0.1, 0.0, 0.5]), Sgd(0.9, 0.01, nesterov))
    assert not torch.equal(theirs[0], rows) and torch.equal(ours[0][:, n:], rows[:, n:])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-5, atol=1e-6)
"""


def test_the_fused_kernel_equals_the_plain_update():
    """By Triton's interpreter, which has to be chosen before Triton is imported: in a process of its own."""
    pytest.importorskip("triton")
    found = subprocess.run(
        [sys.executable, "-c", TRITON], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


# --- when static steps do not work --------------------------------------------------------------------------------


def plant(monkeypatch, *updates):
    monkeypatch.setattr(graph, "updates_for", lambda device, dtype: list(updates))


def without_weight_decay(*tensors):
    *tensors, sgd = tensors
    masked_sgd(*tensors, dataclasses.replace(sgd, weight_decay=0.0))


def twice_the_rate(*tensors):
    *tensors, rates, sgd = tensors
    masked_sgd(*tensors, 2 * rates, sgd)


def cannot_be_recorded(*_):
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


@pytest.mark.parametrize(
    "precision, wrong, said",
    [
        ("fp32", twice_the_rate, "differs from eager training in its updates by 1.0e+00 (relatively)"),
        ("bf16", twice_the_rate, "differs from eager training in its updates by "),
        ("fp32", cannot_be_recorded, "failed (operation not permitted when stream is capturing)"),
    ],
)
def test_wrong_steps_are_found_before_they_are_used(precision, wrong, said, capsys, monkeypatch):
    recipe = dataclasses.replace(RECIPE, precision=precision, steps=12)
    jobs = [dataclasses.replace(job, start=0, stop=12) for job in all_kinds_of_jobs()]
    eager = run(jobs, "serial", recipe=recipe)
    plant(monkeypatch, wrong)
    cohorts = Cohorts("graph", precision=precision)
    assert same(run(jobs, "graph", recipe=recipe, cohorts=cohorts), eager)
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: engine graph {said}") and warning.count("\n") == 1
    assert warning.endswith(": engine serial trains these steps instead\n")
    assert cohorts.used == {"serial"}


@pytest.mark.parametrize("bad, engine", [(1, "graph/serial"), (graph.TRIES, "serial")])
def test_a_bad_block_condemns_its_own_steps_alone(bad, engine, capsys, monkeypatch):
    """Steps that differ are eager; a recording that differs at three blocks is not tried again."""
    recipe = dataclasses.replace(RECIPE, drop_last=True, steps=15)
    jobs = [dataclasses.replace(job, start=0, stop=15) for job in all_kinds_of_jobs()]
    eager, compared = run(jobs, "serial", recipe=recipe), []
    inner = GraphCohort._difference

    def watched(self, static):
        compared.append(inner(self, static))
        return "differs" if len(compared) <= bad else compared[-1]

    monkeypatch.setattr(GraphCohort, "_difference", watched)
    cohorts = Cohorts("graph")
    ends = run(jobs, "graph", recipe=recipe, cohorts=cohorts)
    assert same(ends, eager) and compared == [None] * min(bad + 1, graph.TRIES)
    assert set(ends.engines.values()) == cohorts.used == {engine}
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wrong_update_kernel_is_left_for_the_next(capsys, monkeypatch):
    jobs, cohorts = all_kinds_of_jobs(9), Cohorts("graph")
    eager = run(jobs, "serial")
    plant(monkeypatch, cannot_be_recorded, without_weight_decay, twice_the_rate, masked_sgd)
    assert same(run(jobs, "graph", cohorts=cohorts), eager) and cohorts.used == {"graph"}
    failed, *differ = capsys.readouterr().err.splitlines()[:3]
    assert failed == (
        "warning: the update kernel failed (operation not permitted when stream is capturing): the next one is taken"
    )
    assert all(line.startswith("warning: the update kernel differs from the plain one by ") for line in differ)


@pytest.mark.parametrize("flaw", ["momentum", "decay", "mask", "rates"])
def test_updates_are_compared_tightly(flaw):
    """A kernel that is wrong by a thousandth of one of its terms is found; one that rounds otherwise is not."""
    weights, masks = torch.randn(2, 40) / 10, torch.rand(2, 30) < 0.5
    weights[:, :30] *= masks

    def otherwise(weights, gradients, momentum, masks, rates, sgd):
        given = [tensor.double() for tensor in (weights, gradients, momentum)]
        masked_sgd(*given, masks, rates.double(), sgd)
        for tensor, result in zip((weights, gradients, momentum), given):
            tensor.copy_(result)

    def flawed(weights, gradients, momentum, masks, rates, sgd):
        if flaw == "mask":
            masks = masks.flip(0)
        sgd = Sgd(
            sgd.momentum * (1.001 if flaw == "momentum" else 1),
            sgd.weight_decay * (1.1 if flaw == "decay" else 1),
            sgd.nesterov,
        )
        masked_sgd(weights, gradients, momentum, masks, rates * (1.001 if flaw == "rates" else 1), sgd)

    for nesterov in (False, True):
        sgd = Sgd(0.9, 1e-3, nesterov)
        assert right_updates([flawed, otherwise, masked_sgd], weights, masks, sgd) == [otherwise, masked_sgd]


# --- batch norm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flaw", ["output", "gradient", "of one replica"])
def test_a_wrong_batch_norm_is_replaced_in_its_layer(flaw, monkeypatch):
    """What cuDNN's kernel could do: be wrong for one shape, whenever it is on."""
    inner, asked = torch.nn.functional.batch_norm, []

    def batch_norm(x, *arguments, **options):
        y = inner(x, *arguments, **options)
        if not torch.backends.cudnn.enabled or x.shape[1] != 16 or x.dtype == torch.float64:
            return y
        asked.append(x)
        if flaw == "of one replica" and len(asked) % 3 != 2:
            return y
        return y * 1.01 if flaw != "gradient" else y.detach() + (y - y.detach()) * 1.01

    cohort = Cohorts("graph")[3]
    cohort.load(torch.stack([initial(r, dtype=torch.float32) for r in range(3)]))
    cohort._mode(training=True)
    x, before = torch.randn(4, 2, SIZE, SIZE), torch.backends.cudnn.enabled
    wanted = cohort.modules[0](x)
    monkeypatch.setattr(torch.nn.functional, "batch_norm", batch_norm)
    fork, join = cohort._fork, cohort._join
    wrong = distrust_norms(cohort.modules, lambda net: net(x), fork, join)
    layers = [name for name, part in cohort.modules[0].named_modules() if getattr(part, "num_features", 0) == 16]
    assert wrong == layers and 0 < len(layers) < 7
    asked.clear()
    for module in cohort.modules:
        module(x)
    assert not asked and torch.equal(cohort.modules[0](x), wanted) and torch.backends.cudnn.enabled == before


def test_the_comparison_leaves_no_trace():
    cohort = Cohorts("graph")[2]
    cohort.load(torch.stack([initial(r, dtype=torch.float32) for r in range(2)]))
    cohort.momentum.normal_()
    cohort.load_masks(torch.rand(2, sizes().num_prunable) < 0.5)
    block, targets = block_of(3, 2, 16), LABELS.expand(2, N).clone()
    block.rates = block.rates.float()
    state = (cohort.state, cohort.momentum, cohort.kept, targets, block.index, block.rates)
    before, random = [tensor.clone() for tensor in state], torch.random.get_rng_state()
    static = cohort._static(block, batcher_of(IMAGES), block.labels(targets), Sgd(0.9, 1e-4, False), logits=False)
    assert cohort._compare(static) and static.trusted
    assert all(torch.equal(now, then) for now, then in zip(state, before))
    assert torch.equal(static.labels, block.labels(targets)) and torch.equal(static.block.rates, block.rates)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_images_that_do_not_fit_on_the_device_are_trained_eagerly(capsys, monkeypatch):
    jobs = all_kinds_of_jobs(9)
    eager = run(jobs, "serial")
    monkeypatch.setattr(BATCHERS[True], "resident", False)
    assert same(run(jobs, "graph", cohorts=Cohorts("graph")), eager)
    assert "engine graph needs the images in the memory of cpu" in capsys.readouterr().err.replace("\n", " ")


# --- recording ----------------------------------------------------------------------------------------------------


def test_nothing_is_collected_while_a_graph_is_recorded():
    class Cycle:
        def __init__(self):
            self.own = self

    left = weakref.ref(Cycle())
    with pytest.raises(ValueError), uncollected():
        assert left() is None and not gc.isenabled()
        raise ValueError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_trainer_and_its_cohorts_are_freed_without_a_collection(digits_trainer):
    """Else their graphs and memory live on until a collection, which may come while another one is recorded."""
    trainer, jobs = digits_trainer
    gc.disable()
    try:
        trainer.measure(trainer.run(jobs), "test")
        left = [weakref.ref(each) for each in (trainer, trainer.cohort(2, "graph"))]
        digits_trainer[0] = trainer = None
        assert [each() for each in left] == [None, None]
    finally:
        gc.enable()


def test_kernels_are_counted():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.Conv2d(3, 4, 4), torch.nn.Flatten())
    # two convolutions, ReLU, softmax, loss; its gradient, and backward with two kernels for a convolution
    assert kernels_of(net, (2, 2, 6, 6)) == 5 + 1 + 5 + 2


@pytest.mark.parametrize("replicas, steps", [(1, 50), (2, 30), (4, 15), (16, 3), (64, 1)])
def test_a_graph_has_as_many_steps_as_make_some_thousand_kernels(replicas, steps, monkeypatch):
    monkeypatch.undo()
    cohort = Cohorts("graph")[1]
    cohort.replicas, cohort.kernels = replicas, 50
    assert cohort.steps_at_once == steps


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_of_memory(monkeypatch):
    """Cohorts of more than ``most`` networks run out of memory in their ``at``-th step."""

    def limit(most, at=1):
        count, inner = [0], SerialCohort._step

        def watched(self, *arguments):
            count[0] += self.replicas > most
            if self.replicas > most and count[0] >= at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
            return inner(self, *arguments)

        monkeypatch.setattr(SerialCohort, "_step", watched)

    return limit


@pytest.mark.parametrize("engine, at", [("serial", 7), ("graph", 1)])
def test_out_of_memory_halves_the_cohort_and_changes_no_bit(engine, at, short_of_memory, capsys, monkeypatch):
    monkeypatch.setattr("repro.train.loop.TURN", 8)
    jobs = all_kinds_of_jobs()
    counts = {plenty: Forgetting(LABELS, 4) for plenty in (True, False)}
    whole = run(jobs, engine, observe=counts[True])
    short_of_memory(1, at)
    cohorts, saved = Cohorts(engine), []
    few = run(jobs, engine, observe=counts[False], cohorts=cohorts, checkpoint=saved.append, checkpoint_seconds=0)
    assert same(few, whole)
    for name, array in counts[True].state.items():
        assert np.array_equal(array, counts[False].state[name])
    warning = "warning: {} networks do not fit into the free memory of cpu together: training at most {} at a time\n"
    first = 3 if at == 1 else 4  # the fourth job starts at step 3
    assert capsys.readouterr().err == warning.format(first, 2) + warning.format(2, 1)
    again = run(jobs, engine, resume=saved[-1], cohorts=cohorts, observe=Forgetting(LABELS, 4))
    assert same(again, whole)
    assert "2 networks" not in capsys.readouterr().err  # that they do not fit is known


def test_a_network_that_does_not_fit_alone_is_an_error(short_of_memory):
    short_of_memory(0)
    with pytest.raises(
        RunError, match=r"^one network with batches of 16 does not fit into the free memory of cpu: end "
    ):
        run(all_kinds_of_jobs(), "serial")


# --- as users see it ----------------------------------------------------------------------------------------------


def test_the_engine_on_record_is_the_one_that_trained(digits_trainer, capsys, monkeypatch):
    trainer, jobs = digits_trainer
    plant(monkeypatch, twice_the_rate)
    trained = trainer.run(jobs)
    trainer.measure(trained, "test")
    assert (
        trained.engines == ["serial"] * 2
        and trainer.engines == {"serial"}
        and "engine serial trains these steps instead" in capsys.readouterr().err
    )


@pytest.fixture
def digits_trainer():
    recipe = dataclasses.replace(RECIPE, steps=2, drop_last=True)
    trainer = Trainer(load("digits"), NETWORK, recipe, Machine(device="cpu", engine="graph"))
    jobs = [Job(trainer.initial(0, r), np.arange(40), 0, 2, seed=0, replicate=r) for r in (0, 1)]
    return [trainer, jobs]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_train_like_eager_ones_on_a_gpu(precision, capsys):
    torch.backends.cudnn.allow_tf32 = False
    recipe = dataclasses.replace(RECIPE, precision=precision, lr=1e-4)  # few and small steps: rounding is not amplified
    jobs, ends = all_kinds_of_jobs(), []
    batcher = Batcher(IMAGES, (0.4, 0.5), (0.2, 0.3), augment=True, device="cuda")
    for each in ("graph", "graph", "serial"):
        cohorts = Cohorts(each, precision=precision, device="cuda")
        ends.append(train(jobs, recipe, cohort_of=cohorts.of, batcher=batcher, labels=LABELS.cuda()))
        assert cohorts.used == {each}, capsys.readouterr().err
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    torch.testing.assert_close(ends[0].vectors, ends[2].vectors, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ends[0].vectors, ends[1].vectors, rtol=tolerance, atol=tolerance)
