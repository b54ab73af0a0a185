"""imp by other criteria than magnitude: whole runs on digits, whose masks are made again by hand."""

import functools
import hashlib
import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from repro.nets import create
from repro.recipes.pruning import Pruning
from repro.stages import trainer as trainer_module
from repro.store import read
from repro.train.random_streams import stream
from tests.command_line import CPU, complaint, repro
from tests.two_layers import (
    OWN,
    SHAPES,
    grasp_by_hand,
    highest,
    images,
    imp,
    left,
    masks,
    net,
    rewind_points,
    snip_by_hand,
    weights,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rewind_points(tmp_path_factory.mktemp("criteria"))


@pytest.mark.parametrize("criterion, by", [("snip", snip_by_hand), ("grasp", grasp_by_hand)])
def test_pruning_at_the_rewind_point_by_gradients(folder, tmp_path, criterion, by):
    run = imp(folder, tmp_path / "imp.h5", "--pruning", criterion, "--batches", 3)
    dense = [np.ones(shape, bool) for shape in SHAPES]
    for r in (0, 1):
        scores = by(*weights(read(folder / "w.h5"), f"replicate_{r}/weights"), images(run, r, 3))
        for level in (1, 2):
            expected = highest(scores, dense, left(888, level))
            wrong = sum(int((a != b).sum()) for a, b in zip(masks(run, r, level), expected))
            assert wrong <= 2, (r, level)  # the scores are float32: two neighbours in rank may change places
    assert run.recipe["pruning"] == criterion and run.recipe["batches"] == 3


def test_synflow_is_iterated_to_the_level(folder, tmp_path):
    run = imp(folder, tmp_path / "imp.h5", "--pruning", "synflow", "--prune-fraction", 0.7)
    w, v = (abs(each) for each in weights(read(folder / "w.h5"), "replicate_1/weights"))
    for level in (1, 2):
        alive, count = [np.ones(shape, bool) for shape in SHAPES], left(888, level, 0.7)
        for n in range(1, 101):
            a, b = w * alive[0], v * alive[1]
            flow = [a * b.sum(0)[:, None], b * a.sum(1)[None, :]]
            alive = highest(flow, alive, round(888 * (count / 888) ** (n / 100)))
        assert all(np.array_equal(a, b) for a, b in zip(masks(run, 1, level), alive))
        assert sum(int(a.sum()) for a in alive) == count


def test_pruning_at_initialisation_looks_at_the_weights_of_step_0(folder, tmp_path):
    repro("pretrain", *net(folder), "-t", 0, "--out", tmp_path / "w0.h5")
    run = imp(folder, tmp_path / "imp.h5", "--prune-at", "initialisation")
    first = weights(read(tmp_path / "w0.h5"), "replicate_1/weights")
    for level in (1, 2):
        expected = highest([abs(each) for each in first], [np.ones(s, bool) for s in SHAPES], left(888, level))
        assert all(np.array_equal(a, b) for a, b in zip(masks(run, 1, level), expected))
    assert run.recipe["prune_at"] == "initialisation" and "pruning" not in run.recipe


def test_what_a_file_began_with_is_not_kept(folder, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12, bias=False), nn.Linear(12, 10, bias=False))
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    repro("pretrain", *net(folder), "-t", 2, "--init", tmp_path / "mine.pt", "--out", tmp_path / "w.h5")
    words = ("imp", tmp_path / "w.h5", "--levels", 1, *CPU, "--out", tmp_path / "imp.h5", "--prune-at")
    assert "does not keep the numbers of the file" in complaint(*words, "initialisation")
    assert "computed 4" in repro(*words, "rewind-point").stdout


def test_layerwise_takes_the_smallest_of_each_layer(folder, tmp_path):
    run = imp(folder, tmp_path / "imp.h5", "--pruning", "layerwise")
    for level in (1, 2):
        before, now = masks(run, 0, level - 1), masks(run, 0, level)
        alive = [int(mask.sum()) for mask in before]
        total = left(888, level)
        share = [total * each / sum(alive) for each in alive]
        for was, mask, trained, exact in zip(
            before, now, weights(run, f"replicate_0/level_{level - 1}/weights"), share
        ):
            count = int(mask.sum())
            assert abs(count - exact) < 1
            kept, gone = abs(trained[mask]), abs(trained[was & ~mask])
            assert not (mask & ~was).any() and gone.max() < kept.min()
        assert sum(int(mask.sum()) for mask in now) == total


def test_random_masks_are_uniform_and_of_the_kernel_densities(folder, tmp_path):
    run, erk = (imp(folder, tmp_path / f"{name}.h5", "--pruning", name) for name in ("random", "erk"))
    for level in (1, 2):
        count = left(888, level)
        for r in (0, 1):
            drawn = masks(run, r, level)
            assert sum(int(mask.sum()) for mask in drawn) == count
            share = drawn[0].mean()
            assert abs(share - count / 888) < 5 * math.sqrt(0.16 / 768)  # five standard errors
        # sums of the shapes 76 and 22: 22/98 of what is left goes to the head, which has 120
        head = min(120, round(count * 22 / 98))
        assert [int(mask.sum()) for mask in masks(erk, 0, level)] == [count - head, head]
    assert not np.array_equal(masks(run, 0, 1)[0], masks(run, 1, 1)[0])  # replicates have their own
    assert not (masks(run, 0, 2)[0] <= masks(run, 0, 1)[0]).all()  # so have levels: none is taken from another


def test_an_own_criterion_is_called_with_what_snip_uses(folder, tmp_path):
    own = imp(folder, tmp_path / "own.h5", "--pruning", f"{folder}/own.py:taylor", "--batches", 2)
    snip = imp(folder, tmp_path / "snip.h5", "--pruning", "snip", "--prune-at", "trained", "--batches", 2)
    for r in (0, 1):
        for level in (1, 2):
            assert all(np.array_equal(a, b) for a, b in zip(masks(own, r, level), masks(snip, r, level)))
            w, v = (
                a * m
                for a, m in zip(weights(own, f"replicate_{r}/level_{level - 1}/weights"), masks(own, r, level - 1))
            )
            scores, alive = snip_by_hand(w, v, images(own, r, 2, address=level)), masks(own, r, level - 1)
            expected = highest(scores, alive, left(sum(int(a.sum()) for a in alive), 1))
            assert sum(int((a != b).sum()) for a, b in zip(masks(own, r, level), expected)) <= 2
    assert (
        own.recipe["pruning"].startswith("own.py:taylor@") and len(own.recipe["pruning"]) == len("own.py:taylor@") + 12
    )


def test_an_own_criterion_draws_from_the_streams_of_a_level(folder, tmp_path):
    """So that the mask of a level is the same when it is made again."""
    run = imp(folder, tmp_path / "own.h5", "--pruning", f"{folder}/own.py:drawn")
    made = {}
    exec(OWN, made)
    for r in (0, 1):
        for level in (1, 2):
            address = f"{run.recipe['seed']},{r},prune.own,{level}".encode()
            number = int.from_bytes(hashlib.sha256(address).digest()[:16], "little") % 2**63
            random.seed(number)
            torch.manual_seed(number)
            np.random.seed(number % 2**32)
            scores = made["drawn"]({"1.weight": torch.ones(SHAPES[0]), "2.weight": torch.ones(SHAPES[1])}, None, None)
            expected = highest([each.numpy() for each in scores.values()], masks(run, r, level - 1), left(888, level))
            assert all(np.array_equal(a, b) for a, b in zip(masks(run, r, level), expected))


WITHOUT_REWINDING = [
    ("random", "none"),
    *((name, "learning-rate") for name in ("random", "erk", "snip", "grasp", "synflow")),
]


@pytest.mark.parametrize("criterion, rewind", WITHOUT_REWINDING)
def test_weights_that_go_on_are_never_those_that_were_pruned(folder, tmp_path, criterion, rewind):
    """Each level's mask is a part of the one before, with as many weights as before there was a choice."""
    run = imp(folder, tmp_path / "imp.h5", "--pruning", criterion, "--rewind", rewind)
    point = read(folder / "w.h5")
    for r, level in itertools.product((0, 1), (1, 2)):
        before, now = masks(run, r, level - 1), masks(run, r, level)
        assert all((a <= b).all() for a, b in zip(now, before))
        assert sum(int(a.sum()) for a in now) == left(888, level)
        if criterion == "random":
            flat = stream(run.recipe["seed"], r, "prune.random", level).random(888)
            scores = [part.reshape(shape) for part, shape in zip(np.split(flat, [math.prod(SHAPES[0])]), SHAPES)]
        elif criterion in ("snip", "grasp"):
            kept = [w * m for w, m in zip(weights(point, f"replicate_{r}/weights"), before)]
            by = snip_by_hand if criterion == "snip" else functools.partial(grasp_by_hand, alive=before)
            scores = by(*kept, images(run, r, 1))
        elif criterion == "erk":
            assert int(now[1].sum()) == min(120, round(left(888, level) * 22 / 98))
            continue
        else:
            continue
        expected = highest(scores, before, left(888, level))
        wrong = sum(int((a != b).sum()) for a, b in zip(now, expected))
        assert wrong <= (0 if criterion == "random" else 2), (r, level)  # the scores are float32


def test_a_rewind_point_that_diverged_ends_no_other_replicate(folder, tmp_path, monkeypatch):
    """Its levels count as chance, as where its trained weights are ranked."""

    def run(self, jobs, run=trainer_module.Trainer.run, **options):
        trained = run(self, jobs, **options)
        trained.vectors[1] = torch.nan
        trained.lose(~trained.vectors.isfinite().all(1).numpy())
        return trained

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "run", run)
        repro("pretrain", *net(folder), "-t", 3, "--out", tmp_path / "w.h5")
    for name in ("snip", "magnitude", f"{folder}/own.py:taylor", "random"):
        words = ("--levels", 1, *CPU, "--pruning", name, *["--prune-at", "rewind-point"] * (name != "random"))
        said = repro("imp", tmp_path / "w.h5", *words, "--force", "--out", tmp_path / "imp.h5")
        assert "diverged" in said.stdout and "count as chance" in said.stdout
        table = read(tmp_path / "imp.h5").table().set_index(["replicate", "level"])
        assert table.diverged.to_dict() == {(0, 0): False, (0, 1): False, (1, 0): True, (1, 1): True}
        assert table.acc[1, 1] == 0.1 and table.remaining[0, 1] == left(888, 1)


def test_scores_may_be_true_and_false(folder, tmp_path):
    run = imp(folder, tmp_path / "imp.h5", "--pruning", f"{folder}/own.py:signs")
    alive = masks(run, 0, 0)
    expected = highest([each > 0 for each in weights(run, "replicate_0/level_0/weights")], alive, left(888, 1))
    assert all(np.array_equal(a, b) for a, b in zip(masks(run, 0, 1), expected))


def test_scores_of_dense_layers_need_not_be_numbers(folder, tmp_path):
    run = imp(folder, tmp_path / "imp.h5", "--pruning", f"{folder}/own.py:headless", "--keep-dense", "2")
    assert masks(run, 0, 2)[1].all() and int(masks(run, 0, 2)[0].sum()) == left(768, 2)


def test_dense_layers_are_left_out_and_densities_count_them(folder, tmp_path):
    run = imp(folder, tmp_path / "imp.h5", "--keep-dense", "2*")
    table = run.table().set_index(["replicate", "level"])
    for level in (1, 2):
        first, head = masks(run, 0, level)
        assert head.all() and int(first.sum()) == left(768, level)
        assert table.remaining[0, level] == left(768, level) + 120
        assert table.density[0, level] == pytest.approx((left(768, level) + 120) / 888)
    trained = abs(weights(run, "replicate_0/level_0/weights")[0])
    assert trained[~masks(run, 0, 1)[0]].max() < trained[masks(run, 0, 1)[0]].min()
    assert run.recipe["keep_dense"] == ["2*"]


def test_the_density_is_stated_over_the_prunable_and_over_all_parameters(tmp_path):
    net = (
        "--network",
        "cifar_resnet8_w4",
        "--steps",
        4,
        "--milestones",
        2,
        "--batch-size",
        32,
        "--replicates",
        1,
        *CPU,
    )
    repro("pretrain", "--dataset", "digits", *net, "-t", 1, "--out", tmp_path / "w.h5")
    said = repro("imp", tmp_path / "w.h5", "--levels", 1, "--keep-dense", "fc", *CPU, "--out", tmp_path / "i.h5").stdout
    network = create("cifar_resnet8_w4", num_classes=10, in_chans=1)
    everything = sum(p.numel() for p in network.parameters())
    kinds = (nn.Conv2d, nn.Linear)
    prunable = sum(m.weight.numel() for m in network.modules() if isinstance(m, kinds))
    remaining = left(prunable - network.fc.weight.numel(), 1) + network.fc.weight.numel()
    row = next(line.split() for line in said.splitlines() if line.split()[:1] == ["1"])
    assert row[1] == f"{100 * remaining / prunable:.2f}"
    assert row[3] == f"{100 * (everything - prunable + remaining) / everything:.2f}"


def test_the_default_leaves_no_trace(folder, tmp_path):
    plain, said = imp(folder, tmp_path / "a.h5"), Pruning()
    assert said.fields == said.options == {} and said.mark == ""
    assert not {"pruning", "prune_at", "batches", "keep_dense", "rewind", "finetune_steps"} & plain.recipe.keys()
    named = imp(folder, tmp_path / "b.h5", "--pruning", "magnitude", "--prune-at", "trained", "--rewind", "weights")
    assert named.identity == plain.identity and dict(named.recipe) == dict(plain.recipe)
