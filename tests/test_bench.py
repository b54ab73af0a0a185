"""The benchmark: its arithmetic on planted numbers, its baseline held equal to our step, and one run end to end."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro import cost, engines, store
from repro.bench import bench, report, roofline, rows, stages, timing
from repro.bench.plain import Pictures, Script
from repro.bench.variants import PLAIN, Variant, build, masks_of, noise
from repro.data import Batcher
from repro.engines import Block, Sgd
from repro.errors import RunError, UsageError
from repro.nets import create, initialise, layout_of
from repro.protocol import CIFAR10, DIGITS
from tests.command_line import complaint, repro
from tests.test_engine import ENGINES

CPU = torch.device("cpu")
TINY = replace(DIGITS, network="cifar_resnet8_w4", training=replace(DIGITS.training, batch_size=16, lr=0.1))


# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_medians_and_ratios_of_planted_timings():
    assert timing.summary([3.0, 1.0, 2.0]) == {"n": 3, "median": 2.0, "min": 1.0, "max": 3.0}
    assert timing.summary([4.0, 1.0]) == {"n": 2, "median": 2.5, "min": 1.0, "max": 4.0}
    # the ratio of each round first: 6/2, 6/1, 4/4; the ratio of the medians would be 3
    assert timing.ratios([6.0, 6.0, 4.0], [2.0, 1.0, 4.0]) == {"n": 3, "median": 3.0, "min": 1.0, "max": 6.0}
    assert timing.ratios([10.0, 2.0, 9.0], [1.0, 2.0, 3.0])["median"] == 3.0 != 9.0 / 2.0
    with pytest.raises(AssertionError):
        timing.ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize("step, wanted", [(0.001, 400), (0.05, 8), (0.4, 1), (9.0, 1)])
def test_steps_of_a_turn(step, wanted):
    calls = []

    def timed(steps):
        calls.append(steps)
        return steps * step + 5.0 * (len(calls) == 1)  # the first call compiles

    assert timing.steps_for(0.4, timed) == wanted
    assert calls[:2] == [1, 1] and sum(calls) <= 2 * wanted + 2


def test_kernels_are_counted_per_step():
    events = [("conv", "CUDA", 10.0), ("conv", "CUDA", 14.0), ("Memcpy HtoD", "CUDA", 2.0), ("Memset", "CUDA", 4.0),
              ("aten::conv2d", "CPU", 500.0), ("norm", "CUDA", 10.0), ("relu", "CUDA", 10.0)]  # fmt: skip
    found = roofline.kernel_summary(events, steps=2, wall=100e-6)
    assert found == {"kernels": 2.0, "copies": 1.0, "busy_us": 25.0, "wall_us": pytest.approx(50.0)}


def test_seconds_by_kind_of_artifact():
    timed = pd.DataFrame({"seconds": [1.0, 2.0]})
    found = stages.kind_rows([
        ("subset", pd.DataFrame({"size": [5]}), [{"wall_seconds": 0.5}]),
        ("imp", timed, [{"wall_seconds": 4.0}, {"wall_seconds": 3.0}]), ("imp", timed, [{"wall_seconds": 5.0}]),
    ])  # fmt: skip
    assert found == [
        {"kind": "imp", "artifacts": 2, "rows": 4, "wall": 12.0, "training": 6.0},
        {"kind": "subset", "artifacts": 1, "rows": 1, "wall": 0.5, "training": None},
    ]


# --- what a step asks of the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("size, cin, cout, kernel, stride", [(5, 2, 3, 3, 1), (6, 1, 4, 3, 2), (4, 3, 2, 1, 2)])
def test_arithmetic_and_traffic_of_one_convolution_counted_one_by_one(size, cin, cout, kernel, stride, monkeypatch):
    def layer(*_, **__):
        return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)

    monkeypatch.setattr("repro.nets.create", layer)
    monkeypatch.setattr(roofline, "create", layer)
    protocol = replace(TINY, image_size=size, in_chans=cin)
    places = [i for i in range(0, size + 2 * (kernel // 2) - kernel + 1, stride)]
    multiplications, read, written = 0, set(), set()
    for o, row, column in itertools.product(range(cout), places, places):
        written.add((o, row, column))
        for i, dy, dx in itertools.product(range(cin), range(kernel), range(kernel)):
            multiplications += 1
            read.add((i, row + dy - kernel // 2, column + dx - kernel // 2))
    inside = {(i, y, x) for i, y, x in read if 0 <= y < size and 0 <= x < size}
    if stride <= kernel:  # a strided 1x1 convolution skips pixels, which the model counts as read: whole cache lines
        assert len(inside) == cin * size * size
    assert cost.flops_per_image.__wrapped__("conv", protocol) == 3 * 2 * multiplications
    assert roofline.traffic_per_image.__wrapped__("conv", protocol) == 3 * (cin * size * size + len(written))


def test_traffic_of_a_batch_norm_with_a_residual(monkeypatch):
    class Net(nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.bn = nn.BatchNorm2d(2)

        def forward(self, x):
            return F.relu(self.bn(F.relu(self.bn(x), inplace=True)) + x)

    monkeypatch.setattr(roofline, "create", lambda *_, **__: Net())
    numbers = 2 * 4 * 4
    each = (2 + 1) + (1 + 1)  # statistics, values, write; rectifier
    found = roofline.traffic_per_image.__wrapped__("norm", replace(TINY, image_size=4, in_chans=2))
    assert found == 3 * numbers * (each + each + (2 + 1))


def test_bounds_are_limits_over_needs():
    limits = {"copy": {"max": 2.0}, "matrix": {"fp32": {"max": 3.0}, "bf16": {"max": 12.0}, "tf32": {"max": 6.0}}}
    flops = cost.flops_per_image(DIGITS.network, DIGITS)
    numbers = roofline.traffic_per_image(DIGITS.network, DIGITS)
    fp32, bf16, plain = (roofline.bounds(v, limits) for v in (
        Variant(DIGITS, "serial"), Variant(DIGITS, "serial", precision="bf16"), Variant(DIGITS, PLAIN)))  # fmt: skip
    assert fp32["compute"] == pytest.approx(3e12 / flops) and fp32["traffic"] == pytest.approx(2e9 / (4 * numbers))
    assert bf16["compute"] == pytest.approx(12e12 / flops) and bf16["traffic"] == pytest.approx(2e9 / (2 * numbers))
    assert plain["compute"] == pytest.approx(6e12 / flops)  # TF32 is what PyTorch uses where there is any


# --- the baseline does the same work --------------------------------------------------------------------------------


def script_of(protocol, *, density, count=64, training=None):
    """(script, layout, starting vector, mask, image set)."""
    data = noise(protocol, count)
    net = create(protocol.network, num_classes=protocol.num_classes, in_chans=protocol.in_chans)
    initialise(net, torch.Generator().manual_seed(3))
    layout = layout_of(net)
    vector, mask = layout.flatten(net), masks_of(Variant(protocol, density=density), layout.num_prunable)[0]
    training = training or protocol.training
    pictures = Pictures(data.images.numpy(), data.labels.tolist(), data.mean, data.std, augment=training.augment)
    return Script(net, pictures, training, mask=mask), layout, vector, mask, data


def effective(script, layout):
    """The numbers that the script's network computes with, in the order of the layout."""
    owners = (
        (script.network.get_submodule(e.name.rpartition(".")[0]), e.name.rpartition(".")[2]) for e in layout.entries
    )
    return torch.cat([getattr(module, name).detach().reshape(-1) for module, name in owners])


@pytest.mark.parametrize("protocol", [TINY, replace(CIFAR10, network="cifar_resnet8_w4")], ids=["8x8x1", "32x32x3"])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_a_step_of_the_script_is_a_step_of_ours(protocol, density):
    training = replace(protocol.training, augment=False, batch_size=16)
    script, layout, vector, mask, data = script_of(protocol, density=density, training=training)
    cohort = engines.create("serial", protocol.network, replicas=1, num_classes=10, in_chans=protocol.in_chans,
                            image_size=protocol.image_size, device=CPU)  # fmt: skip
    sgd, rates = Sgd(training.momentum, training.weight_decay, training.nesterov), torch.full((1, 1), training.lr)
    cohort.load(vector[None])
    cohort.load_masks(None if mask is None else mask[None])
    batcher = Batcher(data.images, data.mean, data.std, augment=False)
    for first in (0, 16):  # the second step has momentum
        index = torch.arange(first, first + 16)
        pictures, labels = zip(*(script_pictures(script)[i] for i in index.tolist()))
        ours = batcher.normalise(batcher.gather(index))
        torch.testing.assert_close(torch.stack(pictures), ours.permute(0, 3, 1, 2), rtol=0, atol=2e-6)
        assert list(labels) == data.labels[index].tolist()
        script.step(torch.stack(pictures), torch.tensor(labels))
        cohort.train(Block(index[None, None], None, rates), batcher, data.labels, sgd)
        if mask is not None:
            script.network.eval()(torch.stack(pictures))  # torch.nn.utils.prune makes the weights when it is called
            script.network.train()
        theirs, mine = effective(script, layout), cohort.vectors()[0]
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)
    assert (mine - vector)[: layout.num_prunable].abs().max() > 1e-3  # it has trained


def script_pictures(script):
    return script.batches.gi_frame.f_locals["loader"].dataset


def test_the_masks_of_the_script_hold():
    script, layout, vector, mask, _ = script_of(TINY, density=0.1)
    script.fit(5)
    script.network.eval()(torch.zeros(1, 1, 8, 8))
    weights = effective(script, layout)[: layout.num_prunable]
    assert mask.sum() == round(0.1 * layout.num_prunable)
    assert (weights[~mask] == 0).all() and (weights[mask] != 0).all()
    assert (weights[mask] != vector[: layout.num_prunable][mask]).float().mean() > 0.9


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


def test_peak_memory_is_that_of_one_process():
    large = timing.in_child(_peaks, 300)
    small = timing.in_child(_peaks, 10)
    assert large[1] - large[0] > 290 and large[2] == large[1]  # a peak remains
    assert small[2] < large[0] + 150  # and is not inherited by the next process
    with pytest.raises(RunError, match="int: ValueError: .*'planted'"):
        timing.in_child(int, "planted")


def test_our_variants_train_with_the_engine_they_name():
    for engine in rows.engines_of(TINY, "cpu", "fp32"):
        run, named = build(Variant(TINY, engine, replicas=2, density=0.1, images=64), "cpu")
        run(1)
        assert named == engine
    assert rows.engines_of(TINY, "cpu", "fp32") == [each for each in ENGINES if each != "graph"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_group_begins_with_its_baseline(device, quick):
    for group in rows.comparisons(device, quick=quick, compiled=True):
        first, *others = group.variants
        assert first.engine == PLAIN and others and all(v.engine != PLAIN for v in others)
        assert {(v.protocol, v.density, v.images) for v in others} == {(first.protocol, first.density, first.images)}
        assert len(set(group.variants)) == len(group.variants)


def test_from_end_to_end(tmp_path, monkeypatch):
    plain = Variant(TINY, images=64)
    tried = (plain, replace(plain, engine="serial"), replace(plain, engine="graph", replicas=2, density=0.1),
             replace(plain, protocol=replace(TINY, network="test_efficientnet"), engine="sparse"))  # fmt: skip
    monkeypatch.setattr(rows, "comparisons", lambda *_, **__: [rows.Group("planted", tried, 3, 0.01)])
    both = (replace(plain, engine="auto"), replace(plain, engine="auto", processes=2, label="two at once"))
    monkeypatch.setattr(rows, "growth", lambda *_, **__: [rows.Group("cores", both, 2, 0.01)])
    planted = {"stage": "imp", "what": "planted", "seconds": timing.summary([1.0, 3.0]), "training": 1.5}
    monkeypatch.setattr(stages, "stage_seconds", lambda quick: [planted])
    said = repro("bench", "--quick", "--device", "cpu", "--results", tmp_path, "--out", tmp_path / "out").stdout
    assert said == (tmp_path / "out/bench.md").read_text()
    record = json.loads((tmp_path / "out/bench.json").read_text())
    assert set(record) == {"quick", "device", "machine", "roofline", "rows", "growth", "stages"}
    assert record["machine"]["threads"] == 1 and record["machine"]["packages"]["numpy"] == np.__version__

    found = record["rows"][0]["rows"]
    assert [len(row["rates"]) for row in found] == [3, 3, 3, 0]
    assert "UsageError: --engine sparse cannot train" in found[3]["error"] and found[3]["error"] in said
    assert found[0]["ratio"] == {"n": 3, "median": 1.0, "min": 1.0, "max": 1.0}
    for row in found[:3]:
        assert row["images_per_second"]["median"] == np.median(row["rates"]) > 0 and row["peak_mib"] > 100
        assert row["ratio"]["median"] == pytest.approx(np.median(np.divide(row["rates"], found[0]["rates"])))
    assert [row["replicas"] for row in found[:3]] == [0, 1, 2]
    alone, two = record["growth"][0]["rows"]
    assert two["what"] == "two at once" and two["peak_mib"] > 1.5 * alone["peak_mib"]  # of both processes
    assert "| imp | planted | 2 (1 – 3) | 2 | 1.5 |" in said

    tables = [block for block in said.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 5  # roofline, planted, by R, cores, stages
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_stages_and_the_profile_of_a_demo(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    found = {row["stage"]: row for row in stages._chain(tmp_path / "digits", True)}
    assert list(found) == ["data loading", "score", "select", "pretrain", "imp", "barrier", "artifact write",
                           "artifact read", "pruning"]  # fmt: skip
    (tmp_path / "digits/copy.h5").unlink()
    for name in ("score", "pretrain", "imp"):
        recorded = store.read(tmp_path / f"digits/{name}.h5").table().seconds.sum()
        assert found[name]["training"] == pytest.approx(recorded)
        assert 0 < found[name]["training"] < found[name]["seconds"]["median"]

    commands = []
    answer = {"wall": 7.0, "cpu": 2.0, "error": ""}
    monkeypatch.setattr(stages, "_command", lambda *words: commands.append(words[0]) or answer)
    profile = stages.demo_profile(tmp_path)
    assert commands == ["pretrain", "plan", "figure"] and profile["processes"] == 1
    stage = sum(run["wall_seconds"] for path in (tmp_path / "digits").glob("*.h5")
                for run in store.read(path).provenance["runs"])  # fmt: skip
    assert profile["stages"] == pytest.approx(stage) and profile["outside"] == 6.0
    assert profile["share_outside"] == pytest.approx(6.0 / (6.0 + stage)) and 0 < profile["share_training"] < 1
    packages = dict.fromkeys(("torch", "torchvision", "timm", "numba"))
    head = {"finished": "now", "wall_seconds": 1.0, "cpu": "x", "cores": 1, "platform": "p", "python": "3",
            "git_revision": None, "git_dirty": None, "driver": None, "packages": packages}  # fmt: skip
    text = report.markdown({"machine": head, "device": "cpu", "demo": profile})
    assert f"Outside the stages: {100 * profile['share_outside']:.1f} %" in text and "| barrier | 1 | " in text


def test_refusals(tmp_path):
    assert "no section speed of the benchmark: choose roofline, rows" in complaint("bench", "--only", "speed")
    said = complaint("bench", "--only", "demo", "--results", tmp_path, "--out", tmp_path / "out")
    assert f"--results {tmp_path} holds no artifacts in digits/: make them with `make demo`" in said
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write .*file.*choose another --out"):
        bench(tmp_path / "file", device="cpu", only=("roofline",))
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        bench(tmp_path / "out", device="tpu")
    assert not (tmp_path / "out").exists()
