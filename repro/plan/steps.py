"""Declared items -> steps: one command, the artifact it makes, what it reads, and what it costs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from repro import store
from repro.errors import UsageError
from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, WarmupSweep
from repro.plan.options import given_labels, label_fields, label_options, options_of, recipe_of, sha256_of_scores
from repro.protocol import Protocol
from repro.recipes.artifacts import DEFAULTS, number, on_line, piece_name, piece_names, warmed_up

Look = Callable[[Path], store.Glance]


@dataclass(frozen=True)
class Step:
    """One command and the artifact it makes.

    Arguments:
        needs: artifacts it reads.
        wanted: table pieces the artifact must hold to be complete.
        recipe: fields its recipe must have.
        networks, images: cost: networks trained and images passed through forward and backward.
        evaluated: images passed through forward alone, to measure networks.
        density: mean share of the prunable weights that are left in its trainings.
        labels: file whose labels the artifact has to hold, or ''.
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
    evaluated: int = 0
    density: float = 1.0
    labels: str = ""

    @property
    def verb(self) -> str:
        """The command that makes it: 'pretrain'."""
        return self.command[0]

    def differing(self, recipe: dict) -> list[tuple[str, object, object]]:
        """(field, there, here) wherever a recipe is not this step's."""
        found = [(field, recipe.get(field, DEFAULTS.get(field)), here) for field, here in self.recipe.items()]
        return [each for each in found if each[1] != each[2]]

    def mislabelled(self) -> bool:
        """Whether the artifact that is there holds other labels than the file. The file may leave out test images, so
        that the checksum of all labels is not known without the data."""
        if not self.labels:
            return False
        given, artifact = given_labels(self.labels, self.protocol), store.read(self.target)
        known = ~np.isnan(given)
        return "labels" not in artifact or not np.array_equal(artifact["labels"][known], given[known])

    def lacks(self, look: Look = store.glance) -> frozenset[str]:
        """Pieces the artifact does not have, whatever it was made from; all of them when it is not there."""
        try:
            return self.wanted - look(self.target).pieces
        except UsageError:
            return self.wanted

    def missing(self, look: Look = store.glance) -> frozenset[str]:
        """Pieces not yet in the artifact; all of them when the artifact has another recipe or other inputs."""
        try:
            found = look(self.target)
            inputs = {look(path).identity for path in self.needs}
        except UsageError:  # absent or broken: the command will say
            return self.wanted
        if self.differing(found.recipe) or set(found.inputs) != inputs or self.mislabelled():
            return self.wanted
        return self.wanted - found.pieces


def steps(items: Iterable[Item], results: Path) -> list[Step]:
    """The steps that make the items' artifacts, each artifact once, inputs before what needs them.

    Where two items want different numbers of replicates or levels of one artifact, the larger is made.
    """
    found: dict[Path, Step] = {}
    chains = [(item, chain(item, results)) for item in items]
    chains.sort(key=lambda each: 0 if isinstance(each[0], WarmupSweep) else len(each[1]), reverse=True)  # longest first
    for _, made in chains:
        for step in made:
            known = found.get(step.target)
            if known is None or known.wanted < step.wanted:
                found[step.target] = step
            else:
                assert step.wanted <= known.wanted, f"{step.target}: one item has more replicates, another more levels"
    return sorted(found.values(), key=lambda step: step.verb != "score")


def last(items: Iterable[Item], results: Path) -> list[Step]:
    """The step that makes each item's own artifact."""
    return [chain(item, results)[-1] for item in items]


def unfinished(todo: list[Step], look: Look | None = None) -> list[Step]:
    """The steps with something missing, their cost reduced to the share that is. By the indexes of their folders, or as
    ``look`` has it."""
    if look is None:
        with store.Index() as look:
            return unfinished(todo, look)
    found = []
    for step in todo:
        if missing := step.missing(look):
            share = len(missing) / len(step.wanted)
            cost = {name: round(getattr(step, name) * share) for name in ("networks", "images", "evaluated")}
            found.append(replace(step, **cost, density=_density(missing, step.protocol)))
    return found


def _density(pieces: Iterable[str], p: Protocol) -> float:
    """Mean share of the weights left over the (replicate, level) pieces of imp and branch; 1 of any others."""
    levels = [level for piece in pieces if (level := number("level", piece)) is not None]
    return sum((1 - p.prune_fraction) ** level for level in levels) / len(levels) if levels else 1.0


def chain(item: Item, results: Path) -> list[Step]:
    """The steps of one item in order; the last makes its own artifact."""
    return _CHAINS[type(item)](item, results)


def _cell(cell: Cell, results: Path) -> list[Step]:
    p, target = cell.protocol, cell.path(results, "pretrain")
    before = _select(cell, results) if cell.subset else []
    source = ("--subset", str(before[-1].target)) if before else ("--dataset", p.dataset, *label_options(cell))
    recipe = recipe_of(p, p.training) | {"t": cell.t} | label_fields(cell)
    options = options_of(p, cell.promised, p.training)
    pretrain = Step(
        target,
        ("pretrain", *source, "-t", str(cell.t), *options, "--out", str(target)),
        tuple(step.target for step in before[-1:]),
        piece_names(replicate=range(cell.promised)),
        recipe,
        p.network,
        p,
        cell.promised if cell.t else 0,
        cell.promised * cell.t * p.training.batch_size,
        cell.promised * p.test_images,
        labels=cell.labels,
    )
    return [*before, pretrain, _imp(cell, pretrain, results)]


def _imp(cell: Cell, pretrain: Step, results: Path) -> Step:
    p, target = cell.protocol, cell.path(results)
    wanted = piece_names(replicate=range(cell.promised), level=range(cell.depth + 1))
    command = (
        "imp",
        str(pretrain.target),
        "--levels",
        str(cell.depth),
        "--replicates",
        str(cell.promised),
        "--prune-fraction",
        str(p.prune_fraction),
        "--out",
        str(target),
    )
    recipe = recipe_of(p, p.training) | {"t": cell.t, "prune_fraction": p.prune_fraction}
    return Step(
        target,
        command,
        (pretrain.target,),
        wanted,
        recipe,
        p.network,
        p,
        len(wanted),
        _whole_runs(len(wanted), cell),
        len(wanted) * p.all_images,
        _density(wanted, p),
    )


def _whole_runs(count: int, cell: Cell) -> int:
    """Images of so many trainings from the rewind step to the end."""
    return count * (cell.protocol.training.steps - cell.t) * cell.protocol.training.batch_size


def _branch(branch: Branch, results: Path) -> list[Step]:
    before, cell, target = _cell(branch.cell, results), branch.cell, branch.path(results)
    levels = range(1, cell.depth + 1)
    wanted = piece_names(replicate=range(cell.promised), level=levels)
    command = (
        "branch",
        str(before[-1].target),
        "--mask",
        branch.mask,
        "--levels",
        ",".join(map(str, levels)),
        "--replicates",
        str(cell.promised),
        "--out",
        str(target),
    )
    p = cell.protocol
    recipe = recipe_of(p, p.training) | {"t": cell.t, "mask": branch.mask}
    step = Step(
        target,
        command,
        (before[-1].target,),
        wanted,
        recipe,
        p.network,
        p,
        len(wanted),
        _whole_runs(len(wanted), cell),
        len(wanted) * p.all_images,
        _density(wanted, p),
    )
    return [*before, step]


def _barrier(barrier: Barrier, results: Path) -> list[Step]:
    before, cell, target = _cell(barrier.cell, results), barrier.cell, barrier.path(results)
    p, networks = cell.protocol, cell.promised * cell.protocol.children
    pairs = [(a, b) for b in range(p.children + 1) for a in range(b)]
    wanted = frozenset(
        f"{on_line(piece_name(replicate=r), a, b)}/{mode}"
        for r in range(cell.promised)
        for a, b in pairs
        for mode in ("averaged", "recalibrated")
    )
    alphas = ("--alphas", str(barrier.alphas)) if barrier.alphas else ()
    command = (
        "barrier",
        str(before[-1].target),
        "--children",
        str(p.children),
        *alphas,
        "--batch-norm",
        "both",
        "--replicates",
        str(cell.promised),
        "--out",
        str(target),
    )
    recipe, points = recipe_of(p, p.training), (barrier.alphas or 3) - 1
    del recipe["seed"]
    recipe |= {"form": "children", "level": 0, "alphas": sorted({0.5, *(k / points for k in range(points + 1))})}
    on_lines = p.children + 1 + len(pairs) * (points - 1)  # networks of a parent, measured with either batch norm
    each = on_lines * (2 * p.all_images + p.train_images) + p.train_images + (2 + p.children) * p.test_images
    step = Step(
        target,
        command,
        (before[-1].target,),
        wanted,
        recipe,
        p.network,
        p,
        networks,
        _whole_runs(networks, cell),
        cell.promised * each,
    )
    return [*before, step]


def _warmup(sweep: WarmupSweep, results: Path) -> list[Step]:
    p, study, target = sweep.protocol, sweep.protocol.warmup, sweep.path(results)
    chains = [_select(Cell("", p, 0, subset, replicates=study.replicates), results) for subset in sweep.subsets]
    sources = [chain[-1].target for chain in chains]
    wanted = frozenset(
        warmed_up(name, w, r)
        for name in ("all", *(path.stem for path in sources))
        for w in study.steps
        for r in range(study.replicates)
    )
    command = (
        "warmup",
        "--dataset",
        p.dataset,
        *(word for path in sources for word in ("--subset", str(path))),
        "--warmup-steps",
        ",".join(map(str, study.steps)),
        *options_of(p, study.replicates, study.training),
        "--out",
        str(target),
    )
    images = len(wanted) * study.training.steps * study.training.batch_size
    step = Step(
        target,
        command,
        tuple(sources),
        wanted,
        recipe_of(p, study.training),
        p.network,
        p,
        len(wanted),
        images,
        len(wanted) * p.all_images,
    )
    return [step for chain in chains for step in chain] + [step]


def _gradients(item: Gradients, results: Path) -> list[Step]:
    p, target = item.protocol, item.path(results)
    before = _select(Cell("", p, 0, item.subset, replicates=item.replicates), results) if item.subset else []
    source = ("--subset", str(before[-1].target)) if before else ("--dataset", p.dataset)
    measured = [*range(0, item.steps, item.every), item.steps]
    wanted = piece_names(replicate=range(item.promised), step=measured)
    command = (
        "gradients",
        *source,
        "-t",
        str(item.steps),
        "--every",
        str(item.every),
        *options_of(p, item.promised, p.training),
        "--out",
        str(target),
    )
    images = item.promised * (item.steps + 16 * len(measured)) * p.training.batch_size
    recipe = recipe_of(p, p.training) | {"t": item.steps, "every": item.every, "batches": 16}
    step = Step(
        target,
        command,
        tuple(s.target for s in before[-1:]),
        wanted,
        recipe,
        p.network,
        p,
        item.promised,
        images,
        len(wanted) * p.test_images,
    )
    return [*before, step]


def _chosen(item: Chosen, results: Path) -> list[Step]:
    return _select(item.cell, results)


_CHAINS = {
    Cell: _cell,
    Chosen: _chosen,
    Branch: _branch,
    Barrier: _barrier,
    WarmupSweep: _warmup,
    Gradients: _gradients,
}


def _select(cell: Cell, results: Path) -> list[Step]:
    """The steps that make a cell's subset: its scores, or the subset it is like, first."""
    p, subset, replicates = cell.protocol, cell.subset, cell.promised
    target, balanced = cell.path(results, "subset"), subset.is_balanced(p)
    recipe = {
        "dataset": p.dataset,
        "normalization": p.normalization,
        "subset": subset.kind,
        "size": subset.size,
        "balanced": balanced,
        **label_fields(cell),
    }
    if subset.own_scores:
        recipe |= {"score": "file", "scores_sha256": sha256_of_scores(subset.score, p)}
    elif subset.ranked:
        recipe["score"] = subset.score
    if subset.score == "lmc":  # barriers are measured on clean labels
        before = _barrier(Barrier(Cell("all_tstar", p, p.t_star)), results)
        source = ("--scores", str(before[-1].target), *label_options(cell))
    elif subset.own_scores:
        before, source = [], ("--scores", subset.score, "--dataset", p.dataset, *label_options(cell))
    elif subset.ranked:
        before = [_score(cell, results)]
        source = ("--scores", str(before[-1].target))
        source += ("--score", subset.score) if subset.score != "el2n" else ()
    elif subset.like:
        before = _select(replace(cell, subset=subset.like), results)
        source = ("--like", str(before[-1].target))
    else:
        before, source = [], ("--dataset", p.dataset, *label_options(cell))
    if not subset.ranked or subset.permuted:
        recipe |= {"seed": p.seed, "permute_scores": subset.permuted}
    control = ("--permute-scores",) if subset.permuted else ()
    balance = ("--balanced" if balanced else "--unbalanced",) if subset.ranked else ()
    seed = ("--seed", str(p.seed)) if not subset.ranked or subset.permuted or "--label-noise" in source else ()
    command = (
        "select",
        "--kind",
        subset.kind,
        "--size",
        str(subset.size),
        *source,
        *balance,
        *control,
        *seed,
        "--replicates",
        str(replicates),
        "--out",
        str(target),
    )
    needs = tuple(step.target for step in before[-1:])
    return [
        *before,
        Step(
            target, command, needs, piece_names(replicate=range(replicates)), recipe, p.network, p, labels=cell.labels
        ),
    ]


def _score(cell: Cell, results: Path) -> Step:
    p, target = cell.protocol, cell.path(results, "scores")
    replicates = max(cell.promised, p.replicates)
    wanted = piece_names(fold=range(min(p.folds, replicates)), network=range(p.scoring.networks))
    recipe = recipe_of(p, p.scoring.training) | {
        "network": p.scoring.network,
        "networks": p.scoring.networks,
        "batch_norm": p.scoring.batch_norm,
        **label_fields(cell),
    }
    images = len(wanted) * p.scoring.training.steps * p.scoring.training.batch_size
    several = replicates if p.folds > 1 else None  # without folds all replicates share one set of scores
    command = (
        "score",
        "--dataset",
        p.dataset,
        *label_options(cell),
        *options_of(p, several, p.scoring.training, p.scoring),
        "--out",
        str(target),
    )
    return Step(
        target,
        command,
        (),
        wanted,
        recipe,
        p.scoring.network,
        p,
        len(wanted),
        images,
        len(wanted) * p.train_images,
        labels=cell.labels,
    )
