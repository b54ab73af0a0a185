"""A section of the page for each figure: its charts beside the paper's numbers, or its drawing, and what it lacks."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib
import numpy as np

import paper_figures
from paper_figures.shared.panels import Pair
from repro.errors import RunError, UsageError
from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, WarmupSweep
from repro.plan.steps import chain
from repro.protocol import Protocol
from repro.report import overlaps
from repro.report.tables import Table, frame
from repro.study.collect import collect, finished
from repro.study.study import Study
from repro.verify.outcomes import Evidence


@dataclass(frozen=True)
class Section:
    """picture: SVG of a figure that has no charts of its own here, or of a drawing; numbers: what that plots.
    overlaps: of the masks of its conditions. lacking: artifacts of the figure that are missing; problem: why it cannot
    be drawn."""

    name: str
    title: str
    pairs: list[Pair] = field(default_factory=list)
    picture: str = ""
    numbers: Table | None = None
    overlaps: list[Table] = field(default_factory=list)
    items: int = 0
    lacking: int = 0
    problem: str = ""


def section(study: Study, name: str, known: dict) -> Section:
    """A figure of everything made so far. known: of `collect`."""
    items = study.items(name)
    there = finished(items, study.results)
    about = dict(name=name, items=len(items), lacking=len(items) - len(there))
    try:
        about["title"] = name if study.own else paper_figures.figure(name).TITLE
        if not there:
            return Section(**about, problem=f"Nothing of its {len(items)} artifacts is there yet.")
        evidence, origins = collect(there, study.results, known), origins_of(items, study.results)
        about["overlaps"] = overlaps.tables(there, study.results)
        pairs = charts(name, evidence, study.protocols_of(name), study.control, origins)
        if pairs is not None and name != "figure1":
            return Section(**about, pairs=pairs)
        drawing, table = study.draw(name, evidence)
    except (RunError, UsageError) as error:
        return Section(**{"title": name} | about, problem=f"It cannot be drawn: {error}.")
    plotted = frame(f"{name}: what the drawing plots", table)
    return Section(**about, pairs=pairs or [], picture=svg(drawing, name), numbers=plotted)


def charts(
    name: str, evidence: Evidence, protocols: list[Protocol], control: str | None, origins: dict[tuple, str]
) -> list[Pair] | None:
    """The charts of a figure that have own points; None for a figure that this page has no charts for."""
    if name not in paper_figures.NAMES:
        return None
    panels = paper_figures.figure(name).panels
    found = [_with_paths(pair, origins) for p in protocols for pair in panels(evidence.of(p.dataset), p, control)]
    return [pair for pair in found if pair.own.everything]


def _with_paths(pair: Pair, origins: dict[tuple, str]) -> Pair:
    """The pair, its own points with the paths of their artifacts.

    Points that a chart has no place for are left out: means that do not exist, and steps below 1 on a log axis.
    """
    own, log = pair.own, pair.own.x.kind == "log2"
    points = tuple(
        replace(p, origin=origins.get(p.origin, "")) for p in own.points if np.isfinite(p.y) and (p.x > 0 or not log)
    )
    rules = tuple(replace(p, origin=origins.get(p.origin, "")) for p in own.rules)
    return replace(pair, own=replace(own, points=points, rules=rules))


def svg(figure, name: str) -> str:
    """A matplotlib figure as SVG to stand in a page: text as text, and every id its own."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    found = text.getvalue()
    found = found[found.index("<svg") :]
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())  # a user's file may have any name
    found = re.sub(r'(\bid="|url\(#|href="#)', lambda match: f"{match[1]}{prefix}-", found)
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.S)
    return re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', found, count=1)


def origins_of(items: Iterable[Item], results: Path) -> dict[tuple, str]:
    """The artifacts of a figure's items, relative to the results folder, by what their rows are labelled with.

    Keys: ('runs', data set, condition, size, t, noise, labels), ('barrier', data set, condition, size, t), ('warmup',
    data set), ('gradients', data set, trained on), ('scores', data set, noise), ('subset', data set, kind, noise).
    """
    found: dict[tuple, str] = {}
    for item in items:
        for key, path in _keys(item, results):
            found.setdefault(key, path.relative_to(results).as_posix())
    return found


def _keys(item: Item, results: Path):
    if isinstance(item, WarmupSweep):
        yield ("warmup", item.protocol.dataset), item.path(results)
        return
    if isinstance(item, Gradients):
        yield ("gradients", item.protocol.dataset, item.subset.kind if item.subset else "all"), item.path(results)
        return
    cell = item if isinstance(item, Cell) else item.cell
    place = (cell.protocol.dataset, item.condition if isinstance(item, Branch) else cell.condition, cell.size, cell.t)
    if isinstance(item, Barrier) and not cell.labels:
        yield ("barrier", *place), item.path(results)
    elif not isinstance(item, (Barrier, Chosen)):
        yield ("runs", *place, float(cell.noise), cell.labels), item.path(results)
    if isinstance(item, (Cell, Chosen)) and cell.subset is not None and not cell.labels:
        yield ("subset", cell.protocol.dataset, cell.condition, float(cell.noise)), cell.path(results, "subset")
        for step in chain(item, results):
            if step.verb == "score":
                yield ("scores", cell.protocol.dataset, float(cell.noise)), step.target
