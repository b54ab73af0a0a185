"""Bad input: one sentence that echoes the value and says what to do, the right exit status, nothing finished lost."""

import re
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from repro import store
from tests.command_line import TINY, complaint, contents, repro

HUGE = 10**18


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A chain of artifacts of two replicates on digits, by name; `folder` holds them."""
    folder = tmp_path_factory.mktemp("given")
    out = {name: folder / f"{name}.h5" for name in ("scores", "easy", "rewind", "imp", "whole")}
    repro("score", "--dataset", "digits", *TINY, "--networks", 2, "--out", out["scores"])
    repro("select", "--kind", "easy", "--size", 80, "--replicates", 2, "--scores", out["scores"], "--out", out["easy"])
    repro("pretrain", "--subset", out["easy"], "-t", 4, *TINY, "--out", out["rewind"])
    repro("pretrain", "--dataset", "digits", "-t", 12, *TINY, "--out", out["whole"])
    repro("imp", out["rewind"], "--levels", 1, "--out", out["imp"])
    return {**out, "folder": folder}


@pytest.fixture
def refused(given, tmp_path):
    """Runs a command that must fail and write nothing; returns its sentence. {easy} stands for that artifact."""

    def run(command: str, *more, code: int = 2, dry: bool = False) -> str:
        words = [word.format(**given, tmp=tmp_path) for word in command.split()]
        out = ("--out", tmp_path / "out.h5") if words[0] in ("score", "select", "pretrain", "imp") else ()
        # options given later win
        said = complaint(words[0], *out, *words[1:], *more, *(("--dry-run",) if dry else ()), code=code)
        assert not list(tmp_path.glob("out.*")), "a command that was refused left something"
        return said

    return run


SIZE = "select --kind easy --scores {scores} --replicates 2 --size"
PRETRAIN = "pretrain --dataset digits --network cifar_resnet8_w4 --replicates 1 -t 2"
IMP = "imp {rewind} --levels 1"
REFUSED = {
    "data set": ("score --dataset cifar11", "unknown data set 'cifar11': choose cifar10, cifar100, cinic10, digits or folder:PATH"),
    "data set of pretrain": ("pretrain --dataset cifar11", "unknown data set 'cifar11': choose "),
    "no data set": ("score", "score needs --dataset: try --dataset digits"),
    "network": (PRETRAIN + " --network resnet1000", "unknown network 'resnet1000': use cifar_resnet<6n+2>"),
    "depth": (PRETRAIN + " --network cifar_resnet21", r"depth \(=21\) of a CIFAR ResNet must be 6n\+2: try 8, 14"),
    "scale": ("pretrain --dataset digits --scale paper", "no scale 'paper' for digits: choose demo"),
    "size": (SIZE + " 60000", r"subset size \(=60000\) exceeds the 1437 training images: choose --size from 1 to 1437"),
    "huge size": (SIZE + f" {HUGE}", rf"subset size \(={HUGE}\) exceeds the 1437 training images"),
    "no size": (SIZE + " 0", r"subset size \(=0\) is less than one image: choose --size from 1"),
    "negative size": (SIZE + " -5", r"subset size \(=-5\) is less than one image"),
    "balance": (SIZE + " 1400 --balanced", "class 0 has 14. training images .* needs 140: choose a smaller --size, or no bal"),
    "no scores": ("select --kind hard --size 9 --dataset digits", "'hard' needs a score artifact: give its path"),
    "scores for random": ("select --kind random --scores {scores}", "'random' takes no scores: leave them out"),
    "permuted random": ("select --kind random --dataset digits --permute-scores", "--permute-scores is for easy and hard"),
    "like for easy": ("select --kind easy --scores {scores} --like {easy}", "--like takes the histogram for random subsets"),
    "like of fewer": ("select --kind random --like {easy} --size 80 --replicates 3", "3 replicates, but .*easy.h5 holds 2: run "
                      "its select command with --replicates 3 first"),
    "folds": ("select --kind easy --scores {scores} --size 80 --replicates 4",
              "scores.h5 has no scores for fold 2: run its score command with --replicates 4 first"),
    "other data set": ("select --kind easy --scores {scores} --dataset cifar10", "--dataset cifar10, but .*scores.h5 is of digits"),
    "t": (PRETRAIN + " --steps 100 -t 101", r"rewind step t \(=101\) must be between 0 and the 100 steps of the schedule"),
    "negative t": (PRETRAIN + " -t -1", r"rewind step t \(=-1\) must be between 0 and the \d+ steps"),
    "huge t": (PRETRAIN + f" -t {HUGE}", rf"rewind step t \(={HUGE}\) must be between 0 and"),
    "below a batch": ("pretrain --subset {easy} --replicates 2 --batch-size 81", "a subset of 80 images has no full batch of 81"),
    "two sources": ("pretrain --subset {easy} --dataset digits", "pretrain needs either --dataset .* or --subset"),
    "subset of fewer": ("pretrain --subset {easy} --replicates 8", "8 replicates, but .*easy.h5 holds 2: run its select command"),
    "normalization": ("pretrain --subset {easy} --replicates 2 --normalization imagenet", "'imagenet' differs from the subset's"),
    "channels": (PRETRAIN + " --normalization imagenet", "normalization imagenet is for 3 channels, digits has 1: choose"),
    "milestones": (PRETRAIN + " --milestones 10,x", r"milestones \(='10,x'\) must be steps with commas, like 31200,46800"),
    "negative milestone": (PRETRAIN + " --milestones=-3,5", r"milestones \(='-3,5'\) must be steps with commas"),
    "falling milestones": (PRETRAIN + " --milestones 20,10", r"milestones \(=\(20, 10\)\) must ascend"),
    "lr": (PRETRAIN + " --lr 0", r"lr \(=0.0\) must be a positive finite number"),
    "lr nan": (PRETRAIN + " --lr nan", r"lr \(=nan\) must be a positive finite number"),
    "decay": (PRETRAIN + " --weight-decay inf", r"weight_decay \(=inf\) is not a finite number"),
    "steps": (PRETRAIN + " --steps 0", r"steps \(=0\) must be at least 1"),
    "batch": (PRETRAIN + " --batch-size -1", r"batch_size \(=-1\) must be at least 1"),
    "seconds": (PRETRAIN + " --checkpoint-seconds 0", r"checkpoint seconds \(=0.0\) must be above 0: try 60"),
    "seconds nan": (IMP + " --checkpoint-seconds nan", r"checkpoint seconds \(=nan\) must be above 0"),
    "fraction": (IMP + " --prune-fraction 1", r"prune fraction \(=1.0\) must be above 0 and below 1"),
    "negative fraction": (IMP + " --prune-fraction=-0.2", r"prune fraction \(=-0.2\) must be above 0 and below 1"),
    "imp of fewer": (IMP + " --replicates 3", "3 replicates, but .*rewind.h5 holds 2: run its pretrain command with --repl"),
    "levels": (IMP + " --levels 100", "100 levels, but level 30 would remove the last 1 of 4964 weights: ask for --levels 29"),
    "masks without": (IMP + " --pruning shuffled", "--pruning shuffled and --masks FILE go together: give both or neither"),
    "masks of fewer levels": (IMP + " --levels 2 --pruning shuffled --masks {imp}", "imp.h5 has no level 2 of replicate 0: ask"),
    "trained to the end": ("imp {whole} --levels 1", r"whole.h5 is trained to the end \(t = 12 of 12 steps\).*a smaller -t"),
    "imp of a subset": ("imp {easy} --levels 1", "easy.h5 is a subset artifact where a pretrain artifact is needed: give"),
    "no such artifact": ("imp {tmp}/nothing.h5", "nothing.h5 does not exist: check the path, or run the command that makes it"),
    "folder for artifact": ("imp {tmp}", "is not a file: give the path of an artifact"),
    "figure": ("figure figure9", "unknown figure 'figure9': choose figure2"),
    "figure at scale": ("plan figure2 --scale demo --dataset cifar10", "demo scale has no data set cifar10: choose among digits"),
    "control": ("plan figure2 --control magic", "unknown control 'magic': choose permute-scores, swap-easy-hard, shuffle-mask"),
    "no runs": ("figure figure2 --results {tmp}", "imp-all-t0.h5 is missing: make it with make, or with the commands that"),
    "results is a file": ("figure figure2 --results {imp}", "--results .*imp.h5 is a file: give a folder"),
    "ls of a file": ("ls --results {imp}", "imp.h5 is not a folder: give the one that holds the artifacts"),
    "ls of nothing": ("ls --results {tmp}", "holds no artifacts: give the folder that holds them"),
    "query": ("ls --results {folder} level=8", "the query 'level=8' has no answer .*: the columns are .*density"),
    "query column": ("ls --results {folder} lvl==8", "the query 'lvl==8' has no answer .*'lvl' is not defined.*: the columns are"),
    "query program": ("ls --results {folder} @x", "the query '@x' does more than compare: use columns and values"),
    "column": ("ls --results {folder} --columns acc,sparsity", "there is no column sparsity: the columns are "),
    "export onto itself": ("export {imp} --out {imp}", "--out .*imp.h5 is the artifact itself: give another path"),
    "out is what is read": (IMP + " --out {rewind}", "--out .*rewind.h5 is also what is read: choose another --out"),
}
DRY = ("data set", "network", "size", "huge size", "no size", "balance", "t", "huge t", "below a batch", "levels", "lr",
       "imp of fewer", "masks of fewer levels", "trained to the end")  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, refused):
    command, said = REFUSED[name]
    assert re.search(said, refused(command))


@pytest.mark.parametrize("name", DRY)
def test_a_dry_run_refuses_the_same(name, refused):
    command, _ = REFUSED[name]
    assert refused(command, dry=True) == refused(command)


@pytest.mark.parametrize("command, option", [
    ("score --dataset digits --networks", 10**9), ("score --dataset digits --replicates", 10**9),
    ("select --kind random --dataset digits --size 9 --replicates", 10**9), (PRETRAIN + " --replicates", 0),
    (IMP + " --levels", 10**6), (IMP + " --levels", -1), ("plan figure2 --replicates", 10**9),
    ("verify figure2 --levels", 10**6),
])  # fmt: skip
def test_counts_that_nobody_means_are_refused_at_once(command, option, refused):
    limits = "(0|1)<=x<=1000"
    assert re.search(rf"Invalid value for '--\w+': {option} is not in the range {limits}", refused(command, option))


def test_huge_numbers_that_mean_something_are_taken(given, tmp_path):
    for seed in (-(10**30), 10**30):
        command = ("select", "--kind", "random", "--dataset", "digits", "--size", 9, "--replicates", 1, "--seed", seed)
        repro(*command, "--out", tmp_path / f"{seed}.h5")
    assert len({bytes(store.read(path)["replicate_0/index"]) for path in tmp_path.iterdir()}) == 2
    assert len(repro("ls", "--results", tmp_path, "--columns", "seed").stdout.split()) == 3
    dry = repro("imp", given["rewind"], "--levels", 29, "--out", tmp_path / "x.h5", "--dry-run").stdout
    assert "dry run: would compute 60 and reuse 0" in dry and "network: cifar_resnet8_w4" in dry
    assert "would compute 0 and reuse 2" in repro("imp", given["rewind"], "--levels", 0, "--replicates", 2, "--out",
                                                  given["imp"], "--dry-run").stdout  # fmt: skip


def test_another_recipe_at_out_is_named_and_kept(given, tmp_path):
    out = tmp_path / "rewind.h5"
    shutil.copy(given["rewind"], out)
    command = ("pretrain", "--subset", given["easy"], "-t", 4, *TINY, "--out", out)
    said = complaint(*command, "--lr", 0.5, "--steps", 13)
    assert said == (f"{out} was made with another recipe: lr is 1.0 there and 0.5 here, steps is 12 there and 13 here; "
                    "choose another --out or pass --force to start anew")  # fmt: skip
    repro("select", "--kind", "random", "--dataset", "digits", "--size", 80, "--replicates", 2, "--out", tmp_path / "r.h5")
    said = complaint("pretrain", "--subset", tmp_path / "r.h5", "-t", 4, *TINY, "--out", out)
    assert "subset.subset is easy there and random here" in said
    assert f"{out} was made with another recipe: kind is pretrain there and imp here" in complaint(
        "imp", given["rewind"], "--levels", 1, "--out", out
    )
    assert out.read_bytes() == given["rewind"].read_bytes() and {p.name for p in tmp_path.iterdir()} == {out.name, "r.h5"}
    repro(*command, "--lr", 0.5, "--force")
    assert store.read(out).recipe["lr"] == 0.5


def test_a_correction_after_a_refusal_runs(given, tmp_path):
    """What was refused leaves no work folder in the way of the right command."""
    out = tmp_path / "easy.h5"
    command = ("select", "--kind", "easy", "--scores", given["scores"], "--replicates", 2, "--out", out)
    complaint(*command, "--size", 60000)
    repro(*command, "--size", 60)
    complaint("pretrain", "--subset", out, "-t", 2, *TINY, "--out", tmp_path / "rewind.h5")  # 60 is no full batch
    repro("pretrain", "--subset", out, "-t", 2, *TINY, "--batch-size", 60, "--out", tmp_path / "rewind.h5")


@pytest.mark.parametrize("network", ["dataset", "network"])
def test_masks_of_something_else(network, given, tmp_path):
    other = ("--network", "cifar_resnet8_w2") if network == "network" else ()
    repro("pretrain", "--dataset", "digits", "-t", 4, *TINY, *other, "--out", tmp_path / "rewind.h5")
    if network == "dataset":
        rewrite(tmp_path / "rewind.h5", dataset="folder:digits")
    said = complaint("imp", tmp_path / "rewind.h5", "--levels", 1, "--pruning", "shuffled", "--masks", given["imp"],
                     "--out", tmp_path / "imp.h5")  # fmt: skip
    assert re.search(rf"imp.h5 has masks for \w+, .*rewind.h5 is of [\w:]+: give --masks of the same {network}", said)


def rewrite(path, **recipe) -> None:
    """The artifact with other values in its recipe, as if it had been made with them."""
    old = store.read(path)
    arrays = {key: old[key] for key in old.keys()}
    store.write(path, kind=old.kind, recipe={**old.recipe, **recipe}, inputs=old.inputs, arrays=arrays,
                table=old.table(), provenance=old.provenance, defaults=old.lineage.defaults)  # fmt: skip


def test_other_images_are_noticed(given, tmp_path):
    shutil.copy(given["rewind"], tmp_path / "rewind.h5")
    rewrite(tmp_path / "rewind.h5", data_sha256="0123456789abcdef" * 4)
    said = complaint("imp", tmp_path / "rewind.h5", "--levels", 1, "--out", tmp_path / "imp.h5")
    assert re.fullmatch(r".*rewind.h5 was made from other images of digits \(sha256 0123456789ab…, here \w{12}…\): "
                        "point --data-dir to the same data", said)  # fmt: skip


DAMAGE = {
    "truncated": (lambda whole: whole[:-100], r"is truncated \(\d+ of \d+ bytes are there\)"),
    "altered": (lambda whole: whole[:-9] + bytes(9), "was altered after it was written"),
    "empty": (lambda whole: b"", "is truncated or not an HDF5 file"),
    "text": (lambda whole: b"level,acc\n" * 90, "is truncated or not an HDF5 file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_artifacts(damage, given, tmp_path):
    spoil, words = DAMAGE[damage]
    bad = tmp_path / "bad.h5"
    commands = {
        "rewind": [("imp", bad, "--levels", 1, "--out", tmp_path / "imp.h5"), ("inspect", bad), ("export", bad, "--out", bad)],
        "scores": [("select", "--kind", "easy", "--scores", bad, "--replicates", 2, "--out", tmp_path / "imp.h5")],
        "imp": [("imp", given["rewind"], "--levels", 1, "--out", bad)],
    }
    for name, damaged in commands.items():
        bad.write_bytes(spoil(given[name].read_bytes()))
        for command in damaged[:2]:
            assert re.search(rf"^{bad} {words}.*: delete it and run its command again$", complaint(*command))
    assert {path.name for path in tmp_path.iterdir()} == {"bad.h5"} and bad.read_bytes() == spoil(given["imp"].read_bytes())
    listed = repro("ls", "--results", tmp_path, code=2)
    assert "bad.h5" in listed.stderr or damage == "altered"


def test_hdf5_of_another_program(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.ones(3)
    assert "other.h5 is an HDF5 file of another program: give an artifact" in complaint("inspect", tmp_path / "other.h5")


def test_a_folder_of_images_that_moved(tmp_path):
    """Its name is kept in the recipe; the place is given anew."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 4)):
        for label in ("cat", "dog"):
            (tmp_path / "pets" / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / label / f"{i}.png")
    rewind, moved = tmp_path / "rewind.h5", tmp_path / "elsewhere"
    repro("pretrain", "--dataset", f"folder:{tmp_path}/pets", "-t", 2, *TINY, "--out", rewind)
    repro("imp", rewind, "--levels", 0, "--data-dir", tmp_path, "--out", tmp_path / "before.h5")
    moved.mkdir()
    (tmp_path / "pets").rename(moved / "pets")
    for place in ((), ("--data-dir", tmp_path)):
        said = complaint("imp", rewind, "--levels", 0, *place, "--out", tmp_path / "after.h5")
        assert said == "no folder pets of images here: point --data-dir at the folder that holds pets"
    repro("imp", rewind, "--levels", 0, "--data-dir", moved, "--out", tmp_path / "after.h5")
    assert contents(tmp_path / "before.h5") == contents(tmp_path / "after.h5")
    said = complaint("score", "--dataset", f"folder:{tmp_path}/gone", "--out", tmp_path / "s.h5")
    assert said == f"no folder {tmp_path}/gone of images here: point --data-dir at the folder that holds gone"


def test_a_network_that_cannot_take_the_images(tmp_path):
    said = complaint("pretrain", "--dataset", "digits", "--network", "vit_tiny_patch16_224", "-t", 1, "--replicates", 1,
                     "--out", tmp_path / "x.h5")  # fmt: skip
    assert said.startswith("network 'vit_tiny_patch16_224' cannot take the 8 x 8 images of digits (") and "(8)" in said


def test_more_memory_than_there_is(tmp_path):
    said = complaint("pretrain", "--dataset", "digits", "--network", "cifar_resnet8_w1000000", "-t", 1, "--replicates", 1,
                     "--out", tmp_path / "x.h5", code=1)  # fmt: skip
    assert said.startswith("out of memory: ask for fewer --replicates at a time")
