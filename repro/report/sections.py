"""The sections of the page: one for each figure, with its charts or its drawing and what it lacks, and the verdicts."""

import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

import matplotlib
import numpy as np

import paper_figures
from paper_figures.shared.panels import Pair
from repro import plan
from repro.errors import RunError, UsageError
from repro.plan.items import Barrier, Branch, Chosen, Gradients, Item, WarmupSweep
from repro.plan.steps import chain
from repro.protocol import Protocol
from repro.report import overlaps
from repro.report.tables import MINUS, Cell, Table, frame, number, table
from repro.study.collect import collect, finished
from repro.study.study import Study
from repro.verify.checks import CONTROLS, Agreement
from repro.verify.claims import CLAIMS
from repro.verify.judge import judge
from repro.verify.outcomes import Evidence, label, levels_in_words
from repro.verify.report import cells, sentence
from repro.verify.verdict import BY_ARITHMETIC, NOT_BY_ARITHMETIC, Verdict


@dataclass(frozen=True)
class FigureSection:
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


def of_figure(study: Study, name: str, known: dict) -> FigureSection:
    """A figure of everything made so far. known: of `collect`."""
    items = study.items(name)
    there = finished(items, study.results)
    about = dict(name=name, items=len(items), lacking=len(items) - len(there))
    try:
        about["title"] = name if study.own else paper_figures.figure(name).TITLE
        if not there:
            return FigureSection(**about, problem=f"Nothing of its {len(items)} artifacts is there yet.")
        evidence, origins = collect(there, study.results, known), origins_of(items, study.results)
        about["overlaps"] = overlaps.tables(there, study.results)
        pairs = charts(name, evidence, study.protocols_of(name), study.control, origins)
        if pairs is not None and name != "figure1":
            return FigureSection(**about, pairs=pairs)
        drawing, plotted = study.draw(name, evidence)
    except (RunError, UsageError) as error:
        return FigureSection(**{"title": name} | about, problem=f"It cannot be drawn: {error}.")
    numbers = frame(f"{name}: what the drawing plots", plotted)
    return FigureSection(**about, pairs=pairs or [], picture=svg(drawing, name), numbers=numbers)


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
    cell = item if isinstance(item, plan.Cell) else item.cell
    place = (cell.protocol.dataset, item.role if isinstance(item, Branch) else cell.role, cell.size, cell.t)
    if isinstance(item, Barrier) and not cell.labels:
        yield ("barrier", *place), item.path(results)
    elif not isinstance(item, (Barrier, Chosen)):
        yield ("runs", *place, float(cell.noise), cell.labels), item.path(results)
    if isinstance(item, (plan.Cell, Chosen)) and cell.subset is not None and not cell.labels:
        yield ("subset", cell.protocol.dataset, cell.condition, float(cell.noise)), cell.path(results, "subset")
        for step in chain(item, results):
            if step.verb == "score":
                yield ("scores", cell.protocol.dataset, float(cell.noise)), step.target


# Verdicts


WORDS = ("reproduced", "contradicted", "inconclusive", BY_ARITHMETIC, NOT_BY_ARITHMETIC, "missing", "not planned here")


@dataclass(frozen=True)
class VerdictSection:
    """What is judged. counts: by word; tables: one a data set; sentences: (place in the page, figure, word, text)."""

    counts: dict[str, int] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    sentences: list[tuple[str, str, str, str]] = field(default_factory=list)
    agreements: list[Table] = field(default_factory=list)
    controls: Table | None = None


def of_verdicts(study: Study, known: dict) -> VerdictSection:
    """Verdicts on what is there. With a control the runs are spoiled on purpose, and the control alone is judged.

    known: of `collect`.
    """
    finished = study.finished()
    if study.control or not finished:
        return VerdictSection(controls=controls([study] if study.control and finished else []))
    evidence = collect(finished, study.results, known)
    judged = judge(evidence, study.protocols, figures=study.claims)
    found = judged.verdicts
    return VerdictSection(
        counts=counts(found),
        tables=[
            _verdicts([v for v in found if v.dataset == p.dataset], p, judged.looks.get(p.dataset, ""))
            for p in study.protocols
        ],
        sentences=[(place(v), CLAIMS[v.claim].figure, word(v), sentence(v, judged.scale)) for v in found],
        agreements=[_agreement(a) for a in judged.agreements],
        controls=controls(_controls(study)),
    )


def word(verdict: Verdict) -> str:
    return "not planned here" if verdict.verdict == "missing" and not verdict.promised else verdict.verdict


def counts(verdicts: list[Verdict]) -> dict[str, int]:
    """How many have each word, in the order of `WORDS`."""
    found = Counter(map(word, verdicts))
    return {each: found[each] for each in WORDS if found[each]}


def place(verdict: Verdict) -> str:
    """The id of its sentence in the page."""
    dataset, panel = verdict.dataset.replace(":", "-").replace("/", "-"), verdict.panel.partition(" ")[0]
    return "-".join(filter(None, ("claim", str(verdict.claim), dataset, panel)))


def _verdicts(verdicts: list[Verdict], p: Protocol, looks: str) -> Table:
    heads = ["P", "claim", "figure", f"effect [{100 * p.confidence:g} %]", "n", "p", "levels", f"on {p.dataset}"]
    heads += ["the paper's claim", "the paper's own numbers"]
    rows = []
    for v in verdicts:
        row = {column: cell() for column, cell in cells(v, p.scale).items()}
        name, judged = Cell(row["claim"], v.claim, "claim", place(v)), f"word {word(v).replace(' ', '-')}"
        effect, published = Cell(row["effect"].replace("-", MINUS), v.effect, "number"), row["published"]
        published = published.replace("-", MINUS) if "[" in published else published
        measured = (effect, number(v.n, "d"), number(v.p, ".2g"), row["levels"])
        said = (Cell(row["data"], kind=judged), row["paper"], published)
        rows.append((row["P"], name, CLAIMS[v.claim].figure, *measured, *said))
    head = f"Verdicts on {p.dataset}, {p.scale} scale, judged over {levels_in_words(p.judging_levels)}"
    return table(head + (f": {looks}" if looks else ""), heads, rows)


def _agreement(found: Agreement) -> Table:
    """Differences to all@t* beside the published ones; the caption has the verdict."""
    caption = f"Agreement with the paper's curves, {found.dataset}: {found.verdict}"
    if found.largest_z is not None:
        numbers = f"largest |z| {found.largest_z:.2f}, bound {found.bound:.2f}, s = {found.s:.2f} pp"
        caption = "; ".join((caption, numbers, *found.limits))
    forms = {"own": "+.2f", "published": "+.2f", "allowed": ".2f", "z": "+.2f", "offset": "+.2f"}
    rows = [(label(c.condition), *(number(getattr(c, n), form) for n, form in forms.items())) for c in found.conditions]
    heads = ("condition", f"own {MINUS} all@t*, pp", "published, pp", "allowed, pp", "z", "offset, pp")
    return table(caption, heads, rows)


def _controls(study: Study) -> list[Study]:
    """The controls of the study's Figure 2 whose artifacts are all there."""
    found = []
    for control in CONTROLS if "figure2" in study.figures else ():
        spoiled = study.changed(name="figure2", control=control)
        if len(spoiled.finished()) == len(spoiled.items()):
            found.append(spoiled)
    return found


def controls(studies: list[Study]) -> Table | None:
    """Experiments that have to fail, as `repro verify` judges them; None without any."""
    rows = []
    for c in (c for study in studies for c in study.judge().controls):
        word, effect = Cell(c.verdict, kind=f"word {c.verdict}"), number(c.effect, "+.2f", "pp")
        known = c.low is not None and isfinite(c.low)
        interval = f"[{c.low:+.2f}, {c.high:+.2f}]".replace("-", MINUS) if known else ""
        rows.append((c.control, c.dataset, word, effect, interval, number(c.n, "d"), c.note))
    heads = ("control", "data set", "verdict", "effect", "95 % interval", "n", "what is compared")
    return table("Controls: experiments that have to fail", heads, rows) if rows else None
