"""A section of the page for each figure: its charts beside the paper's numbers, or its drawing, and what it lacks."""

import io
import re
from dataclasses import dataclass, field

import matplotlib
import pandas as pd

import paper_figures
from paper_figures import figure1
from repro.errors import RunError, UsageError
from repro.protocol import Protocol
from repro.report import accuracy, other
from repro.report.charts import Pair
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
        drawing, table = _drawn(study, name, evidence)
    except (RunError, UsageError) as error:
        return Section(**{"title": name} | about, problem=f"It cannot be drawn: {error}.")
    return Section(**about, pairs=pairs or [], picture=svg(drawing, name), numbers=_table(name, table))


def _drawn(study: Study, name: str, evidence: Evidence):
    """(matplotlib figure, table) of a figure of the paper or of the user's own, from what is there."""
    protocols = study.protocols_of(name)
    if study.own:
        return study.own.draw(evidence, protocols)
    return paper_figures.draw(name, evidence, protocols, study.control)


def charts(
    name: str, evidence: Evidence, protocols: list[Protocol], control: str | None, origins: Origins
) -> list[Pair] | None:
    """The charts of a figure that have own points; None for a figure that this page has no charts for."""
    if name not in _CHARTS:
        return None
    found = [pair for p in protocols for pair in _CHARTS[name](evidence.of(p.dataset), p, control, origins)]
    return [pair for pair in found if pair.own.everything]


def _figure1(evidence: Evidence, p: Protocol, control: str | None, origins: Origins) -> list[Pair]:
    phases = accuracy.phases(evidence.runs, p, figure1.arms(p), origins)
    return [phases, *other.figure_1(evidence, p, origins)]


def _appendix(evidence: Evidence, p: Protocol, control: str | None, origins: Origins) -> list[Pair]:
    return [
        *accuracy.appendix_sizes(evidence, p, origins),
        *accuracy.appendix_scores(evidence, p, origins),
        *other.appendix_rest(evidence, p, origins),
    ]


_CHARTS = {
    "figure1": _figure1,
    "figure2": lambda e, p, control, origins: accuracy.figure_2(e.runs, p, control, origins),
    "figure3": lambda e, p, control, origins: accuracy.figure_3(e.runs, p, origins),
    "figure4": lambda e, p, control, origins: accuracy.figure_4(e.runs, p, origins),
    "figure5": lambda e, p, control, origins: other.figure_5(e, p, origins),
    "figure6": lambda e, p, control, origins: other.figure_6(e, p, origins),
    "appendix": _appendix,
    "scores": lambda e, p, control, origins: other.scores(e, p, origins),
}


def _table(name: str, table: pd.DataFrame) -> Table:
    return frame(f"{name}: what the drawing plots", table)


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
