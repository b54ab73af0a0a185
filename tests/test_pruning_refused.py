"""What imp refuses of a criterion, a network or options, before it trains anything."""

import re

import pytest

from repro.errors import UsageError
from repro.recipes.pruning import Pruning
from tests.command_line import CPU, complaint, repro
from tests.two_layers import net, rewind_points


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rewind_points(tmp_path_factory.mktemp("criteria"))


def test_a_network_without_second_derivatives_is_told_before_it_is_trained(folder, tmp_path):
    network = ("--network", f"{folder}/net.py:distances", "--replicates", 1, "-t", 0)
    repro("pretrain", *net(folder), *network, "--out", tmp_path / "w.h5")
    words = ("imp", tmp_path / "w.h5", "--levels", 1, *CPU, "--pruning")
    said = complaint(*words, "grasp", "--out", tmp_path / "imp.h5")
    assert re.search(
        r"--pruning grasp fails on net.py:distances@\w+ \(.*_cdist_backward.*\): choose another criterion", said
    )
    assert not (tmp_path / "imp.h5").exists() and not (tmp_path / "imp.h5.work").exists()
    repro(*words, "snip", "--out", tmp_path / "imp.h5")


REFUSED = r"""
--pruning magic
    unknown pruning criterion 'magic': choose magnitude, layerwise, .*, grasp or FILE.py:NAME
--pruning SNIP
    unknown pruning criterion 'SNIP': try snip$
--pruning gone.py:taylor
    there is no file gone.py for pruning criterion 'gone.py:taylor': give its path
--pruning {own}:absent
    own.py has no absent: choose one of what it defines \(taylor, scalar
--pruning {own}:number
    number of .*own.py is no function: a pruning criterion takes \(weights, gradients, masks\)
--pruning {own}:scalar
    scalar of .*own.py gives \(\) for 1.weight: a tensor of shape \(12, 64\) is needed
--pruning {own}:some
    some of .*own.py gives a dict of 1.weight: return a dict with a tensor for each of 1.weight, 2.weight
--pruning {own}:nothing
    nothing of .*own.py gives None: return a dict
--pruning {own}:breaks
    breaks of .*own.py fails \(KeyError: 'head', line \d+\): it is called with \(weights, gradients, masks\)
--pruning {own}:waves
    waves of .*own.py gives complex numbers for 1.weight: give real ones, such as their abs\(\)
--pruning {own}:counted
    counted of .*own.py gives other scores each time it is called, so that no run could be repeated: draw
--pruning random --prune-at trained
    --prune-at trained, but random looks at no weight: leave --prune-at out
--pruning erk --prune-at initialisation
    --prune-at initialisation, but erk looks at no weight
--batches 2
    --batches 2, but magnitude needs no images: leave --batches out
--pruning synflow --batches 2
    --batches 2, but synflow needs no images
--keep-dense head
    --keep-dense head fits no layer that is pruned: choose among 1, 2
--keep-dense 1,2
    --keep-dense 1,2 leaves no layer to prune: name fewer
--keep-dense ,
    layers to keep dense \(=','\) must be patterns of names with commas
--keep-dense 1 --levels 60
    60 levels, but level \d+ would remove the last \d+ of 120 weights: ask for --levels \d+ or fewer
--finetune-steps 5
    --finetune-steps 5, but --rewind weights trains to the end of the schedule: leave it out, or give --rewind none
--rewind learning-rate --finetune-steps 5
    --finetune-steps 5, but --rewind learning-rate trains to the end
"""
_LINES = REFUSED.strip().splitlines()


@pytest.mark.parametrize("options, said", [*zip(_LINES[::2], _LINES[1::2])])
def test_what_cannot_be_is_refused_in_a_sentence(folder, tmp_path, options, said):
    words = [word.format(own=folder / "own.py") for word in options.split()]
    levels = () if "--levels" in words else ("--levels", 1)
    sentence = complaint("imp", folder / "w.h5", *levels, *words, *CPU, "--out", tmp_path / "out.h5")
    assert re.search(said.strip(), sentence), sentence
    assert not (tmp_path / "out.h5").exists()


def test_one_pattern_is_no_tuple_of_letters():
    with pytest.raises(UsageError, match=r"keep_dense \(='fc'\) must be a tuple of patterns: try \('fc',\)"):
        Pruning(keep_dense="fc")


def test_scores_that_are_not_finite_end_the_command(folder, tmp_path):
    words = ("--levels", 1, "--pruning", f"{folder}/own.py:infinite", *CPU, "--out", tmp_path / "o.h5")
    assert "its scores hold NaN or infinity" in repro("imp", folder / "w.h5", *words, code=1).stderr
