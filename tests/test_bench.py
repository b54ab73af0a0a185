"""The benchmark: its baselines held equal to our step, the arithmetic of turns, and one run end to end."""

import importlib.util
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

import benchmarks as benchmark
from benchmarks import bench, limits, plain, timing, variants
from benchmarks.__main__ import main
from benchmarks.plain import Pictures, Script
from benchmarks.timing import Measured
from benchmarks.variants import DENSITIES, PEAK, PLAIN, SPARSEPROP, Group, Variant, build, masks_of, noise
from repro import engines
from repro.data import Batcher
from repro.engines import Block, Sgd
from repro.errors import RunError, UsageError
from repro.nets import create, initialise, layout_of
from repro.protocol import CIFAR10, DIGITS
from repro.stages import Machine
from repro.stages.trainer import Trainer
from repro.train.job import Job
from tests.command_line import one_sentence

CPU = torch.device("cpu")
TINY = replace(
    DIGITS, network="cifar_resnet8_w4", train_images=64, training=replace(DIGITS.training, batch_size=16, lr=0.1)
)


# --- arithmetic of turns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step, wanted", [(0.001, 400), (0.05, 8), (0.4, 1), (9.0, 1)])
def test_steps_of_a_turn(step, wanted):
    calls = []

    def timed(steps):
        calls.append(steps)
        return steps * step

    assert timing.steps_for(0.4, timed) == wanted
    assert calls[0] == 1 and sum(calls) <= 2 * wanted + 2


def run(*words, code=0):
    """`python -m benchmarks WORDS`, in this process."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def planted(variant, cpu, wall=None, **more):
    return Measured(variant, cpu, wall or cpu, engine=variant.engine, first=0.5, peak_mib=100.0, **more)


def test_rows_of_planted_timings():
    start = Variant(TINY)
    sparse = replace(start, engine="sparse", density=0.1)
    found = [
        planted(start, [2.0, 1.0, 4.0]),
        planted(sparse, [6.0, 6.0, 4.0]),
        planted(replace(start, engine=PEAK), [1e6, 3e6, 2e6]),
        planted(replace(start, engine="serial", precision="bf16"), [3.0, 3.0, 3.0]),
        planted(replace(start, engine="serial"), [], error="it burnt"),
    ]
    plain_row, row, bf16, burnt = benchmark._rows(found, "a CPU", "cpu", None)
    assert (row["engine"], row["density"], row["image_size"], row["batch"]) == ("sparse", 0.1, 8, 16)
    assert (row["images_per_cpu_second"], row["low"], row["high"], row["rounds"]) == (6.0, 4.0, 6.0, 3)
    assert row["times_plain"] == 3.0 and plain_row["times_plain"] == 1.0  # of 6/2, 6/1, 4/4
    net = create(TINY.network, num_classes=10, in_chans=1)
    each = limits.multiply_adds(net, 8, 1, masks_of(sparse, layout_of(net).num_prunable)[0])
    assert row["multiply_adds"] == each < plain_row["multiply_adds"] / 8
    assert row["share_of_peak"] == each * 2e-6 and row["peak"] == 2e6  # of 6, 2 and 2 in a million
    assert bf16["share_of_peak"] is None  # the peak is that of float32
    assert burnt["error"] == "it burnt" and burnt["images_per_cpu_second"] is None

    rows = [plain_row, row]
    cohort = replace(sparse, replicas=8)
    benchmark._add_threads(
        rows,
        [planted(cohort, [9.0] * 3, [1.0, 2.0, 2.0]), planted(replace(cohort, threads=2), [9.0] * 3, [2.0, 3.0, 3.6])],
    )
    assert row["two_threads"] == {"median": 1.8, "low": 1.5, "high": 2.0, "replicas": 8}
    assert plain_row["two_threads"] is None


def test_rows_of_a_gpu():
    v = Variant(TINY, "graph", precision="bf16", replicas=8)
    peaks = {"copy": 1e9, "fp32": 2e9, "bf16": 8e9, "tf32": 4e9}
    plain_row, row = benchmark._rows([planted(Variant(TINY), [5.0]), planted(v, [10.0])], "a GPU", "cuda", peaks)
    assert row["images_per_second"] == 10.0 and "images_per_cpu_second" not in row
    assert row["share_of_peak"] == pytest.approx(row["multiply_adds"] * 10 / 4e9)
    assert row["share_of_bandwidth"] == pytest.approx(limits.traffic_per_image(TINY) * 2 * 10 / 1e9)
    assert plain_row["peak"] == 2e9  # TF32 is what PyTorch uses where there is any
    machine = {
        "finished": "now",
        "wall_seconds": 1.0,
        "gpu": "a GPU",
        "cpu": "a CPU",
        "driver": "1.2",
        "platform": "p",
        "python": "3",
        "packages": dict.fromkeys(("torch", "torchvision", "numba")),
        "git_revision": None,
        "git_dirty": None,
    }
    said = benchmark.markdown([plain_row, row], machine)
    assert "a GPU (driver 1.2)" in said
    assert f"| graph, bf16 | 10 (10–10) | 2× | 1 | 100 | 0.50 | {1e2 * row['share_of_peak']:.1f} %" in said
    assert len({line.count("|") for line in said.splitlines() if line.startswith("|")}) == 1


# --- the baseline does the same work --------------------------------------------------------------------------------


def script_of(protocol, *, density=1.0, count=64, training=None, library=False):
    """(script, layout, starting vector, mask, image set)."""
    data = noise(protocol, count)
    net = create(protocol.network, num_classes=protocol.num_classes, in_chans=protocol.in_chans)
    initialise(net, torch.Generator().manual_seed(3))
    layout = layout_of(net)
    vector, mask = layout.flatten(net), masks_of(Variant(protocol, density=density), layout.num_prunable)[0]
    training = training or protocol.training
    if library:
        return plain.sparseprop_script(net, mask, data, training), layout, vector, mask, data
    return Script(net, plain.loaded(data, training), training), layout, vector, mask, data


@pytest.mark.parametrize("protocol", [TINY, replace(CIFAR10, network="cifar_resnet8_w4")], ids=["8x8x1", "32x32x3"])
def test_a_step_of_the_script_is_a_step_of_ours(protocol):
    training = replace(protocol.training, augment=False, batch_size=16)
    script, layout, vector, _, data = script_of(protocol, training=training)
    pictures = Pictures(data.images.numpy(), data.labels.tolist(), data.mean, data.std, augment=False)
    ours = Stepper(protocol, training, vector, None, data)
    for first in (0, 16):  # the second step has momentum
        index = torch.arange(first, first + 16)
        images, labels = zip(*(pictures[i] for i in index.tolist()))
        torch.testing.assert_close(torch.stack(images), ours.images(index), rtol=0, atol=2e-6)
        assert list(labels) == data.labels[index].tolist()
        script.step(torch.stack(images), torch.tensor(labels))
        torch.testing.assert_close(layout.flatten(script.network), ours.step(index), rtol=1e-4, atol=1e-5)
    assert (ours.step(index) - vector)[: layout.num_prunable].abs().max() > 1e-3  # it has trained


class Stepper:
    """Engine `serial`, a step at a time."""

    def __init__(self, protocol, training, vector, mask, data):
        self.cohort = engines.create(
            "serial",
            protocol.network,
            replicas=1,
            num_classes=10,
            in_chans=protocol.in_chans,
            image_size=protocol.image_size,
            device=CPU,
        )
        self.cohort.load(vector[None])
        self.cohort.load_masks(None if mask is None else mask[None])
        self.batcher, self.data, self.lr = Batcher(data.images, data.mean, data.std, augment=False), data, training.lr
        self.sgd = Sgd(training.momentum, training.weight_decay, training.nesterov)

    def images(self, index):
        return self.batcher.normalise(self.batcher.gather(index)).permute(0, 3, 1, 2)

    def step(self, index):
        """The network's numbers after the step."""
        block = Block(index[None, None], None, torch.full((1, 1), self.lr))
        self.cohort.train(block, self.batcher, self.data.labels, self.sgd)
        return self.cohort.vectors()[0]


class Replaced(nn.Conv2d):
    """A stand-in for SparseProp's layer: its weights are another parameter, of what is left alone."""

    def __init__(self, layer):
        super().__init__(layer.in_channels, layer.out_channels, 3, 1, 1, bias=False)
        self.places = layer.weight.detach() != 0
        del self.weight
        self.values = nn.Parameter(layer.weight.detach()[self.places].clone())

    def forward(self, x):
        weight = torch.zeros(self.places.shape).masked_scatter(self.places, self.values)
        return F.conv2d(x, weight, None, self.stride, self.padding)


def test_the_librarys_script_trains_the_pruned_network(monkeypatch, capsys):
    """Half of its layers replaced, half of them left dense: either way a step is a step of ours."""
    swapped = []

    def swap(network, shape, skip_modules):
        print("module conv replaced")
        swapped.append((shape, skip_modules))
        network.conv = Replaced(network.conv)
        return network

    monkeypatch.setitem(sys.modules, "sparseprop", types.ModuleType("sparseprop"))
    monkeypatch.setitem(sys.modules, "sparseprop.utils", types.SimpleNamespace(swap_modules_with_sparse=swap))
    script, layout, vector, mask, data = script_of(TINY, density=0.1, library=True)
    ours = Stepper(TINY, TINY.training, vector, mask, data)
    index = torch.arange(16)
    for _ in range(2):
        script.step(ours.images(index), data.labels[index])
        expected = layout.state_dict(ours.step(index))
    found = dict(script.network.named_parameters())
    torch.testing.assert_close(
        found.pop("conv.values"), expected["conv.weight"][script.network.conv.places], rtol=1e-4, atol=1e-6
    )
    for name, numbers in found.items():
        torch.testing.assert_close(numbers.detach(), expected[name], rtol=1e-4, atol=1e-5)
    empty = [e.name for e in layout.prunable if not mask[e.offset : e.offset + e.size].any()]
    assert swapped == [((16, 1, 8, 8), ",".join(name.removesuffix(".weight") for name in empty))]
    assert not capsys.readouterr().out
    script.fit(5)  # it has batches of its own


@pytest.mark.skipif(not importlib.util.find_spec("sparseprop"), reason="SparseProp is not installed")
def test_sparseprop_trains_the_pruned_network(monkeypatch):
    monkeypatch.setattr("sparseprop.modules.run_and_choose", lambda modules, *_, **__: modules[-1])  # not by its timing
    script, layout, vector, mask, data = script_of(TINY, density=0.1, library=True)
    ours = Stepper(TINY, TINY.training, vector, mask, data)
    index = torch.arange(16)
    for _ in range(2):
        script.step(ours.images(index), data.labels[index])
        expected = ours.step(index)
    norms = {name: p.detach() for name, p in script.network.named_parameters() if "bn" in name}
    for name, numbers in norms.items():  # they depend on all that lies behind them
        torch.testing.assert_close(numbers, layout.state_dict(expected)[name], rtol=1e-4, atol=1e-5)
    assert any("Sparse" in type(module).__name__ for module in script.network.modules())


def test_the_script_crops_and_flips_as_we_do():
    """Every augmented picture is one of the 81 crops of the padded image or its mirror image."""
    image = np.random.default_rng(0).integers(1, 256, (1, 8, 8, 1), dtype=np.uint8)
    pictures = Pictures(image, [7], (0.0,), (1.0,), augment=True)
    padded = np.pad(image[0, :, :, 0], 4)
    crops = {padded[y : y + 8, x : x + 8].tobytes() for y in range(9) for x in range(9)}
    mirrored = {padded[y : y + 8, x : x + 8][:, ::-1].tobytes() for y in range(9) for x in range(9)}
    torch.manual_seed(0)
    seen = [(pictures[0][0][0] * 255).round().byte().numpy().tobytes() for _ in range(60)]
    assert set(seen) <= crops | mirrored and len(set(seen)) > 30
    assert set(seen) & (mirrored - crops) and set(seen) & (crops - mirrored)


# --- runs -----------------------------------------------------------------------------------------------------------


def _peaks(mib):
    before = timing.peak_mib("cpu")
    planted = np.ones(mib * 2**20, dtype=np.uint8)
    after_allocation = timing.peak_mib("cpu")
    del planted
    return before, after_allocation, timing.peak_mib("cpu")


@pytest.mark.heavy
def test_peak_memory_is_that_of_one_process():
    large = timing.in_child(_peaks, 300)
    small = timing.in_child(_peaks, 10)
    assert large[1] - large[0] > 290 and large[2] == large[1]  # a peak remains
    assert small[2] < large[0] + 150  # and is not inherited by the next process
    with pytest.raises(RunError, match="int: ValueError: .*'planted'"):
        timing.in_child(int, "planted")


@pytest.mark.parametrize("engine", ["serial", "sparse"])
def test_our_variants_train_with_the_engine_they_name(engine):
    run, named, at_once = build(Variant(TINY, engine, density=0.1, replicas=2), "cpu")
    assert at_once == 1
    run(1)
    assert named() == engine


@pytest.mark.parametrize("augment", [False, True])
def test_our_variants_do_what_the_training_loop_does(augment):
    training = replace(TINY.training, augment=augment)
    variant = Variant(replace(TINY, training=training), "serial", density=0.3, replicas=2)
    data = noise(variant.protocol, 64)
    cohort, run = variants.training_cohort(variant, data, training, "cpu")
    masks, vectors = masks_of(variant, cohort.layout.num_prunable), cohort.vectors()
    run(3)
    run(60)
    trainer = Trainer(data, TINY.network, training, Machine(device="cpu", engine="serial", threads=1))
    jobs = [Job(vectors[r], np.arange(64), 0, 63, 0, r, mask=masks[r]) for r in range(2)]
    assert torch.equal(cohort.vectors(), trainer.run(jobs).vectors)


@pytest.mark.parametrize("installed", [False, True])
def test_what_is_measured_on_a_core(installed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for group, protocol in zip(variants.groups("cpu"), (DIGITS, variants.MIDDLE, CIFAR10)):
        first, *others = group.variants
        assert first.engine == PLAIN and len(set(group.variants)) == len(group.variants)
        assert {v.protocol for v in group.variants} == {protocol} and protocol.training.batch_size == first.per_step
        by_engine = {v.engine: sorted(o.density for o in others if o.engine == v.engine) for v in others}
        sparse = {"sparse": sorted(DENSITIES)} | ({SPARSEPROP: sorted(DENSITIES)} if installed else {})
        assert by_engine == sparse | {"serial": [1.0, 1.0], PEAK: [1.0]}
        assert {v.precision for v in others if v.engine == "serial"} == {"fp32", "bf16"}


def test_what_is_measured_on_a_gpu():
    for group in variants.groups("cuda"):
        assert group.variants[0].engine == PLAIN
        assert {(v.engine, v.density) for v in group.variants[1:]} == {("graph", 1.0), ("serial", 1.0)}


@pytest.mark.heavy
def test_from_end_to_end(tmp_path, monkeypatch):
    start = Variant(TINY)
    tried = (
        start,
        replace(start, engine="sparse", density=0.1),
        replace(start, engine=PEAK),
        replace(start, engine="serial"),
        replace(start, engine="graph", replicas=2),
        replace(start, protocol=replace(TINY, network="test_efficientnet"), engine="sparse"),
    )
    pair = tuple(replace(tried[1], replicas=2, threads=threads) for threads in (1, 2))
    monkeypatch.setattr(variants, "groups", lambda device: [Group(tried, 0.01), Group(pair, 0.01)])
    monkeypatch.setattr(benchmark, "_compile", lambda folder: (12.5, None))
    out = tmp_path / "new/rows.json"
    said = run("--device", "cpu", "--minutes", 30, "--out", out).stdout
    assert said == out.with_suffix(".md").read_text(encoding="utf-8")
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["engine"], row["density"]) for row in rows] == [
        ("plain", 1.0),
        ("sparse", 1.0),
        ("sparse", 0.1),
        ("serial", 1.0),
        ("graph", 1.0),
    ]
    asked = {"network", "image_size", "density", "engine", "precision", "images_per_cpu_second", "low", "high"}
    asked |= {"peak_mib", "first_call_seconds"}
    for row in rows:
        assert asked <= set(row) and set(row) == set(rows[0])
    bad, good = rows[1], [row for row in rows if row["engine"] != "sparse" or row["density"] < 1]
    for row in good:
        assert 0 < row["low"] <= row["images_per_cpu_second"] <= row["high"] and row["peak_mib"] > 100
        assert row["share_of_peak"] > 0 and row["rounds"] >= timing.LEAST
    assert "UsageError: --engine sparse cannot train" in bad["error"] and bad["error"] in said
    assert good[1]["first_call_seconds"] == 12.5 and good[1]["two_threads"]["replicas"] == 2
    assert [row["two_threads"] for row in rows if row is not good[1]] == [None] * 4
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows) and len({line.count("|") for line in table}) == 1
    assert "SparseProp is not installed" in said


@pytest.mark.heavy
def test_the_last_variants_are_left_out_when_time_is_short(monkeypatch):
    times = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(timing, "time", types.SimpleNamespace(monotonic=lambda: next(times, 20.0)))
    start = Variant(TINY)
    found = timing.measure(Group((start, replace(start, engine="serial")), 0.01), device="cpu", end=5.0)
    assert [len(each.cpu) for each in found] == [timing.LEAST, 0]
    assert [each.error for each in found] == ["", "left out: no time was left"]


def test_a_variant_that_does_not_answer_is_given_up(monkeypatch):
    """At its own limit, or at the group's end with that limit: so a GPU's four minutes are an upper bound."""
    waited = []

    class Silent:
        def poll(self, limit):
            waited.append(limit)
            return False

    monkeypatch.setattr(timing, "time", types.SimpleNamespace(monotonic=lambda: 100.0))
    for end in (200.0, 100.0, 80.0, 60.0):
        worker = timing._Worker(Variant(TINY), ("cuda", 0.5, None), end)
        worker.pipe = Silent()
        with pytest.raises(RunError, match=r"^no answer in \d+ s$"):
            worker.hear("steps")
    assert waited == [30.0, 30.0, 10.0, 0.0]
    assert 60 * benchmark.MINUTES["cuda"] + timing.PATIENCE["cuda"] <= 240


def test_refusals(tmp_path):
    assert "--minutes (=-1) must be above 0, and 1440 at most: try 7.5" in one_sentence(
        run("--device", "cpu", "--minutes", -1, code=2).stderr
    )
    assert f"--out {tmp_path}: give a file name that ends in .json" in one_sentence(
        run("--out", tmp_path, code=2).stderr
    )
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write .*file.*choose another --out"):
        bench(tmp_path / "file" / "rows.json", device="cpu")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        bench(tmp_path / "out" / "rows.json", device="tpu")
    assert not (tmp_path / "out").exists()
