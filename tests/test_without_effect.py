"""Options that are taken and change nothing are told, those of every command; others are not."""

import numpy as np
import pytest
from PIL import Image

from repro.protocol import _PROTOCOLS
from tests.command_line import CPU, TINY, chain_of_artifacts, complaint, repro

DRY = "--dry-run"
# A command, and the options that have no effect in it: all of them are told, and no other.
TOLD = {
    "SCORE --noise-draw shared --download": {"--noise-draw", "--download"},
    "SCORE --label-noise 0.1 --noise-draw shared --replicates 2": set(),
    "score --dataset folder:pets NET --replicates 3": {"--replicates"},
    "score --dataset folder:pets NET --replicates 3 --label-noise 0.1 --noise-draw replicate": set(),
    "EASY --seed 7": {"--seed"},
    "EASY --seed 7 --permute-scores": set(),
    "EASY --device cpu --engine serial --threads 2 --checkpoint-seconds 9": {
        "--device",
        "--engine",
        "--threads",
        "--checkpoint-seconds",
    },
    "EASY --data-dir . --download": {"--data-dir", "--download"},
    "EASY --scale demo": set(),
    "EASY --scale demo --unbalanced": {"--scale"},
    "EASY --unbalanced --noise-draw shared": {"--noise-draw"},
    "select --kind random --dataset digits --size 9 --replicates 2 --seed 7": set(),
    "select --kind random --dataset digits --size 9 --replicates 2 --seed 7 --scale demo": {"--scale"},
    "select --kind random --dataset digits --size 9 --scale demo": set(),
    "select --kind random --like {easy} --size 80 --replicates 2 --unbalanced": {"--unbalanced"},
    "PRETRAIN -t 2 --data-dir .": {"--data-dir"},
    "PRETRAIN -t 2 --no-augment --border 2": {"--border"},
    "PRETRAIN -t 2 --augment --border 2": set(),
    "PRETRAIN -t 2 --schedule linear": {"--milestones"},
    "PRETRAIN -t 2 --schedule step --warmup-steps 1 --label-smoothing 0.1": set(),
    "PRETRAIN -t 2 --label-noise 0.1 --seed 7 --scale demo --checkpoint-seconds 9": set(),
    "PRETRAIN -t 0 --label-noise 0.1 --checkpoint-seconds 9 --seed 7": {"--label-noise", "--checkpoint-seconds"},
    "pretrain --dataset folder:pets NET -t 1 --batch-size 2 --data-dir . --download": {"--download"},
    "imp {rewind} --levels 1 --download --device cpu": {"--download"},
    "gradients --dataset digits NET -t 0 --every 3": {"--every"},
    "gradients --dataset digits NET -t 4 --every 3 --data-dir .": {"--data-dir"},
    "warmup --dataset digits NET --warmup-steps 2 --download": {"--download"},
    "branch {imp} --mask shuffled --download": {"--download"},
    "barrier {imp} --children 1 --checkpoint-seconds 9": set(),
    "barrier {imp} --successive --checkpoint-seconds 9 --download": {"--checkpoint-seconds", "--download"},
}
NET = "--network cifar_resnet8_w4 --steps 8 --milestones 4"
SHORT = {
    "SCORE": "score --dataset digits NET --networks 1",
    "EASY": "select --kind easy --scores {scores} --size 9 --replicates 2",
    "PRETRAIN": "pretrain --dataset digits NET --replicates 1",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "pets" / half / name).mkdir(parents=True)
            for k in range(2):
                pixels = np.random.default_rng(k + len(half)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pets" / half / name / f"{k}.png")
    return chain_of_artifacts(folder)


def told(stderr: str) -> set[str]:
    lines = [line for line in stderr.splitlines() if line.startswith("warning: ") and "has no effect: " in line]
    return {line.split()[1] for line in lines}


@pytest.mark.parametrize("command", TOLD)
def test_options_without_effect_are_told(command, given, tmp_path, monkeypatch):
    monkeypatch.chdir(given["folder"])
    first, *rest = command.split()
    line = " ".join([SHORT.get(first, first), *rest]).replace("NET", NET)
    words = [word.format(**given) for word in line.split()]
    if "folder:pets" in words and "--batch-size" not in words:
        words += ["--batch-size", "2"]
    assert told(repro(*words, "--out", tmp_path / "out.h5", DRY).stderr) == TOLD[command]


def test_a_border_without_a_crop_is_no_other_run(given, tmp_path):
    common = (*SHORT["PRETRAIN"].replace("NET", NET).split(), "-t", 2, *CPU, "--out", tmp_path / "p.h5", "--no-augment")
    repro(*common)
    assert "computed 0, reused 1" in repro(*common, "--border", 2).stdout


def test_an_easy_subset_is_the_same_with_any_seed(given, tmp_path):
    common = ("select", "--kind", "easy", "--scores", given["scores"], "--size", 9, "--replicates", 2, "--out")
    found = repro(*common, tmp_path / "e.h5", "--seed", 7)
    assert "warning: --seed has no effect: nothing is drawn for easy images" in found.stderr
    assert "computed 0, reused 2" in repro(*common, tmp_path / "e.h5", "--seed", 8).stdout


def test_the_scales_of_a_data_set_have_one_normalization():
    """`--scale` is told to have no effect on a random subset where all else is given."""
    found = {(p.dataset, p.normalization) for p in _PROTOCOLS.values()}
    assert len(found) == len({dataset for dataset, _ in found})


def test_options_of_checkpoints(given, tmp_path):
    file = tmp_path / "a.pt"
    repro("export", given["rewind"], "--replicate", 0, "--part", "rewind", "--out", file)
    command = ("barrier", file, file, "--network", TINY[1], "--dataset", "digits", *CPU, DRY, "--checkpoint-seconds", 9)
    assert told(repro(*command, "--force").stderr) == {"--checkpoint-seconds", "--force"}
    assert told(repro(*command, "--force", "--out", tmp_path / "b.h5").stderr) == {"--checkpoint-seconds"}


FIGURES = {
    "plan figure6 --levels 3": {"--levels"},
    "plan scores --scale scores --dataset cifar10 --levels 3 --speed 1e9": {"--levels"},
    "plan figure2 --levels 3 --seed 7 --replicates 2": set(),
    "plan figure2 --yes --options=--force": {"--yes", "--options"},
    "plan figure2 --scale paper --speed 1e6 --device cpu --jobs 2": {"--device"},
    "plan figure2 --replicates 1 --levels 1 --jobs 2": {"--jobs"},
    "status figure6 --levels 3": {"--levels"},
}


@pytest.mark.parametrize("command", FIGURES)
def test_options_of_figures(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(repro(*command.split()).stderr) == FIGURES[command]


@pytest.mark.parametrize("extra", [["figure2"], ["--scale", "demo"], ["--levels", 3]])
def test_the_published_numbers_have_no_options(extra):
    said = complaint("verify", "--reference", *extra)
    assert "--reference judges the paper's own numbers, of all figures: leave" in said
