"""Finished artifacts -> the tables that figures are drawn from and claims are judged on."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from repro import store
from repro.errors import UsageError
from repro.plan.declare import Barrier, Branch, Cell, Chosen, Gradients, Item, WarmupSweep
from repro.plan.steps import Step, chain
from repro.verify.evidence import COLUMNS, Evidence

BINS = np.arange(-5, 10.5, 0.5)
"""Edges of the published histograms of per-example barriers (protocol section 11)."""


def finished(items: Iterable[Item], results: Path) -> list[Item]:
    """The items whose artifact is there."""
    return [item for item in items if item.path(results).exists()]


def collect(items: Iterable[Item], results: Path) -> Evidence:
    """The tables of the items' artifacts: only what the protocol asks for, an artifact may hold more.

    Raises UsageError naming the first artifact that is missing or of another recipe.
    """
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    seen: set[tuple] = set()
    for item in dict.fromkeys(items):
        for name, table in _TABLES[type(item)](item, results):
            parts[name].append(table)
        parts["growth"] += filter(len, [_growth(item, results)])
        for name, key, table in _beside(item, results):
            if (name, key) not in seen:
                seen.add((name, key))
                parts[name].append(table())
    return Evidence(**{name: pd.concat(found, ignore_index=True) for name, found in parts.items() if found})


def _open(steps: list[Step]) -> store.Artifact:
    """The artifact of the last step. Raises UsageError if it, or what it was made from, is of another experiment."""
    path, known = steps[-1].target, {step.target: step for step in steps}
    if not path.exists():
        raise UsageError(f"{path} is missing: run make, or the commands that repro plan --make writes")
    if wrong := next((step for step in steps if step.target.exists() and step.mislabelled()), None):
        raise UsageError(f"{wrong.target} was made with other labels than those of {wrong.labels}: put back the file "
                         "that it was made with, or choose another --results folder")  # fmt: skip
    artifact = store.read(path)
    _require_as_planned(path, artifact.lineage, path, known)
    return artifact


def _require_as_planned(path: Path, made: store.Lineage, target: Path, known: dict[Path, Step]) -> None:
    """Raises UsageError unless ``made``, of the lineage of the artifact at ``path``, is what the plan has at ``target``,
    of the inputs that the plan has, which are those that are there."""
    if made.name != target.stem:
        raise UsageError(f"{path} is not in its place: {made.name} is where {target.stem} is needed; rename it back, or "
                         "run make with another --results folder")  # fmt: skip
    if target != path and target.exists() and (there := store.identity_at(target)) != made.identity:
        raise UsageError(f"{path} was made from another {target.stem} (identity {made.identity[:12]}…) than stands at "
                         f"{target} ({there[:12]}…): bring that one back, or run make with another --results folder")  # fmt: skip
    if target not in known:  # whoever asks for one artifact alone
        return
    for field, there, here in known[target].differing(made.recipe):
        of = "" if target == path else f" of {made.name}"
        raise UsageError(f"{path} is of another experiment: {field}{of} is {there} there and {here} here; "
                         "choose another --results folder, or its --seed and --scale")  # fmt: skip
    sources, needs = {each.name: each for each in made.inputs.values()}, {need.stem: need for need in known[target].needs}
    if sources.keys() != needs.keys():
        raise UsageError(f"{path} is of another experiment: {made.name} was made from {', '.join(sources) or 'nothing'} and "
                         f"not from {', '.join(needs) or 'nothing'}; choose another --results folder")  # fmt: skip
    for name, need in needs.items():
        _require_as_planned(path, sources[name], need, known)


def _wanted(steps: list[Step]) -> pd.DataFrame:
    table = _open(steps).table()
    return table[table.piece.isin(steps[-1].wanted)]


def _labels(cell: Cell, condition: str | None = None) -> dict:
    return dict(dataset=cell.protocol.dataset, condition=condition or cell.condition, size=cell.size, t=cell.t,
                noise=cell.noise, promised=cell.promised, labels=cell.labels)  # fmt: skip


def _growth(item: Item, results: Path) -> pd.DataFrame:
    """A row for each smaller number of replicates with which the item's artifact was complete before, and could be
    judged: two and more."""
    step = chain(item, results)[-1]
    after = len({int(n) for piece in step.wanted for n in re.findall(r"replicate_(\d+)", piece)})
    runs = store.read_header(step.target).provenance.get("runs", [])
    before = sorted({n for run in runs[:-1] if 2 <= (n := run.get("replicates", 0)) < after})
    rows = [(item.protocol.dataset, step.target.stem, n, after) for n in before]
    return pd.DataFrame(rows, columns=list(COLUMNS["growth"]))


def _of_cell(cell: Cell, results: Path):
    steps = chain(cell, results)
    yield "runs", _wanted(steps).assign(**_labels(cell), artifact=str(steps[-1].target))


def _of_branch(branch: Branch, results: Path):
    steps = chain(branch, results)
    yield "runs", _wanted(steps).assign(**_labels(branch.cell, branch.condition), artifact=str(steps[-1].target))


def _of_barrier(barrier: Barrier, results: Path):
    steps = chain(barrier, results)
    artifact, labels = _open(steps), _labels(barrier.cell)
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
            wrong = [_unpacked(artifact[f"{piece}/{split}_wrong"], n) for split, n in
                     (("train", loss.shape[1]), ("test", test_loss.shape[1]))]  # fmt: skip
            along.append([a.mean(1, dtype=np.float64) for a in (loss, wrong[0], test_loss, wrong[1])])
        counts = np.histogram(np.clip(np.concatenate(per_example), BINS[0], BINS[-1]), BINS)[0]
        yield "histograms", pd.DataFrame({**labels, "bin_lo": BINS[:-1], "count": counts})
        means = np.mean(along, 0)
        columns = dict(zip(("train_loss", "train_error", "test_loss", "test_error"), means))
        yield "paths", pd.DataFrame({**labels, "alpha": artifact["alphas"], **columns})


def _unpacked(packed: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(packed, axis=1, count=count)


def _of_warmup(sweep: WarmupSweep, results: Path):
    yield "warmup", _wanted(chain(sweep, results)).assign(dataset=sweep.protocol.dataset)


def _of_gradients(item: Gradients, results: Path):
    table = _wanted(chain(item, results))
    trained_on = item.subset.kind if item.subset else "all"
    yield "gradients", table.assign(dataset=item.protocol.dataset, trained_on=trained_on)


def _of_chosen(item: Chosen, results: Path):
    yield from ()  # what is told of any subset is told of this one


_TABLES = {Cell: _of_cell, Chosen: _of_chosen, Branch: _of_branch, Barrier: _of_barrier, WarmupSweep: _of_warmup,
           Gradients: _of_gradients}  # fmt: skip


def _beside(item: Item, results: Path):
    """Tables of the subset and the scores that a cell is made from: (table, key, function that reads it)."""
    cell = item.cell if isinstance(item, Chosen) else item
    if not isinstance(cell, Cell) or cell.subset is None:
        return
    for step in chain(item, results):
        if step.command[0] == "score":
            yield "scores", step.target, lambda step=step: _reliability(cell, step)
        elif step.target == cell.path(results, "subset"):
            about = dict(_labels(cell), kind=cell.subset.kind)
            yield (
                "subsets",
                (step.target, cell.condition),
                lambda step=step, about=about: _wanted([step]).assign(**about),
            )


def _reliability(cell: Cell, step: Step) -> pd.DataFrame:
    artifact = _open([step])
    folds = sorted({int(piece.split("/")[0].removeprefix("fold_")) for piece in step.wanted})
    rows = [(f, float(artifact[key])) for f in folds if (key := f"fold_{f}/half_correlation") in artifact]
    table = pd.DataFrame(rows, columns=["fold", "half_correlation"])
    return table.assign(dataset=cell.protocol.dataset, noise=cell.noise, labels=cell.labels)
