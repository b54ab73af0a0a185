"""Steps as jobs: what one process does, whoever starts it (make, Slurm, Ray).

A step and the only one that reads it are one job (`repro pretrain … then imp …`), because a process takes seconds to
start.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from repro.plan.steps import Step


@dataclass(frozen=True)
class Job:
    """The steps of one process, in order. needs: targets of other jobs, which have to be there before it starts."""

    steps: tuple[Step, ...]
    needs: tuple[Path, ...]

    @property
    def target(self) -> Path:
        """The artifact of its last step, which names it."""
        return self.steps[-1].target

    @property
    def name(self) -> str:
        """What it makes: 'pretrain-all-t20, imp-all-t20'."""
        return ", ".join(step.target.stem for step in self.steps)

    @property
    def log(self) -> Path:
        """Where its process writes what it says; see `repro.run.job_log`."""
        return self.target.with_suffix(".log")

    def words(self, options: tuple[str, ...] = ()) -> list[str]:
        """The arguments of its process; ``options`` go to every command."""
        commands = [[*step.command, *options] for step in self.steps]
        return [word for k, command in enumerate(commands) for word in (["then"] if k else []) + command]


def as_jobs(todo: list[Step]) -> list[Job]:
    """The steps as jobs, each after those it needs. Choosing images takes no time: subsets follow their scores, and
    those that need none are chosen together."""
    chains = _chains(todo)
    maker = {step.target: chain[-1].target for chain in chains for step in chain}
    found = []
    for chain in chains:
        made = {step.target for step in chain}
        read = [path for step in chain for path in step.needs if path in maker and path not in made]
        found.append(Job(tuple(chain), tuple(dict.fromkeys(maker[path] for path in read))))
    return _longest_first(found)


def _longest_first(jobs: list[Job]) -> list[Job]:
    """Those first that most images are trained on after, their own included: whoever is free takes the first that can
    start, and a long one left to the end keeps everybody waiting. Each is still after those it needs."""
    readers: dict[Path, list[Job]] = {}
    for job in jobs:
        for path in job.needs:
            readers.setdefault(path, []).append(job)

    @cache
    def images(target: Path) -> int:
        return own[target] + max((images(job.target) for job in readers.get(target, [])), default=0)

    own = {job.target: sum(step.images for step in job.steps) for job in jobs}
    return sorted(jobs, key=lambda job: -images(job.target))


def _chains(todo: list[Step]) -> list[list[Step]]:
    """The steps of each job, in order: each step after the one it reads where nothing else reads that.

    Choosing images takes no time: subsets follow their scores, and those that need none are chosen together.
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
