"""Subsets and passes against plain Python that sorts, counts and slices."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from repro.data.subsets import Passes, choose, histogram, missing_classes
from repro.errors import UsageError

rng = np.random.default_rng(0)
LABELS = rng.integers(0, 4, 120)
SCORES = rng.integers(0, 12, 120) / 8  # many equal scores
POOL = rng.permutation(120)[:90]


def ranked(kind: str) -> list[int]:
    """The pool as a list, easiest or hardest first, the lower index first among equals."""
    sign = 1 if kind == "easy" else -1
    return sorted(POOL.tolist(), key=lambda index: (sign * SCORES[index], index))


def head_of_each_class(ranking: list[int], size: int) -> list[int]:
    """Rounds over the ranking: every class gives its next example; the last round goes as far as `size` reaches."""
    left, taken = list(ranking), []
    while len(taken) < size:
        firsts = [next(index for index in left if LABELS[index] == label) for label in range(4)]
        firsts.sort(key=left.index)
        taken += firsts[: size - len(taken)]
        left = [index for index in left if index not in taken]
    return [index for index in ranking if index in taken]


@pytest.mark.parametrize("size", [1, 2, 17, 90])
@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_easy_and_hard_are_the_ends_of_the_ranking(kind, size):
    subset = choose(kind, size, labels=LABELS, pool=POOL, scores=SCORES)
    assert subset.dtype == np.int64 and subset.tolist() == ranked(kind)[:size]


@pytest.mark.parametrize("size", [1, 3, 4, 32, 33, 35])
@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_balanced_subsets_take_from_the_classes_in_turn(kind, size):
    subset = choose(kind, size, labels=LABELS, pool=POOL, scores=SCORES, balanced=True)
    assert subset.tolist() == head_of_each_class(ranked(kind), size)
    counts = np.bincount(LABELS[subset], minlength=4)
    assert counts.max() - counts.min() <= 1


def test_order_and_repeats_of_the_pool_are_of_no_account():
    shuffled = np.concatenate([POOL[::-1], POOL[:5]])
    for kind in ("easy", "hard", "random"):
        first, second = (
            choose(kind, 20, labels=LABELS, pool=pool, scores=SCORES, rng=np.random.default_rng(3))
            for pool in (POOL, shuffled)
        )
        assert first.tolist() == second.tolist()


def test_scores_outside_the_pool_are_not_looked_at():
    scores = SCORES.copy()
    scores[np.setdiff1d(np.arange(120), POOL)] = np.nan
    assert choose("easy", 9, labels=LABELS, pool=POOL, scores=scores).tolist() == ranked("easy")[:9]


def test_random_subsets_are_all_equally_likely():
    labels, pool = np.zeros(9, dtype=int), np.array([1, 2, 4, 5, 8])
    state = np.random.default_rng(5)
    drawn = [tuple(sorted(choose("random", 2, labels=labels, pool=pool, rng=state).tolist())) for _ in range(2000)]
    counts = [drawn.count(pair) for pair in itertools.combinations(pool.tolist(), 2)]
    assert sum(counts) == 2000 and chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("size, expected", [(32, [8] * 4), (34, [8, 8, 9, 9])])
def test_random_balanced(size, expected):
    subset = choose("random", size, labels=LABELS, pool=POOL, balanced=True, rng=np.random.default_rng(1))
    assert sorted(np.bincount(LABELS[subset]).tolist()) == expected
    assert len(np.unique(subset)) == size and np.isin(subset, POOL).all()


def test_the_remainder_of_random_balanced_falls_on_any_class():
    labels = np.repeat(np.arange(4), 5)
    state = np.random.default_rng(2)
    extra = np.zeros(4)
    for _ in range(1000):
        subset = choose("random", 9, labels=labels, pool=np.arange(20), balanced=True, rng=state)
        extra += np.bincount(labels[subset]) - 2
    assert extra.sum() == 1000 and chisquare(extra).pvalue > 0.01


@pytest.mark.parametrize("balanced", [False, True])
def test_a_larger_random_subset_contains_a_smaller_one(balanced):
    small, large = (
        choose("random", size, labels=LABELS, pool=POOL, balanced=balanced, rng=np.random.default_rng(7))
        for size in (14, 31)
    )
    assert set(small.tolist()) < set(large.tolist())


def test_random_with_the_histogram_of_another_subset():
    easy = choose("easy", 30, labels=LABELS, pool=POOL, scores=SCORES)
    easy = easy[LABELS[easy] != 2]  # a class that is missing stays missing
    subset = choose("random", len(easy), labels=LABELS, pool=POOL, like=easy, rng=np.random.default_rng(0))
    assert np.bincount(LABELS[subset], minlength=4).tolist() == np.bincount(LABELS[easy], minlength=4).tolist()
    assert len(np.unique(subset)) == len(easy) and np.isin(subset, POOL).all()
    assert set(subset.tolist()) != set(easy.tolist())


SMALL = np.array([0, 0, 0, 0, 1, 1, 1, 2])
NAN = np.where(np.arange(8) == 5, np.nan, 1.0)


@pytest.mark.parametrize(
    "kind, size, options, message",
    [
        ("easy", 9, {"scores": SMALL}, r"subset size \(=9\) exceeds the 8 training images: choose --size from 1 to 8"),
        ("easy", 0, {"scores": SMALL}, r"subset size \(=0\) is less than one image: choose"),
        ("medium", 2, {}, "unknown kind of subset 'medium': choose easy, hard, random"),
        ("easy", 2, {}, "an easy subset needs scores"),
        ("hard", 2, {}, "a hard subset needs scores"),
        ("hard", 2, {"scores": NAN}, "1 of the 8 scores are NaN, the first that of image 5"),
        ("random", 2, {}, "needs a random generator"),
        ("easy", 6, {"scores": SMALL, "balanced": True}, "class 2 has 1 training images .* of 6 .* needs 2"),
        ("easy", 5, {"scores": SMALL, "pool": np.arange(7), "balanced": True}, "class 2 has 0 .* needs 1"),
        ("random", 2, {"like": np.array([7])}, r"another one \(1 images\).*size 2"),
        ("easy", 1, {"like": np.array([7]), "scores": SMALL}, "kind 'easy'"),
        ("random", 1, {"like": np.array([7]), "balanced": True}, "balanced True"),
        ("random", 1, {"like": np.array([7]), "pool": np.arange(7), "rng": rng}, "class 2 has 0 training images"),
    ],
)
def test_what_cannot_be_chosen_is_explained(kind, size, options, message):
    with pytest.raises(UsageError, match=message):
        choose(kind, size, **{"labels": SMALL, "pool": np.arange(8), **options})


def test_a_remainder_that_too_few_classes_can_give():
    labels = np.array([0, 0, 1, 2])
    assert len(choose("easy", 4, labels=labels, pool=np.arange(4), scores=labels, balanced=True)) == 4
    with pytest.raises(UsageError, match="class 1 has 1 training images where a subset of 5 .* needs 2"):
        choose("easy", 5, labels=np.array([0, 0, 0, 1, 2]), pool=np.arange(5), scores=np.zeros(5), balanced=True)


def test_composition():
    labels = np.array([3, 0, 3, 3])
    assert histogram(labels, 5).tolist() == [1, 0, 0, 3, 0]
    assert missing_classes(labels, 5).tolist() == [1, 2, 4]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n, batch_size", [(1, 1), (10, 5), (10, 4), (10, 10), (256, 128), (3, 128)])
def test_passes_are_slices_of_each_pass(n, batch_size, drop_last):
    if drop_last and n < batch_size:
        with pytest.raises(UsageError, match=f"subset of {n} images has no full batch of {batch_size}"):
            Passes(n, batch_size, drop_last)
        return
    order = list(range(n))
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    if drop_last:
        batches = [batch for batch in batches if len(batch) == batch_size]
    passes = Passes(n, batch_size, drop_last)
    assert passes.steps_per_pass == len(batches)
    expected = [(number, batch) for number in range(3) for batch in batches]
    for step, (number, batch) in enumerate(expected):
        located, place = passes.locate(step)
        assert (located, order[place]) == (number, batch)


def test_published_steps_per_pass():
    assert Passes(50_000, 128, drop_last=True).steps_per_pass == 390
    assert Passes(50_000, 128, drop_last=False).steps_per_pass == 391
    assert Passes(180_000, 256, drop_last=True).steps_per_pass == 703


@pytest.mark.parametrize("n, batch_size", [(0, 4), (4, 0)])
def test_passes_need_images_and_batches(n, batch_size):
    with pytest.raises(UsageError, match="both must be at least 1"):
        Passes(n, batch_size, drop_last=False)


def test_subsets_are_imported_without_torch():
    code = "import sys, repro.data, repro.data.subsets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
