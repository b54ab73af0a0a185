"""Who does which job when: jobs that wait for others, and a number of places to run them."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from repro.plan import Job


@dataclass(frozen=True)
class Schedule:
    """When each job begins and ends, in seconds from the start, in the order in which the jobs were given."""

    begins: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def clock(self) -> float:
        """Seconds until the last one ends."""
        return max(self.ends, default=0.0)


def schedule(jobs: Sequence[Job], seconds: Sequence[float], places: int) -> Schedule:
    """List scheduling, as make and Ray do it: a place that is free takes the first job, in the order given, whose needs
    are there. At most 2 - 1/places times as long as the best possible (Graham 1969).

    Arguments:
        jobs: with every job that one of them needs, in any order.
        seconds: that each takes, 0 or more.
    """
    number = {job.target: k for k, job in enumerate(jobs)}
    waits = [len(job.needs) for job in jobs]
    readers: list[list[int]] = [[] for _ in jobs]
    for k, job in enumerate(jobs):
        for path in job.needs:
            readers[number[path]].append(k)
    ready = [k for k, count in enumerate(waits) if not count]  # in order, so it is a heap
    running: list[tuple[float, int]] = []
    begins, ends, now = [0.0] * len(jobs), [0.0] * len(jobs), 0.0
    while ready or running:
        while ready and len(running) < places:
            k = heapq.heappop(ready)
            begins[k], ends[k] = now, now + seconds[k]
            heapq.heappush(running, (ends[k], k))
        now = running[0][0]
        while running and running[0][0] == now:
            for k in readers[heapq.heappop(running)[1]]:
                waits[k] -= 1
                if not waits[k]:
                    heapq.heappush(ready, k)
    assert not any(waits), "jobs that wait for each other in a circle"
    return Schedule(tuple(begins), tuple(ends))


def longest_chain(jobs: Sequence[Job], seconds: Sequence[float]) -> list[int]:
    """The numbers of the jobs, in order, of the chain of needs that takes longest: no number of places is faster."""
    if not jobs:
        return []
    ends = schedule(jobs, seconds, len(jobs)).ends
    number = {job.target: k for k, job in enumerate(jobs)}
    chain = [max(range(len(jobs)), key=ends.__getitem__)]
    while needs := jobs[chain[-1]].needs:
        chain.append(max((number[path] for path in needs), key=ends.__getitem__))
    return chain[::-1]
