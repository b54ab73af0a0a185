"""Scale `cpu`: real CIFAR-10 images, shrunk, through every command of Figure 2 and beside the paper's numbers."""

import json
import shlex
import sys
from dataclasses import replace

import pytest
import torch

from repro import protocol, store
from repro.data import load
from repro.protocol import CPU
from repro.stages import inputs
from repro.verify.reference import published_support
from tests.command_line import complaint, repro

TRAIN, TEST = 1000, 200


@pytest.fixture
def some_images(data_root, monkeypatch):
    """The first 1,000 training and 200 test images, and networks that learn a little in seconds."""
    whole = load("cifar10@16", data_dir=data_root)
    kept = torch.cat([torch.arange(TRAIN), torch.arange(50_000, 50_000 + TEST)])
    some = replace(
        whole,
        images=whole.images[kept],
        labels=whole.labels[kept],
        splits=((torch.arange(TRAIN), torch.arange(TRAIN, TRAIN + TEST)),),
    )
    monkeypatch.setattr(inputs, "load", lambda name, **options: some)
    training = replace(CPU.training, steps=12, milestones=(6, 9))
    scoring = replace(
        CPU.scoring,
        network="cifar_resnet8_w4",
        networks=2,
        training=replace(CPU.scoring.training, steps=12, milestones=(8,)),
    )
    p = replace(
        CPU,
        network="cifar_resnet8_w4",
        training=training,
        scoring=scoring,
        t_star=4,
        subset_size=160,
        sizes=(160,),
        noise=(),
        replicates=2,
        levels=2,
        judging_levels=(1, 2),
        train_images=TRAIN,
        test_images=TEST,
    )
    monkeypatch.setitem(protocol._PROTOCOLS, ("cifar10@16", "cpu"), p)
    return some


@pytest.mark.heavy
def test_from_images_to_verdicts(some_images, tmp_path):
    results, rules = tmp_path / "results", tmp_path / "figure2.mk"
    study = ("figure2", "--scale", "cpu", "--results", results)
    planned = repro("plan", *study, "--make", rules).stdout
    assert "figure2: 0 of 16 artifacts are complete" in planned and "images" in planned
    launch = "\t$(LAUNCH) " + shlex.join([sys.executable, "-m", "repro"])
    lines = rules.read_text(encoding="utf-8").replace("$(if $(LAUNCH),--quiet)", "").splitlines()
    for words in (line.removeprefix(launch) for line in lines if line.startswith(launch)):
        repro(*shlex.split(words))
    assert "all 16 artifacts are complete, nothing to do" in repro("plan", *study).stdout
    imp = store.read_header(results / "cifar10@16" / "imp-easy160-t2.h5")
    assert (imp.recipe["dataset"], imp.recipe["border"]) == ("cifar10@16", 1)
    assert imp.recipe["data_sha256"] == some_images.checksum
    repro("figure", *study)
    shown = repro("verify", *study).stdout
    assert "cifar10@16, cpu scale" in shown
    verdicts = json.loads((results / "figure2-verdicts.json").read_text(encoding="utf-8"))["verdicts"]
    assert [verdict["claim"] for verdict in verdicts] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    for verdict in verdicts:
        assert verdict["paper_claim"] == "not tested (cifar10@16)"
        assert verdict["verdict"] == "by arithmetic" or verdict["judged"] == [1, 2]
        assert verdict["published"] == published_support(verdict["claim"], "cifar10")  # effects of the whole images
    repro("report", *study)


def test_without_the_images_both_ways_to_get_them_are_said(tmp_path):
    said = complaint(
        "pretrain",
        "--dataset",
        "cifar10",
        "--image-size",
        16,
        "--data-dir",
        tmp_path,
        "-t",
        1,
        "--out",
        tmp_path / "w.h5",
    )
    assert "--download" in said and "--data-dir" in said
