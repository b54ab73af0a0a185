"""The runs reported in the repository: their verdicts follow from their tables, and nothing there is another run's."""

import json
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

from docs.pictures import DEMO, DRAWN
from repro import create, plan, store
from repro.archive import tables
from repro.archive.contents import runs_of
from repro.reading.check_ticket import check_ticket
from repro.study.study import Study
from tests.command_line import ROOT, repro

REPORTED = sorted(path.parent for path in (ROOT / "results").glob("*-*/recipe.json"))
CIFAR = ROOT / "results" / "cpu-cifar10"
LIMIT = 10 * 2**20  # bytes of a folder


def test_there_are_reported_runs():
    assert {ROOT / "results" / "demo-digits", CIFAR} <= set(REPORTED)


@pytest.mark.parametrize("folder", REPORTED, ids=lambda path: path.name)
def test_the_verdicts_follow_from_the_tables(folder):
    judgement, lacking = tables.judged([folder])
    (file,) = folder.glob("*-verdicts.json")
    assert json.loads(judgement.json) == json.loads(file.read_text(encoding="utf-8")) and lacking == []
    assert judgement.markdown == file.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", REPORTED, ids=lambda path: path.name)
def test_a_folder_is_small_and_names_no_machine(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    text = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".csv", ".json", ".md")]
    assert not any(word in each for each in text for word in ("/home/", "/root/", "/tmp/", "/work/"))


@pytest.mark.parametrize("ticket", sorted((CIFAR / "tickets").iterdir()), ids=lambda path: path.stem)
def test_a_reported_ticket_is_the_network_of_its_recipe(ticket):
    """Each of eight levels removes a fifth of what is left, rounded up, and one more (docs/protocol.md, section 3)."""
    network = create("cifar_resnet14_w8", num_classes=10, in_chans=3)
    network.load_state_dict(load_file(ticket))
    weights = [w for w in network.parameters() if w.dim() > 1]
    left = sum(w.numel() for w in weights)
    for _ in range(8):
        left -= -(-left // 5) + 1
    assert sum(int((w != 0).sum()) for w in weights) == left


def test_the_reported_ticket_with_its_history_is_right():
    """All but its step, which our exports do not count; a mask that was not held is found out."""
    folder = CIFAR / "ticket-easy3200-t100"
    files = {role: folder / f"{role}.safetensors" for role in ("mask", "trained", "rewind", "start", "previous")}
    ticket = CIFAR / "tickets" / "easy3200-t100.safetensors"
    verdicts = [check.verdict for check in check_ticket(ticket=ticket, density="16.8%", **files)[1]]
    assert sorted(verdicts) == ["holds"] * 6 + ["untold"]
    assert "FAILS" in [check.verdict for check in check_ticket(**files | {"trained": files["previous"]})[1]]


@pytest.mark.slow
def test_a_reported_run_is_made_anew(data_root, tmp_path):
    """Levels 0 and 1 of all@0, replicate 0: to the bit on the same kind of CPU, else within 1.5 points."""
    study = Study("figure2", scale="cpu", replicates=1, levels=1, results=tmp_path)
    for step in plan.steps(study.items(), tmp_path):
        if step.target.stem in ("pretrain-all-t0", "imp-all-t0"):
            repro(*step.command, "--data-dir", data_root, "--device", "cpu", "--threads", 1)
            made = store.read(step.target)
    recipe = json.loads((CIFAR / "recipe.json").read_text(encoding="utf-8"))
    there = recipe["artifacts"]["cifar10@16/imp-all-t0.h5"]["provenance"]
    reported = pd.read_csv(CIFAR / "runs.csv").query("artifact == 'imp-all-t0' and replicate == 0 and level <= 1")
    same = runs_of(made.provenance)[0]["cpu"] == runs_of(there)[0]["cpu"]
    assert list(made.table()["acc"]) == pytest.approx(list(reported["acc"]), abs=0 if same else 0.015)


@pytest.mark.parametrize("picture", DRAWN, ids=lambda path: path.stem)
def test_the_pages_pictures_are_those_of_the_tables(picture):
    """Drawn anew by `make docs`, it is the picture that is there, but for the rounding of edges."""
    there, anew = (np.asarray(Image.open(f).convert("RGB"), float) for f in (picture, BytesIO(DRAWN[picture]())))
    assert there.shape == anew.shape and np.abs(there - anew).mean() < 0.1


def test_tickets_compared_are_those_of_the_demos_tables():
    """Accuracies are those of the runs; networks of equal seeds share more weights than chance, of others as many."""
    compared = pd.read_csv(DEMO).query("layer == 'all'")
    runs = pd.read_csv(DEMO.parent / "runs.csv")
    for which, name in (("a", "imp-all-t20"), ("b", "imp-easy256-t10")):
        acc = runs[runs.artifact == name].set_index(["replicate", "level"]).acc
        there = acc.loc[list(zip(compared[f"replicate_{which}"], compared.level))]
        assert list(compared[f"acc_{which}"]) == pytest.approx(list(there), abs=1e-5)
    sparse = compared[compared.level >= 2].groupby(["seeds", "level"])[["overlap", "chance"]].mean()
    excess = (sparse.overlap / sparse.chance).unstack("seeds")
    assert (excess.equal > 1.1).all() and excess.other.between(0.95, 1.1).all()
