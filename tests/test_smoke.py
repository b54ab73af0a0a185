"""`make smoke`: every command, chained on tiny subsets of real images, from scores to a figure with verdicts."""

import csv
import dataclasses
import json
import re
import shlex
import subprocess
import sys

import click
import h5py
import numpy as np
import pytest

from paper_figures import figures_at, needed
from repro import protocol
from repro.cli import main
from repro.protocol import DIGITS
from repro.study.collect import collect
from tests.command_line import CPU, TINY, contents, repro, start

IMAGES = {"digits": 1437, "cifar10": 50000}


def examples(command) -> list[list[str]]:
    """The command lines in a command's help."""
    lines = [line.strip() for line in command.help.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("repro ")]


def test_the_commands_of_the_help_make_one_chain(tmp_path, monkeypatch):
    """As printed by `repro --help`; only options that make it short are added."""
    monkeypatch.chdir(tmp_path)
    short = {"score": (*TINY, "--networks", 2, "--replicates", 8), "pretrain": (*TINY, "--replicates", 8)}
    lines = examples(main)
    assert [words[0] for words in lines] == ["score", "select", "pretrain", "imp", "ls"]
    for words in lines:
        result = repro(*words, *short.get(words[0], ()))
    shown = [line.split() for line in result.stdout.splitlines()]
    assert shown[0] == ["name", "acc", "density"] and len(shown) == 1 + 8
    with h5py.File("imp.h5") as file:
        recorded = file["table/acc"][:].reshape(8, 13)[:, 8]
    assert [float(row[1]) for row in shown[1:]] == pytest.approx(recorded, abs=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def chain(folder):
    """score, three selects, pretrain and imp on digits, each alone."""
    out = {name: folder / f"{name}.h5" for name in ("scores", "easy", "hard", "random", "like", "rewind", "imp")}
    size = ("--size", 128, "--replicates", 2)
    repro("score", "--dataset", "digits", *TINY, "--networks", 3, "--out", out["scores"])
    repro("select", "--kind", "easy", "--unbalanced", *size, "--scores", out["scores"], "--out", out["easy"])
    repro("select", "--kind", "hard", "--balanced", *size, "--scores", out["scores"], "--out", out["hard"])
    repro("select", "--kind", "random", *size, "--dataset", "digits", "--out", out["random"])
    repro("select", "--kind", "random", *size, "--like", out["easy"], "--out", out["like"])
    repro("pretrain", "--subset", out["easy"], "-t", 4, *TINY, "--out", out["rewind"])
    repro("imp", out["rewind"], "--levels", 2, "--out", out["imp"], *CPU)
    return out


def test_scores_rank_and_subsets_follow(chain):
    with h5py.File(chain["scores"]) as file:
        for fold in range(2):
            each = [file[f"fold_{fold}/network_{k}/el2n"][:] for k in range(3)]
            assert np.array_equal(file[f"fold_{fold}/el2n"][:], np.mean(each, 0)) and len(set(map(bytes, each))) == 3
            pool, scores = file[f"fold_{fold}/index"][:], np.mean(each, 0)
            assert len(pool) == IMAGES["digits"] + (fold >= 2)
            with h5py.File(chain["easy"]) as easy:
                assert np.array_equal(easy[f"replicate_{fold}/index"][:], pool[np.argsort(scores, kind="stable")[:128]])
            with h5py.File(chain["hard"]) as hard:
                chosen = hard[f"replicate_{fold}/index"][:]
                assert sorted(hard[f"replicate_{fold}/histogram"][:]) == [12] * 2 + [13] * 8
            by_image = dict(zip(pool, scores))
            assert np.all(np.diff([by_image[i] for i in chosen]) <= 0)
    with h5py.File(chain["like"]) as like, h5py.File(chain["easy"]) as easy, h5py.File(chain["random"]) as random:
        for r in ("replicate_0", "replicate_1"):
            assert np.array_equal(like[r]["histogram"][:], easy[r]["histogram"][:])
            assert sorted(random[r]["histogram"][:]) == [12] * 2 + [13] * 8
        assert set(random["replicate_0/index"]) != set(random["replicate_1/index"])


def test_run_again_reuses_everything(chain, folder):
    before = chain["imp"].read_bytes()
    again = repro("imp", chain["rewind"], "--levels", 2, "--out", chain["imp"], *CPU)
    assert f"{chain['imp']}: computed 0, reused 6" in again.stdout
    assert chain["imp"].read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in chain.values())
    kept = contents(chain["imp"])
    anew = repro("imp", chain["rewind"], "--levels", 2, "--out", chain["imp"], "--force", *CPU)
    assert f"{chain['imp']}: computed 6, reused 0" in anew.stdout
    assert contents(chain["imp"]) == kept


def test_ls_inspect_and_export_agree_with_the_file(chain, folder):
    columns = ("name", "kind", "level", "acc", "density", "t")
    query = 'kind=="imp" and level==2'
    listed = repro("ls", query, "--results", folder, "--columns", ",".join(columns), "--csv").stdout
    rows = list(csv.DictReader(listed.splitlines()))
    repro("export", chain["imp"], "--out", folder / "imp.csv")
    with open(folder / "imp.csv", encoding="utf-8") as file:
        exported = list(csv.DictReader(file))
    with h5py.File(chain["imp"]) as file:
        table = {name: column[:].tolist() for name, column in file["table"].items()}
    assert [float(row["acc"]) for row in exported] == table["acc"]
    assert [int(row["level"]) for row in exported] == table["level"] == [0, 1, 2] * 2
    assert [float(row["acc"]) for row in rows] == [a for a, level in zip(table["acc"], table["level"]) if level == 2]
    assert {(row["name"], row["kind"], row["t"]) for row in rows} == {("imp", "imp", "4")}
    text = repro("inspect", chain["imp"]).stdout
    for part in (
        "cifar_resnet8_w4",
        "subset: subset artifact easy",
        "scores: score artifact scores",
        "threads",
        "replicate_*/level_*/mask",
        "uint8",
    ):
        assert part in text


@pytest.fixture
def tiny_demo(monkeypatch):
    """The demo with a network, a schedule and an ensemble that take a second: the same cells, options and folds."""
    training = dataclasses.replace(DIGITS.training, steps=8, milestones=(6,))
    scoring = dataclasses.replace(
        DIGITS.scoring,
        network="cifar_resnet8_w4",
        networks=2,
        training=dataclasses.replace(DIGITS.scoring.training, steps=6),
    )
    study = dataclasses.replace(
        DIGITS.warmup,
        steps=(2, 4),
        sizes=(64, 80),
        replicates=2,
        training=dataclasses.replace(DIGITS.warmup.training, steps=6, batch_size=64, milestones=(5,)),
    )
    tiny = dataclasses.replace(
        DIGITS,
        network="cifar_resnet8_w4",
        training=training,
        scoring=scoring,
        t_star=4,
        subset_size=80,
        levels=10,
        judging_levels=protocol.JUDGED,
        sweep_levels=(6, 8, 10),
        barrier_level=7,
        replicates=2,
        more_replicates=None,
        sizes=(64, 80),
        noise_size=80,
        barrier_all=(2, 4),
        barrier_subsets=(2,),
        barrier_sizes=(64, 80),
        onset_steps=(6,),
        warmup=study,
    )
    monkeypatch.setitem(protocol._PROTOCOLS, ("digits", "demo"), tiny)
    return tiny


@pytest.mark.heavy
def test_from_the_plan_to_the_verdicts(tiny_demo, tmp_path):
    """All figures by one plan, as `make demo` does it."""
    results, rules = tmp_path / "results", tmp_path / "all.mk"
    planned = repro("plan", "all", "--results", results, "--make", rules).stdout
    complete = re.search(r"all: 0 of (\d+) artifacts are complete", planned)
    launch = "\t$(LAUNCH) " + shlex.join([sys.executable, "-m", "repro"])
    lines = rules.read_text(encoding="utf-8").replace("$(if $(LAUNCH),--quiet)", "").splitlines()
    processes = [line.removeprefix(launch) for line in lines if line.startswith(launch)]
    made = sum(repro(*shlex.split(words)).stdout.count(": computed ") for words in processes)
    assert made == int(complete[1]) > 2 * len(processes)
    again = repro("plan", "all", "--results", results, "--make", rules).stdout
    assert f"all {made} artifacts are complete" in again and "$(LAUNCH)" not in rules.read_text(encoding="utf-8")
    assert "all 16 artifacts are complete" in repro("plan", "figure2", "--results", results).stdout  # shared

    drawn = repro("figure", "all", "--results", results).stdout.split()
    for name in figures_at("demo"):
        assert [str(results / f"{name}.{kind}") in drawn for kind in ("pdf", "png", "csv")] == [True] * 3
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    table = repro("verify", "--results", results).stdout
    report = json.loads((results / "paper-verdicts.json").read_text(encoding="utf-8"))
    judged = {v["claim"]: v for v in report["verdicts"]}
    assert list(judged) == sorted(judged) == list(range(1, 33)) and report["exit_status"] == 0
    assert all(
        f"{v['claim']}. {v['title'][:25]}" in table and v["paper_claim"] == "not tested (digits)"
        for v in judged.values()
    )
    check_barriers_and_warmup(results)
    check_figure_2(results)


def check_figure_2(results):
    """Figure 2 alone, from the same runs: what it plots is what the artifacts hold, and what its verdicts need."""
    repro("figure", "figure2", "--results", results)
    assert (results / "figure2.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "figure2.pdf").read_bytes().startswith(b"%PDF")
    with open(results / "figure2.csv", encoding="utf-8") as file:
        plotted = list(csv.DictReader(file))
    cells = {
        "all_t0": "all-t0",
        "all_tstar_half": "all-t2",
        "all_tstar": "all-t4",
        "random": "random80-t2",
        "easy": "easy80-t2",
        "hard": "hard80-t2",
    }
    assert [(row["condition"], int(row["level"])) for row in plotted] == [(c, k) for c in cells for k in range(11)]
    for row in plotted:
        accuracy, left = [], []
        with h5py.File(results / "digits" / f"imp-{cells[row['condition']]}.h5") as file:
            for r in range(2):
                piece = file[f"replicate_{r}/level_{row['level']}"]
                tested = 360 if r < 2 else 359
                accuracy.append(np.unpackbits(piece["test_correct"][:], count=tested).mean())
                left.append(np.unpackbits(piece["mask"][:]).sum() / 4964)
        assert float(row["mean_acc"]) == pytest.approx(np.mean(accuracy), rel=1e-5)
        assert float(row["std_acc"]) == pytest.approx(np.std(accuracy), rel=1e-5, abs=1e-9)
        assert float(row["weights_left_pct"]) == pytest.approx(100 * np.mean(left), rel=1e-5)
        assert (row["dataset"], row["n"], row["t"]) == ("digits", "2", cells[row["condition"]].rpartition("-t")[2])

    shown = repro("verify", "figure2", "--results", results).stdout
    report = json.loads((results / "figure2-verdicts.json").read_text(encoding="utf-8"))
    assert (report["scale"], report["exit_status"]) == ("demo", 0)
    judged = {v["claim"]: v for v in report["verdicts"]}
    for claim, verdict in judged.items():
        ours = claim in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)
        assert not ours or verdict["verdict"] in ("reproduced", "contradicted", "inconclusive")
        assert verdict["promised"] == (ours or claim == 6) and (not ours or verdict["n"] == 2)
        assert not ours or (verdict["title"] in shown and verdict["paper_claim"] == "not tested (digits)")
    written = (results / "figure2-verdicts.md").read_text(encoding="utf-8").replace("\\*", "*")
    assert all(v["title"] in written for v in report["verdicts"])

    for kind in ("figure", "verify"):  # exchanged easy and hard share all runs
        repro(kind, "figure2", "--results", results, "--control", "swap-easy-hard")
    control = json.loads((results / "figure2-swap-easy-hard-verdicts.json").read_text(encoding="utf-8"))["controls"]
    assert [c["control"] for c in control] == ["swap-easy-hard"] and (results / "figure2-swap-easy-hard.png").exists()

    (results / "digits" / "imp-hard80-t2.h5").unlink()
    assert "missing" in repro("verify", "figure2", "--results", results, code=3).stdout
    assert json.loads((results / "figure2-verdicts.json").read_text(encoding="utf-8"))["exit_status"] == 3
    assert "imp-hard80-t2.h5 is missing" in repro("figure", "figure2", "--results", results, code=2).stderr


def check_barriers_and_warmup(results):
    """What Figures 5 and 6 plot, from the arrays of the artifacts."""
    with h5py.File(results / "digits" / "barrier-easy80-t2.h5") as file:
        middle = int(np.flatnonzero(file["alphas"][:] == 0.5)[0])
        found = []
        for r in range(2):
            pairs = [file[f"replicate_{r}/pair_{a}_{b}/averaged/train_loss"][:] for a, b in ((0, 1), (0, 2), (1, 2))]
            found.append(np.mean([(x[middle] - (x[0] + x[-1]) / 2).mean(dtype=float) for x in pairs]))

    evidence = collect(needed("figure5", protocol.protocol("digits", "demo")), results)
    rows = evidence.barriers.query("condition == 'easy' and size == 80 and batch_norm == 'averaged'")
    assert rows.groupby("replicate").train_ce.mean().to_list() == pytest.approx(found, rel=1e-6)
    histogram = evidence.histograms.query("condition == 'easy' and size == 80 and batch_norm == 'averaged'")
    assert histogram["count"].sum() == 2 * 3 * IMAGES["digits"]
    with h5py.File(results / "digits" / "warmup.h5") as file:
        table = {name: column[:] for name, column in file["table"].items()}
    assert len(table["acc"]) == 7 * 2 * 2 and sorted(set(table["w"])) == [2, 4]


def test_the_chain_on_real_cifar10(data_root, tmp_path):
    here = ("--data-dir", data_root)
    network = ("--network", "cifar_resnet8_w2", "--replicates", 1)  # most of the time goes into evaluation
    out = {name: tmp_path / f"{name}.h5" for name in ("scores", "hard", "rewind", "imp")}
    repro("score", "--dataset", "cifar10", "--networks", 1, *network, "--steps", 2, "--out", out["scores"], *here)
    size = ("--size", 300, "--replicates", 1)
    repro("select", "--kind", "hard", *size, "--scores", out["scores"], "--out", out["hard"], *here)
    schedule = ("-t", 2, "--steps", 4, "--milestones", "3")
    repro("pretrain", "--subset", out["hard"], *schedule, *network, "--out", out["rewind"], *here)
    repro("imp", out["rewind"], "--levels", 1, "--out", out["imp"], *here)
    with h5py.File(out["scores"]) as scores, h5py.File(out["hard"]) as hard:
        el2n = scores["fold_0/el2n"][:]
        assert el2n.shape == (IMAGES["cifar10"],) and 0 < el2n.min() < el2n.max() < 2**0.5
        assert np.array_equal(hard["replicate_0/index"][:], np.argsort(-el2n, kind="stable")[:300])
    with h5py.File(out["imp"]) as imp:
        for level in range(2):
            piece = imp[f"replicate_0/level_{level}"]
            assert np.unpackbits(piece["test_correct"][:]).mean() == imp["table/acc"][level]
            assert len(piece["train_margin"]) == IMAGES["cifar10"]


@pytest.mark.parametrize("words", [[], *([name] for name in main.commands)], ids=["repro", *main.commands])
def test_help_has_examples_whose_options_exist(words):
    command = main.commands[words[0]] if words else main
    text = repro(*words, "--help").stdout
    assert words == [] or "Example" in text
    shown = examples(command)
    assert shown and all("repro " + example[0] in " ".join(text.split()) for example in shown)
    for name, *rest in shown:
        assert words in ([], [name])
        with main.commands[name].make_context(name, rest):
            pass


def test_the_program_starts_as_a_module_and_without_torch():
    process = start("--version")
    assert process.communicate()[0].startswith("repro, version ") and process.returncode == 0
    code = "import sys, repro.cli, repro.reading.query, repro.verify, repro.plan; print({'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_usage_error_of_click_has_status_2():
    with pytest.raises(click.UsageError, match="--bogus"):
        main.commands["score"].make_context("score", ["--bogus"])
    assert "No such command 'train'" in repro("train", code=2).stderr
