"""Really killed, interrupted, grown and diverging runs: nothing finished is lost, and the results are the same bits."""

import re
import signal
from importlib import import_module

import h5py
import numpy as np
import pytest
import torch

from repro import store
from repro.nets import create, layout_of
from tests.command_line import CPU, HANG, TINY, complaint, contents, one_sentence, repro, start, wait_for
from tests.test_engine import ENGINES

TRAINER = import_module("repro.stages.trainer")  # where stages call `train`
# Levels of a second or so, with a checkpoint after every step: long enough to be killed in the midst of one.
OFTEN = ("--checkpoint-seconds", 1e-6)
SLOW = (*CPU, "--engine", "serial")  # slow enough to be killed in the middle
TRAINING = (*SLOW, "--network", "cifar_resnet8_w4", "--steps", 60, "--batch-size", 64, "--milestones", "30,45")
COMMANDS = {
    "score": ("score", "--dataset", "digits", *TRAINING, "--networks", 3, "--replicates", 2),
    "pretrain": ("pretrain", "--dataset", "digits", "-t", 50, *TRAINING, "--replicates", 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rewind")


@pytest.fixture(scope="module")
def rewind(folder):
    """A rewind point from which a level takes a second."""
    repro("pretrain", "--dataset", "digits", "-t", 5, *TRAINING, "--replicates", 2, "--out", folder / "rewind.h5")
    return folder / "rewind.h5"


@pytest.fixture(scope="module")
def short(folder):
    """A rewind point of three replicates from which a level takes no time."""
    repro("pretrain", "--dataset", "digits", "-t", 5, *TINY, *CPU, "--replicates", 3, "--out", folder / "short.h5")
    return folder / "short.h5"


@pytest.fixture(scope="module")
def imp_command(rewind):
    return ("imp", rewind, "--levels", 2, *SLOW)


@pytest.fixture(scope="module")
def uninterrupted(imp_command, tmp_path_factory):
    """What the interrupted runs below have to end with."""
    path = tmp_path_factory.mktemp("whole") / "imp.h5"
    repro(*imp_command, "--out", path)
    return contents(path)


@pytest.fixture
def resumed(monkeypatch):
    """The step of the checkpoint that each training of this process takes up, None where it starts afresh."""
    steps = []

    def watched(*arguments, resume, train=TRAINER.train, **options):
        steps.append(resume and resume.step)
        return train(*arguments, resume=resume, **options)

    monkeypatch.setattr(TRAINER, "train", watched)
    return steps


def kill_at(file, command, **later) -> None:
    """Starts a command and kills it when the file is there."""
    process = start(*command)
    wait_for(file, process, **later)
    process.kill()
    process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.heavy
def test_imp_killed_at_several_moments_ends_with_the_same_bits(imp_command, uninterrupted, resumed, tmp_path):
    out, work = tmp_path / "imp.h5", tmp_path / "imp.h5.work"
    command = (*imp_command, "--out", out, *OFTEN)
    kill_at(work / "checkpoint.h5", command)  # in the first level
    assert not (work / "pieces-00000.h5").exists()
    kill_at(work / "checkpoint.h5", command, after=work / "pieces-00001.h5")  # in the last
    assert not out.exists() and not (work / "pieces-00002.h5").exists()
    last = repro(*command)
    assert f"{out}: computed 2, reused 4" in last.stdout
    assert len(resumed) == 1 and 5 < resumed[0] < 60
    assert contents(out) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["imp.h5"]
    assert f"{out}: computed 0, reused 6" in repro(*command).stdout


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.heavy
def test_a_killed_training_takes_up_from_its_checkpoint(name, resumed, tmp_path):
    command = (*COMMANDS[name], *OFTEN)
    kill_at(tmp_path / "killed.h5.work" / "checkpoint.h5", (*command, "--out", tmp_path / "killed.h5"))
    repro(*command, "--out", tmp_path / "killed.h5")
    assert len(resumed) == 1 and 0 < resumed[0] < 60
    repro(*command, "--out", tmp_path / "whole.h5")
    assert resumed[1:] == [None]
    assert contents(tmp_path / "killed.h5") == contents(tmp_path / "whole.h5")


@pytest.mark.heavy
def test_two_at_once_then_ctrl_c_and_a_damaged_checkpoint(imp_command, uninterrupted, tmp_path):
    out, work = tmp_path / "imp.h5", tmp_path / "imp.h5.work"
    process = start(*imp_command, "--out", out, *OFTEN)
    wait_for(work / "checkpoint.h5", process)
    said = complaint(*imp_command, "--out", out, code=1)
    assert said.startswith(f"{out} is being written by process {process.pid} on ")
    assert said.endswith(": wait for it or choose another --out")
    wait_for(work / "pieces-00000.h5", process)
    process.send_signal(signal.SIGINT)
    assert one_sentence(process.communicate()[1]).startswith("interrupted: what was finished is kept; the same command")
    assert process.returncode == 130 and not out.exists()
    (work / "checkpoint.h5").write_bytes(b"half a checkpoint")
    last = repro(*imp_command, "--out", out)
    assert "checkpoint.h5 is truncated" in last.stderr and ": computed 4, reused 2" in last.stdout
    assert contents(out) == uninterrupted


def test_a_checkpoint_of_other_replicates_is_not_taken_up(short, resumed, monkeypatch, tmp_path):
    def interrupted(*arguments, checkpoint, train=TRAINER.train, **options):
        def save(state):
            checkpoint(state)
            raise KeyboardInterrupt

        return train(*arguments, checkpoint=save, **options)

    command = ("imp", short, "--levels", 1, "--engine", "serial", *CPU)
    with monkeypatch.context() as patch:
        patch.setattr(TRAINER, "train", interrupted)
        complaint(*command, *OFTEN, "--out", tmp_path / "imp.h5", code=130)
    assert (tmp_path / "imp.h5.work" / "checkpoint.h5").exists()
    repro(*command, "--replicates", 1, "--out", tmp_path / "imp.h5")
    repro(*command, "--replicates", 1, "--out", tmp_path / "whole.h5")
    assert set(resumed) == {None} and contents(tmp_path / "imp.h5") == contents(tmp_path / "whole.h5")


def test_a_run_grows(short, tmp_path):
    """Finished levels stay as they are, bit for bit, and the grown run is the run made at once."""
    out, whole = tmp_path / "grown.h5", tmp_path / "whole.h5"
    for engine in ENGINES:
        command = ("imp", short, "--engine", engine, *CPU, "--force")
        repro(*command, "--replicates", 2, "--levels", 1, "--out", out)
        before = contents(out, "replicate")
        grown = repro("imp", short, "--engine", engine, *CPU, "--replicates", 3, "--levels", 2, "--out", out)
        assert f"{out}: computed 5, reused 4" in grown.stdout
        after = contents(out, "replicate")
        assert before.items() <= after.items() and len(before) < len(after)
        with h5py.File(out) as file:
            rows = list(zip(file["table/replicate"], file["table/level"]))
            assert rows == [(r, level) for r in range(3) for level in range(3)]
        repro(*command, "--replicates", 3, "--levels", 2, "--out", whole)
        assert contents(out) == contents(whole)
    fewer = repro("imp", short, *CPU, "--replicates", 1, "--levels", 0, "--out", out)
    assert f"{out}: computed 0, reused 9" in fewer.stdout and contents(out, "replicate") == after
    assert len(store.read(out).provenance["runs"]) == 2


def test_growth_on_a_cpu_with_other_vectors_goes_on_and_says_so(short, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    repro("imp", short, "--levels", 0, *CPU, "--out", tmp_path / "imp.h5")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    grown = repro("imp", short, "--levels", 1, *CPU, "--out", tmp_path / "imp.h5")
    assert "was begun on a CPU with AVX2, this one has AVX512" in grown.stderr
    runs = store.read(tmp_path / "imp.h5").provenance["runs"]
    assert [run["vectors"] for run in runs] == ["AVX2", "AVX512"]


def test_scores_grow_by_folds(monkeypatch, tmp_path):
    """Fewer folds may be asked for than an interrupted run had begun with, and more later."""
    command = ("score", "--dataset", "digits", "--network", "cifar_resnet8_w4", "--steps", 1, "--networks", 5, *CPU)
    out = tmp_path / "scores.h5"
    repro(*command, "--replicates", 5, "--out", tmp_path / "all.h5")
    trained = []

    def interrupted(jobs, *arguments, train=TRAINER.train, **options):
        trained.append(len(jobs))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(jobs, *arguments, **options)

    monkeypatch.setattr(TRAINER, "train", interrupted)
    assert complaint(*command, "--replicates", 5, "--out", out, code=130).startswith("interrupted: ")
    first = trained[0]  # networks of the first cohort: all of some folds, and a part of the next
    whole = first // 5
    assert whole >= 2 and 0 < first % 5
    assert f"computed 0, reused {first}" in repro(*command, "--replicates", 2, "--out", out).stdout
    found = set(contents(out))
    assert {f"fold_{whole - 1}/el2n", f"fold_{whole}/network_0/el2n"} <= found and f"fold_{whole}/el2n" not in found
    assert f"computed {25 - first}, reused {first}" in repro(*command, "--replicates", 5, "--out", out).stdout
    assert contents(out) == contents(tmp_path / "all.h5")


def broken(point, path, replicates):
    """The rewind point with weights, of some replicates, that overflow."""
    good = store.read(point)
    arrays = {key: good[key] for key in good.keys()}
    for r in replicates:
        arrays[f"replicate_{r}/weights"] = arrays[f"replicate_{r}/weights"] * np.float32(1e30)
    store.write(
        path,
        kind=good.kind,
        recipe=good.recipe,
        inputs=good.inputs,
        arrays=arrays,
        table=good.table(),
        provenance=good.provenance,
        defaults=good.lineage.defaults,
    )
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_diverging_replicate_counts_as_chance_and_harms_nobody(short, engine, tmp_path):
    """It is not trained on: from the next level on, its neighbour is alone."""
    command = ("--levels", 2, "--replicates", 2, "--engine", engine, *CPU)
    repro("imp", short, *command, "--out", tmp_path / "good.h5")
    out = tmp_path / "bad.h5"
    said = repro("imp", broken(short, tmp_path / "broken.h5", [1]), *command, "--out", out).stdout
    why = "that was before any update, so the learning rate (=1.0) is not why: look at the weights it starts from"
    assert f"warning: replicates [1] diverged and count as chance: {why}" in said
    table = store.table(out)
    assert table.diverged.tolist() == [False] * 3 + [True] * 3 and table.acc[3:].tolist() == [0.1] * 3
    assert contents(out, "replicate_0/level") == contents(tmp_path / "good.h5", "replicate_0/level")
    assert "computed 0, reused 6" in repro("imp", tmp_path / "broken.h5", *command, "--out", out).stdout


def test_when_all_diverge_the_command_fails_and_keeps_what_it_has(short, resumed, tmp_path):
    out = tmp_path / "imp.h5"
    command = ("imp", broken(short, tmp_path / "broken.h5", range(3)), "--levels", 1, *CPU, "--out", out)
    said = complaint(*command, code=1)
    assert said.startswith("all replicates of imp diverged (loss not finite from step 5): that was before any update, ")
    assert "look at the weights it starts from, and at what its forward gives" in said
    assert complaint(*command, code=1) == said and resumed == [None]  # the second time nothing is trained
    assert not out.exists() and (tmp_path / "imp.h5.work").is_dir()


@pytest.mark.heavy
def test_a_loss_that_is_not_a_number_fails_with_the_rate(tmp_path):
    for name, command in COMMANDS.items():
        out = tmp_path / f"{name}.h5"
        said = complaint(*command, "--lr", 1e30, "--out", out, code=1)
        assert re.search(r"diverged \(loss not finite (at|from) step \d+\): .*lower --lr \(=1e\+30\)", said)
    # nothing is left that would stand in the way of scores at a lower rate
    repro(*COMMANDS["score"], "--lr", 0.1, "--out", tmp_path / "score.h5")


def test_a_ticket_loaded_into_plain_pytorch_gives_the_recorded_accuracy(rewind, tmp_path):
    """Read with h5py, the images from scikit-learn, normalised here, classified one replicate at a time."""
    from sklearn.datasets import load_digits

    repro("imp", rewind, "--levels", 2, *CPU, "--out", tmp_path / "imp.h5")
    pixels = np.round(load_digits().images * 255 / 16)
    pixels = torch.from_numpy((pixels / 255 - pixels.mean() / 255) / (pixels.std() / 255)).float()[:, None]
    labels = torch.from_numpy(load_digits().target)
    order = np.random.Generator(np.random.PCG64(20220601)).permutation(len(labels))
    with h5py.File(tmp_path / "imp.h5") as file:
        for row, (r, level) in enumerate((r, level) for r in range(2) for level in range(3)):
            piece = file[f"replicate_{r}/level_{level}"]
            network = create("cifar_resnet8_w4", num_classes=10, in_chans=1).eval()
            layout = layout_of(network)
            weights = torch.from_numpy(piece["weights"][:])
            _, unexpected = network.load_state_dict(layout.state_dict(weights), strict=False)
            test = np.sort(order[r::5])
            with torch.no_grad():
                correct = (network(pixels[test]).argmax(1) == labels[test]).numpy()
            assert correct.mean() == file["table/acc"][row] > 0.3
            assert np.array_equal(correct, np.unpackbits(piece["test_correct"][:], count=len(test)))
            mask = np.unpackbits(piece["mask"][:], count=layout.num_prunable).astype(bool)
            assert not unexpected and mask.sum() == file["table/remaining"][row]
            assert np.array_equal(weights[: layout.num_prunable].numpy() != 0, mask)
            if level < 2:  # the published rule: the k-th smallest of the survivors, from zero, and all below it go
                magnitude = np.abs(weights[: layout.num_prunable].numpy())
                threshold = np.sort(magnitude[mask])[int(np.ceil(0.2 * mask.sum()))]
                after = np.unpackbits(file[f"replicate_{r}/level_{level + 1}/mask"][:], count=layout.num_prunable)
                assert np.array_equal(after.astype(bool), mask & (magnitude > threshold))
