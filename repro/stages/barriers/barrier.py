"""barrier: how far the loss rises on the straight line between networks (paper, section 2 and Figures 1 and 5)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet
from repro.errors import UsageError
from repro.recipes.artifacts import on_line, piece_name, training_fields, training_of
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.barriers.children import Children, Parent, RewindPoint
from repro.stages.barriers.measure import Family, measured, measuring, modes_of, summary
from repro.stages.inputs import data_of, require_idle, require_replicates, require_steps_left
from repro.stages.machine import Machine
from repro.stages.trainer import Trainer
from repro.train.interpolate import grid

ORDER = ["point", "replicate", "level", "batch_norm", "a", "b"]


@checked
def barrier(
    out: str | Path,
    points: str | Path | Sequence[str | Path],
    *,
    children: int = 2,
    alphas: int | Sequence[float] = (0.0, 0.5, 1.0),
    batch_norm: str = "averaged",
    level: int = 0,
    replicates: int | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Barriers between networks trained to the end from one rewind point with different data order.

    For each replicate (parent) of each rewind point: child 0 is the parent's own run, children 1 … are trained here,
    with data order and augmentation of their own, on all training images, with the clock at t and zero momentum
    (protocol section 11). Every unordered pair is a line.

    Arguments:
        points: imp artifacts (child 0 is the level's stored run) or pretrain artifacts (child 0 is trained here, on the
            streams that imp uses), of one data set, network and training recipe.
        children: further children of each parent, from 1; the published number is 2.
        alphas: see `repro.train.interpolate.grid`.
        batch_norm: statistics on the line: 'averaged' (published), 'recalibrated' (by one pass over the training
            images at every alpha, end points included) or 'both'.
        level: the children start from the ticket of this level, mask times rewind weights, and keep its mask.
        replicates: the first so many of every point; None is as many as all points have.

    Kept: ``alphas`` float64 [A]; for a piece ``replicate_r/pair_a_b/<mode>``, with ``<point>/`` in front when there are
    several points, the arrays of `repro.stages.barriers.measure.measured`; for each network that was trained here
    ``replicate_r/child_c/weights`` [layout.size] and ``…/acc``, its test accuracy (NaN: diverged), from which more
    children, parents or modes are added without training anything twice.
    """
    modes, alphas = modes_of(batch_norm), grid(alphas)
    if children < 1:
        raise UsageError(f"number of further children (={children}) must be at least 1")
    opened = _open([points] if isinstance(points, str | Path) else points)
    replicates = _require(opened, level, replicates)
    recipe, data = opened[0].recipe, data_of(opened[0].artifact, machine)
    several = len(opened) > 1
    inputs = {point.name if several else point.artifact.kind: point.artifact for point in opened}
    with ArtifactWriter(out, "barrier", _fields(recipe, "children", alphas, level), inputs, machine) as writer:
        trainer = Trainer(data, recipe["network"], training_of(recipe), machine)
        for point in opened:
            require_idle(point.artifact, trainer.layout)
        parents = [Parent(p, r, level, several, data) for p in opened for r in range(replicates)]
        wanted = {
            on_line(parent.prefix, a, b): (parent, a, b)
            for parent in parents
            for a in range(children + 1)
            for b in range(a + 1, children + 1)
        }
        run = Children(writer, trainer, data)
        missing = {name: w for name, w in wanted.items() if any(f"{name}/{mode}" not in writer.rows for mode in modes)}
        todo = run.untrained(missing.values())
        pieces = [f"{name}/{mode}" for name in wanted for mode in modes]
        if machine.dry_run:
            return _with_training(writer.preview(pieces), todo, trainer)
        for parent in parents:
            lines = {name: w[1:] for name, w in missing.items() if w[0] is parent}
            writer.ticker.expect(measuring(parent.split, lines, alphas, modes, set(writer.rows), start=True))
        run.train(todo)
        families = [run.family(p, {n: w[1:] for n, w in missing.items() if w[0] is p}) for p in parents]
        for new in measured(trainer, families, alphas, modes, set(writer.rows), writer.ticker):
            writer.add(new)
        return writer.finish(
            order=ORDER,
            extra={"alphas": np.array(alphas)},
            lines=_summary(writer, opened),
            **trainer.provenance,
            seed=recipe["seed"],
        )


def successive(
    out: str | Path,
    run: str | Path,
    *,
    alphas: int | Sequence[float] = (0.0, 0.5, 1.0),
    batch_norm: str = "averaged",
    replicates: int | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Barriers between the trained networks of successive levels of a stored imp run; nothing is trained.

    Pieces ``replicate_r/level_k_k+1/<mode>``, with a = level = k and b = k+1; arguments and arrays as for `barrier`.
    """
    modes, alphas = modes_of(batch_norm), grid(alphas)
    source = store.read(run, kind="imp")
    point = RewindPoint(source)
    replicates = _require([point], 0, replicates)
    levels = range(int(point.table.level.max()))
    if not levels:
        raise UsageError(f"{source.path} has level 0 alone: run its imp command with --levels 1 or more first")
    data = data_of(source, machine)
    fields = _fields(source.recipe, "successive", alphas, 0)
    with ArtifactWriter(out, "barrier", fields, {"imp": source}, machine) as writer:
        trainer = Trainer(data, source.recipe["network"], training_of(source.recipe), machine)
        require_idle(source, trainer.layout)
        wanted = {
            f"{piece_name(replicate=r, level=k)}_{k + 1}": (r, k)
            for r in range(replicates)
            for k in levels
            if piece_name(replicate=r, level=k + 1) in point.rows
        }
        if machine.dry_run:
            return writer.preview(f"{name}/{mode}" for name in wanted for mode in modes)
        lines_of = [{name: k for name, (row, k) in wanted.items() if row == r} for r in range(replicates)]
        families = [_levels(point, r, lines, data) for r, lines in enumerate(lines_of) if lines]
        for each in families:
            writer.ticker.expect(measuring(each.split, each.lines, alphas, modes, set(writer.rows), start=True))
        for new in measured(trainer, families, alphas, modes, set(writer.rows), writer.ticker):
            writer.add({piece: (arrays, {**row, "level": row["a"]}) for piece, (arrays, row) in new.items()})
        lines = summary(writer.table(), ["level", "b", "batch_norm"])
        return writer.finish(
            order=ORDER,
            extra={"alphas": np.array(alphas)},
            lines=tuple(lines),
            **trainer.provenance,
            seed=source.recipe["seed"],
        )


def _levels(point: RewindPoint, replicate: int, lines: dict[str, int], data: ImageSet) -> Family:
    """The trained networks of one replicate's levels, and the lines from each level to the next."""
    wanted = sorted({level for k in lines.values() for level in (k, k + 1)})
    stored = {level: Parent(point, replicate, level, False, data) for level in wanted}
    parent = stored[wanted[0]]
    return Family(
        f"{point.artifact.path}, replicate {replicate}",
        parent.split,
        {level: each.own for level, each in stored.items()},
        {level: each.own_acc for level, each in stored.items()},
        {name: (k, k + 1) for name, k in lines.items()},
        {**parent.row, "fresh": False},
        parent.rewind,
    )


def _open(paths: Sequence[str | Path]) -> list[RewindPoint]:
    points = []
    for path in paths:
        artifact = store.read(path)
        if artifact.kind not in ("imp", "pretrain"):
            raise UsageError(
                f"{path} is a {artifact.kind} artifact where an imp or a pretrain artifact is needed: "
                "give the path of one"
            )
        points.append(RewindPoint(artifact))
    names = [point.name for point in points]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two points are called {twice}.h5, and their results could not be told apart: rename one")
    if len(names) > 1 and (taken := {"alphas", "table"} & set(names)):
        raise UsageError(
            f"a point is called {min(taken)}.h5, a name that the artifact needs for itself: rename the file"
        )
    first = points[0]
    for point in points:
        require_steps_left(point.artifact.path, point.recipe)
        for option, value in _shared(first.recipe).items():
            if (here := _shared(point.recipe)[option]) != value:
                raise UsageError(
                    f"the points differ in {option} ({value} in {first.artifact.path}, {here} in "
                    f"{point.artifact.path}): measure them with one command each"
                )
    return points


def _shared(recipe: dict) -> dict:
    """What all points of one command have in common."""
    names = ("dataset", "data_sha256", "normalization", "network")
    return {name: recipe[name] for name in names} | training_fields(training_of(recipe))


def _fields(recipe: dict, form: str, alphas: tuple[float, ...], level: int) -> dict:
    return {**_shared(recipe), "form": form, "alphas": list(alphas), "level": level}


def _require(points: list[RewindPoint], level: int, replicates: int | None) -> int:
    """The number of replicates to take. Raises UsageError where a point has too few, or not that level."""
    if level < 0:
        raise UsageError(f"level (={level}) must be 0 (dense) or more")
    for point in points:
        path = point.artifact.path
        if level and not point.stored:
            raise UsageError(
                f"--level {level}, but {path} is a pretrain artifact, which has no masks: give the imp "
                "artifact made from it"
            )
        if level and point.recipe.get("rewind") == "none":
            raise UsageError(
                f"--level {level}, but {path} rewinds nothing, so that its levels have no rewind point to train "
                "children from: give a run that rewinds weights or the learning rate"
            )
        found = point.replicates(level)
        if not found:
            raise UsageError(f"{path} has no level {level}: run its imp command with --levels {level} first")
        if replicates is not None:
            require_replicates(replicates, point.artifact, found)
    return replicates or min(point.replicates(level) for point in points)


def _with_training(preview: Result, todo: list, trainer: Trainer) -> Result:
    steps = sum(trainer.training.steps - parent.point.recipe["t"] for parent, _ in todo)
    cost = f", after training {len(todo)} networks, {steps * trainer.training.batch_size:,} images"
    first, *others = preview.lines
    return replace(preview, lines=(first + cost * bool(todo), *others))


def _summary(writer: ArtifactWriter, points: list[RewindPoint]) -> tuple[str, ...]:
    table = writer.table()
    lines = summary(table, ["point", "t", "batch_norm"])
    sweep = table[table.point.isin([point.name for point in points if point.all_data])]
    if sweep.t.nunique() > 1:
        from repro.recipes.onset import onset  # here: it imports what no training needs

        for mode, rows in sweep.groupby("batch_norm"):
            found = {part: onset(rows.t, rows[f"{part}_error_max"]) for part in ("train", "test")}
            texts = [
                f"{part} {f'none up to t={rows.t.max()}' if at is None else f't={at}'}" for part, at in found.items()
            ]
            lines.append(f"onset of linear mode connectivity ({mode}, 0-1 barrier below 2 %): {', '.join(texts)}")
    return tuple(lines)
