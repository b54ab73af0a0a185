"""`make scores` on some real CIFAR-10: from images to the verdict on wrong labels; and verdicts at day scale."""

import csv
import dataclasses
import json
import shlex
import sys

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from repro import protocol
from repro.data import load
from repro.protocol import DAY, SCORES
from repro.stages import inputs
from repro.verify.judge import verdicts_on
from repro.verify.outcomes import Evidence
from repro.verify.pruned_runs import of_runs
from repro.verify.report import Judgement, paper_claim
from tests.command_line import repro
from tests.simulated_runs import with_noise

TRAIN, TEST, SIZE = 1000, 200, 100


@pytest.fixture
def some_images(data_root, monkeypatch):
    """The first 1,000 training and 200 test images of the real CIFAR-10, and two networks that learn a little."""
    whole = load("cifar10", data_dir=data_root, normalization="imagenet")
    kept = torch.cat([torch.arange(TRAIN), torch.arange(50_000, 50_000 + TEST)])
    some = dataclasses.replace(
        whole,
        images=whole.images[kept],
        labels=whole.labels[kept],
        splits=((torch.arange(TRAIN), torch.arange(TRAIN, TRAIN + TEST)),),
    )
    monkeypatch.setattr(inputs, "load", lambda name, **options: some)
    training = dataclasses.replace(SCORES.scoring.training, steps=100, batch_size=64)
    scoring = dataclasses.replace(SCORES.scoring, network="cifar_resnet8_w4", training=training, networks=2)
    p = dataclasses.replace(
        SCORES, scoring=scoring, noise=(0.5,), noise_size=SIZE, train_images=TRAIN, test_images=TEST
    )
    monkeypatch.setitem(protocol._PROTOCOLS, ("cifar10", "scores"), p)
    return some


@pytest.mark.heavy
def test_from_images_to_the_verdict(some_images, tmp_path):
    results, rules = tmp_path / "results", tmp_path / "scores.mk"
    study = ("scores", "--scale", "scores", "--results", results)
    assert "no run of scores" in repro("verify", *study, code=3).stderr
    planned = repro("plan", *study, "--make", rules).stdout
    assert "scores: 0 of 8 artifacts are complete" in planned and "in all 4 trainings, 25,600 images" in planned
    launch = "\t$(LAUNCH) " + shlex.join([sys.executable, "-m", "repro"])
    lines = rules.read_text(encoding="utf-8").replace("$(if $(LAUNCH),--quiet)", "").splitlines()
    processes = [line.removeprefix(launch) for line in lines if line.startswith(launch)]
    for words in processes:
        repro(*shlex.split(words))
    assert "all 8 artifacts are complete, nothing to do" in repro("plan", *study).stdout
    shown = repro("verify", *study).stdout
    assert "31. Easy subsets hold fewer wrong labels, 50 %" in shown
    [verdict] = json.loads((results / "scores-verdicts.json").read_text(encoding="utf-8"))["verdicts"]
    assert (verdict["claim"], verdict["panel"]) == (31, "50 % noise")
    assert verdict["verdict"] == "inconclusive" and verdict["n"] == 1  # one ensemble ranks the images once

    drawn = repro("figure", *study).stdout.split()
    assert drawn == [str(results / f"scores.{kind}") for kind in ("pdf", "png", "csv")]
    with open(results / "scores.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = {row["condition"]: row for row in rows if row["panel"] == "wrong labels"}
    truth, wrong = some_images.labels.numpy(), {}
    for kind in ("easy", "random", "hard"):  # from the arrays of the artifacts
        with h5py.File(results / "cifar10" / f"subset-{kind}{SIZE}-noise0.5.h5") as file:
            chosen = [file[f"replicate_{r}/index"][:] for r in range(8)]
            with h5py.File(results / "cifar10" / "scores-noise0.5.h5") as scored:
                labels = scored["labels"][:]
                each = np.stack([scored[f"fold_0/network_{k}/el2n"][:] for k in range(2)])
        wrong[kind] = 100 * np.mean([np.mean(labels[index] != truth[index]) for index in chosen])
        assert float(told[kind]["mean_wrong_pct"]) == pytest.approx(wrong[kind])
        assert told[kind]["n"] == ("8" if kind == "random" else "1")  # distinct draws
    assert wrong["easy"] < wrong["random"] < wrong["hard"] and 35 < wrong["random"] < 55
    halves = {float(r["noise"]): float(r["half_correlation"]) for r in rows if r["panel"].startswith("half")}
    assert set(halves) == {0.0, 0.5}
    assert halves[0.5] == pytest.approx(spearmanr(*each).statistic, abs=1e-5)  # of two networks, each is a half


def test_verdicts_of_a_day_are_verdicts_on_the_papers_claims():
    """The published schedule on CIFAR-10: as at paper scale; the small scale says nothing of them."""
    runs = with_noise({0.0: {"easy": 89.0}}, levels=11)  # easy at half the steps is far from matching: claim 8
    runs = runs.assign(promised=8)
    found = verdicts_on(Evidence(runs=runs), DAY, figures=("figure2", "figure4"))
    by_claim = {(v.claim, v.panel): v for v in found}
    assert by_claim[8, ""].verdict == "contradicted" and paper_claim(by_claim[8, ""], "day") == "contradicted"
    assert by_claim[16, "50 % noise"].verdict == paper_claim(by_claim[16, "50 % noise"], "day") == "reproduced"
    assert paper_claim(by_claim[8, ""], "small").startswith("not tested")
    computed = [v for v in found if v.verdict != "missing"]
    assert [Judgement(scale, computed).exit_status for scale in ("day", "paper", "small", "scores")] == [1, 1, 0, 0]
    assert {v.claim for v in found if v.promised and v.verdict == "missing"} <= {31}  # needs no runs but subsets
    other = of_runs(runs.assign(size=runs["size"].replace(3200, 512)), DAY)
    assert {v.claim: v.verdict for v in other}[8] == "missing"  # the size compared is the paper's
