"""Engines and threads as the stages use them: by the masks' density, on record for every piece."""

from importlib import import_module

import numpy as np
import pytest
import torch

from repro import store
from repro.data import load
from repro.errors import UsageError
from repro.recipes.training import Training
from repro.stages import Machine, branch, imp, pretrain
from repro.train.job import Job
from tests.command_line import CPU, TINY, complaint, repro

TRAINER = import_module("repro.stages.trainer")
RECIPE = Training(steps=4, batch_size=64, lr=0.1, augment=False)
PLACE = Machine(device="cpu")


@pytest.fixture
def by_density(monkeypatch):
    """Networks with more than 0.7 of their weights are trained by serial, others by graph: (density, engine) of each
    choice."""
    chosen = []

    def choose(asked, *_, density, **__):
        assert asked == "auto"
        chosen.append((density, "serial" if density > 0.7 else "graph"))
        return chosen[-1][1]

    monkeypatch.setattr(TRAINER, "choose", choose)
    return chosen


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    path = tmp_path_factory.mktemp("point") / "w.h5"
    pretrain(path, dataset="digits", t=1, replicates=2, network="cifar_resnet8_w4", training=RECIPE, machine=PLACE)
    return path


def test_levels_are_trained_by_the_engine_of_their_density(point, by_density, tmp_path):
    imp(tmp_path / "imp.h5", point, levels=2, machine=PLACE)
    run = store.read(tmp_path / "imp.h5")
    assert run.table().engine.tolist() == ["serial", "serial", "graph"] * 2
    assert [each["engine"] for each in run.provenance["runs"]] == ["graph/serial"]
    assert {round(density, 1) for density, _ in by_density} == {1.0, 0.8, 0.6}


def test_a_cohort_has_one_engine(point, by_density, tmp_path, monkeypatch):
    imp(tmp_path / "imp.h5", point, levels=2, machine=PLACE)
    sizes = []

    def watched(jobs, *arguments, train=TRAINER.train, **options):
        sizes.append([round(job.mask.double().mean().item(), 1) for job in jobs])
        return train(jobs, *arguments, **options)

    monkeypatch.setattr(TRAINER, "train", watched)
    branch(tmp_path / "b.h5", tmp_path / "imp.h5", mask="random", machine=PLACE)
    assert sizes == [[0.8, 0.8], [0.6, 0.6]]  # all of them together, if one engine trained them
    assert store.table(tmp_path / "b.h5").engine.tolist() == ["serial", "graph"] * 2
    trainer = TRAINER.Trainer(load("digits"), "cifar_resnet8_w4", RECIPE, PLACE)
    masks = [torch.full((trainer.layout.num_prunable,), kept) for kept in (True, False)]
    jobs = [Job(trainer.initial(0, 0), np.arange(64), 0, 1, 0, 0, mask=mask) for mask in masks]
    with pytest.raises(AssertionError, match="chunk them by `cohort_key`"):
        trainer.run(jobs)


def test_rows_made_before_engines_were_recorded_are_kept(point, tmp_path):
    """An artifact without the column grows: old rows do not say, new ones do."""
    out = tmp_path / "imp.h5"
    imp(out, point, levels=0, machine=PLACE)
    made = store.read(out)
    arrays, table = {key: made[key] for key in made.keys()}, made.table().drop(columns="engine")
    store.write(
        out,
        kind="imp",
        recipe=made.recipe,
        inputs=made.inputs,
        arrays=arrays,
        table=table,
        provenance=made.provenance,
        defaults=made.lineage.defaults,
    )
    result = imp(out, point, levels=1, machine=Machine(device="cpu", engine="serial"))
    assert (len(result.reused), len(result.computed)) == (2, 2) and result.identity == made.identity
    assert store.table(out).engine.tolist() == ["", "serial"] * 2


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, environment, expected",
    [
        (3, "5", 3),
        (None, "5", 5),
        (None, "4,2", 4),
        (None, None, "usable"),
        (None, "many", "usable"),
        (None, "0", "usable"),
    ],
)
def test_threads(given, environment, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 4, 7, 8, 11, 12}, raising=False)
    assert Machine(device="cpu", threads=given).cpu_threads == (7 if expected == "usable" else expected)


def test_cudnn_is_set_before_the_first_convolution(monkeypatch):
    """What it chooses for a shape is kept for the process, whatever is set later."""
    seen, cudnn = [], torch.backends.cudnn

    class Watched(torch.nn.Conv2d):
        def forward(self, x):
            seen.append((cudnn.benchmark, cudnn.allow_tf32))
            return super().forward(x)

    monkeypatch.setattr("repro.nets.resnet.nn.Conv2d", Watched)
    monkeypatch.setattr(cudnn, "benchmark", True)
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    TRAINER.Trainer(load("digits"), "cifar_resnet8_w4", RECIPE, PLACE)
    assert seen and set(seen) == {(False, False)}


def test_threads_are_used_and_on_record(tmp_path):
    command = ("pretrain", "--dataset", "digits", "-t", 1, *TINY, *CPU)
    try:
        repro(*command, "--threads", 2, "--out", tmp_path / "two.h5")
        assert torch.get_num_threads() == 2
        (run,) = store.read(tmp_path / "two.h5").provenance["runs"]
        assert (run["threads"], run["engine"], run["lanes"] in (4, 8, 16)) == (2, "sparse", True)
    finally:
        torch.set_num_threads(1)
    repro(*command, "--threads", 1, "--out", tmp_path / "one.h5")
    one, two = (store.read(tmp_path / f"{name}.h5") for name in ("one", "two"))
    assert one.identity == two.identity
    assert "0 is not in the range x>=1" in complaint(*command, "--threads", 0, "--out", tmp_path / "x.h5")
    with pytest.raises(UsageError, match="number of threads .=0. must be from 1 to 1024"):
        Machine(device="cpu", threads=0)
