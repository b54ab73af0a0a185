"""Which examples a network is pre-trained on: easy, hard and random subsets, and the passes made over them.

Plain numpy, no torch. An *index* is a row of the image set; labels and scores are indexed by it.
"""

from dataclasses import dataclass

import numpy as np

from repro.errors import UsageError

SUBSET_KINDS = ("easy", "hard", "random")
"""What `choose` chooses."""
OTHER_KINDS = ("band", "given")
"""A `band` of the ranking, and a list that a user gives."""


def choose(
    kind: str,
    size: int,
    *,
    labels: np.ndarray,
    pool: np.ndarray,
    scores: np.ndarray | None = None,
    balanced: bool = False,
    like: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Choose `size` examples of `pool`: int64 [size], best-ranked first.

    The pool is ranked: easy by ascending score, hard by descending score (paper section 3, protocol section 7), equal
    scores by ascending index; random by one permutation drawn from `rng`. The subset is the head of the ranking, or of
    each class's share of it: with one generator state a larger random subset contains a smaller one.

    labels: integers [N] for the whole image set, also of what is outside the pool.
    pool: int [P], the candidates (the train index). Their order has no effect.
    scores: float [N], needed for easy and hard. Only those of the pool count.
    balanced: as many examples of each class. What `size` leaves over the multiple of the number of classes goes, one a
        class, to the classes whose next example is ranked best.
    like: index of another subset, of `size` examples; a random subset then has its class histogram.
    rng: needed for random, not used otherwise.

    Raises UsageError for an unknown kind, a size below 1 or beyond the pool, missing or NaN scores, a class with too
    few examples, and `like` of another size, together with `balanced` or with another kind than random.
    """
    pool = np.unique(np.asarray(pool, dtype=np.int64))
    if not 1 <= size <= len(pool):
        fault = f"exceeds the {len(pool)} training images" if size > len(pool) else "is less than one image"
        raise UsageError(f"subset size (={size}) {fault}: choose --size from 1 to {len(pool)}")
    if like is not None and (kind != "random" or balanced or len(like) != size):
        raise UsageError(
            f"a subset with the class histogram of another one ({len(like)} images) is random, not otherwise balanced, "
            f"and of the same size: kind {kind!r}, balanced {balanced} and size {size} do not go with it"
        )
    ranking = _rank(kind, pool, scores, rng)
    if not balanced and like is None:
        return ranking[:size]

    labels = np.asarray(labels)
    num_classes = int(labels.max()) + 1
    ranked_labels = labels[ranking]
    place = _place_in_class(ranked_labels)
    if like is not None:
        quota = histogram(labels[like], num_classes)
    else:
        share, left_over = divmod(size, num_classes)
        quota = np.full(num_classes, share)
        quota[ranked_labels[place == share][:left_over]] += 1
    _check_supply(histogram(ranked_labels, num_classes), quota, size)
    return ranking[place < quota[ranked_labels]]


def band(low: float, high: float, *, pool: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """The examples of `pool` between two shares of the ranking, easiest first: int64 [M].

    Those are the ranks from `low` * `count` up to, and without, `high` * `count`, both rounded half up, so that bands
    that meet share no example.

    low, high: shares from 0 to 1. pool, scores: as for `choose`. count: examples that the shares are of, at most P;
        folds differ by one, and their bands are to be of one size.

    Raises UsageError for shares that do not ascend within 0 to 1, a band without an example, and NaN scores.
    """
    told = f"the band from {100 * low:g}% to {100 * high:g}%"
    if not 0 <= low < high <= 1:
        raise UsageError(f"{told} does not ascend within 0% and 100%: give --from below --to, like 10% and 40%")
    start, stop = (int(np.floor(share * count + 0.5)) for share in (low, high))
    if start == stop:
        raise UsageError(f"{told} of {count} training images holds none: give a wider one")
    return _rank("easy", np.unique(np.asarray(pool, dtype=np.int64)), scores, None)[start:stop]


def _rank(kind: str, pool: np.ndarray, scores: np.ndarray | None, rng: np.random.Generator | None) -> np.ndarray:
    """The pool, which is ascending, from the first to be chosen to the last."""
    if kind not in SUBSET_KINDS:
        raise UsageError(f"unknown kind of subset {kind!r}: choose {', '.join(SUBSET_KINDS)}")
    if kind == "random":
        if rng is None:
            raise UsageError("a random subset needs a random generator: pass rng")
        return rng.permutation(pool)
    if scores is None:
        raise UsageError(f"{'an' if kind == 'easy' else 'a'} {kind} subset needs scores: pass those of `repro score`")
    values = np.asarray(scores, dtype=np.float64)[pool]
    unknown = np.flatnonzero(np.isnan(values))
    if len(unknown):
        raise UsageError(
            f"{len(unknown)} of the {len(pool)} scores are NaN, the first that of image {pool[unknown[0]]}: "
            "score the images again"
        )
    return pool[np.argsort(values if kind == "easy" else -values, kind="stable")]


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """For each entry, how many earlier entries have its label."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    place = np.empty(len(labels), dtype=np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def _check_supply(supply: np.ndarray, quota: np.ndarray, size: int) -> None:
    """Stop when a class cannot give its quota, or when too few classes can give one example more than their share."""
    short = np.flatnonzero(supply < quota)
    if len(short) == 0 and quota.sum() == size:
        return
    worst = int(short[0]) if len(short) else int(np.argmin(supply))
    needed = int(quota[worst]) if len(short) else int(quota[worst]) + 1
    raise UsageError(
        f"class {worst} has {supply[worst]} training images where a subset of {size} with this class balance needs "
        f"{needed}: choose a smaller --size, or no balance"
    )


def histogram(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of examples of each class: int64 [num_classes]."""
    return np.bincount(labels, minlength=num_classes)


def missing_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The classes that have no example, ascending."""
    return np.flatnonzero(histogram(labels, num_classes) == 0)


@dataclass(frozen=True)
class Passes:
    """Where a training step lies in repeated passes over n examples, each pass in its own order.

    drop_last: leave out the last partial batch of every pass (lth_diet: 256 examples in batches of 100 make 2 steps a
    pass), or train on it as it is (open_lth: 3 steps) (protocol section 4).

    Raises UsageError when nothing but a partial batch is there and drop_last leaves it out.
    """

    n: int
    batch_size: int
    drop_last: bool

    def __post_init__(self):
        if self.n < 1 or self.batch_size < 1:
            raise UsageError(f"{self.n} images in batches of {self.batch_size}: both must be at least 1")
        if self.drop_last and self.n < self.batch_size:
            raise UsageError(
                f"a subset of {self.n} images has no full batch of {self.batch_size}, and partial batches are dropped: "
                f"choose --size {self.batch_size} or more, or keep the last batch"
            )

    @property
    def steps_per_pass(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def locate(self, step: int) -> tuple[int, slice]:
        """(number of the pass, slice of that pass's order) of the batch of a step; both count from 0."""
        number, position = divmod(step, self.steps_per_pass)
        start = position * self.batch_size
        return number, slice(start, min(start + self.batch_size, self.n))
