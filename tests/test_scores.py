"""Scores besides EL2N, against brute force in float64, and subsets chosen by each of them."""

import copy
import dataclasses
from functools import partial
from itertools import pairwise

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro import store
from repro.data import Batcher, load
from repro.errors import UsageError
from repro.nets import create, initialise
from repro.protocol import Scoring
from repro.recipes.artifacts import DEFAULTS
from repro.stages import Machine, score, select
from repro.stages.score import half_ensemble_correlation
from repro.stages.trainer import Trainer
from repro.store import read
from repro.train.job import Job
from repro.train.random_streams import stream, torch_stream
from repro.train.scores import Forgetting, gradient_norms
from tests.command_line import complaint, repro
from tests.test_noise import by_the_rule
from tests.test_stages import NETWORK, RECIPE, SEED, plain, trained, x  # noqa: F401  (x is a fixture)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def norms_one_by_one(net, images, labels):
    """Gradient norm of each example, over all parameters, by one backward pass each."""
    net.eval()
    found = []
    for image, label in zip(images, labels):
        net.zero_grad()
        F.cross_entropy(net(image[None]), label[None]).backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]).norm().item())
    return np.array(found)


# --- the measures -----------------------------------------------------------------------------------------------------


def test_grand_is_the_norm_of_the_whole_gradient_of_each_example(digits):
    net = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(0, 0, "init")).double()
    batcher = Batcher(digits.images, digits.mean, digits.std, augment=False)
    images = batcher.normalise(digits.images, torch.float64).permute(0, 3, 1, 2)
    net(images[:300])  # running statistics that are not those of the initialisation
    net.eval()
    index, state = np.arange(0, 1797, 5), copy.deepcopy(net.state_dict())  # more than one chunk
    found = gradient_norms(net, batcher, index, digits.labels[index])
    wanted = norms_one_by_one(net, images[index], digits.labels[index])
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


class Recorder:
    """Keeps what the loop shows, then hands it on."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    @property
    def state(self):
        return self.inner.state

    def __call__(self, step, rows, index, logits):
        for batch, found in zip(index, logits):
            self.seen.append((list(rows), batch.numpy().copy(), found.double().numpy().copy()))
        self.inner(step, rows, index, logits)


def forgetting_by_hand(seen, job, labels, index):
    history = {int(i): [] for i in index}
    for rows, batch, logits in seen:
        if job in rows:
            for i, row in zip(batch[rows.index(job)], logits[rows.index(job)]):
                history[int(i)].append(max(range(10), key=lambda c: row[c]) == labels[i])
    most = max(len(h) for h in history.values())
    scores = []
    for i in index:
        h = history[int(i)]
        scores.append(sum(a and not b for a, b in pairwise(h)) if any(h) else most + 1)
    return np.array(scores), history


@pytest.fixture(scope="module")
def observed(digits):
    """(jobs, function that trains them, truth [J, N]): two jobs with other images, labels and lengths."""
    training = dataclasses.replace(RECIPE, precision="fp32", steps=40, milestones=())
    trainer = Trainer(digits, NETWORK, training, Machine(device="cpu"))
    pools = [digits.splits[0][0].numpy()[:150], digits.splits[1][0].numpy()[700:850]]
    truth = torch.stack([digits.labels, by_the_rule(digits.labels, 0.3, 0)])
    jobs = [Job(trainer.initial(0, j), pools[j], 0, stop, 0, j, labels=truth[j]) for j, stop in ((0, 40), (1, 30))]
    return jobs, partial(trainer.run, jobs), truth


def test_forgetting_events_are_those_of_the_presentations(observed):
    jobs, train, truth = observed
    recorder = Recorder(Forgetting(truth, 2))
    train(observe=recorder)
    for j, job in enumerate(jobs):
        wanted, history = forgetting_by_hand(recorder.seen, j, truth[j].numpy(), job.subset)
        assert np.array_equal(recorder.inner.score(j, job.subset), wanted)
        never = np.array([not any(history[int(i)]) for i in job.subset])
        assert wanted[~never].max() >= 1 and (not never.any() or wanted[never].min() > wanted[~never].max())
    assert any(not any(history[i]) for i in history)  # some of the wrong labels are never learned


def test_forgetting_survives_an_interruption(observed):
    jobs, train, truth = observed
    whole = Forgetting(truth, 2)
    train(observe=whole)
    kept = []

    def interrupt(state):
        if state.step >= 20:
            kept.append(copy.deepcopy(state))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(observe=Forgetting(truth, 2), checkpoint=interrupt, checkpoint_seconds=1e-9)
    assert 20 <= kept[0].step < 40
    resumed = Forgetting(truth, 2)
    train(observe=resumed, resume=kept[0])
    for j, job in enumerate(jobs):
        assert np.array_equal(resumed.score(j, job.subset), whole.score(j, job.subset))


def test_an_image_that_was_never_presented_counts_as_never_learned():
    forgetting = Forgetting(torch.zeros(5, dtype=torch.int64), 1)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    for step, logits in enumerate(([right, wrong, wrong], [wrong, wrong, right], [right, wrong, wrong])):
        forgetting(step, [0], torch.tensor([[[0, 1, 2]]]), torch.tensor([[logits]]))
    forgetting(3, [0], torch.tensor([[[0, 3]]]), torch.tensor([[[wrong, right]]]))
    assert forgetting.score(0, np.arange(5)).tolist() == [2, 5, 1, 0, 5]  # image 0 was presented four times


# --- the score artifact -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Scores of two replicates with labels of their own, and GraNd."""
    path = tmp_path_factory.mktemp("scored") / "s.h5"
    scoring = Scoring(NETWORK, RECIPE, networks=2, batch_norm="batch")
    score(
        path,
        dataset="digits",
        scoring=scoring,
        replicates=2,
        seed=SEED,
        label_noise=0.5,
        noise_draw="replicate",
        grand=True,
    )
    return path


def test_scores_are_those_of_networks_trained_on_each_replicates_labels(scored, digits, x):  # noqa: F811
    stored = read(scored)
    for r in (0, 1):
        index = digits.splits[r][0].numpy()
        wrong = by_the_rule(digits.labels, 0.5, r)
        assert np.array_equal(stored[f"replicate_{r}/index"], index)
        found = {"el2n": [], "margin": [], "grand": []}
        for k in (0, 1):
            net = trained(plain(k, f"score{r}."), x, wrong, index, stop=30, replicate=k, role=f"score{r}.")
            before = copy.deepcopy(net.state_dict())
            with torch.no_grad():
                logits = torch.cat([net(x[rows]) for rows in np.split(index, [1000])]).numpy()
            own = logits[np.arange(len(index)), wrong[index]]
            others = [max(row[c] for c in range(10) if c != y) for row, y in zip(logits, wrong[index].tolist())]
            found["margin"].append(own - np.array(others))
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            found["el2n"].append(np.linalg.norm(p - np.eye(10)[wrong[index]], axis=1))
            net.load_state_dict(before)  # the running statistics of the training
            found["grand"].append(norms_one_by_one(net, x[index[:40]], wrong[index[:40]]))
        for name, each in found.items():
            for k in (0, 1):
                kept = stored[f"replicate_{r}/network_{k}/{name}"][: len(each[k])]
                np.testing.assert_allclose(kept, each[k], rtol=1e-4, atol=2e-5)  # kept as float32
            np.testing.assert_allclose(
                stored[f"replicate_{r}/{name}"][: len(each[0])], np.mean(each, 0), rtol=1e-4, atol=2e-5
            )
        parts = [stored[f"replicate_{r}/network_{k}/forgetting"] for k in (0, 1)]
        assert np.array_equal(stored[f"replicate_{r}/forgetting"], np.mean(parts, 0)) and parts[0].max() > 0
        halves = np.stack([stored[f"replicate_{r}/network_{k}/el2n"] for k in (0, 1)])
        rho = half_ensemble_correlation(halves, stream(0, 0, "any"))  # two networks have one halving
        assert stored[f"replicate_{r}/half_correlation"] == pytest.approx(rho)


# --- select from each source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["el2n", "margin", "forgetting", "grand"])
@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_easy_is_the_end_of_each_score_that_is_easily_learned(name, kind, scored, tmp_path):
    select(tmp_path / "e.h5", kind=kind, size=50, scores=scored, score=name, balanced=False, replicates=2)
    stored, chosen = read(scored), read(tmp_path / "e.h5")
    assert chosen.recipe["score"] == name
    for r in (0, 1):
        values = {int(i): float(v) for i, v in zip(stored[f"replicate_{r}/index"], stored[f"replicate_{r}/{name}"])}
        up = (kind == "easy") != (name == "margin")
        wanted = sorted(values, key=lambda i: (values[i] if up else -values[i], i))[:50]
        assert chosen[f"replicate_{r}/index"].tolist() == wanted


def barrier_artifact(path, digits, *, recipe=None, mode="", point=""):
    """Losses of two rewind points on fold 0 (replicates 0 and 5), one on fold 1, on a grid of five alphas."""
    rng, arrays = np.random.default_rng(0), {"alphas": np.linspace(0, 1, 5)}
    for r, pairs in ((0, ("0_1", "0_2")), (5, ("0_1", "1_2")), (1, ("0_1",))):
        for pair in pairs:
            shape = (5, len(digits.split(r)[0]))
            arrays[f"{point}replicate_{r}/pair_{pair}{mode}/train_loss"] = rng.random(shape).astype(np.float32)
    arrays["replicate_0/pair_0_2/recalibrated/train_loss"] = np.zeros((5, 1437), np.float32)
    arrays["replicate_5/pair_0_2/train_loss"] = np.full((5, 1437), np.nan, np.float32)  # diverged
    fields = {"dataset": "digits", "data_sha256": digits.checksum, "normalization": "dataset", **(recipe or {})}
    store.write(
        path,
        kind="barrier",
        recipe=fields,
        inputs={},
        arrays=arrays,
        table={"replicate": np.array([0, 5, 1])},
        provenance={"runs": []},
        defaults=DEFAULTS,
    )
    return arrays


@pytest.mark.parametrize("mode", ["", "/averaged"])
def test_the_lmc_score_is_the_mean_barrier_over_rewind_points_and_pairs(mode, digits, tmp_path):
    arrays = barrier_artifact(tmp_path / "b.h5", digits, mode=mode)
    repro(
        "select",
        "--kind",
        "easy",
        "--size",
        60,
        "--unbalanced",
        "--scores",
        tmp_path / "b.h5",
        "--replicates",
        2,
        "--out",
        tmp_path / "e.h5",
    )
    chosen = read(tmp_path / "e.h5")
    assert chosen.recipe["score"] == "lmc" and set(chosen.inputs) == {"scores"}
    for fold, pieces in enumerate(([(0, "0_1"), (0, "0_2"), (5, "0_1"), (5, "1_2")], [(1, "0_1")])):
        lmc = 0
        for r, pair in pieces:
            loss = arrays[f"replicate_{r}/pair_{pair}{mode}/train_loss"].astype(float)
            lmc += (loss[2] - loss[0] / 2 - loss[4] / 2) / len(pieces)
        order = np.argsort(lmc, kind="stable")[:60]
        assert np.array_equal(chosen[f"replicate_{fold}/index"], digits.split(fold)[0].numpy()[order])
    said = complaint(
        "select",
        "--kind",
        "easy",
        "--size",
        60,
        "--scores",
        tmp_path / "b.h5",
        "--replicates",
        3,
        "--out",
        tmp_path / "f.h5",
    )
    assert "b.h5 has no barriers with averaged batch norm for fold 2: run its barrier command" in said


def test_barriers_of_more_parents_are_another_score(digits, tmp_path):
    barrier_artifact(tmp_path / "b.h5", digits)
    command = ("select", "--kind", "easy", "--size", 60, "--scores", tmp_path / "b.h5", "--out", tmp_path / "e.h5")
    repro(*command, "--replicates", 1)
    grown = read(tmp_path / "b.h5")
    arrays = {key: grown[key] for key in grown.keys()}
    arrays |= {key.replace("replicate_1/", "replicate_6/"): arrays[key] for key in arrays if "replicate_1/" in key}
    store.write(
        tmp_path / "b.h5",
        kind="barrier",
        recipe=grown.recipe,
        inputs={},
        arrays=arrays,
        table=grown.table(),
        provenance={},
        defaults={},
    )
    assert read(tmp_path / "b.h5").identity == grown.identity
    assert "another recipe: lines is [5, 1, 0, 0, 0] there and [5, 2, 0, 0, 0] here" in complaint(
        *command, "--replicates", 2
    )


def test_barriers_of_several_rewind_points_are_no_one_score(digits, tmp_path):
    barrier_artifact(tmp_path / "b.h5", digits, mode="/averaged", point="all-t20/")
    with pytest.raises(
        UsageError, match="b.h5 has barriers of several rewind points: run barrier with the one to rank"
    ):
        select(tmp_path / "e.h5", kind="easy", size=60, scores=tmp_path / "b.h5", replicates=1)


def test_barriers_are_by_clean_labels_so_a_subset_of_theirs_is_clean_unless_asked(digits, tmp_path):
    barrier_artifact(tmp_path / "b.h5", digits, recipe={"label_noise": 0.5, "noise_draw": "shared", "noise_seed": 0})
    for noise in (0.0, 0.5):
        out = tmp_path / f"{noise}.h5"
        select(out, kind="easy", size=60, scores=tmp_path / "b.h5", replicates=1, label_noise=noise)
        assert (read(out).table().wrong_labels[0] > 0.2) == bool(noise)


@pytest.mark.parametrize("suffix", ["csv", "npy", "h5"])
def test_subsets_by_scores_of_ones_own(suffix, digits, tmp_path):
    values, path = np.random.default_rng(3).normal(size=1797), tmp_path / f"own.{suffix}"
    if suffix == "csv":
        path.write_text("index,score\n" + "".join(f"{i},{float(values[i])!r}\n" for i in reversed(range(1797))))
    elif suffix == "npy":
        np.save(path, values)
    else:
        with h5py.File(path, "w") as file:
            file["score"], file["loss"] = values, np.zeros(3)
    common = ("--kind", "hard", "--size", 40, "--unbalanced", "--scores", path, "--replicates", 2)
    repro("select", *common, "--dataset", "digits", "--label-noise", 0.2, "--out", tmp_path / "e.h5")
    for r in (0, 1):
        pool = digits.split(r)[0].numpy()
        wanted = sorted(pool.tolist(), key=lambda i: -values[i])[:40]
        assert read(tmp_path / "e.h5")[f"replicate_{r}/index"].tolist() == wanted
    assert read(tmp_path / "e.h5").recipe["label_noise"] == 0.2
    said = complaint("select", *common, "--out", tmp_path / "f.h5")
    assert said == f"{path} does not say which data set it scores: give --dataset"


def test_other_scores_of_ones_own_are_another_recipe(tmp_path):
    command = (
        "select",
        "--kind",
        "easy",
        "--size",
        40,
        "--dataset",
        "digits",
        "--replicates",
        1,
        "--out",
        tmp_path / "e.h5",
        "--scores",
    )
    np.save(tmp_path / "a.npy", np.arange(1797))
    np.save(tmp_path / "b.npy", -np.arange(1797))
    (tmp_path / "a.csv").write_text("\n".join(map(str, range(1797))), encoding="utf-8")
    repro(*command, tmp_path / "a.npy")
    assert "computed 0, reused 1" in repro(*command, tmp_path / "a.csv").stdout
    assert "another recipe: scores_sha256 is" in complaint(*command, tmp_path / "b.npy")


def test_a_copied_array_with_gaps_and_scores_that_are_not_there(scored, digits, tmp_path):
    (tmp_path / "few.csv").write_text("".join(f"{i},0\n" for i in range(100)), encoding="utf-8")
    own = dict(kind="easy", size=9, dataset="digits", replicates=1)
    with pytest.raises(UsageError, match=r"few.csv has no score for 1697 training images, the first of them 100"):
        select(tmp_path / "e.h5", scores=tmp_path / "few.csv", **own)
    with pytest.raises(UsageError, match="--score grand is one of a score artifact: give that as --scores"):
        select(tmp_path / "e.h5", scores=tmp_path / "few.csv", score="grand", **own)
    plain_scores = Scoring(NETWORK, dataclasses.replace(RECIPE, steps=2, milestones=()), networks=1)
    score(tmp_path / "s.h5", dataset="digits", scoring=plain_scores, replicates=1)
    with pytest.raises(UsageError, match=r"s.h5 has no score 'grand': choose el2n or margin or forgetting, or make it"):
        select(tmp_path / "e.h5", kind="easy", size=9, scores=tmp_path / "s.h5", score="grand", replicates=1)
    with pytest.raises(UsageError, match=r"has scores for 2 replicates: give --replicates 2 here, or run score with"):
        select(tmp_path / "e.h5", kind="easy", size=9, scores=scored, replicates=3)
    with pytest.raises(UsageError, match=r"e.h5 is a subset artifact where a score artifact is needed"):
        select(tmp_path / "e.h5", kind="random", size=9, dataset="digits", replicates=1)
        select(tmp_path / "f.h5", kind="easy", size=9, scores=tmp_path / "e.h5", replicates=1)
    assert not (tmp_path / "f.h5").exists()
