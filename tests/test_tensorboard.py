"""Curves for TensorBoard, read back with its own reader: against a plain loop's losses and the artifact's table."""

import dataclasses
import itertools
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro import store
from repro.data import Batcher, load
from repro.errors import UsageError
from repro.nets import create, initialise, layout_of
from repro.recipes.training import Training
from repro.stages import Machine, imp, pretrain
from repro.stages.tensorboard import Curves, Losses
from repro.train import loop
from repro.train.random_streams import torch_stream
from tests import plain_imp
from tests.command_line import CPU, TINY, complaint, contents, repro

pytest.importorskip("tensorboard", reason="tensorboard, an extra, is not installed: make .venv/.extras")
NETWORK, SEED = "cifar_resnet8_w4", 11
RECIPE = Training(steps=13, batch_size=64, lr=0.3, milestones=(6,), augment=False, precision="fp64")
PLACE = Machine(device="cpu")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{run/tag: [(step, value)]} of all runs below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for run in {path.parent for path in folder.rglob("events.*")}:
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            found[f"{run.relative_to(folder)}/{tag}"] = [(each.step, each.value) for each in events.Scalars(tag)]
    return found


def plain_losses(monkeypatch, data, replicate, subset):
    """Losses of the steps of one network at its start of training, in plain PyTorch."""
    seen = []

    def recorded(*arguments):
        loss = F.cross_entropy(*arguments)
        seen.append(loss.item())
        return loss

    with monkeypatch.context() as patch:
        functions = {name: getattr(F, name) for name in ("relu", "adaptive_avg_pool2d")}
        patch.setattr(plain_imp, "F", SimpleNamespace(cross_entropy=recorded, **functions))
        ours = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(SEED, replicate, "init"))
        net = plain_imp.PlainResNet(8, 4, 1, 10).double()
        values = layout_of(ours).state_dict(layout_of(ours).flatten(ours)).values()
        net.load_state_dict(dict(zip([e.name for e in layout_of(net).entries], values)), strict=False)
        x = Batcher(data.images, data.mean, data.std, augment=False).normalise(data.images, torch.float64)
        plain_imp.train(
            net,
            [torch.ones_like(w, dtype=torch.bool) for w in plain_imp.prunable(net)],
            x.permute(0, 3, 1, 2).contiguous(),
            data.labels,
            subset,
            start=0,
            stop=RECIPE.steps,
            lr_at=lambda step: 0.3 if step < 6 else 0.03,
            batch=64,
            seed=SEED,
            replicate=replicate,
        )
    return np.array(seen)


def pretrained(out, **machine):
    return pretrain(
        out,
        dataset="digits",
        t=RECIPE.steps,
        replicates=2,
        network=NETWORK,
        training=RECIPE,
        seed=SEED,
        machine=dataclasses.replace(PLACE, **machine),
    )


def test_losses_are_the_means_of_a_plain_loop_s(tmp_path, monkeypatch):
    """A command that was interrupted at step 7 goes on from there; its bits are those of one without curves."""
    monkeypatch.setattr("repro.stages.tensorboard.POINTS", 4)  # a point every 4 steps
    log = tmp_path / "log"

    def interrupted(*arguments, checkpoint, train=loop.train, **options):
        def save(state):
            checkpoint(state)
            raise KeyboardInterrupt

        return train(*arguments, checkpoint=save, **{**options, "checkpoint_seconds": 6.5})

    with monkeypatch.context() as patch:
        patch.setattr(import_module("repro.stages.trainer"), "train", interrupted)
        ticks = itertools.count().__next__  # one with every step
        patch.setattr("repro.train.loop.MOST_STEPS", 1)
        patch.setattr(import_module("repro.train.job"), "time", SimpleNamespace(monotonic=ticks))
        with pytest.raises(KeyboardInterrupt):
            pretrained(tmp_path / "w.h5", tensorboard=log)
    pretrained(tmp_path / "w.h5", tensorboard=log)
    pretrained(tmp_path / "plain.h5")
    assert contents(tmp_path / "w.h5") == contents(tmp_path / "plain.h5")
    found, data, table = curves(log), load("digits"), store.table(tmp_path / "w.h5")
    for r in range(2):
        losses = plain_losses(monkeypatch, data, r, data.split(r)[0].numpy())
        steps, values = zip(*found[f"w/replicate_{r}/training_loss"])
        assert steps == (4, 8, 12, 13)
        wanted = [losses[0:4].mean(), losses[7:8].mean(), losses[8:12].mean(), losses[12]]  # 7: where it was taken up
        np.testing.assert_allclose(values, wanted, rtol=1e-6)
        assert found[f"w/replicate_{r}/acc"] == [(13, np.float32(table.acc[r]))]
        assert found[f"w/replicate_{r}/loss"] == [(13, np.float32(table.loss[r]))]
    before = {path: path.stat().st_mtime_ns for path in log.rglob("*")}
    pretrained(tmp_path / "w.h5", tensorboard=log)  # nothing to compute
    assert {path: path.stat().st_mtime_ns for path in log.rglob("*")} == before


def test_columns_are_drawn_against_the_level_and_begin_anew_with_force(tmp_path):
    words = ("--tensorboard", tmp_path / "log", *CPU)
    folder = tmp_path / "results" / "demo"
    repro("pretrain", "--dataset", "digits", "-t", 2, *TINY, "--out", folder / "w.h5", *words, "--dry-run")
    assert not (tmp_path / "log").exists()
    repro("pretrain", "--dataset", "digits", "-t", 2, *TINY, "--out", folder / "w.h5", *CPU)
    for _ in range(2):  # the second time anew: what was there is hidden
        repro("imp", folder / "w.h5", "--levels", 1, "--out", folder / "imp.h5", *words, "--force")
    repro("imp", folder / "w.h5", "--levels", 2, "--out", folder / "imp.h5", *words)
    found, table = curves(tmp_path / "log"), store.table(folder / "imp.h5")
    tags = {"acc", "loss", "train_acc", "train_loss", "density", "seconds"}
    tags |= {f"training_loss/level_{level}" for level in range(3)}
    assert set(found) == {f"demo/imp/replicate_{r}/{tag}" for r in range(2) for tag in tags}
    for r, rows in table.groupby("replicate"):
        for column in ("acc", "loss", "train_acc", "train_loss", "density"):
            drawn = found[f"demo/imp/replicate_{r}/{column}"]
            assert drawn == list(zip(rows.level, rows[column].astype(np.float32)))
        assert [step for step, _ in found[f"demo/imp/replicate_{r}/training_loss/level_2"]] == list(range(3, 13))


def test_pieces_of_every_command_have_a_run_and_a_tag(tmp_path):
    drawn = Curves(tmp_path, Path("x.h5"), {"steps": 9}, anew=False)
    for piece, more in [
        ("easy/w10/replicate_1", {}),
        ("fold_0/network_3", {}),
        ("replicate_0/step_5", {"step": 5}),
        ("replicate_2/level_3_4/averaged", {"level": 3}),
        ("a/replicate_0/pair_0_1/averaged", {"level": 0}),
    ]:
        drawn.add([{"piece": piece, "acc": 0.5, "loss": float("nan"), "size": 3, "diverged": False, **more}])
    drawn.close()
    assert curves(tmp_path / "x") == {
        "easy/w10/replicate_1/acc": [(9, 0.5)],
        "fold_0/acc/network_3": [(9, 0.5)],
        "replicate_0/acc": [(5, 0.5)],
        "replicate_2/acc/averaged": [(3, 0.5)],
        "a/replicate_0/acc/pair_0_1/averaged": [(0, 0.5)],
    }


def test_steps_that_come_again_count_once():
    jobs = [SimpleNamespace(start=0, stop=12), SimpleNamespace(start=0, stop=10)]
    watch = Losses(jobs)
    watch.every = 4
    rng = np.random.default_rng(0)
    values = rng.random((12, 2))

    def feed(begin, end, rows=(0, 1)):
        watch(begin, list(rows), torch.tensor(values[begin:end][:, list(rows)]))

    feed(0, 5)
    taken = watch.take()
    feed(5, 9)  # memory runs out, and the two are trained one after the other from step 5
    values[5:] += 1
    feed(5, 10, (0,))
    feed(5, 10, (1,))
    feed(10, 12, (0,))
    taken += watch.take()
    means = {(0, 4): (0, 4), (0, 8): (5, 8), (0, 12): (8, 12), (1, 4): (0, 4), (1, 8): (5, 8), (1, 10): (8, 10)}
    assert {(j, step): value for j, step, value in taken} == {
        (j, step): pytest.approx(values[slice(*means[j, step]), j].mean()) for j, step in means
    }
    assert len(taken) == len(means) and not watch.take()


def test_a_folder_that_cannot_be_written_to_costs_the_curves_alone(tmp_path, capsys):
    (tmp_path / "log").write_text("a file", encoding="utf-8")
    pretrained(tmp_path / "w.h5", tensorboard=tmp_path / "log")
    assert len(store.table(tmp_path / "w.h5")) == 2
    said = capsys.readouterr()
    assert (
        said.err
        == (f"warning: no more curves for TensorBoard, {tmp_path}/log/w cannot be written to (Not a directory)\n")
        and said.out == ""
    )


def test_a_disk_that_fills_up_costs_the_curves_alone(tmp_path, capfd, monkeypatch):
    from tensorboard.summary.writer import record_writer

    write = record_writer.RecordWriter.write

    def full(writer, data):
        if full.left == 0:
            raise OSError(28, "No space left on device")
        full.left -= 1
        return write(writer, data)

    full.left = 6
    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    imp(tmp_path / "imp.h5", shortened(tmp_path), levels=2, machine=dataclasses.replace(PLACE, tensorboard=tmp_path))
    assert len(store.table(tmp_path / "imp.h5")) == 6
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.endswith("cannot be written to (No space left on device)\n"), said


def shortened(folder):
    """A rewind point to train on from."""
    pretrain(
        folder / "early.h5",
        dataset="digits",
        t=9,
        replicates=2,
        network=NETWORK,
        training=RECIPE,
        seed=SEED,
        machine=PLACE,
    )
    return folder / "early.h5"


def test_without_the_package_a_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    command = ("pretrain", "--dataset", "digits", "-t", 2, *TINY, "--out", tmp_path / "w.h5")
    said = complaint(*command, "--tensorboard", tmp_path / "log")
    assert said.endswith("tensorboard, which is not installed: run make .venv/.extras")
    with pytest.raises(UsageError):
        Machine(tensorboard="log")
    repro(*command, *CPU)
