"""What has diverged: one rule, over losses, numbers of the state and logits, in every stage that trains."""

from importlib import import_module

import numpy as np
import pytest
import torch

from repro import store
from repro.errors import RunError
from repro.protocol import Scoring
from repro.recipes.training import Training
from repro.stages import Machine, gradients, imp, pretrain, score, warmup
from repro.stages.barriers.barrier import barrier
from repro.stages.score import half_ensemble_correlation
from repro.stages.trained import Trained
from repro.stages.trainer import Trainer
from repro.train.job import NEVER, Job, Progress
from repro.train.random_streams import stream

SCORE = import_module("repro.stages.score")
NETWORK, T = "cifar_resnet8_w4", 1
RECIPE = Training(steps=3, batch_size=64, lr=0.1, augment=False)
CPU = Machine(device="cpu", engine="serial")
COMMON = {"dataset": "digits", "network": NETWORK, "training": RECIPE, "replicates": 2, "machine": CPU}


@pytest.fixture
def overflowing(monkeypatch):
    """Replicate 1 trains by the statistics of its batches as if nothing were wrong, with finite losses and numbers. But
    its running statistics are such that its logits overflow when it is measured."""

    def initial(self, seed, replicate, *arguments, original=Trainer.initial):
        vector = original(self, seed, replicate, *arguments)
        if replicate == 1:
            for mean in (entry for entry in self.layout.buffers if entry.name.endswith("running_mean")):
                vector[mean.offset : mean.offset + mean.size] = -3e38
        return vector

    monkeypatch.setattr(Trainer, "initial", initial)


@pytest.fixture
def point(overflowing, tmp_path):
    pretrain(tmp_path / "w.h5", t=T, **COMMON)
    return tmp_path / "w.h5"


def test_the_rule():
    """The first loss; else the end of the training, where the state or, measured, a logit is not finite."""
    vectors = torch.ones(5, 3)
    vectors[1, 2], vectors[2, 0], vectors[3, 1] = torch.inf, torch.nan, -torch.inf
    jobs = [Job(vector, np.arange(2), 0, stop, 0, 0) for vector, stop in zip(vectors, (9, 9, 7, 9, 9))]
    at = np.array([NEVER, NEVER, NEVER, 4, NEVER])
    trained = Trained(jobs, Progress(9, vectors, vectors, at), ["serial"] * 5)
    assert trained.diverged_at.tolist() == [NEVER, 9, 7, 4, NEVER] and at.tolist() == [NEVER, NEVER, NEVER, 4, NEVER]
    trained.lose(np.array([False, True, False, True, True]))
    assert trained.diverged_at.tolist() == [NEVER, 9, 7, 4, 9]
    assert trained.diverged.tolist() == [False, True, True, True, True]


def test_pretrain(point):
    table = store.table(point)
    assert table.diverged_at.tolist() == [NEVER, T] and table.acc[1] == 0.1
    assert np.isfinite(store.read(point)["replicate_1/weights"]).all()


def test_imp(point, tmp_path):
    result = imp(tmp_path / "imp.h5", point, levels=1, machine=CPU)
    table = store.table(tmp_path / "imp.h5")
    assert table.diverged.tolist() == [False, False, True, True] and table.acc[2:].tolist() == [0.1, 0.1]
    assert table.diverged_at.tolist() == [NEVER, NEVER, RECIPE.steps, NEVER]  # the last one could not be trained
    assert "warning: replicates [1] diverged" in result.lines[-1]


def test_children(point, tmp_path):
    barrier(tmp_path / "b.h5", point, children=1, machine=CPU)
    assert store.table(tmp_path / "b.h5").diverged.tolist() == [False, True]


def test_gradients(overflowing, tmp_path):
    gradients(tmp_path / "g.h5", t=T, every=T, batches=2, **COMMON)
    table = store.table(tmp_path / "g.h5")
    assert table.diverged.tolist() == [False, False, True, True] and set(table.acc[2:]) == {0.1}


def test_warmup(overflowing, tmp_path):
    warmup(tmp_path / "w.h5", steps=(1,), **COMMON)
    table = store.table(tmp_path / "w.h5")
    assert table.diverged.tolist() == [False, True] and table.diverged_at.tolist() == [NEVER, RECIPE.steps]


def test_score(overflowing, tmp_path):
    scoring = Scoring(NETWORK, RECIPE, networks=2, batch_norm="running")
    with pytest.raises(RunError, match=r"network fold_0/network_1 diverged .* step 3\): .* lower --lr \(=0.1\)"):
        score(tmp_path / "s.h5", dataset="digits", scoring=scoring, replicates=1, machine=CPU)
    assert list(tmp_path.iterdir()) == []  # nothing stands in the way of scores at a lower rate


# --- scores that are none -----------------------------------------------------------------------------------------


def test_scores_that_are_not_finite_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(SCORE, "gradient_norms", lambda *_, **__: torch.full((1437,), torch.inf))
    scoring = Scoring(NETWORK, RECIPE, networks=1, batch_norm="running")
    with pytest.raises(RunError, match=r"network fold_0/network_0 gives grand scores that are not finite: lower --lr"):
        score(tmp_path / "s.h5", dataset="digits", scoring=scoring, replicates=1, grand=True, machine=CPU)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_all_alike_have_no_correlation():
    assert np.isnan(half_ensemble_correlation(np.ones((4, 9)), stream(0, 0, "halves")))
    found = half_ensemble_correlation(np.tile(np.arange(9.0), (4, 1)), stream(0, 0, "halves"))
    assert found == pytest.approx(1)


@pytest.mark.parametrize(
    "right, correlation, said",
    [
        (0.995, 0.9, "mean training accuracy 0.9951; warning: above 0.99, scored after the images were learned"),
        (0.9, 0.9, "(K=2): rank correlation between half-ensembles 0.90; mean training accuracy 0.8998"),
        (0.9, np.nan, "half-ensembles nan; warning: half of the networks score all images alike"),
        (0.9, 0.6, "half-ensembles 0.60; warning: below 0.7"),
    ],
)
def test_what_is_said_of_scores(right, correlation, said, tmp_path, monkeypatch):
    wrong = round(1437 * (1 - right))
    monkeypatch.setattr("repro.train.evaluate.correct", lambda logits, labels: torch.arange(len(labels)) >= wrong)
    monkeypatch.setattr(SCORE, "half_ensemble_correlation", lambda *_: correlation)
    scoring = Scoring(NETWORK, RECIPE, networks=2, batch_norm="running")
    result = score(tmp_path / "s.h5", dataset="digits", scoring=scoring, replicates=1, machine=CPU)
    assert said in result.lines[0] and result.lines[0].startswith("fold 0 (K=2): ")
    assert ("warning" in result.lines[0]) == ("warning" in said)
