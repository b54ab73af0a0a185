"""From finished artifacts to the tables that figures show and claims are judged on."""

from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from repro import store
from repro.errors import UsageError
from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, WarmupSweep
from repro.plan.steps import Look, Step, chain
from repro.recipes.artifacts import array_name, number
from repro.verify.outcomes import COLUMNS, Evidence

Columns = dict[str, np.ndarray]
"""A table: columns of equal length."""

BINS = np.arange(-5, 10.5, 0.5)
"""Edges of the published histograms of per-example barriers (protocol section 11)."""


def finished(items: Iterable[Item], results: Path) -> list[Item]:
    """The items whose artifact exists."""
    return [item for item in items if item.path(results).exists()]


def collect(items: Iterable[Item], results: Path, known: dict | None = None) -> Evidence:
    """The tables of the items' artifacts, with the pieces that the protocol asks for; an artifact may hold more.

    Arguments:
        known: tables that earlier calls read, to which this call adds its own, so that several calls read each artifact
            once.

    Raises UsageError naming the first artifact that is missing or of another recipe.
    """
    parts: dict[str, list[Columns | pd.DataFrame]] = {name: [] for name in COLUMNS}
    seen: set[tuple] = set()
    known = {} if known is None else known
    with store.Index() as look:
        for item in dict.fromkeys(items):
            if item not in known:
                known[item] = _Read(item, chain(item, results), look)
            for name, table in known[item].tables:
                parts[name].append(table)
            for name, key, table in known[item].beside:
                if (name, key) not in seen:
                    seen.add((name, key))
                    parts[name].append(table())
    return Evidence(**{name: _joined(found) for name, found in parts.items() if found})


def _joined(parts: list[Columns | pd.DataFrame]) -> pd.DataFrame:
    """One below the other. Neighbours of the same columns become one frame: pandas takes milliseconds for each."""
    frames = []
    for _, alike in groupby(parts, lambda part: (type(part), [(name, part[name].dtype.kind) for name in part])):
        first, *more = alike
        if isinstance(first, pd.DataFrame):
            frames += [first, *more]
        else:
            frames.append(
                pd.DataFrame({name: np.concatenate([each[name] for each in (first, *more)]) for name in first})
            )
    return pd.concat(frames, ignore_index=True)


class _Read:
    """What is read for an item.

    tables: (name, table) of its own artifact. beside: (name, key, function that reads the table) of its subset and its
    scores; other items share these, and a key is read once.
    """

    def __init__(self, item: Item, steps: list[Step], look: Look):
        self.tables = [*_TABLES[type(item)](item, steps, look), *_growth(item, steps, look)]
        self.beside = [(name, key, cache(table)) for name, key, table in _beside(item, steps, look)]


def _open(steps: list[Step], look: Look) -> store.Artifact:
    """The artifact of the last step. Raises UsageError if it or one of its inputs is of another experiment."""
    path, known = steps[-1].target, {step.target: step for step in steps}
    if not path.exists():
        raise UsageError(f"{path} is missing: run make, or the commands that repro plan --make writes")
    if wrong := next((step for step in steps if step.target.exists() and step.mislabelled()), None):
        raise UsageError(
            f"{wrong.target} was made with other labels than those of {wrong.labels}: put back the file "
            "that it was made with, or choose another --results folder"
        )
    artifact = store.read(path)
    _require_as_planned(path, artifact.lineage, path, known, look)
    return artifact


def _require_as_planned(path: Path, made: store.Lineage, target: Path, known: dict[Path, Step], look: Look) -> None:
    """Raises UsageError unless an artifact and all its inputs are those of the plan.

    Arguments:
        path: the artifact that is read.
        made: its lineage, or that of one of its inputs.
        target: where the plan has ``made``. An artifact that stands there must be the same.
        known: the steps by their targets.
    """
    if made.name != target.stem:
        raise UsageError(
            f"{path} is not in its place: {made.name} is where {target.stem} is needed; rename it back, or "
            "run make with another --results folder"
        )
    if target != path and target.exists() and (there := look(target).identity) != made.identity:
        raise UsageError(
            f"{path} was made from another {target.stem} (identity {made.identity[:12]}…) than stands at "
            f"{target} ({there[:12]}…): bring that one back, or run make with another --results folder"
        )
    if target not in known:  # the caller asks for one artifact alone
        return
    for field, there, here in known[target].differing(made.recipe):
        of = "" if target == path else f" of {made.name}"
        raise UsageError(
            f"{path} is of another experiment: {field}{of} is {there} there and {here} here; "
            "choose another --results folder, or its --seed and --scale"
        )
    sources = {each.name: each for each in made.inputs.values()}
    needs = {need.stem: need for need in known[target].needs}
    if sources.keys() != needs.keys():
        raise UsageError(
            f"{path} is of another experiment: {made.name} was made from {', '.join(sources) or 'nothing'} and "
            f"not from {', '.join(needs) or 'nothing'}; choose another --results folder"
        )
    for name, need in needs.items():
        _require_as_planned(path, sources[name], need, known, look)


def _wanted(steps: list[Step], look: Look, **labels) -> Columns:
    """The rows of the pieces that the last step makes, with the same labels on each."""
    columns = _open(steps, look).columns()
    kept = np.array([piece in steps[-1].wanted for piece in columns["piece"]], bool)
    columns = {name: values[kept] for name, values in columns.items()}
    return columns | {name: np.full(kept.sum(), value) for name, value in labels.items()}


def _labels(cell: Cell, condition: str | None = None) -> dict:
    return dict(
        dataset=cell.protocol.dataset,
        condition=condition or cell.role,
        size=cell.size,
        t=cell.t,
        noise=cell.noise,
        promised=cell.promised,
        labels=cell.labels,
    )


def _growth(item: Item, steps: list[Step], look: Look):
    """A row for each smaller number of replicates, two or more, that the item's artifact had before: it may have been
    judged then."""
    step = steps[-1]
    after = len({n for piece in step.wanted if (n := number("replicate", piece)) is not None})
    runs = look(step.target).provenance.get("runs", [])
    before = sorted({n for run in runs[:-1] if 2 <= (n := run.get("replicates", 0)) < after})
    rows = [(item.protocol.dataset, step.target.stem, n, after) for n in before]
    if rows:
        yield "growth", pd.DataFrame(rows, columns=list(COLUMNS["growth"]))


def _of_cell(cell: Cell, steps: list[Step], look: Look):
    yield "runs", _wanted(steps, look, **_labels(cell), artifact=str(steps[-1].target))


def _of_branch(branch: Branch, steps: list[Step], look: Look):
    yield "runs", _wanted(steps, look, **_labels(branch.cell, branch.role), artifact=str(steps[-1].target))


def _of_barrier(barrier: Barrier, steps: list[Step], look: Look):
    artifact, labels = _open(steps, look), _labels(barrier.cell)
    table = artifact.table()
    table = table[table.piece.isin(steps[-1].wanted)]
    yield "barriers", table.drop(columns="t", errors="ignore").assign(**labels)
    for (mode, replicate), rows in table[~table.diverged.astype(bool)].groupby(["batch_norm", "replicate"]):
        labels |= {"batch_norm": mode, "replicate": replicate}
        per_example, along = [], []
        for piece in rows.piece:
            loss, test_loss = artifact[f"{piece}/train_loss"], artifact[f"{piece}/test_loss"]
            middle = int(np.flatnonzero(artifact["alphas"] == 0.5)[0])
            per_example.append(loss[middle] - (loss[0] + loss[-1]) / 2)
            wrong = [
                _unpacked(artifact[f"{piece}/{split}_wrong"], n)
                for split, n in (("train", loss.shape[1]), ("test", test_loss.shape[1]))
            ]
            along.append([a.mean(1, dtype=np.float64) for a in (loss, wrong[0], test_loss, wrong[1])])
        counts = np.histogram(np.clip(np.concatenate(per_example), BINS[0], BINS[-1]), BINS)[0]
        yield "histograms", pd.DataFrame({**labels, "bin_lo": BINS[:-1], "count": counts})
        means = np.mean(along, 0)
        columns = dict(zip(("train_loss", "train_error", "test_loss", "test_error"), means))
        yield "paths", pd.DataFrame({**labels, "alpha": artifact["alphas"], **columns})


def _unpacked(packed: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(packed, axis=1, count=count)


def _of_warmup(sweep: WarmupSweep, steps: list[Step], look: Look):
    yield "warmup", _wanted(steps, look, dataset=sweep.protocol.dataset)


def _of_gradients(item: Gradients, steps: list[Step], look: Look):
    trained_on = item.subset.kind if item.subset else "all"
    yield "gradients", _wanted(steps, look, dataset=item.protocol.dataset, trained_on=trained_on)


def _of_chosen(item: Chosen, steps: list[Step], look: Look):
    yield from ()  # its table comes from _beside, as that of any subset


_TABLES = {
    Cell: _of_cell,
    Chosen: _of_chosen,
    Branch: _of_branch,
    Barrier: _of_barrier,
    WarmupSweep: _of_warmup,
    Gradients: _of_gradients,
}


def _beside(item: Item, steps: list[Step], look: Look):
    """Tables of the subset and the scores that a cell is made from: (name, key, function that reads the table)."""
    cell = item.cell if isinstance(item, Chosen) else item
    if not isinstance(cell, Cell) or cell.subset is None:
        return
    for step in steps:
        if step.verb == "score":
            yield "scores", step.target, lambda step=step: _reliability(cell, step, look)
        elif step.target.name == cell.path(Path(), "subset").name:
            about = dict(_labels(cell, cell.condition), kind=cell.subset.kind)
            yield (
                "subsets",
                (step.target, cell.condition),
                lambda step=step, about=about: _wanted([step], look, **about),
            )


def _reliability(cell: Cell, step: Step, look: Look) -> pd.DataFrame:
    artifact = _open([step], look)
    folds = sorted({number("fold", piece) for piece in step.wanted})
    rows = [(f, float(artifact[key])) for f in folds if (key := array_name("half_correlation", fold=f)) in artifact]
    table = pd.DataFrame(rows, columns=["fold", "half_correlation"])
    return table.assign(dataset=cell.protocol.dataset, noise=cell.noise, labels=cell.labels)
