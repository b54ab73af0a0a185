"""A figure's runs -> the commands that make them, as make rules, with their cost.

A figure declares cells (`paper_figures`); a cell becomes up to four steps: score, select, pretrain, imp. Steps are
known by the artifact they make, so a cell that two figures share is computed once.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from repro import store
from repro.errors import UsageError
from repro.protocol import Protocol
from repro.train.schedule import Training


@dataclass(frozen=True)
class Cell:
    """One condition of a figure on one data set: a way to pre-train, then IMP.

    Arguments:
        condition: its role in the figure and its claims: 'all_tstar', 'all_tstar_half', 'all_t0', 'random', 'easy',
            'hard', 'shuffled'.
        kind, size: subset to pre-train on; 'all' has size 0.
        t: rewind step.
        permuted: scores permuted among the images first (a control).
        masks_of: for the control 'shuffled', the cell whose masks are shuffled within their layers.
    """

    condition: str
    protocol: Protocol
    t: int
    kind: str = "all"
    size: int = 0
    permuted: bool = False
    masks_of: "Cell | None" = None

    @property
    def subset(self) -> str:
        """File stem of the subset: 'easy3200', 'random256', 'easy256-permuted'; 'all' has none."""
        return self.kind if self.kind == "all" else f"{self.kind}{self.size}{'-permuted' if self.permuted else ''}"

    @property
    def name(self) -> str:
        """File stem of the cell: 'easy3200-t200', 'all-t400', 'all-t20-shuffled'."""
        return f"{self.subset}-t{self.t}" + ("-shuffled" if self.masks_of else "")

    def path(self, results: Path, kind: str) -> Path:
        """The artifact of a kind ('scores', 'subset', 'pretrain', 'imp') that this cell makes or uses."""
        stem = {"scores": "", "subset": f"-{self.subset}", "pretrain": f"-{self.subset}-t{self.t}"}
        return results / self.protocol.dataset / f"{kind}{stem.get(kind, '-' + self.name)}.h5"


@dataclass(frozen=True)
class Step:
    """One command and the artifact it makes.

    Arguments:
        needs: artifacts it reads.
        wanted: table pieces the artifact must hold to be complete.
        recipe: fields its recipe must have.
        networks, images: cost: networks trained and images passed through forward and backward.
    """

    target: Path
    command: tuple[str, ...]
    needs: tuple[Path, ...]
    wanted: frozenset[str]
    recipe: dict
    network: str
    protocol: Protocol
    networks: int = 0
    images: int = 0

    def missing(self) -> frozenset[str]:
        """Pieces not yet in the artifact; all of them when the artifact has another recipe or other inputs."""
        try:
            header = store.read_header(self.target)
            inputs = {store.read_header(path).identity for path in self.needs}
        except UsageError:  # absent or broken: the command will say
            return self.wanted
        if any(header.recipe.get(field) != value for field, value in self.recipe.items()):
            return self.wanted
        if {source.identity for source in header.inputs.values()} != inputs:
            return self.wanted
        return self.wanted - set(header.table().piece)


def steps(cells: Iterable[Cell], results: Path) -> list[Step]:
    """The steps that make the cells' imp artifacts, each artifact once, inputs before what needs them."""
    found: dict[Path, Step] = {}
    for cell in sorted(cells, key=lambda cell: cell.kind not in ("easy", "hard")):  # the longest chains first
        for step in _steps_of(cell, results):
            found.setdefault(step.target, step)
    return sorted(found.values(), key=lambda step: step.command[0] != "score")


def unfinished(chain: list[Step]) -> list[Step]:
    """The steps with something missing, their cost reduced to the share that is."""
    found = []
    for step in chain:
        if missing := step.missing():
            share = len(missing) / len(step.wanted)
            cost = {"networks": round(step.networks * share), "images": round(step.images * share)}
            found.append(replace(step, **cost))
    return found


def _steps_of(cell: Cell, results: Path) -> list[Step]:
    if cell.masks_of:
        before = _steps_of(cell.masks_of, results)
        return [*before, _imp(cell, results)]
    p, chain = cell.protocol, []
    options = ("--scale", p.scale, "--seed", str(p.seed), "--replicates", str(p.replicates))
    if cell.kind in ("easy", "hard"):
        chain.append(_score(cell, results, options))
    if cell.kind != "all":
        chain.append(_select(cell, results, options))
    subset = cell.path(results, "subset")
    source = ("--dataset", p.dataset) if cell.kind == "all" else ("--subset", str(subset))
    target = cell.path(results, "pretrain")
    chain.append(Step(
        target, ("pretrain", *source, "-t", str(cell.t), *options, "--out", str(target)),
        () if cell.kind == "all" else (subset,), _replicates(p), _recipe(p, p.training) | {"t": cell.t}, p.network, p,
        p.replicates if cell.t else 0, p.replicates * cell.t * p.training.batch_size,
    ))  # fmt: skip
    return [*chain, _imp(cell, results)]


def _score(cell: Cell, results: Path, options: tuple[str, ...]) -> Step:
    p, target = cell.protocol, cell.path(results, "scores")
    folds = min(p.folds, p.replicates)
    wanted = frozenset(f"fold_{f}/network_{k}" for f in range(folds) for k in range(p.scoring.networks))
    recipe = _recipe(p, p.scoring.training) | {
        "network": p.scoring.network, "networks": p.scoring.networks, "batch_norm": p.scoring.batch_norm
    }  # fmt: skip
    images = len(wanted) * p.scoring.training.steps * p.scoring.training.batch_size
    command = ("score", "--dataset", p.dataset, *options, "--out", str(target))
    return Step(target, command, (), wanted, recipe, p.scoring.network, p, len(wanted), images)


def _select(cell: Cell, results: Path, options: tuple[str, ...]) -> Step:
    p, target = cell.protocol, cell.path(results, "subset")
    ranked = cell.kind != "random"
    source = ("--scores", str(cell.path(results, "scores"))) if ranked else ("--dataset", p.dataset)
    control = ("--permute-scores",) if cell.permuted else ()
    command = (
        "select",
        "--kind",
        cell.kind,
        "--size",
        str(cell.size),
        *source,
        *control,
        *options,
        "--out",
        str(target),
    )
    needs = (cell.path(results, "scores"),) if ranked else ()
    balanced = p.balanced if ranked else True
    recipe = {"dataset": p.dataset, "subset": cell.kind, "size": cell.size, "balanced": balanced}
    if not ranked or cell.permuted:
        recipe |= {"seed": p.seed, "permute_scores": cell.permuted}
    return Step(target, command, needs, _replicates(p), recipe, p.network, p)


def _imp(cell: Cell, results: Path) -> Step:
    p, target = cell.protocol, cell.path(results, "imp")
    parent = cell.path(results, "pretrain")
    needs, control = (parent,), ()
    if cell.masks_of:
        masks = cell.masks_of.path(results, "imp")
        needs, control = (parent, masks), ("--pruning", "shuffled", "--masks", str(masks))
    wanted = frozenset(f"replicate_{r}/level_{level}" for r in range(p.replicates) for level in range(p.levels + 1))
    images = len(wanted) * (p.training.steps - cell.t) * p.training.batch_size
    command = ("imp", str(parent), "--levels", str(p.levels), "--replicates", str(p.replicates),
               "--prune-fraction", str(p.prune_fraction), *control, "--out", str(target))  # fmt: skip
    pruning = "shuffled" if cell.masks_of else "magnitude"
    recipe = _recipe(p, p.training) | {"t": cell.t, "pruning": pruning, "prune_fraction": p.prune_fraction}
    return Step(target, command, needs, wanted, recipe, p.network, p, len(wanted), images)


def _recipe(p: Protocol, training: Training) -> dict:
    return {"dataset": p.dataset, "network": p.network, "normalization": p.normalization, "seed": p.seed,
            **asdict(training), "milestones": list(training.milestones)}  # fmt: skip


def _replicates(p: Protocol) -> frozenset[str]:
    return frozenset(f"replicate_{r}" for r in range(p.replicates))


def rules(todo: list[Step], *, program: tuple[str, ...], options: str = "") -> str:
    """A makefile fragment that makes the given steps' artifacts; ``LAUNCH`` prefixes every command.

    Every step in it has something missing, so its rule runs whatever the file times say. Raises UsageError for paths
    that make cannot have as targets.
    """
    targets = {step.target: None for step in todo}
    for target in targets:
        if odd := re.search(r"[^\w./+,@-]", str(target)):
            raise UsageError(f"make cannot have {odd[0]!r} in the path {target}: choose another --results folder")
    lines = [f".PHONY: all {' '.join(map(str, targets))}", f"all: {' '.join(map(str, targets))}", "\t@:"]
    for step in todo:
        needs = " ".join(str(path) for path in step.needs if path in targets)
        words = " ".join([*map(_quoted, (*program, *step.command)), options]).rstrip()
        lines += [f"{step.target}: {needs}".rstrip(), f"\t$(LAUNCH) {words}"]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")


def collect(cells: Iterable[Cell], results: Path) -> pd.DataFrame:
    """Runs of the cells' imp artifacts, one row per (dataset, condition, size, replicate, level).

    Only what the protocol asks for: an artifact may hold more replicates and levels. Raises UsageError naming the
    first artifact that is missing or of another recipe.
    """
    parts = []
    for cell in cells:
        path = cell.path(results, "imp")
        if not path.exists():
            raise UsageError(f"{path} is missing: run make, or the commands that repro plan --make writes")
        artifact, recipe = store.read(path, kind="imp"), _imp(cell, results).recipe
        for field in recipe:
            if (there := artifact.recipe.get(field)) != recipe[field]:
                raise UsageError(f"{path} is of another experiment: {field} is {there} there and {recipe[field]} here; "
                                 "choose another --results folder, or its --seed and --scale")  # fmt: skip
        table = artifact.table()
        table = table[(table.replicate < cell.protocol.replicates) & (table.level <= cell.protocol.levels)]
        parts.append(table.assign(dataset=cell.protocol.dataset, condition=cell.condition, size=cell.size, t=cell.t,
                                  artifact=str(path)))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def resize(
    p: Protocol, *, replicates: int | None = None, levels: int | None = None, seed: int | None = None
) -> Protocol:
    """The protocol with other numbers of replicates and levels, or another base seed."""
    given = {"replicates": replicates, "levels": levels, "seed": seed}
    return replace(p, **{name: value for name, value in given.items() if value is not None})
