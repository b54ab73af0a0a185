"""From items to steps: a step is one command, the artifact it makes, the artifacts it reads, and its cost."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import combinations
from pathlib import Path

import numpy as np

from repro import store
from repro.errors import UsageError
from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, WarmupSweep
from repro.plan.options import given_labels, label_fields, label_options, options_of, recipe_of, sha256_of_scores, words
from repro.protocol import Protocol
from repro.recipes.artifacts import DEFAULTS, number, on_line, piece_name, piece_names, warmed_up
from repro.recipes.training import Training

Look = Callable[[Path], store.Glance]
BATCHES = 16  # mini-batches per measurement of gradients: the default of the command


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command and the artifact it makes.

    Arguments:
        needs: artifacts it reads.
        wanted: pieces that a complete artifact has in its table.
        recipe: fields that the artifact's recipe must have.
        networks: how many it trains; images: how many pass through them forward and backward.
        evaluated: images that pass through forward alone, to measure networks.
        density: mean share of the prunable weights that its trainings keep.
        labels: file whose labels the artifact must hold, or ''.
    """

    target: Path
    command: tuple[str, ...]
    needs: tuple[Path, ...]
    wanted: frozenset[str]
    recipe: dict
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

    @property
    def network(self) -> str:
        """The network that it trains."""
        return self.protocol.scoring.network if self.verb == "score" else self.protocol.network

    def differing(self, recipe: dict) -> list[tuple[str, object, object]]:
        """(field, its value there, its value here) of each field in which another recipe differs from this step's."""
        found = [(field, recipe.get(field, DEFAULTS.get(field)), here) for field, here in self.recipe.items()]
        return [each for each in found if each[1] != each[2]]

    def mislabelled(self) -> bool:
        """Whether the finished artifact holds other labels than the file.

        The labels are compared one by one: the file may leave out test images, so the checksum of all labels is unknown
        without the data.
        """
        if not self.labels:
            return False
        given, artifact = given_labels(self.labels, self.protocol), store.read(self.target)
        known = ~np.isnan(given)
        return "labels" not in artifact or not np.array_equal(artifact["labels"][known], given[known])

    def lacks(self, look: Look = store.glance) -> frozenset[str]:
        """Pieces that the artifact lacks, whatever it was made from; all of them when there is no artifact."""
        try:
            return self.wanted - look(self.target).pieces
        except UsageError:
            return self.wanted

    def missing(self, look: Look = store.glance) -> frozenset[str]:
        """Pieces that the artifact lacks; all of them when it has another recipe, other inputs or other labels."""
        try:
            found = look(self.target)
            inputs = {look(path).identity for path in self.needs}
        except UsageError:  # absent or broken, which the command will say
            return self.wanted
        if self.differing(found.recipe) or set(found.inputs) != inputs or self.mislabelled():
            return self.wanted
        return self.wanted - found.pieces


def steps(items: Iterable[Item], results: Path) -> list[Step]:
    """The steps that make the items' artifacts: each artifact once, and after its inputs.

    Where two items want different numbers of replicates or levels of one artifact, the larger number is made.
    """
    found: dict[Path, Step] = {}
    chains = [(item, chain(item, results)) for item in items]
    # the longest chains come first, and warm-up studies, whose many subsets make no chain, last
    chains.sort(key=lambda each: 0 if isinstance(each[0], WarmupSweep) else len(each[1]), reverse=True)
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
    """The steps whose artifact lacks a piece, each with the cost of the missing share.

    look: reads what is known of an artifact; None looks it up in the indexes of the folders.
    """
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
    """Mean share of the weights that (replicate, level) pieces keep; 1 of pieces without a level."""
    levels = [level for piece in pieces if (level := number("level", piece)) is not None]
    return sum((1 - p.prune_fraction) ** level for level in levels) / len(levels) if levels else 1.0


@singledispatch
def chain(item: Item, results: Path) -> list[Step]:
    """The steps of one item in order; the last makes its own artifact."""
    raise TypeError(f"no item of a plan: {item!r}")


def _step(target: Path, command: tuple[str, ...], needs: Sequence[Step], p: Protocol, wanted, recipe, **cost) -> Step:
    """A step, from its command without --out. needs: the steps whose artifacts it reads; cost: further fields."""
    return Step(
        target=target,
        command=(*command, "--out", str(target)),
        needs=tuple(step.target for step in needs),
        wanted=wanted,
        recipe=recipe,
        protocol=p,
        density=_density(wanted, p),
        **cost,
    )


@chain.register
def _cell(cell: Cell, results: Path) -> list[Step]:
    p, n = cell.protocol, cell.promised
    before = _select(cell, results) if cell.subset else []
    source = {"subset": before[-1].target} if before else {"dataset": p.dataset, **label_options(cell)}
    pretrain = _step(
        cell.path(results, "pretrain"),
        words("pretrain", **source, t=cell.t, **options_of(p, n, p.training)),
        before[-1:],
        p,
        piece_names(replicate=range(n)),
        recipe_of(p, p.training) | {"t": cell.t} | label_fields(cell),
        networks=n if cell.t else 0,
        images=n * cell.t * p.training.batch_size,
        evaluated=n * p.test_images,
        labels=cell.labels,
    )
    options = {"levels": cell.depth, "replicates": n, "prune_fraction": p.prune_fraction, **cell.pruning.options}
    command, said = words("imp", pretrain.target, **options), _pruning(cell)
    imp = _levels(cell, cell.path(results), command, pretrain, range(cell.depth + 1), said)
    if steps := cell.pruning.finetune_steps:  # level 0 alone goes to the end of the schedule
        count = n * (p.training.steps - cell.t + cell.depth * steps)
        imp = replace(imp, images=count * p.training.batch_size)
    return [*before, pretrain, imp]


def _pruning(cell: Cell) -> dict:
    """Recipe fields of how a cell is pruned, the usual ones too."""
    usual = {name: DEFAULTS[name] for name in ("pruning", "prune_at", "keep_dense", "rewind")}
    said = cell.pruning.before(cell.protocol.training.steps - cell.t).fields
    return {"prune_fraction": cell.protocol.prune_fraction, **usual, **said}


@chain.register
def _branch(branch: Branch, results: Path) -> list[Step]:
    cell, levels = branch.cell, range(1, branch.cell.depth + 1)
    before = _cell(cell, results)
    options = {"mask": branch.mask, "levels": tuple(levels), "replicates": cell.promised}
    command = words("branch", before[-1].target, **options)
    return [*before, _levels(cell, branch.path(results), command, before[-1], levels, {"mask": branch.mask})]


def _levels(cell: Cell, target: Path, command: tuple[str, ...], parent: Step, levels: range, said: dict) -> Step:
    """The step of imp or branch, which train a network for each replicate and level. said: further recipe fields."""
    p, wanted = cell.protocol, piece_names(replicate=range(cell.promised), level=levels)
    recipe = recipe_of(p, p.training) | {"t": cell.t} | said
    return _step(target, command, [parent], p, wanted, recipe, **_runs(len(wanted), p.training, cell.t, p.all_images))


def _runs(count: int, training: Training, t: int, measured: int) -> dict[str, int]:
    """The cost of ``count`` trainings from step t to the end, each measured on so many images."""
    images = count * (training.steps - t) * training.batch_size
    return {"networks": count, "images": images, "evaluated": count * measured}


@chain.register
def _barrier(barrier: Barrier, results: Path) -> list[Step]:
    cell, before = barrier.cell, _cell(barrier.cell, results)
    p, n, children = cell.protocol, cell.promised, cell.protocol.children
    pairs = list(combinations(range(children + 1), 2))
    lines = [on_line(piece_name(replicate=r), *pair) for r in range(n) for pair in pairs]
    options = {"children": children, "alphas": barrier.alphas, "batch_norm": "both", "replicates": n}
    recipe, intervals = recipe_of(p, p.training), (barrier.alphas or 3) - 1
    del recipe["seed"], recipe["init"]
    alphas = sorted({0.5, *(k / intervals for k in range(intervals + 1))})
    on_lines = children + 1 + len(pairs) * (intervals - 1)  # networks of a parent, measured with both batch norms
    each = on_lines * (2 * p.all_images + p.train_images) + p.train_images + (2 + children) * p.test_images
    step = _step(
        barrier.path(results),
        words("barrier", before[-1].target, **options),
        before[-1:],
        p,
        frozenset(f"{line}/{mode}" for line in lines for mode in ("averaged", "recalibrated")),
        recipe | {"form": "children", "level": 0, "alphas": alphas},
        **_runs(n * children, p.training, cell.t, 0) | {"evaluated": n * each},
    )
    return [*before, step]


@chain.register
def _warmup(sweep: WarmupSweep, results: Path) -> list[Step]:
    p, study, n = sweep.protocol, sweep.protocol.warmup, sweep.protocol.warmup.replicates
    chains = [_select(Cell("", p, 0, subset, replicates=n), results) for subset in sweep.subsets]
    sources = [made[-1] for made in chains]
    names = ("all", *(step.target.stem for step in sources))
    wanted = frozenset(warmed_up(name, w, r) for name in names for w in study.steps for r in range(n))
    options = {"dataset": p.dataset, "subset": [step.target for step in sources], "warmup_steps": study.steps}
    step = _step(
        sweep.path(results),
        words("warmup", **options, **options_of(p, n, study.training)),
        sources,
        p,
        wanted,
        recipe_of(p, study.training),
        **_runs(len(wanted), study.training, 0, p.all_images),
    )
    return [*(before for made in chains for before in made), step]


@chain.register
def _gradients(item: Gradients, results: Path) -> list[Step]:
    p, n = item.protocol, item.promised
    before = _select(Cell("", p, 0, item.subset, replicates=item.replicates), results) if item.subset else []
    source = {"subset": before[-1].target} if before else {"dataset": p.dataset}
    measured = [*range(0, item.steps, item.every), item.steps]
    step = _step(
        item.path(results),
        words("gradients", **source, t=item.steps, every=item.every, **options_of(p, n, p.training)),
        before[-1:],
        p,
        piece_names(replicate=range(n), step=measured),
        recipe_of(p, p.training) | {"t": item.steps, "every": item.every, "batches": BATCHES},
        networks=n,
        images=n * (item.steps + BATCHES * len(measured)) * p.training.batch_size,
        evaluated=n * len(measured) * p.test_images,
    )
    return [*before, step]


@chain.register
def _chosen(item: Chosen, results: Path) -> list[Step]:
    return _select(item.cell, results)


def _select(cell: Cell, results: Path) -> list[Step]:
    """The steps that make a cell's subset, after its scores or the subset whose histogram it takes."""
    p, subset, n = cell.protocol, cell.subset, cell.promised
    before: list[Step] = []
    source = {"dataset": p.dataset, **label_options(cell)}
    if subset.score == "lmc":  # barriers are measured on clean labels
        before = _barrier(Barrier(Cell("all_tstar", p, p.t_star)), results)
        source = {"scores": before[-1].target, **label_options(cell)}
    elif subset.own_scores:
        source = {"scores": subset.score, **source}
    elif subset.ranked:
        before = [_score(cell, results)]
        source = {"scores": before[-1].target, "score": None if subset.score == "el2n" else subset.score}
    elif subset.like:
        before = _select(replace(cell, subset=subset.like), results)
        source = {"like": before[-1].target}
    seeded, balanced = not subset.ranked or subset.permuted, subset.is_balanced(p)
    command = words(
        "select",
        kind=subset.kind,
        size=subset.size,
        **source,
        balanced=balanced if subset.ranked else None,
        permute_scores=subset.permuted or None,
        seed=p.seed if seeded or "label_noise" in source else None,
        replicates=n,
    )
    recipe = {"dataset": p.dataset, "normalization": p.normalization, "subset": subset.kind, "size": subset.size}
    recipe |= {"balanced": balanced, **label_fields(cell)}
    if subset.ranked:
        recipe["score"] = "file" if subset.own_scores else subset.score
    if subset.own_scores:
        recipe["scores_sha256"] = sha256_of_scores(subset.score, p)
    if seeded:
        recipe |= {"seed": p.seed, "permute_scores": subset.permuted}
    target, wanted = cell.path(results, "subset"), piece_names(replicate=range(n))
    return [*before, _step(target, command, before[-1:], p, wanted, recipe, labels=cell.labels)]


def _score(cell: Cell, results: Path) -> Step:
    p, scoring, training = cell.protocol, cell.protocol.scoring, cell.protocol.scoring.training
    n = max(cell.promised, p.replicates)
    several = n if p.folds > 1 else None  # without folds all replicates share their scores
    wanted = piece_names(fold=range(min(p.folds, n)), network=range(scoring.networks))
    recipe = recipe_of(p, training) | {"network": scoring.network, "networks": scoring.networks}
    return _step(
        cell.path(results, "scores"),
        words("score", dataset=p.dataset, **label_options(cell), **options_of(p, several, training, scoring)),
        [],
        p,
        wanted,
        recipe | {"batch_norm": scoring.batch_norm, **label_fields(cell)},
        labels=cell.labels,
        **_runs(len(wanted), training, 0, p.train_images),
    )
