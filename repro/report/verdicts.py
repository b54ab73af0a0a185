"""Verdicts for the page: headline counts, the table, a sentence in plain words for each claim, controls, agreement."""

from collections import Counter
from dataclasses import dataclass, field
from math import isfinite

from repro.protocol import Protocol
from repro.report.tables import MINUS, Cell, Table, number, table
from repro.study.collect import collect
from repro.study.study import Study
from repro.verify.agreement import Agreement
from repro.verify.claims import CLAIMS
from repro.verify.controls import CONTROLS
from repro.verify.judge import judge
from repro.verify.outcomes import label, levels_in_words
from repro.verify.report import cells, sentence
from repro.verify.verdict import BY_ARITHMETIC, NOT_BY_ARITHMETIC, Verdict

WORDS = ("reproduced", "contradicted", "inconclusive", BY_ARITHMETIC, NOT_BY_ARITHMETIC, "missing", "not planned here")
LEGEND = (
    "Effects are in points of accuracy (pp), of the mean over the judging levels unless another unit stands there; "
    "with the interval that the head of the column says. P: one of the six primary hypotheses; *: significant after "
    "Holm's correction over them. n: replicates, or what the sentence says. p: two-sided, against the claim's margin "
    "(claims 19, 27, 28, 29: the larger of two one-sided tests). levels: how many pruning levels have an effect above "
    "the margin, which is not tested."
)


@dataclass(frozen=True)
class Section:
    """What is judged. counts: by word; tables: one a data set; sentences: (place in the page, figure, word, text)."""

    counts: dict[str, int] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    sentences: list[tuple[str, str, str, str]] = field(default_factory=list)
    agreements: list[Table] = field(default_factory=list)
    controls: Table | None = None


def section(study: Study, known: dict) -> Section:
    """Verdicts on what is there. With a control the runs are spoiled on purpose, and the control alone is judged.

    known: of `collect`.
    """
    finished = study.finished()
    if study.control or not finished:
        return Section(controls=controls([study] if study.control and finished else []))
    evidence = collect(finished, study.results, known)
    judged = judge(evidence, study.protocols, figures=study.claims)
    found = judged.verdicts
    return Section(
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
