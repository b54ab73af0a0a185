"""A section of the page for each figure: its charts beside the paper's numbers, or its drawing, and what it lacks."""

import io
import re
from dataclasses import dataclass, field

import matplotlib

import paper_figures
from paper_figures.shared.panels import Pair
from repro.errors import RunError, UsageError
from repro.protocol import Protocol
from repro.report import charts as vega
from repro.report.origins import Origins
from repro.report.tables import Table, frame
from repro.study.collect import collect, finished
from repro.study.study import Study
from repro.verify.outcomes import Evidence


@dataclass(frozen=True)
class Section:
    """picture: SVG of a figure that has no charts of its own here, or of a drawing; numbers: what that plots.
    lacking: artifacts of the figure that are missing; problem: why it cannot be drawn."""

    name: str
    title: str
    pairs: list[Pair] = field(default_factory=list)
    picture: str = ""
    numbers: Table | None = None
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
        evidence, origins = collect(there, study.results, known), Origins(items, study.results)
        pairs = charts(name, evidence, study.protocols_of(name), study.control, origins)
        if pairs is not None and name != "figure1":
            return Section(**about, pairs=pairs)
        drawing, table = study.draw(name, evidence)
    except (RunError, UsageError) as error:
        return Section(**{"title": name} | about, problem=f"It cannot be drawn: {error}.")
    plotted = frame(f"{name}: what the drawing plots", table)
    return Section(**about, pairs=pairs or [], picture=svg(drawing, name), numbers=plotted)


def charts(
    name: str, evidence: Evidence, protocols: list[Protocol], control: str | None, origins: Origins
) -> list[Pair] | None:
    """The charts of a figure that have own points; None for a figure that this page has no charts for."""
    if name not in paper_figures.NAMES:
        return None
    panels = paper_figures.figure(name).panels
    found = [vega.of(pair, origins) for p in protocols for pair in panels(evidence.of(p.dataset), p, control)]
    return [pair for pair in found if pair.own.everything]


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
