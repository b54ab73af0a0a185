"""Steps as jobs: what one process does, whoever starts it (make, Slurm, Ray), when it has its turn, and rules for make.

Where only one step reads an artifact, both steps are one job (`repro pretrain … then imp …`), because a process takes
seconds to start.
"""

import heapq
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from repro.errors import UsageError
from repro.plan.steps import Step


@dataclass(frozen=True)
class Job:
    """The steps of one process, in order. needs: targets of other jobs, which have to exist before it starts."""

    steps: tuple[Step, ...]
    needs: tuple[Path, ...]

    @property
    def target(self) -> Path:
        """The artifact of its last step, by which the job is known."""
        return self.steps[-1].target

    @property
    def name(self) -> str:
        """What it makes: 'pretrain-all-t20, imp-all-t20'."""
        return ", ".join(step.target.stem for step in self.steps)

    @property
    def log(self) -> Path:
        """The log of its process; see `repro.run.job_log`."""
        return self.target.with_suffix(".log")

    def words(self, options: tuple[str, ...] = ()) -> list[str]:
        """The arguments of its process; ``options`` go to every command."""
        commands = [[*step.command, *options] for step in self.steps]
        return [word for k, command in enumerate(commands) for word in (["then"] if k else []) + command]


def as_jobs(todo: list[Step]) -> list[Job]:
    """The steps as jobs, each after those it needs.

    Jobs with the most work behind them, in images, come first, so that the longest chain starts early: whoever is free
    takes the first job that can start.
    """
    chains = _chains(todo)
    maker = {step.target: chain[-1].target for chain in chains for step in chain}
    jobs = []
    for chain in chains:
        made = {step.target for step in chain}
        read = [path for step in chain for path in step.needs if path in maker and path not in made]
        jobs.append(Job(tuple(chain), tuple(dict.fromkeys(maker[path] for path in read))))
    behind: Counter[Path] = Counter()  # the most images of a chain of jobs that begins with this one
    for job in reversed(jobs):
        behind[job.target] += sum(step.images for step in job.steps)
        for path in job.needs:
            behind[path] = max(behind[path], behind[job.target])
    return sorted(jobs, key=lambda job: -behind[job.target])


def _chains(todo: list[Step]) -> list[list[Step]]:
    """The steps of each job, in order.

    A step that reads one artifact joins its job, where no other step reads what that job makes. Subsets take no time to
    choose, so they always join the job of their scores, and those without scores are one job.
    """
    readers = Counter(path for step in todo for path in step.needs)
    chains: list[list[Step]] = []
    chain_of: dict[Path, list[Step]] = {}
    loose: list[Step] = []

    def place(step: Step, chain: list[Step]) -> None:
        if not chain:
            chains.append(chain)
        chain.append(step)
        chain_of[step.target] = chain

    rest = []
    for step in todo:
        if step.verb == "score":
            place(step, [])
        elif step.verb == "select" and all(path in chain_of for path in step.needs):
            place(step, chain_of[step.needs[0]] if step.needs else loose)
        else:
            rest.append(step)
    for step in rest:
        before = chain_of.get(step.needs[0], []) if len(step.needs) == 1 else []
        alone = all(readers[a.target] == 1 and a.target in b.needs for a, b in zip(before, [*before[1:], step]))
        place(step, before if alone else [])
    return chains


@dataclass(frozen=True)
class Schedule:
    """When each job begins and ends, in seconds from the start, in the order of the jobs given."""

    begins: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def clock(self) -> float:
        """Seconds until the last one ends."""
        return max(self.ends, default=0.0)


def schedule(jobs: Sequence[Job], seconds: Sequence[float], places: int) -> Schedule:
    """List scheduling, as make and Ray do it: a free place takes the first job in the order given whose needs are met.

    This takes at most 2 - 1/places times as long as the best possible schedule (Graham 1969).

    Arguments:
        jobs: in any order, with every job that one of them needs.
        seconds: how long each takes, 0 or more.
        places: how many jobs run at once.

    Raises graphlib.CycleError for jobs that wait for each other.
    """
    number = {job.target: k for k, job in enumerate(jobs)}
    waiting = TopologicalSorter({k: [number[path] for path in job.needs] for k, job in enumerate(jobs)})
    waiting.prepare()
    ready: list[int] = []  # a heap of numbers of jobs
    running: list[tuple[float, int]] = []  # a heap of (end, number)
    begins, ends, now = [0.0] * len(jobs), [0.0] * len(jobs), 0.0
    while waiting.is_active():
        for k in waiting.get_ready():
            heapq.heappush(ready, k)
        while ready and len(running) < places:
            k = heapq.heappop(ready)
            begins[k], ends[k] = now, now + seconds[k]
            heapq.heappush(running, (ends[k], k))
        now = running[0][0]
        while running and running[0][0] == now:
            waiting.done(heapq.heappop(running)[1])
    return Schedule(tuple(begins), tuple(ends))


def longest_chain(jobs: Sequence[Job], seconds: Sequence[float]) -> list[int]:
    """Numbers of the jobs, each needed by the next, that take longest together: no number of places is faster."""
    if not jobs:
        return []
    ends = schedule(jobs, seconds, len(jobs)).ends
    number = {job.target: k for k, job in enumerate(jobs)}
    chain = [max(range(len(jobs)), key=ends.__getitem__)]
    while needs := jobs[chain[-1]].needs:
        chain.append(max((number[path] for path in needs), key=ends.__getitem__))
    return chain[::-1]


def rules(todo: list[Step], *, program: tuple[str, ...], options: str = "") -> str:
    """A makefile fragment that makes the given steps' artifacts, with a log for each process.

    ``LAUNCH`` prefixes every process. They are then quiet, because 64 jobs would mix their progress on one terminal.
    Every rule is phony and runs whatever the file times say, because its steps lack something.

    Raises UsageError for paths that make cannot have as targets.
    """
    for step in todo:
        if odd := re.search(r"[^\w./+,@-]", str(step.target)):
            raise UsageError(f"make cannot have {odd[0]!r} in the path {step.target}: choose another --results folder")
    found, extra = as_jobs(todo), words_of(options)
    targets = " ".join(str(job.target) for job in found)
    lines = [".SILENT:", f".PHONY: all {targets}", f"all: {targets}", "\t@:"]
    for job in found:
        lines += [
            f"{job.target}: {' '.join(map(str, job.needs))}".rstrip(),
            f"\techo 'making {job.name}$(if $(LAUNCH),: {job.log})'",
            f"\t$(LAUNCH) {_quoted(program)} --log {job.log} $(if $(LAUNCH),--quiet) {_quoted(job.words(extra))}",
        ]
    return "\n".join(lines) + "\n"


def words_of(options: str) -> tuple[str, ...]:
    """The words that a shell splits options into. Raises UsageError for a quote that is not closed."""
    try:
        return tuple(shlex.split(options))
    except ValueError as error:
        reason = str(error).lower()
        raise UsageError(f"--options {options!r} are not words for a shell ({reason}): quote them in pairs") from None


def _quoted(words: Iterable[str]) -> str:
    return shlex.join(words).replace("$", "$$")
