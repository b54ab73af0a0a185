"""Warm-up on a subset, then all data: against plain PyTorch with one optimizer over both phases, alone and in cohorts,
with networks that diverge, grown and taken up again."""

import dataclasses
import itertools
import re
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import repro.cli.stages
from repro.data import Batcher, load
from repro.errors import UsageError
from repro.nets import create, initialise, layout_of
from repro.recipes.training import Training
from repro.stages import Machine, select
from repro.stages.trainer import Trainer
from repro.stages.warmup import warmup
from repro.store import read, table
from repro.train.job import Job
from repro.train.random_streams import stream, torch_stream
from tests import plain_imp
from tests.command_line import CPU, TINY, complaint, contents, repro
from tests.test_engine import ENGINES

TRAINER = import_module("repro.stages.trainer")
NETWORK, SEED, BATCH = "cifar_resnet8_w4", 11, 32
RECIPE = Training(steps=12, batch_size=BATCH, lr=0.3, milestones=(5, 9), augment=False, precision="fp64")
PLACE = Machine(device="cpu", engine="serial")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A subset artifact of 3 batches and a bit, for two replicates."""
    path = tmp_path_factory.mktemp("subset") / "few.h5"
    select(path, kind="random", dataset="digits", size=100, replicates=2, seed=SEED)
    return path


@pytest.fixture
def trainings(monkeypatch):
    """(jobs, final state) of every training of the stage."""
    seen = []

    def watched(jobs, *arguments, train=TRAINER.train, **options):
        state = train(jobs, *arguments, **options)
        seen.append((jobs, state))
        return state

    monkeypatch.setattr(TRAINER, "train", watched)
    return seen


def swept(out, subsets, *, training=RECIPE, steps=(3, 7), replicates=2, machine=PLACE):
    return warmup(
        out,
        dataset="digits",
        subsets=subsets,
        steps=steps,
        replicates=replicates,
        network=NETWORK,
        training=training,
        seed=SEED,
        machine=machine,
    )


def plain_run(x, labels, subset, everything, *, w, replicate, carried=True):
    """One float64 network through both phases with the same torch.optim.SGD, at rates written out; or, not carried
    over, with a new optimizer for the second phase."""
    ours = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(SEED, replicate, "init"))
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    values = layout_of(ours).state_dict(layout_of(ours).flatten(ours)).values()
    net.load_state_dict(dict(zip([e.name for e in layout_of(net).entries], values)), strict=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
    for step in range(12):
        if step == w and not carried:
            optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
        images = subset if step < w else everything
        number, batch = divmod(step, len(images) // BATCH)  # partial batches are dropped, the clock counts from step 0
        order = stream(SEED, replicate, "order", number).permutation(len(images))
        rows = torch.as_tensor(images[order[batch * BATCH : (batch + 1) * BATCH]])
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), labels[rows]).backward()
        rate = 0.3 if step < 5 else 0.03 if step < 9 else 0.003
        optimizer.param_groups[0]["lr"] = rate * step / w if step < w else rate
        optimizer.step()
    return net


def numbers(net):
    return torch.cat([net.state_dict()[entry.name].flatten() for entry in layout_of(net).entries])


@pytest.mark.heavy
def test_the_sweep_equals_one_optimizer_over_both_phases(tmp_path, digits, few, trainings):
    """w = 7 also passes a milestone while the rate rises."""
    swept(tmp_path / "w.h5", [few])
    ((_, state),) = trainings  # one cohort of 8
    artifact, subset = read(tmp_path / "w.h5"), read(few)
    rows = artifact.table().set_index("piece")
    assert len(rows) == 8 and rows.train_loss.nunique() == 8
    x = Batcher(digits.images, digits.mean, digits.std, augment=False).normalise(digits.images, torch.float64)
    x = x.permute(0, 3, 1, 2).contiguous()
    for j, (name, w, r) in enumerate(itertools.product(("all", "few"), (3, 7), (0, 1))):
        train_index, test_index = (index.numpy() for index in digits.splits[r])
        index = subset[f"replicate_{r}/index"] if name == "few" else train_index
        net = plain_run(x, digits.labels, index, train_index, w=w, replicate=r)
        np.testing.assert_allclose(state.vectors[j], numbers(net), rtol=1e-8, atol=1e-10)
        if r == 0:  # the momentum is carried over, and matters
            reset = plain_run(x, digits.labels, index, train_index, w=w, replicate=r, carried=False)
            assert (numbers(reset) - state.vectors[j]).abs().max() > 1e-3
        net.eval()
        with torch.no_grad():
            test, train = net(x[test_index]), net(x[train_index])
        row, right = rows.loc[f"{name}/w{w}/replicate_{r}"], (test.argmax(1) == digits.labels[test_index])
        assert (row.subset, row.w, row.replicate, row.acc) == (name, w, r, right.double().mean().item())
        assert (row.kind, row["size"]) == (("random", 100) if name == "few" else ("all", 0))
        assert not row.diverged and row.diverged_at == -1
        assert row.loss == pytest.approx(F.cross_entropy(test, digits.labels[test_index]).item(), rel=1e-5)
        assert row.train_loss == pytest.approx(F.cross_entropy(train, digits.labels[train_index]).item(), rel=1e-5)
        bits = np.unpackbits(artifact[f"{name}/w{w}/replicate_{r}/test_correct"], count=len(right))
        assert np.array_equal(bits, right.numpy())


@pytest.mark.parametrize("engine, augment, drop_last", [("graph", True, True), (ENGINES[-1], False, False)])
def test_a_sweep_equals_each_network_trained_alone(tmp_path, digits, few, trainings, engine, augment, drop_last):
    """Networks that keep the last partial batch change to batches of other sizes at step w: those sit together."""
    recipe = dataclasses.replace(RECIPE, steps=8, augment=augment, drop_last=drop_last)
    swept(tmp_path / "w.h5", [few], training=recipe, machine=dataclasses.replace(PLACE, engine=engine))
    alone = Trainer(digits, NETWORK, recipe, Machine(device="cpu", engine="serial"))
    cohorts, trainings[:] = list(trainings), []
    assert sum(len(jobs) for jobs, _ in cohorts) == 8 and (len(cohorts) == 1) == drop_last
    for jobs, state in cohorts:
        for job, vector in zip(jobs, state.vectors):
            single = alone.run([job])
            torch.testing.assert_close(vector, single.vectors[0], rtol=1e-9, atol=1e-11)


def broken(kind):
    """`Trainer.initial`, but replicate 1 has a logit that is infinite (a loss of NaN, and gradients likewise), or
    logits of opposite signs, each in the range of float32 (an infinite loss with finite gradients)."""

    def initial(self, seed, replicate, *arguments, original=Trainer.initial):
        vector = original(self, seed, replicate, *arguments)
        if replicate == 1:
            (bias,) = [entry for entry in self.layout.parameters if entry.name.endswith("fc.bias")]
            extreme = torch.inf if kind == "nan" else 3e38 * (-1.0) ** torch.arange(bias.size)
            vector[bias.offset : bias.offset + bias.size] = extreme
        return vector

    return initial


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_is_a_result_and_leaves_the_neighbours_bit_for_bit(tmp_path, few, trainings, monkeypatch, engine):
    recipe, place = dataclasses.replace(RECIPE, precision="fp32"), dataclasses.replace(PLACE, engine=engine)
    swept(tmp_path / "good.h5", [few], steps=(3,), training=recipe, machine=place)
    ((jobs, good),) = trainings
    lost = np.array([job.replicate == 1 for job in jobs])
    assert list(good.diverged_at) == [-1] * 4 and good.vectors.isfinite().all()
    clean = table(tmp_path / "good.h5")
    for kind in ("nan", "inf"):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "initial", broken(kind))
            result = swept(tmp_path / f"{kind}.h5", [few], steps=(3,), training=recipe, machine=place)
        _, bad = trainings.pop()
        assert list(bad.diverged_at) == [0 if job.replicate == 1 else -1 for job in jobs]
        assert torch.equal(good.vectors[~lost], bad.vectors[~lost])
        assert bool(bad.vectors[lost].isfinite().all()) == (kind == "inf")  # each diverges in its way
        found = table(tmp_path / f"{kind}.h5")
        gone = found.replicate == 1
        assert list(found.diverged) == list(gone)
        assert set(found.acc[gone]) == {0.1} and set(found.diverged_at[gone]) == {0}
        columns = ["piece", "acc", "loss", "train_loss", "diverged", "diverged_at"]
        assert found.loc[~gone, columns].equals(clean.loc[~gone, columns])
        assert "warning: 2 of 4 networks diverged and count as chance (0.1)" in result.lines[-1]
        again = swept(tmp_path / f"{kind}.h5", [few], steps=(3,), training=recipe, machine=place)
        assert len(again.reused) == 4 and len(trainings) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rate_that_explodes_leaves_the_neighbours_bit_for_bit(digits, few, engine):
    """The same in the loop: the cohort's vector of learning rates has one, from step 1 of the warm-up on, far too
    high."""
    recipe = dataclasses.replace(RECIPE, precision="fp32")
    trainer = Trainer(digits, NETWORK, recipe, Machine(device="cpu", engine=engine))
    subset, everything = read(few)["replicate_0/index"], digits.splits[0][0].numpy()

    def run(scales):
        jobs = [
            Job(trainer.initial(SEED, r), subset, 0, 12, SEED, r, lr_scale=scale, warmup=4 + r, then=everything)
            for r, scale in enumerate(scales)
        ]
        return trainer.run(jobs)

    good, bad = run([1, 1, 0.5]), run([1, 1e30, 0.5])
    assert list(good.diverged_at) == [-1, -1, -1] and list(bad.diverged_at) == [-1, 2, -1]
    assert torch.equal(good.vectors[[0, 2]], bad.vectors[[0, 2]]) and not bad.vectors[1].isfinite().all()


def test_when_all_diverge_that_is_the_result(tmp_path, few):
    command = ("warmup", "--dataset", "digits", *TINY, *CPU, "--warmup-steps", "3,5", "--out", tmp_path / "w.h5")
    said = repro(*command, "--lr", 1e30).stdout
    assert said.count("0.1000 ± 0.0000 (n=2, 2 diverged)") == 2
    assert "warning: 4 of 4 networks diverged and count as chance (0.1): where that is not" in said
    assert "lower --lr (=1e+30)" in said and table(tmp_path / "w.h5").diverged.all()


def test_a_sweep_grows(tmp_path, few):
    """By another w and another replicate, and is the sweep made at once; another subset makes another artifact."""
    recipe = dataclasses.replace(RECIPE, steps=8, precision="fp32")
    place, out, whole = PLACE, tmp_path / "w.h5", tmp_path / "whole.h5"
    swept(out, [few], training=recipe, steps=(3,), replicates=1, machine=place)
    before = {key: value for key, value in contents(out).items() if key.endswith("/test_correct")}
    assert set(before) == {"all/w3/replicate_0/test_correct", "few/w3/replicate_0/test_correct"}
    grown = swept(out, [few], training=recipe, steps=(7, 3), machine=place)
    assert (len(grown.computed), len(grown.reused)) == (6, 2)
    swept(whole, [few], training=recipe, machine=place)
    assert before.items() <= contents(out).items() and contents(out) == contents(whole)
    with pytest.raises(UsageError, match="made with another recipe: few is few there and not set here"):
        swept(out, [], training=recipe, machine=place)


@pytest.mark.parametrize("after", [0, 3])  # the first checkpoint is in the warm-up; a later one is behind it
def test_a_run_taken_up_from_its_checkpoint_ends_with_the_same_bits(tmp_path, few, monkeypatch, after):
    recipe = dataclasses.replace(RECIPE, steps=30, precision="fp32")
    options = dict(steps=(3,), training=recipe, machine=dataclasses.replace(PLACE, checkpoint_seconds=1e-6))
    swept(tmp_path / "whole.h5", [few], **options)
    taken_up, train = [], TRAINER.train

    def interrupted(*arguments, checkpoint, **options):
        def save(state):
            checkpoint(state)
            if state.step > after:
                taken_up.append(state.step)
                raise KeyboardInterrupt

        return train(*arguments, checkpoint=save, **options)

    def watched(*arguments, resume, **options):
        taken_up.append(resume.step)
        return train(*arguments, resume=resume, **options)

    # a clock that ticks with every look at it, after every step, so that checkpoints come at the same steps everywhere
    monkeypatch.setattr("repro.train.loop.MOST_STEPS", 1)
    monkeypatch.setattr(import_module("repro.train.job"), "time", SimpleNamespace(monotonic=itertools.count().__next__))
    monkeypatch.setattr(TRAINER, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "w.h5", [few], **options)
    monkeypatch.setattr(TRAINER, "train", watched)
    swept(tmp_path / "w.h5", [few], **options)
    assert taken_up[0] == taken_up[1] and (taken_up[0] < 3 if after == 0 else 3 < taken_up[0] < 30)
    assert contents(tmp_path / "w.h5") == contents(tmp_path / "whole.h5")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A score artifact, and the 80 easiest images by it for two replicates."""
    folder = tmp_path_factory.mktemp("given")
    paths = {name: folder / f"{name}.h5" for name in ("scores", "easy")}
    repro("score", "--dataset", "digits", *TINY, "--networks", 1, "--out", paths["scores"])
    easy = ("select", "--kind", "easy", "--size", 80, "--replicates", 2)
    repro(*easy, "--scores", paths["scores"], "--out", paths["easy"])
    return paths


def test_the_command_on_digits(given, tmp_path):
    command = ("warmup", "--dataset", "digits", "--subset", given["easy"], *TINY, *CPU, "--warmup-steps", "3,6")
    dry = repro(*command, "--out", tmp_path / "w.h5", "--dry-run").stdout
    assert "dry run: would compute 8 and reuse 0, 8 × 12 steps = 6,144 images" in dry
    said = repro(*command, "--out", tmp_path / "w.h5").stdout
    assert f"{tmp_path / 'w.h5'}: computed 8, reused 0" in said
    found = re.findall(r"^(\w+) +(all|easy) +(\d*) +(3|6)  (0\.\d{4}) ± (0\.\d{4}) \(n=2\)$", said, re.MULTILINE)
    assert [row[:4] for row in found] == [
        ("all", "all", "", "3"),
        ("all", "all", "", "6"),
        ("easy", "easy", "80", "3"),
        ("easy", "easy", "80", "6"),
    ]
    rows = table(tmp_path / "w.h5")
    for (_, _, _, w, mean, std), (_, each) in zip(found, rows.groupby(["subset", "w"])):
        a, b = each.acc
        assert float(mean) == pytest.approx((a + b) / 2, abs=5.1e-5) and set(each.w) == {int(w)}
        assert float(std) == pytest.approx(abs(a - b) / 2, abs=5.1e-5)  # of two: ddof 0
    assert f"{tmp_path / 'w.h5'}: computed 0, reused 8" in repro(*command, "--out", tmp_path / "w.h5").stdout
    from_subset = ("warmup", "--subset", given["easy"], *TINY, *CPU, "--warmup-steps", "3", "--out", tmp_path / "w.h5")
    assert "computed 0, reused 8" in repro(*from_subset).stdout  # the data set is that of the subset


REFUSED = [  # options, sentence
    ("", "warmup needs --dataset, or a --subset to take it from: try --dataset digits"),
    ("--dataset digits TINY --warmup-steps 3,12", r"12 steps of warm-up must be above 0 and below the 12 steps"),
    ("--dataset digits TINY --warmup-steps 0,3", r"0 steps of warm-up must be above 0 and below the 12 steps"),
    ("--dataset digits TINY --warmup-steps 3,x", r"warm-up steps \(='3,x'\) must be numbers of steps with commas, lik"),
    ("--subset {easy} --subset {easy} TINY --warmup-steps 3", "easy.h5 would both be called 'easy': give each once"),
    ("--subset {all} TINY --warmup-steps 3", "all.h5: the name 'all' is taken in the artifact, rename the file"),
    ("--dataset digits --subset {other} TINY --warmup-steps 3", r"is a subset of digits \(sha256 0000.*same images"),
    (
        "--subset {easy} TINY --warmup-steps 3 --replicates 3",
        "3 replicates, but .*easy.h5 holds 2: give --rep.* 2 here",
    ),
    ("--subset {noisy} TINY --warmup-steps 3", "noisy.h5 was chosen with other labels .*without label noise"),
    (
        "--subset {easy} TINY --warmup-steps 3 --normalization imagenet",
        "normalization 'imagenet', but .*easy.h5 has 'data",
    ),
    ("--subset {easy} --subset {imagenet} TINY --warmup-steps 3", "normalization 'dataset', but .*imagenet.h5 has 'im"),
    ("--subset {easy} TINY --warmup-steps 3 --batch-size 81", "a subset of 80 images has no full batch of 81"),
    ("--subset {scores} TINY --warmup-steps 3", "scores.h5 is a score artifact where a subset artifact is needed"),
]


@pytest.mark.parametrize("words, said", REFUSED, ids=[words or "nothing" for words, _ in REFUSED])
def test_refused(words, said, given, tmp_path):
    good = read(given["easy"])
    faults = {
        "all": {},
        "noisy": {"label_noise": 0.1},
        "other": {"data_sha256": "0" * 64},
        "imagenet": {"normalization": "imagenet"},
    }
    paths = dict(given)
    for name, fault in faults.items():
        if f"{{{name}}}" in words:
            paths[name] = rewritten(good, tmp_path / f"{name}.h5", fault)
    command = words.replace("TINY", " ".join(map(str, TINY))).format(**paths).split()
    assert re.search(said, complaint("warmup", "--out", tmp_path / "out.h5", *command))
    assert not list(tmp_path.glob("out.*"))


def rewritten(good, path, fault):
    """The same subset artifact with another recipe."""
    from repro import store

    arrays = {key: good[key] for key in good.keys()}
    store.write(
        path,
        kind=good.kind,
        recipe={**good.recipe, **fault},
        inputs=good.inputs,
        arrays=arrays,
        table=good.table(),
        provenance=good.provenance,
        defaults=good.lineage.defaults,
    )
    return path


def test_a_data_set_without_a_warm_up_needs_the_options(tmp_path):
    command = ("warmup", "--dataset", "cinic10", "--out", tmp_path / "w.h5")
    options = "give --steps, --batch-size, --lr, --milestones, --warmup-steps"
    assert complaint(*command) == f"the protocol of cinic10 has no warm-up: {options}"
    assert complaint(*command, "--steps", 9, "--lr", 1, "--milestones", "", "--batch-size", 9).endswith(
        "no warm-up: give --warmup-steps"
    )
    for missing in (dict(training=RECIPE), dict(steps=(3,))):
        with pytest.raises(
            UsageError, match="the protocol of cinic10 has no warm-up: give the steps, batch size, lear"
        ):
            warmup(tmp_path / "w.h5", dataset="cinic10", **missing)
    with pytest.raises(UsageError, match="no steps of warm-up to sweep over: give at least one"):
        warmup(tmp_path / "w.h5", dataset="cinic10", training=RECIPE, steps=())
    with pytest.raises(UsageError, match="a warm-up needs --dataset, or a subset artifact to take it from"):
        warmup(tmp_path / "w.h5", training=RECIPE, steps=(3,))
