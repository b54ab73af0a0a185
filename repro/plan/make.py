"""Steps as make rules.

A step and the only one that reads it go into one rule and one process (`repro pretrain … then imp …`), because a process
takes seconds to start.
"""

import re
import shlex
from collections import Counter
from pathlib import Path

from repro.errors import UsageError
from repro.plan.steps import Step


def rules(todo: list[Step], *, program: tuple[str, ...], options: str = "") -> str:
    """A makefile fragment that makes the given steps' artifacts; ``LAUNCH`` prefixes every process.

    Every step in it has something missing, so its rule runs whatever the file times say. Raises UsageError for paths
    that make cannot have as targets.
    """
    for step in todo:
        if odd := re.search(r"[^\w./+,@-]", str(step.target)):
            raise UsageError(f"make cannot have {odd[0]!r} in the path {step.target}: choose another --results folder")
    chains = processes(todo)
    maker = {step.target: chain[-1].target for chain in chains for step in chain}
    targets = [str(chain[-1].target) for chain in chains]
    lines = [".SILENT:", f".PHONY: all {' '.join(targets)}", f"all: {' '.join(targets)}", "\t@:"]
    for chain, target in zip(chains, targets):
        made = {step.target for step in chain}
        read = [path for step in chain for path in step.needs if path in maker and path not in made]
        needs = " ".join(dict.fromkeys(str(maker[path]) for path in read))
        commands = [" ".join([*map(_quoted, step.command), options]).rstrip() for step in chain]
        lines += [
            f"{target}: {needs}".rstrip(),
            f"\techo 'making {', '.join(step.target.stem for step in chain)}'",
            f"\t$(LAUNCH) {' '.join(map(_quoted, program))} {' then '.join(commands)}",
        ]
    return "\n".join(lines) + "\n"


def processes(todo: list[Step]) -> list[list[Step]]:
    """The steps of each process, in order: each step after the one it reads where nothing else reads that.

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
        if step.command[0] == "score":
            place(step, [])
        elif step.command[0] == "select" and all(path in chain_of for path in step.needs):
            place(step, chain_of[step.needs[0]] if step.needs else loose)
        else:
            rest.append(step)
    for step in rest:
        before = chain_of.get(step.needs[0], []) if len(step.needs) == 1 else []
        alone = all(readers[a.target] == 1 and a.target in b.needs for a, b in zip(before, [*before[1:], step]))
        place(step, before if alone else [])
    return chains


def _quoted(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")
