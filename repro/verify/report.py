"""A judgement, and how it is rendered: as a table for people, as JSON for programs, and as an exit status for Make."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten

from repro.protocol import FULL
from repro.verify.checks import Agreement, ControlVerdict
from repro.verify.claims import CLAIMS
from repro.verify.outcomes import label, levels_in_words
from repro.verify.reference import NO_NUMBERS, by_size, published_support, short_support, sizes_supported, support
from repro.verify.stats import interval
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, NOT_BY_ARITHMETIC, PAPER_DATASETS, Verdict, figure_order

NO_GAP = "no gap to recover"
HEADER = {
    "P": "P",
    "claim": "claim",
    "effect": "effect [{:g} %], pp",
    "n": "n",
    "p": "p",
    "levels": "levels",
    "data": "on this data",
    "paper": "the paper's claim",
    "published": "the paper's own numbers",
}
_NARROW = ("P", "claim", "effect", "n", "data", "paper", "published")
_REFERENCE = ("P", "claim", "effect", "n", "p", "levels", "support")

LEGEND = (
    "effect: in pp of the mean accuracy over {judged} unless another unit stands there; P: one of the six "
    "primary hypotheses, * significant after Holm over them; p: two-sided against the claim's margin, of claims 19, "
    "27, 28 and 29 the larger of two one-sided tests (equivalence, decided by the narrower interval of the note); "
    "levels: how many of the pruning levels have an effect above the margin (not tested); by arithmetic: no "
    "measurement could turn it."
)
_SHORT_LEGEND = (
    "P: primary hypothesis, * significant after Holm over the six; effects in pp unless another unit stands there.",
    "C10: CIFAR-10; C100: CIFAR-100; CINIC: CINIC-10; picture: numbers read off a picture.",
)


@dataclass(frozen=True)
class Judgement:
    """Verdicts on the claims of some figures, or on a control, and what a report says beside them.

    agreements: of data sets whose curves the paper has published. controls: of runs that were spoiled on purpose.
    looks: what to say of a data set's looks. complete: whether everything that the figures need is there. reference:
    the verdicts are on the paper's own numbers.
    """

    scale: str
    verdicts: Sequence[Verdict] = ()
    agreements: Sequence[Agreement] = ()
    controls: Sequence[ControlVerdict] = ()
    looks: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    reference: bool = False

    @property
    def exit_status(self) -> int:
        """0, 1 or 3: 3 if promised data are missing (of a control too, or there is nothing at all), at any scale; 1 if,
        at paper or day scale, a primary claim is contradicted after Holm. Elsewhere no sign of an effect ever
        matters."""
        gaps = any(v.promised and v.verdict == "missing" for v in self.verdicts)
        gaps |= any(c.verdict == "missing" for c in self.controls)
        if not self.complete or gaps or not (self.verdicts or self.controls):
            return 3
        return int(self.scale in FULL and any(v.verdict == "contradicted" and v.survives_holm for v in self.verdicts))

    @cached_property
    def terminal(self) -> str:
        """Aligned columns for a terminal."""
        return terminal(self)

    @cached_property
    def markdown(self) -> str:
        """The report for people."""
        return markdown(self)

    @cached_property
    def json(self) -> str:
        """The report for programs; what is not finite is null."""
        return to_json(self)

    def files(self, stem: Path) -> list[tuple[Path, str]]:
        """(path, content) of the report beside a figure."""
        return [(stem.with_name(stem.name + ".md"), self.markdown), (stem.with_name(stem.name + ".json"), self.json)]


def markdown(found: Judgement) -> str:
    """A table for each data set, grouped by figure, a sentence for each claim, agreement and controls."""
    lines, columns = [], _REFERENCE if found.reference else tuple(HEADER)
    for dataset, verdicts, figures in _by_dataset(found):
        what = (
            f"The paper's own numbers, {dataset}" if found.reference else f"Verdicts on {dataset}, {found.scale} scale"
        )
        titles, looks = _titles(verdicts), found.looks.get(dataset)
        lines += [f"## {what}", "", *([f"**{looks.capitalize()}.**", ""] if looks else [])]
        lines += [_row([titles[c] for c in columns]), _row(["---"] * len(columns))]
        for figure, group in figures.items():
            lines.append(_row(["", f"**{figure}**", *[""] * (len(columns) - 2)]))
            for verdict in group:
                row = cells(verdict, found.scale)
                lines.append(_row([row[c]().replace("*", "\\*") for c in columns]))
        levels = next((v.judged for v in verdicts if v.judged), None)
        judged = levels_in_words(levels) if levels else "the judging levels"
        lines += ["", LEGEND.format(judged=judged).replace("*", "\\*"), ""]
        shown = [v for group in figures.values() for v in group]
        lines += [f"- {reference_sentence(v) if found.reference else sentence(v, found.scale)}" for v in shown] + [""]
    if len({v.dataset for v in found.verdicts}) > 1:
        lines += ["## On all data sets", ""]
        told = {"reproduced": "supported", "missing": "no numbers of some data set"} if found.reference else {}
        words = across_datasets(found.verdicts)
        lines += [f"- Claim {n}, {CLAIMS[n].title}: {told.get(word, word)}." for n, word in words.items()] + [""]
    for each in found.agreements:
        lines += [f"## Agreement with the paper's curves, {each.dataset}", "", *_agreement_lines(each), ""]
    if found.controls:
        lines += ["## Controls", "", *(f"- {_control_line(c, bold='**')}" for c in found.controls), ""]
    return "\n".join(lines)


def terminal(found: Judgement) -> str:
    """The same without p and levels, and without sentences; of the paper's own numbers, what they say at other subset
    sizes."""
    columns = [c for c in _REFERENCE if c not in ("p", "levels")] if found.reference else _NARROW
    lines = []
    for dataset, verdicts, figures in _by_dataset(found):
        titles = _titles(verdicts) | {"paper": "paper's claim"}
        rows = {
            figure: [
                {c: cell() for c, cell in cells(v, found.scale, narrow=True).items() if c in columns} for v in group
            ]
            for figure, group in figures.items()
        }
        widths = {c: max(len(titles[c]), *(len(row[c]) for group in rows.values() for row in group)) for c in columns}
        lines.append(f"{dataset}, {'the paper' if found.reference else found.scale + ' scale'}")
        lines.append(_aligned(titles, widths))
        for figure, group in rows.items():
            lines += [figure, *(_aligned(row, widths) for row in group)]
        lines += [found.looks[dataset]] if dataset in found.looks else []
        sized = [v for group in figures.values() for v in group if v.sizes]
        if found.reference and sized:
            lines += ["At every subset size", *(f"  claim {v.claim}, {_title(v)}: {by_size(v)}" for v in sized)]
        lines.append("")
    if found.verdicts:
        lines += [*_SHORT_LEGEND, ""]
    for each in found.agreements:
        lines.append(f"agreement with the paper's curves, {each.dataset}: {each.verdict}")
        lines += [f"  {clause}" for clause in each.limits]
    lines += [f"control {_control_line(each)}" for each in found.controls]
    return "\n".join(lines).rstrip()


def to_json(found: Judgement) -> str:
    entries = []
    for v in found.verdicts:
        claim, fields = CLAIMS[v.claim], asdict(v) | {"note": remark(v)}
        fields.pop("no_gap")  # the note says it
        more = {
            "title": claim.title,
            "statement": claim.statement,
            "section": claim.section,
            "figure": claim.figure,
            "paper_claim": paper_claim(v, found.scale),
            "published": published_support(v.claim, v.dataset, v.panel),
            "source": claim.source,
            "caveat": claim.caveat,
        }
        entries.append(fields | more)
    document = {
        "scale": found.scale,
        "exit_status": found.exit_status,
        "verdicts": entries,
        "looks": dict(found.looks),
        "agreement": [asdict(a) for a in found.agreements],
        "controls": [asdict(c) for c in found.controls],
    }
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_dataset(found: Judgement):
    """(data set, its verdicts, the same by figure in the paper's order: {"Figure 2": [...], "Appendix": [...]})."""
    for dataset in dict.fromkeys(v.dataset for v in found.verdicts):
        verdicts, figures = [v for v in found.verdicts if v.dataset == dataset], {}
        for verdict in sorted(verdicts, key=lambda v: (figure_order(CLAIMS[v.claim].figure), v.claim)):
            figure = CLAIMS[verdict.claim].figure.replace("figure", "Figure ").capitalize()
            figures.setdefault(figure, []).append(verdict)
        yield dataset, verdicts, figures


def _titles(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """The heads of the columns of a data set's table, with the confidence of its intervals."""
    percent = 100 * verdicts[0].confidence
    return {column: text.format(percent) for column, text in (HEADER | {"support": HEADER["published"]}).items()}


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _aligned(row: dict[str, str], widths: dict[str, int]) -> str:
    return "  " + "  ".join(f"{row[c]:{width}}" for c, width in widths.items()).rstrip()


def _agreement_lines(found: Agreement) -> list[str]:
    if found.largest_z is None:
        return [f"{found.verdict.capitalize()}{': ' + found.note if found.note else ''}."]
    lines = [
        f"**{found.verdict.capitalize()}**: largest |z| = {found.largest_z:.2f}, bound {found.bound:.2f}, "
        f"s = {found.s:.2f} pp; {'; '.join(found.limits)}.",
        "",
        _row(["condition", "own - all@t*", "published", "allowed", "z", "offset, pp"]),
        _row(["---"] * 6),
    ]
    for c in found.conditions:
        numbers = (f"{c.own:+.2f}", f"{c.published:+.2f}", f"{c.allowed:.2f}", f"{c.z:+.2f}", f"{c.offset:+.2f}")
        lines.append(_row([label(c.condition), *numbers]))
    lines += ["", _row(["level", "curves", "within", "bias, pp", "rms, pp"]), _row(["---"] * 5)]
    for k in found.levels:
        lines.append(_row([str(k.level), str(k.points), f"{k.share_within:.0%}", f"{k.bias:+.2f}", f"{k.rms:.2f}"]))
    return lines


def _control_line(found: ControlVerdict, bold: str = "") -> str:
    told = f"{found.control} on {found.dataset}: {bold}{found.verdict}{bold}, {found.note}"
    return f"{told}." if found.effect is None else f"{told}: {interval(found)} pp, n = {found.n}."


def across_datasets(verdicts: Sequence[Verdict]) -> dict[int, str]:
    """Per claim that was judged, the verdict on "all data sets": reproduced (or by arithmetic) if it is in every panel
    on each data set that the paper claims it for, and missing if one of them was not judged."""
    rank = ("missing", "contradicted", NOT_BY_ARITHMETIC, "inconclusive", "reproduced", BY_ARITHMETIC)
    found = {}
    for number in sorted({v.claim for v in verdicts if v.statistic != ITSELF}):
        chosen = [v for v in verdicts if v.claim == number and v.dataset in CLAIMS[number].datasets]
        absent = set(CLAIMS[number].datasets) - {v.dataset for v in chosen}
        found[number] = "missing" if absent else min((v.verdict for v in chosen), key=rank.index)
    return found


# One verdict in words


def paper_claim(verdict: Verdict, scale: str, *, short: bool = False) -> str:
    """What a verdict says about the paper's claim: the same with the paper's schedule on its data, nothing elsewhere.
    short: without the reason."""
    if verdict.dataset not in PAPER_DATASETS:
        word, why = "not tested", f" ({verdict.dataset})"
    elif verdict.dataset not in CLAIMS[verdict.claim].datasets:
        word, why = "not made", f" for {verdict.dataset}"
    elif scale in FULL:
        word, why = verdict.verdict, ""
    else:
        word, why = "not tested", f" ({verdict.dataset} at {scale} scale)"
    return word if short else word + why


def remark(verdict: Verdict) -> str:
    """The note, which says first where there was no gap."""
    return "; ".join(filter(None, (NO_GAP if verdict.no_gap else "", verdict.note)))


def _title(verdict: Verdict) -> str:
    panel = f", {verdict.panel.removesuffix(' noise')}" if verdict.panel else ""
    return f"{CLAIMS[verdict.claim].title}{panel}"


def cells(verdict: Verdict, scale: str, *, narrow: bool = False) -> dict[str, Callable[[], str]]:
    """What each column of a verdict's row says, as functions: a table has some of the columns.

    narrow: in fewer words, for a terminal.
    """
    claim, missing, starred = CLAIMS[verdict.claim], verdict.verdict == "missing", " *" * verdict.survives_holm
    about = claim.number, verdict.dataset, verdict.panel

    def name() -> str:
        text = f"{verdict.claim}. {_title(verdict)}"
        return shorten(text, 48, placeholder=" ...") if narrow else text

    def amount() -> str:
        unit = "rho" if narrow and verdict.unit == "rank correlation" else verdict.unit
        return "" if missing else effect(verdict) + ("" if unit == "pp" else f" {unit}")

    def levels() -> str:
        above = sum(level.effect > verdict.margin for level in verdict.levels)
        return f"{above}/{len(verdict.levels)}" if verdict.levels else ""

    def data() -> str:
        if missing and not verdict.promised:
            return f"not planned here{starred}"
        gap = (": no gap" if narrow else f": {NO_GAP}") if verdict.no_gap else ""
        return f"{verdict.verdict}{gap}{starred}"

    picture = ", picture" if claim.source == "picture" and not missing else ""
    return {
        "P": lambda: "P" if verdict.primary else "",
        "claim": name,
        "effect": amount,
        "n": lambda: "" if verdict.n is None else str(verdict.n),
        "p": lambda: "" if verdict.p is None else f"{verdict.p:.2g}",
        "levels": levels,
        "data": data,
        "paper": lambda: paper_claim(verdict, scale, short=narrow),
        "published": lambda: (short_support if narrow else published_support)(*about),
        "support": lambda: f"{support(verdict)}{starred}{picture}{_not_made(verdict)}",
    }


def effect(verdict: Verdict) -> str:
    return f"{verdict.effect:+.2f}" if verdict.low is None else interval(verdict)


def sentence(verdict: Verdict, scale: str) -> str:
    """One plain sentence on a claim, and one on what the published numbers say."""
    head = _head(verdict)
    if verdict.verdict == "missing":
        word = "Missing" if verdict.promised else "Not planned here"
        return f"{head} **{word}** on {verdict.dataset}: {verdict.note}."
    published = published_support(verdict.claim, verdict.dataset, verdict.panel)
    return (
        f"{head} **{verdict.verdict.capitalize()}** on {verdict.dataset}, {_numbers(verdict)}. "
        f"The paper's claim: {paper_claim(verdict, scale)}. The paper's own numbers: "
        f"{published}{sizes_supported(verdict)}{_caveat(verdict)}."
    )


def reference_sentence(verdict: Verdict) -> str:
    """One plain sentence on what the published numbers say of a claim."""
    found = support(verdict)
    if found == NO_NUMBERS:
        return f"{_head(verdict)} **{NO_NUMBERS.capitalize()}** of {verdict.dataset}."
    by = "" if "arithmetic" in found else f" by the published numbers of {verdict.dataset}"
    picture = " (read off a picture)" if CLAIMS[verdict.claim].source == "picture" else ""
    said = _not_made(verdict)
    more = (f"; {by_size(verdict)}" if verdict.sizes else "") + _caveat(verdict)
    return f"{_head(verdict)} **{found.capitalize()}**{by}{picture}{said}, {_numbers(verdict)}{more}."


def _not_made(verdict: Verdict) -> str:
    return "" if verdict.dataset in CLAIMS[verdict.claim].datasets else ", not claimed of it"


def _head(verdict: Verdict) -> str:
    claim = CLAIMS[verdict.claim]
    panel = f", {verdict.panel}" if verdict.panel else ""
    return f"Claim {claim.number} ({claim.section}{panel}): {claim.statement}"


def _caveat(verdict: Verdict) -> str:
    caveat = CLAIMS[verdict.claim].caveat
    return f"; {caveat}" if caveat else ""


def _numbers(verdict: Verdict) -> str:
    numbers = f"{verdict.statistic}: {effect(verdict)} {verdict.unit}"
    numbers += "" if verdict.n is None else f", n = {verdict.n}"
    numbers += f", margin {verdict.margin:+.2f}" if verdict.margin else ""
    numbers += "" if verdict.median is None else f", median {verdict.median:+.2f}"
    return numbers + (f" ({remark(verdict)})" if remark(verdict) else "")
