"""Options that cannot be: one sentence that echoes the value and says what to do, status 2, nothing written."""

import re

import pytest

from repro import imp, pretrain, score, select, store
from repro.errors import UsageError
from tests.command_line import chain_of_artifacts, complaint, repro

SHORT = {
    "PRETRAIN": "pretrain --dataset digits --network cifar_resnet8_w4 --replicates 1 -t 2",
    "SELECT": "select --kind easy --scores {scores} --replicates 2 --size",
    "IMP": "imp {rewind} --levels 1",
}
# A command, and below it what its sentence has to match. {easy} stands for that artifact; a dry run refuses the same
# where the line begins with "dry".
REFUSED = r"""
dry score --dataset cifar11
    unknown data set 'cifar11': choose cifar10, cifar100, cinic10, digits or folder:PATH
pretrain --dataset cifar11
    unknown data set 'cifar11': choose
score
    score needs --dataset: try --dataset digits
dry PRETRAIN --network resnet1000
    unknown network 'resnet1000': use cifar_resnet<6n\+2>
PRETRAIN --network test_efficientnet --engine sparse
    --engine sparse cannot train 'test_efficientnet', which has .*: use --engine serial
PRETRAIN --network cifar_resnet21
    depth \(=21\) of a CIFAR ResNet must be 6n\+2: try 8, 14
pretrain --dataset digits --scale paper
    no scale 'paper' for digits: choose demo
dry SELECT 60000
    subset size \(=60000\) exceeds the 1437 training images: choose --size from 1 to 1437
dry SELECT 1000000000000000000
    subset size \(=1000000000000000000\) exceeds the 1437 training images
dry SELECT 0
    subset size \(=0\) is less than one image: choose --size from 1
SELECT -5
    subset size \(=-5\) is less than one image
dry SELECT 1400 --balanced
    class \d has 1[34]\d training images .* needs 140: choose a smaller --size, or no balance
select --kind hard --size 9 --dataset digits
    'hard' needs --scores: give a score or barrier artifact, or a file of your own
select --kind random --scores {scores}
    'random' takes no scores: leave them out
select --kind random --dataset digits --permute-scores
    --permute-scores is for easy and hard
select --kind easy --scores {scores} --like {easy}
    --like takes the histogram for random subsets
select --kind random --like {easy} --size 80 --replicates 3
    3 replicates, but .*easy.h5 holds 2: give --replicates 2 here, or run its select command with --replicates 3$
select --kind easy --scores {scores} --size 80 --replicates 4
    scores.h5 has scores for 2 folds: give --replicates 2 here, or run score with --replicates 4$
select --kind easy --scores {scores} --dataset cifar10
    --dataset cifar10, but .*scores.h5 is of digits
dry PRETRAIN --steps 100 -t 101
    step t \(=101\) must be between 0 and the 100 steps of the schedule
PRETRAIN -t -1
    step t \(=-1\) must be between 0 and the \d+ steps
dry PRETRAIN -t 1000000000000000000
    step t \(=1000000000000000000\) must be between 0 and
dry pretrain --subset {easy} --replicates 2 --batch-size 81
    a subset of 80 images has no full batch of 81
pretrain --subset {easy} --dataset digits
    pretrain needs either --dataset .* or --subset
pretrain --subset {easy} --replicates 8
    8 replicates, but .*easy.h5 holds 2: give --replicates 2 here, or run its select command with --replicates 8$
pretrain --subset {easy} --replicates 2 --normalization imagenet
    'imagenet' differs from the subset's
PRETRAIN --normalization imagenet
    normalization imagenet is for 3 channels, digits has 1: choose
PRETRAIN --milestones 10,x
    milestones \(='10,x'\) must be steps with commas, like 31200,46800
PRETRAIN --milestones=-3,5
    milestones \(='-3,5'\) must be steps with commas
PRETRAIN --milestones 20,10
    milestones \(=\(20, 10\)\) must be steps from 1 on, and ascend
dry PRETRAIN --schedule cosine --warmup-steps 440
    warm-up steps \(=440\) must be at least 0 and below the 440 steps of the training
PRETRAIN --warmup-steps=-1
    warm-up steps \(=-1\) must be at least 0 and below
PRETRAIN --label-smoothing 1
    label smoothing \(=1.0\) must be at least 0 and below 1: try 0.1
PRETRAIN --label-smoothing nan
    label smoothing \(=nan\) must be at least 0 and below 1
dry PRETRAIN --epochs 2 --steps 40
    --epochs 2 and --steps 40 both say how long: give one of them
PRETRAIN --epochs 2 --batch-size 0
    1437 images in batches of 0: both must be at least 1
PRETRAIN --epochs 2 --batch-size 1438
    a subset of 1437 images has no full batch of 1438
pretrain --dataset folder:{tmp}/none --epochs 2
    no folder .*none of images: point --data-dir at the folder that holds none
PRETRAIN --schedule cosin
    'cosin' is not one of 'step', 'cosine', 'linear', 'constant'
PRETRAIN --epochs 0
    0 is not in the range x>=1
PRETRAIN --epochs 0.5
    '0.5' is not a valid integer
dry PRETRAIN --lr 0
    lr \(=0.0\) must be a positive finite number
PRETRAIN --lr nan
    lr \(=nan\) must be a positive finite number
PRETRAIN --weight-decay inf
    weight decay \(=inf\) must be 0 or a positive finite number
PRETRAIN --steps 0
    steps \(=0\) must be at least 1
PRETRAIN --batch-size -1
    batch_size \(=-1\) must be at least 1
PRETRAIN --checkpoint-seconds 0
    checkpoint seconds \(=0.0\) must be above 0: try 60
IMP --checkpoint-seconds nan
    checkpoint seconds \(=nan\) must be above 0
IMP --prune-fraction 1
    prune fraction \(=1.0\) must be above 0 and below 1
IMP --prune-fraction=-0.2
    prune fraction \(=-0.2\) must be above 0 and below 1
dry IMP --replicates 3
    3 replicates, but .*rewind.h5 holds 2: give --replicates 2 here, or run its pretrain command with --replicates 3$
dry IMP --levels 100
    100 levels, but level 30 would remove the last 1 of 4964 weights: ask for --levels 29
dry imp {whole} --levels 1
    whole.h5 is trained to the end \(t = 12 of 12 steps\).*a smaller -t
imp {easy} --levels 1
    easy.h5 is a subset artifact where a pretrain artifact is needed: give the path of one
imp {tmp}/nothing.h5
    nothing.h5 does not exist: check the path, or run the command that makes it
imp {tmp}
    is not a file: give the path of an artifact
figure figure9
    unknown figure 'figure9': choose figure1, figure2, figure3, figure4, figure5, figure6, appendix, scores or all
plan figure2 --scale demo --dataset cifar10
    demo scale has no data set cifar10: choose among digits
plan figure2 --control magic
    unknown control 'magic' of figure2: choose permute-scores, swap-easy-hard, shuffle-mask, with figure2
figure figure2 --results {tmp}
    imp-all-t0.h5 is missing: run make, or the commands that repro plan --make writes
figure figure2 --results {imp}
    --results .*imp.h5 is a file: give a folder
ls --results {imp}
    imp.h5 is not a folder: give the one that holds the artifacts
ls --results {tmp}
    holds no artifacts: give the folder that holds them
ls --results {folder} level=8
    the query 'level=8' has no answer \(invalid syntax, equality is ==\): the columns are .*density
ls --results {folder} lvl==8
    the query 'lvl==8' has no answer .*'lvl' is not defined.*: the columns are
ls --results {folder} @x
    the query '@x' does more than compare: use columns and values
ls --results {folder} --columns acc,sparsity
    there is no column sparsity: the columns are
export {imp} --out {imp}
    --out .*imp.h5 is the artifact itself: give another path
IMP --out {rewind}
    --out .*rewind.h5 is also what is read: choose another --out
"""
CASES = re.findall(r"^(dry )?(\w.*)\n {4}(.*)$", REFUSED, re.MULTILINE)
assert 2 * len(CASES) == len(REFUSED.strip().splitlines())


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return chain_of_artifacts(tmp_path_factory.mktemp("given"))


@pytest.fixture
def refused(given, tmp_path):
    """Runs a command that must fail and write nothing; returns its sentence."""

    def run(command: str, *more) -> str:
        first, *rest = command.split()
        words = [word.format(**given, tmp=tmp_path) for word in [*SHORT.get(first, first).split(), *rest]]
        out = ("--out", tmp_path / "out.h5") if words[0] in ("score", "select", "pretrain", "imp") else ()
        said = complaint(words[0], *out, *words[1:], *more)  # of an option that is given twice, the later counts
        assert not list(tmp_path.glob("out.*")), "a command that was refused left something"
        return said

    return run


@pytest.mark.parametrize("dry, command, said", CASES, ids=[command for _, command, _ in CASES])
def test_refused(dry, command, said, refused):
    sentence = refused(command)
    assert re.search(said, sentence)
    if dry:
        assert refused(command, "--dry-run") == sentence


@pytest.mark.parametrize(
    "command, option",
    [
        ("score --dataset digits --networks", 10**9),
        ("score --dataset digits --replicates", 10**9),
        ("select --kind random --dataset digits --size 9 --replicates", 10**9),
        ("PRETRAIN --replicates", 0),
        ("IMP --levels", 10**6),
        ("IMP --levels", -1),
        ("plan figure2 --replicates", 10**9),
        ("verify figure2 --levels", 10**6),
    ],
)
def test_counts_that_nobody_means_are_refused_at_once(command, option, refused):
    limits = "(0|1)<=x<=1000"
    assert re.search(rf"Invalid value for '--\w+': {option} is not in the range {limits}", refused(command, option))


def test_counts_in_python(given, tmp_path):
    out = tmp_path / "x.h5"
    for call in (
        lambda: score(out, dataset="digits", replicates=0),
        lambda: pretrain(out, dataset="digits", t=1, replicates=0),
        lambda: select(out, kind="random", dataset="digits", size=9, replicates=0),
        lambda: imp(out, given["rewind"], levels=1, replicates=0),
    ):
        with pytest.raises(UsageError, match=r"number of replicates \(=0\) must be at least 1"):
            call()
    with pytest.raises(UsageError, match=r"levels \(=-1\) must be 0 \(dense training alone\) or more"):
        imp(out, given["rewind"], levels=-1)


def test_huge_numbers_that_mean_something_are_taken(given, tmp_path):
    for seed in (-(10**30), 10**30):
        command = ("select", "--kind", "random", "--dataset", "digits", "--size", 9, "--replicates", 1, "--seed", seed)
        repro(*command, "--out", tmp_path / f"{seed}.h5")
    assert len({bytes(store.read(path)["replicate_0/index"]) for path in tmp_path.iterdir()}) == 2
    assert len(repro("ls", "--results", tmp_path, "--columns", "seed").stdout.split()) == 3
    dry = repro("imp", given["rewind"], "--levels", 29, "--out", tmp_path / "x.h5", "--dry-run").stdout
    assert dry.startswith("dry run: would compute 60 and reuse 0, ") and "network: cifar_resnet8_w4" in dry
    assert (
        "would compute 0 and reuse 2"
        in repro("imp", given["rewind"], "--levels", 0, "--replicates", 2, "--out", given["imp"], "--dry-run").stdout
    )
