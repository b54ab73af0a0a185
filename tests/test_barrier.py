"""Barriers against plain PyTorch in float64: lines, batch norm, children, levels, checkpoints, growth and refusals."""

import dataclasses
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import repro.cli.stages  # noqa: F401  (registers the command)
from repro import store
from repro.data import Batcher, load
from repro.errors import RunError, UsageError
from repro.nets import create, layout_of
from repro.recipes.onset import onset
from repro.recipes.training import Training
from repro.stages import Machine, imp, pretrain, successive
from repro.stages import trainer as trainer_module
from repro.stages.barriers.barrier import barrier
from repro.stages.barriers.children import RewindPoint
from repro.stages.barriers.measure import Family, measured
from repro.stages.trainer import Trainer
from repro.store import read
from repro.train import interpolate, loop, random_streams
from tests import plain_imp
from tests.command_line import complaint
from tests.plain_lines import NETWORK, on_the_line, plain

SEED, T = 3, 4
RECIPE = Training(steps=16, batch_size=64, lr=0.3, milestones=(12,), augment=False, precision="fp64")
CPU = Machine(device="cpu")
GRID = (0.0, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def x(digits):
    whole = Batcher(digits.images, digits.mean, digits.std, augment=False).normalise(digits.images, torch.float64)
    return whole.permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """w.h5, a rewind point of two replicates, imp.h5 made from it, and b.h5, its barriers."""
    folder = tmp_path_factory.mktemp("barrier")
    common = {"dataset": "digits", "network": NETWORK, "training": RECIPE, "seed": SEED, "machine": CPU}
    pretrain(folder / "w.h5", t=T, replicates=2, **common)
    imp(folder / "imp.h5", folder / "w.h5", levels=2, machine=CPU)
    barrier(folder / "b.h5", folder / "imp.h5", alphas=GRID, batch_norm="both", machine=CPU)
    return folder


def flat(net):
    return layout_of(net).flatten(net).numpy()


def child(vector, masks, x, digits, *, replicate, number):
    """A child trained by plain PyTorch, as a vector; ``masks`` None is dense."""
    net = plain(vector)
    masks = masks or [torch.ones_like(w, dtype=torch.bool) for w in plain_imp.prunable(net)]
    plain_imp.train(
        net,
        masks,
        x,
        digits.labels,
        digits.split(replicate)[0].numpy(),
        start=T,
        stop=RECIPE.steps,
        lr_at=RECIPE.lr_at,
        batch=64,
        seed=SEED,
        replicate=replicate,
        role=f"child{number}.",
    )
    return flat(net)


def test_lines_between_children_are_those_of_plain_pytorch(folder, x, digits):
    r = 1  # in a cohort with replicate 0, and of another fold
    run, stored = read(folder / "imp.h5"), read(folder / "b.h5")
    rewind = run[f"replicate_{r}/level_0/rewind_weights"]
    ends = [run[f"replicate_{r}/level_0/weights"]]
    ends += [child(rewind, None, x, digits, replicate=r, number=c) for c in (1, 2)]
    starts = [on_the_line(rewind, rewind, 0, x, digits, r, recalibrated=again)["test_wrong"] for again in (False, True)]
    table = stored.table().set_index("piece")
    for mode in ("averaged", "recalibrated"):
        at_end = [on_the_line(end, end, 0, x, digits, r, recalibrated=mode == "recalibrated") for end in ends]
        for a, b in ((0, 2), (1, 2)):
            between = [
                on_the_line(ends[a], ends[b], alpha, x, digits, r, recalibrated=mode == "recalibrated")
                for alpha in (0.25, 0.5)
            ]
            piece, line = f"replicate_{r}/pair_{a}_{b}/{mode}", [at_end[a], *between, at_end[b]]
            for part in ("train", "test"):
                loss = stored[f"{piece}/{part}_loss"]
                assert loss.dtype == np.float32
                np.testing.assert_allclose(loss, [at[f"{part}_loss"] for at in line], rtol=1e-4, atol=2e-6)
                bits = np.unpackbits(stored[f"{piece}/{part}_wrong"], axis=1, count=loss.shape[1])
                assert np.array_equal(bits, [at[f"{part}_wrong"] for at in line])
            row = table.loc[piece]
            _same_numbers(row, *line)
            found = [row.pretrain_acc, row.pretrain_acc_recalibrated]
            assert found == pytest.approx([1 - wrong.mean() for wrong in starts], abs=1e-12)
            assert (row.replicate, row.level, row.a, row.b, row.t, row.point) == (r, 0, a, b, T, "imp")
            assert row.fresh == (a >= 1) and not row.diverged and row.batch_norm == mode
    assert list(stored["alphas"]) == list(GRID)


def _same_numbers(row, first, quarter, half, last):
    """A row of the table against what plain PyTorch found at alpha = 0, 0.25, 0.5 and 1."""
    each = half["train_loss"] - (first["train_loss"] + last["train_loss"]) / 2
    assert row.train_ce == pytest.approx(each.mean(), abs=1e-5) and row.train_ce_max >= max(0, row.train_ce)
    assert row.share_below_half == pytest.approx((each < 0.5).mean(), abs=1e-12)
    loss = [at["test_loss"].mean() for at in (first, half, last)]
    assert row.test_ce == pytest.approx(loss[1] - (loss[0] + loss[2]) / 2, abs=1e-5)
    for part in ("train", "test"):
        e0, e25, e50, e1 = (at[f"{part}_wrong"].mean() for at in (first, quarter, half, last))
        assert row[f"{part}_error"] == pytest.approx(e50 - (e0 + e1) / 2, abs=1e-12)
        largest = max(0, e25 - (0.75 * e0 + 0.25 * e1), e50 - (e0 + e1) / 2)
        assert row[f"{part}_error_max"] == pytest.approx(largest, abs=1e-12)
    assert (row.acc_a, row.acc_b) == pytest.approx([1 - at["test_wrong"].mean() for at in (first, last)])


def test_end_points_reproduce_their_recorded_accuracy(folder):
    run, stored = read(folder / "imp.h5").table(), read(folder / "b.h5")
    rows = stored.table().query("batch_norm == 'averaged'")
    for row in rows.itertuples():
        if row.a == 0:
            assert row.acc_a == run.query("replicate == @row.replicate and level == 0").acc.item()
        assert row.acc_b == stored[f"replicate_{row.replicate}/child_{row.b}/acc"]


def bits(path):
    artifact = read(path)
    return {key: artifact[key].tobytes() for key in artifact.keys()}


def altered(path, target, change):
    """A copy of an artifact with other arrays or rows, and sound seals."""
    old = read(path)
    arrays, table = {key: old[key] for key in old.keys()}, old.table()
    change(arrays, table)
    store.write(
        target,
        kind=old.kind,
        recipe=old.recipe,
        inputs=old.inputs,
        arrays=arrays,
        table=table,
        provenance=old.provenance,
        defaults=old.lineage.defaults,
    )
    return target


def _other_statistics(arrays, table):
    layout = layout_of(create(NETWORK, num_classes=10, in_chans=1))
    weights = arrays["replicate_1/level_0/weights"]
    arrays["replicate_1/level_0/weights"] = np.where(np.arange(weights.size) < layout.num_parameters, weights, 1.0)


def _other_row(arrays, table):
    table.loc[table.piece == "replicate_1/level_0", "acc"] += 2 / 360


@pytest.mark.parametrize("change", [_other_statistics, _other_row])
def test_an_end_point_that_is_not_what_was_measured_is_an_error(folder, tmp_path, change):
    path = altered(folder / "imp.h5", tmp_path / "imp.h5", change)
    with pytest.raises(RunError, match="imp.h5, replicate 1: network 0 has test accuracy .* is on record"):
        successive(tmp_path / "b.h5", path, machine=CPU)


def test_recalibrated_lines_too_have_end_points_that_were_measured(folder, tmp_path):
    path = altered(folder / "imp.h5", tmp_path / "imp.h5", _other_row)
    with pytest.raises(RunError, match="network 0 has test accuracy .* is on record"):
        successive(tmp_path / "b.h5", path, batch_norm="recalibrated", machine=CPU)


def test_the_onset_is_that_of_clean_rewind_points(folder, tmp_path):
    clean = RewindPoint(read(folder / "w.h5"))
    recipe = {"dataset": "digits", "network": NETWORK, "training": RECIPE, "seed": SEED, "machine": CPU}
    pretrain(tmp_path / "noisy.h5", t=T, replicates=1, label_noise=0.5, **recipe)
    assert clean.all_data and not RewindPoint(read(tmp_path / "noisy.h5")).all_data


def test_children_have_a_data_order_of_their_own(folder, tmp_path, monkeypatch):
    asked = []

    def watched(seed, replicate, purpose, *address):
        asked.append((seed, replicate, purpose))
        return stream(seed, replicate, purpose, *address)

    stream = random_streams.stream
    monkeypatch.setattr(random_streams, "stream", watched)
    barrier(tmp_path / "b.h5", folder / "w.h5", replicates=1, machine=CPU)
    assert set(asked) == {(SEED, 0, f"{role}order") for role in ("", "child1.", "child2.")}
    stored = read(tmp_path / "b.h5")
    weights = [stored[f"replicate_0/child_{c}/weights"] for c in range(3)]
    own = read(folder / "imp.h5")["replicate_0/level_0/weights"]
    np.testing.assert_allclose(weights[0], own, rtol=1e-8, atol=1e-10)  # a parent's own run is imp's level 0
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(weights, [weights[1], weights[2], own]))
    pairs = stored.table()[["a", "b"]].to_numpy().tolist()
    assert pairs == [[0, 1], [0, 2], [1, 2]]


def test_sparse_children_start_from_the_ticket_and_stay_pruned(folder, tmp_path, x, digits):
    barrier(tmp_path / "b.h5", folder / "imp.h5", level=2, children=1, replicates=1, machine=CPU)
    source, stored = read(folder / "imp.h5"), read(tmp_path / "b.h5")
    layout = layout_of(create(NETWORK, num_classes=10, in_chans=1))
    mask = np.unpackbits(source["replicate_0/level_2/mask"], count=layout.num_prunable).astype(bool)
    weights = stored["replicate_0/child_1/weights"]
    assert not weights[: layout.num_prunable][~mask].any() and weights[: layout.num_prunable][mask].all()
    rewind = source["replicate_0/level_0/rewind_weights"]
    masks = [
        m.view(w.shape)
        for m, w in zip(
            torch.from_numpy(mask).split([entry.size for entry in layout.prunable]), plain_imp.prunable(plain(rewind))
        )
    ]
    ticket = rewind.copy()
    ticket[: layout.num_prunable] *= mask
    np.testing.assert_allclose(weights, child(ticket, masks, x, digits, replicate=0, number=1), rtol=1e-7, atol=1e-9)
    row = stored.table().iloc[0]
    assert row.level == 2 and row.acc_a == source.table().query("replicate == 0 and level == 2").acc.item()


def test_successive_levels_need_no_training(folder, tmp_path, x, digits, monkeypatch):
    monkeypatch.setattr(trainer_module, "train", None)
    monkeypatch.setattr(loop, "train", None)
    result = successive(tmp_path / "s.h5", folder / "imp.h5", machine=CPU)
    stored, source = read(tmp_path / "s.h5"), read(folder / "imp.h5")
    table = stored.table()
    expected = [f"replicate_{r}/level_{k}_{k + 1}/averaged" for r in (0, 1) for k in (0, 1)]
    assert list(table.piece) == expected and set(result.computed) == set(expected)
    assert table[["a", "b", "level"]].to_numpy().tolist() == [[0, 1, 0], [1, 2, 1]] * 2 and not table.fresh.any()
    ends = [source[f"replicate_1/level_{k}/weights"] for k in (1, 2)]
    middle = on_the_line(*ends, 0.5, x, digits, 1)
    np.testing.assert_allclose(stored[f"{expected[3]}/train_loss"][1], middle["train_loss"], rtol=1e-4, atol=2e-6)


def test_no_barrier_between_a_network_and_itself(folder, digits):
    trainer = Trainer(digits, NETWORK, RECIPE, CPU)
    vector = torch.from_numpy(read(folder / "imp.h5")["replicate_0/level_0/weights"])
    split = tuple(index.numpy() for index in digits.split(0))
    family = Family("twins", split, {0: vector, 1: vector.clone()}, {}, {"p": (0, 1)}, {"replicate": 0})
    for pieces in measured(trainer, [family], (0.0, 0.3, 0.5, 1.0), interpolate.MODES, set()):
        for arrays, row in pieces.values():
            assert np.ptp(arrays["train_loss"], axis=0).max() == 0
            assert row["train_ce_max"] == pytest.approx(0, abs=1e-15) and row["share_below_half"] == 1


@pytest.fixture
def trained(monkeypatch):
    """Roles of the jobs of each training; set ``spoil`` to a role and that network is lost."""
    seen = SimpleNamespace(jobs=[], spoil=None)

    def watched(jobs, *arguments, train=trainer_module.train, **options):
        state = train(jobs, *arguments, **options)
        seen.jobs += [(job.replicate, job.role) for job in jobs]
        for j, job in enumerate(jobs):
            if (job.replicate, job.role) == seen.spoil:
                state.vectors[j], state.diverged_at[j] = torch.nan, 9
        return state

    monkeypatch.setattr(trainer_module, "train", watched)
    return seen


def test_growing_trains_and_measures_nothing_again(folder, tmp_path, trained):
    out = tmp_path / "b.h5"
    common = {"alphas": GRID, "machine": CPU}
    barrier(out, folder / "imp.h5", children=1, replicates=1, **common)
    assert trained.jobs == [(0, "child1.")]
    before = bits(out)
    dry = barrier(out, folder / "imp.h5", alphas=GRID, machine=dataclasses.replace(CPU, dry_run=True))
    assert "would compute 5 and reuse 1, after training 3 networks, 2,304 images" in dry.lines[0]
    result = barrier(out, folder / "imp.h5", **common)
    assert trained.jobs[1:] == [(0, "child2."), (1, "child1."), (1, "child2.")]
    assert len(result.computed) == 5 and result.reused == ("replicate_0/pair_0_1/averaged",)
    assert bits(out).items() >= before.items()
    result = barrier(out, folder / "imp.h5", batch_norm="both", **common)
    assert len(trained.jobs) == 4 and len(result.computed) == 6
    stored, grown = read(folder / "b.h5"), read(out)
    assert bits(out).keys() == bits(folder / "b.h5").keys()
    for key in stored.keys():
        np.testing.assert_allclose(grown[key], stored[key], rtol=1e-4, atol=2e-6)
    barrier(out, folder / "imp.h5", children=3, **common)
    assert trained.jobs[4:] == [(0, "child3."), (1, "child3.")]
    assert len(read(out).table().query("batch_norm == 'averaged'")) == 2 * 4 * 3 / 2


def test_trained_children_outlive_an_interruption(folder, tmp_path, trained, monkeypatch):
    out = tmp_path / "b.h5"
    stage = sys.modules["repro.stages.barriers.barrier"]
    with monkeypatch.context() as broken:
        broken.setattr(stage, "measured", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            barrier(out, folder / "imp.h5", replicates=1, machine=CPU)
    assert len(trained.jobs) == 2 and not out.exists()
    barrier(out, folder / "imp.h5", replicates=1, machine=CPU)
    assert len(trained.jobs) == 2 and len(read(out).table()) == 3


def test_an_interrupted_training_is_taken_up(folder, tmp_path, monkeypatch):
    """Through a step checkpoint, to the same bits."""
    common = {"children": 1, "machine": dataclasses.replace(CPU, checkpoint_seconds=1e-6)}
    resumed = []

    def stopped(*arguments, checkpoint, resume, **options):
        def save_and_stop(state):
            checkpoint(state)
            if resume is None:
                raise KeyboardInterrupt

        resumed.append(resume and resume.step)
        return loop.train(*arguments, checkpoint=save_and_stop, resume=resume, **options)

    with monkeypatch.context() as broken:
        broken.setattr(trainer_module, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            barrier(tmp_path / "a.h5", folder / "imp.h5", **common)
        barrier(tmp_path / "a.h5", folder / "imp.h5", **common)
    barrier(tmp_path / "b.h5", folder / "imp.h5", **common)
    assert resumed == [None, T + 1] and bits(tmp_path / "a.h5") == bits(tmp_path / "b.h5")


def test_a_diverged_child_leaves_the_other_pairs_alone(folder, tmp_path, trained):
    trained.spoil = (1, "child2.")
    result = barrier(tmp_path / "b.h5", folder / "imp.h5", alphas=GRID, machine=CPU)
    assert "warning: 2 of 6 pairs have a diverged network" in result.lines[-1]
    spoilt, sound = read(tmp_path / "b.h5"), read(folder / "b.h5")
    table = spoilt.table().set_index("piece")
    lost = [f"replicate_1/pair_{pair}/averaged" for pair in ("0_2", "1_2")]
    assert list(table.index[table.diverged]) == lost
    assert table.loc[lost, ["train_ce", "test_error_max", "share_below_half", "acc_a"]].isna().all().all()
    assert np.isnan(spoilt[f"{lost[0]}/train_loss"]).all() and spoilt[f"{lost[0]}/test_wrong"].shape == (4, 45)
    for piece in table.index.drop(lost):
        for name in ("train_loss", "test_wrong"):
            np.testing.assert_allclose(spoilt[f"{piece}/{name}"], sound[f"{piece}/{name}"], rtol=1e-4, atol=2e-6)


def test_a_sweep_of_rewind_points_is_one_cohort_with_its_onset(folder, tmp_path, trained):
    pretrain(
        tmp_path / "later.h5",
        dataset="digits",
        t=14,
        replicates=2,
        network=NETWORK,
        training=RECIPE,
        seed=SEED,
        machine=CPU,
    )
    trained.jobs.clear()
    out, points = tmp_path / "sweep.h5", [folder / "imp.h5", tmp_path / "later.h5"]
    result = barrier(out, points, replicates=1, machine=CPU)
    assert trained.jobs == [(0, "child1."), (0, "child2."), (0, ""), (0, "child1."), (0, "child2.")]
    table = read(out).table()
    assert set(zip(table.point, table.t)) == {("imp", T), ("later", 14)}
    np.testing.assert_allclose(
        read(out)["imp/replicate_0/pair_1_2/averaged/train_loss"],
        read(folder / "b.h5")["replicate_0/pair_1_2/averaged/train_loss"][[0, 2, 3]],
        rtol=1e-4,
        atol=2e-6,
    )
    for part in ("train", "test"):
        at = onset(table.t, table[f"{part}_error_max"])
        assert f"{part} {'none up to t=14' if at is None else f't={at}'}" in result.lines[-1]


REFUSED = r"""
{imp}
    barrier needs --out
{imp} --out {out} --level 9
    imp.h5 has no level 9: run its imp command with --levels 9 first
{w} --out {out} --level 1
    --level 1, but .*w.h5 is a pretrain artifact, which has no masks
{imp} --out {out} --replicates 3
    3 replicates, but .*imp.h5 holds 2: give --replicates 2 here, or run its imp command with --replicates 3
{b} --out {out}
    b.h5 is a barrier artifact where an imp or a pretrain artifact is needed
{imp} {imp} --out {out}
    two points are called imp.h5
{imp} {other} --out {out}
    the points differ in lr \(0.3 in .*imp.h5, 0.2 in .*other.h5\)
{end} --out {out}
    end.h5 is trained to the end \(t = 16 of 16 steps\)
{imp} --out {out} --alphas 1
    alphas \(=1\) must be
{imp} --out {imp}
    is also what is read: choose another --out
{imp} --out {b}
    alphas is \[0.0, 0.25, 0.5, 1.0\] there and \[0.0, 0.5, 1.0\] here
{imp} --out {out} --dataset digits
    --dataset \(=digits\) is for two checkpoints
{w} --out {out} --successive
    w.h5 is a pretrain artifact where an imp artifact is needed
{imp} {imp} --out {out} --successive
    --successive takes one imp artifact, and 2 files are given
{imp} --out {out} --successive --children 2
    --children \(=2\) is for children
{dense} --out {out} --successive
    dense.h5 has level 0 alone
A.pt B.pt
    A.pt is a PyTorch checkpoint: give two of them with --network
A.pt --network cifar_resnet8_w4 --dataset digits
    --network is for two checkpoints, and 1 files are given
A.pt B.pt --network cifar_resnet8_w4 --dataset digits --level 2
    --level \(=2\) is for artifacts
A.pt B.pt --network cifar_resnet8_w4 --dataset digits
    A.pt does not exist
""".strip()


@pytest.fixture(scope="module")
def files(folder):
    training = {"other": (dataclasses.replace(RECIPE, lr=0.2), 0), "end": (RECIPE, RECIPE.steps)}
    for name, (recipe, t) in training.items():
        pretrain(
            folder / f"{name}.h5",
            dataset="digits",
            t=t,
            replicates=1,
            network=NETWORK,
            training=recipe,
            seed=SEED,
            machine=CPU,
        )
    imp(folder / "dense.h5", folder / "w.h5", levels=0, replicates=1, machine=CPU)
    return {path.stem: path for path in folder.glob("*.h5")} | {"out": folder / "refused.h5"}


@pytest.mark.parametrize("words, sentence", list(zip(*[iter(REFUSED.splitlines())] * 2)))
def test_bad_input_is_one_sentence(files, words, sentence):
    found = complaint("barrier", *words.format(**files).split())
    assert re.search(sentence.strip(), found), found
    assert not files["out"].exists()


def test_api_refuses_what_the_command_line_cannot_pass(folder, tmp_path):
    with pytest.raises(UsageError, match=r"number of further children \(=0\) must be at least 1"):
        barrier(tmp_path / "b.h5", folder / "imp.h5", children=0)
    with pytest.raises(UsageError, match="unknown batch norm mode 'x': choose averaged, recalibrated or both"):
        barrier(tmp_path / "b.h5", folder / "imp.h5", batch_norm="x")
