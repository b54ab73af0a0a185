"""The page itself: everything is gathered, then one template writes it, with styles, scripts and charts inside."""

import csv
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from paper_figures.shared.panels import panel_title
from repro.errors import UsageError
from repro.report import account, charts, sections
from repro.report.tables import Table, table
from repro.store.file_kinds import require_replaceable
from repro.store.files import write_whole
from repro.study.study import Study
from repro.verify.published import reference_file
from repro.verify.report import LEGEND
from repro.verify.verdict import BY_ARITHMETIC, NOT_BY_ARITHMETIC

MEANING = {
    "reproduced": "the interval lies on the side of the margin that the claim asks for",
    "contradicted": "the interval lies on the other side",
    "inconclusive": "the interval holds the margin: neither",
    BY_ARITHMETIC: "it follows from the protocol: no measurement could turn it",
    NOT_BY_ARITHMETIC: "it does not follow from this protocol",
    "missing": "runs that decide it are missing",
    "not planned here": "this scale has no runs that decide it",
}


def write(study: Study, out: Path | None = None) -> Path:
    """Writes the page, whole or not at all; the default is ``report.html`` in the folder of artifacts.

    Raises RunError when it cannot be written.
    """
    path = out or study.results / "report.html"
    require_replaceable(path, "report")
    write_whole(path, [build(study, when=datetime.now(UTC)).encode()])
    return path


def build(study: Study, *, when: datetime) -> str:
    """The page as HTML text, from the artifacts that are there."""
    there, broken = account.made(study)
    known: dict = {}  # tables that figures and verdicts share
    figures = [sections.of_figure(study, name, known) for name in study.drawn]
    problem, judged = "", sections.VerdictSection()
    try:
        judged = sections.of_verdicts(study, known)
    except UsageError as error:  # the same that keeps a figure from being drawn
        problem = f"Nothing can be judged: {error}."
    return render(
        study=study,
        when=when.isoformat(timespec="minutes"),
        made=len(there),
        broken=broken,
        figures=figures,
        judged=judged,
        problem=problem,
        deviations=deviations(),
        cost=account.cost(study, there) if there else [],
        provenance=account.provenance(study, there) if there else [],
        missing=account.missing(study),
        command=study.how.replace("`", ""),
    )


def render(*, study: Study, figures: Sequence, **content) -> str:
    """The template filled in; ``figures`` are `repro.report.sections.FigureSection`."""
    pairs = [pair for section in figures for pair in section.pairs]
    colors = sorted({color for pair in pairs for color in pair.colors})
    specs = [charts.spec(panel) for pair in pairs for panel in pair.panels]
    protocols = study.protocols
    environment = Environment(
        loader=PackageLoader("repro.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (bold, slug, charts.numbers, charts.path, charts.dashes, charts.variable)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template("report.html.j2").render(
        study=study,
        scale=protocols[0].scale,
        full=protocols[0].full,
        seeds=sorted({p.seed for p in protocols}),
        datasets=[panel_title(p) for p in protocols],
        figures=figures,
        legend=LEGEND.format(judged="the judging levels"),
        meaning=MEANING,
        light={charts.css_name(color): color for color in colors},
        dark={charts.css_name(color): charts.readable(color) for color in colors},
        css=Markup(_own("report.css")),
        script=Markup(_own("report.js")),
        licences=Markup(_own("licences.txt")),
        bundle=Markup(bundle() if specs else ""),
        specs=Markup(json.dumps(specs, ensure_ascii=True).replace("<", "\\u003c")),
        **content,
    )


def deviations() -> Table:
    """What the paper leaves open or does unusually, and what is done here. Raises RunError when the file is missing."""
    with reference_file("deviations.csv").open(newline="", encoding="utf-8") as file:
        heads, *rows = csv.reader(file)
    return table("Deviations and unknowns", heads, rows)


@cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the package vl-convert-python."""
    import vl_convert

    text = vl_convert.javascript_bundle()
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _own(name: str) -> str:
    return (files("repro.report") / "templates" / name).read_text(encoding="utf-8")


def bold(text: str) -> Markup:
    """Text with **words** in bold, everything else escaped."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))


def slug(text: str) -> str:
    """An id for a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")
