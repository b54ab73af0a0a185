"""Who runs when, against a clock that ticks second by second, and against the best of all orders."""

import graphlib
import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.plan.jobs import Job, longest_chain, schedule


def jobs_of(needs: dict[str, str]) -> list[Job]:
    """{'c': 'ab'}: c waits for a and b."""
    return [Job((SimpleNamespace(target=Path(name)),), tuple(map(Path, needs[name]))) for name in needs]


def ticking(jobs, seconds, places) -> list[tuple[int, int]]:
    """(begin, end) of each job, by looking at every whole second."""
    number = {job.target: k for k, job in enumerate(jobs)}
    spans: dict[int, tuple[int, int]] = {}
    for now in range(sum(seconds) + 1):
        for k, job in enumerate(jobs):
            busy = sum(begin <= now < end for begin, end in spans.values())
            there = all(number[path] in spans and spans[number[path]][1] <= now for path in job.needs)
            if k not in spans and there and busy < places:
                spans[k] = (now, now + seconds[k])
    return [spans[k] for k in range(len(jobs))]


def random_case(seed):
    rng = random.Random(seed)
    names = "abcdefg"[: rng.randint(1, 7)]
    needs = {name: "".join(n for n in names[:k] if rng.random() < 0.3) for k, name in enumerate(names)}
    return jobs_of(needs), [rng.randint(1, 5) for _ in names], rng.randint(1, 3)


def test_jobs_wait_for_what_they_need():
    """a 4, b 2, c 3 after a, d 5 after b, e 1 after both c and d; two places, then one, then plenty."""
    jobs, seconds = jobs_of({"a": "", "b": "", "c": "a", "d": "b", "e": "cd"}), [4, 2, 3, 5, 1]
    assert schedule(jobs, seconds, 2).begins == (0, 0, 4, 2, 7)
    assert schedule(jobs, seconds, 2).clock == 8
    assert schedule(jobs, seconds, 1).begins == (0, 4, 6, 9, 14)
    assert schedule(jobs, seconds, 9).clock == 8
    assert longest_chain(jobs, seconds) == [0, 2, 4]  # a, c, e: 8; b, d, e takes as long
    assert longest_chain(jobs, [1, 2, 3, 5, 1]) == [1, 3, 4]
    assert schedule([], [], 3).clock == 0 and longest_chain([], []) == []


def test_a_place_that_is_free_takes_the_first_that_may_begin():
    """b has to wait for a, and c is done meanwhile, although it comes later."""
    jobs = jobs_of({"a": "", "b": "a", "c": ""})
    assert schedule(jobs, [2, 2, 3], 2).begins == (0, 2, 0)
    late = jobs_of({"c": "", "b": "a", "a": ""})  # in any order
    assert schedule(late, [3, 2, 2], 2).begins == (0, 2, 0)


@pytest.mark.parametrize("seed", range(60))
def test_against_a_ticking_clock(seed):
    jobs, seconds, places = random_case(seed)
    found = schedule(jobs, seconds, places)
    assert list(zip(found.begins, found.ends, strict=True)) == ticking(jobs, seconds, places)


@pytest.mark.parametrize("seed", range(60, 75))
def test_against_the_best_of_all_orders(seed):
    """Graham's bound; and without a lack of places the longest chain alone decides, which is also the longest path."""
    jobs, seconds, places = random_case(seed)
    orders = itertools.islice(itertools.permutations(range(len(jobs))), 720)
    best = min(
        max(end for _, end in ticking([jobs[k] for k in order], [seconds[k] for k in order], places))
        for order in orders
    )
    clock = schedule(jobs, seconds, places).clock
    assert clock <= (2 - 1 / places) * best
    number = {job.target: k for k, job in enumerate(jobs)}

    def path(k: int) -> int:
        return seconds[k] + max((path(number[p]) for p in jobs[k].needs), default=0)

    longest = sum(seconds[k] for k in longest_chain(jobs, seconds))
    assert longest == max(map(path, range(len(jobs)))) == schedule(jobs, seconds, len(jobs)).clock
    assert clock >= max(longest, sum(seconds) / places)


def test_a_circle_is_our_own_mistake():
    with pytest.raises(graphlib.CycleError):
        schedule(jobs_of({"a": "b", "b": "a"}), [1, 1], 2)
