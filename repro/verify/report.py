"""Verdicts as a table for people, as JSON for programs, and as an exit status for Make."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import shorten
from types import MappingProxyType

from repro.protocol import FULL
from repro.verify.agreement import Agreement
from repro.verify.claims import CLAIMS
from repro.verify.controls import ControlVerdict
from repro.verify.outcomes import label, levels_in_words
from repro.verify.pruned_runs import across_datasets, check_scale
from repro.verify.verdict import Verdict
from repro.verify.wording import (
    by_figure,
    by_size,
    cells,
    paper_claim,
    published_support,
    reference_sentence,
    sentence,
    survives_holm,
    title,
)

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
_NARROW = ("P", "claim", "effect", "n", "data", "short paper", "short published")
_REFERENCE = ("P", "claim", "effect", "n", "p", "levels", "support")
_TITLES = {
    **HEADER,
    "short paper": "paper's claim",
    "short published": "the paper's own numbers",
    "support": "the paper's own numbers",
}

_LEGEND = (
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


def exit_status(verdicts: Sequence[Verdict], scale: str, controls: Sequence[ControlVerdict] = ()) -> int:
    """0, 1 or 3: 3 if promised data are missing (of a control too, or there is nothing at all), at any scale; 1 if,
    at paper or day scale, a primary claim is contradicted after Holm. Elsewhere no sign of an effect ever matters."""
    check_scale(scale)
    gaps = [v for v in verdicts if v.promised and v.verdict == "missing"]
    if not (verdicts or controls) or gaps or any(c.verdict == "missing" for c in controls):
        return 3
    return int(scale in FULL and any(v.verdict == "contradicted" and survives_holm(v) for v in verdicts))


def markdown(
    verdicts: Sequence[Verdict],
    *,
    scale: str,
    agreements: Sequence[Agreement] = (),
    controls: Sequence[ControlVerdict] = (),
    looks: Mapping[str, str] = MappingProxyType({}),
    reference: bool = False,
) -> str:
    """The verdicts of one or more data sets as Markdown: a table each, grouped by figure, a sentence a claim,
    agreement and controls. looks: what to say of a data set's looks. reference: the verdicts are on the paper's own
    numbers."""
    lines, columns = [], _REFERENCE if reference else tuple(HEADER)
    for dataset in dict.fromkeys(v.dataset for v in verdicts):
        chosen = by_figure([v for v in verdicts if v.dataset == dataset])
        kind = f"The paper's own numbers, {dataset}" if reference else f"Verdicts on {dataset}, {scale} scale"
        titles = _titles(verdicts, dataset)
        lines += [f"## {kind}", "", *([f"**{looks[dataset].capitalize()}.**", ""] if dataset in looks else [])]
        lines += [_row([titles[c] for c in columns]), _row(["---"] * len(columns))]
        for figure, group in chosen.items():
            lines.append(_row(["", f"**{figure}**", *[""] * (len(columns) - 2)]))
            for verdict in group:
                row = cells(verdict, scale)
                lines.append(_row([row[c].replace("*", "\\*") for c in columns]))
        lines += ["", _LEGEND.format(judged=_judged(verdicts, dataset)).replace("*", "\\*"), ""]
        tell = reference_sentence if reference else lambda v: sentence(v, scale)
        lines += [f"- {tell(v)}" for group in chosen.values() for v in group] + [""]
    if len({v.dataset for v in verdicts}) > 1:
        lines += ["## On all data sets", ""]
        told = {"reproduced": "supported", "missing": "no numbers of some data set"} if reference else {}
        words = across_datasets(verdicts)
        lines += [f"- Claim {n}, {CLAIMS[n].title}: {told.get(word, word)}." for n, word in words.items()] + [""]
    for found in agreements:
        lines += [f"## Agreement with the paper's curves, {found.dataset}", "", *_agreement_lines(found), ""]
    if controls:
        lines += ["## Controls", "", *(f"- {_control_line(c)}" for c in controls), ""]
    return "\n".join(lines)


def terminal(
    verdicts: Sequence[Verdict],
    *,
    scale: str,
    agreements: Sequence[Agreement] = (),
    controls: Sequence[ControlVerdict] = (),
    looks: Mapping[str, str] = MappingProxyType({}),
    reference: bool = False,
) -> str:
    """The same as aligned columns for a terminal, less p and levels and without sentences but, of the paper's own
    numbers, what they say at other subset sizes."""
    lines, columns = [], [c for c in _REFERENCE if c not in ("p", "levels")] if reference else _NARROW
    for dataset in dict.fromkeys(v.dataset for v in verdicts):
        chosen = by_figure([v for v in verdicts if v.dataset == dataset])
        rows = {figure: [_narrow(cells(v, scale)) for v in group] for figure, group in chosen.items()}
        titles = _titles(verdicts, dataset)
        widths = {c: max(len(titles[c]), *(len(row[c]) for group in rows.values() for row in group)) for c in columns}
        lines.append(f"{dataset}, {'the paper' if reference else scale + ' scale'}")
        lines.append(_aligned(titles, widths))
        for figure, group in rows.items():
            lines += [figure, *(_aligned(row, widths) for row in group)]
        lines += [looks[dataset]] if dataset in looks else []
        sized = [v for group in chosen.values() for v in group if v.sizes]
        if reference and sized:
            named = [title(v).replace(".", ",", 1) for v in sized]
            lines += ["At every subset size", *(f"  claim {name}: {by_size(v)}" for name, v in zip(named, sized))]
        lines.append("")
    if verdicts:
        lines += [*_SHORT_LEGEND, ""]
    for found in agreements:
        lines.append(f"agreement with the paper's curves, {found.dataset}: {found.verdict}")
        lines += [f"  {clause}" for clause in filter(None, found.limits.split("; "))]
    lines += [f"control {_control_line(found)}".replace("**", "") for found in controls]
    return "\n".join(lines).rstrip()


def to_json(
    verdicts: Sequence[Verdict],
    *,
    scale: str,
    agreements: Sequence[Agreement] = (),
    controls: Sequence[ControlVerdict] = (),
    looks: Mapping[str, str] = MappingProxyType({}),
    status: int | None = None,
) -> str:
    """The same as JSON text; what is not finite is null. status: the exit status, if more than the verdicts decide."""
    entries = [
        {
            **asdict(v),
            "title": CLAIMS[v.claim].title,
            "statement": CLAIMS[v.claim].statement,
            "section": CLAIMS[v.claim].section,
            "figure": CLAIMS[v.claim].figure,
            "paper_claim": paper_claim(v, scale),
            "published": published_support(v.claim, v.dataset, v.panel),
            "source": CLAIMS[v.claim].source,
            "caveat": CLAIMS[v.claim].caveat,
        }
        for v in verdicts
    ]
    document = {
        "scale": scale,
        "exit_status": exit_status(verdicts, scale, controls) if status is None else status,
        "verdicts": entries,
        "looks": dict(looks),
        "agreement": [asdict(a) for a in agreements],
        "controls": [asdict(c) for c in controls],
    }
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _titles(verdicts: Sequence[Verdict], dataset: str) -> dict[str, str]:
    """The heads of the columns of a data set's table, with the confidence of its intervals."""
    percent = 100 * next(v.confidence for v in verdicts if v.dataset == dataset)
    return {column: text.format(percent) for column, text in _TITLES.items()}


def _judged(verdicts: Sequence[Verdict], dataset: str) -> str:
    """The judging levels of a data set's claims, in words."""
    levels = next((v.judged for v in verdicts if v.dataset == dataset and v.judged), None)
    return levels_in_words(levels) if levels else "the judging levels"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _narrow(row: dict[str, str]) -> dict[str, str]:
    short = {
        "claim": shorten(row["claim"], 48, placeholder=" ..."),
        "effect": row["effect"].replace("rank correlation", "rho"),
        "data": row["data"].replace(": no gap to recover", ": no gap"),
    }
    return {**row, **short}


def _aligned(row: dict[str, str], widths: dict[str, int]) -> str:
    return "  " + "  ".join(f"{row[c]:{width}}" for c, width in widths.items()).rstrip()


def _agreement_lines(found: Agreement) -> list[str]:
    if found.largest_z is None:
        return [f"{found.verdict.capitalize()}{': ' + found.note if found.note else ''}."]
    lines = [
        f"**{found.verdict.capitalize()}**: largest |z| = {found.largest_z:.2f}, bound {found.bound:.2f}, "
        f"s = {found.s:.2f} pp; {found.limits}.",
        "",
        _row(["condition", "own - all@t*", "published", "allowed", "z", "offset, pp"]),
        _row(["---"] * 6),
    ]
    lines += [
        _row(
            [
                label(c.condition),
                f"{c.own:+.2f}",
                f"{c.published:+.2f}",
                f"{c.allowed:.2f}",
                f"{c.z:+.2f}",
                f"{c.offset:+.2f}",
            ]
        )
        for c in found.conditions
    ]
    lines += ["", _row(["level", "curves", "within", "bias, pp", "rms, pp"]), _row(["---"] * 5)]
    return lines + [
        _row([str(k.level), str(k.points), f"{k.share_within:.0%}", f"{k.bias:+.2f}", f"{k.rms:.2f}"])
        for k in found.levels
    ]


def _control_line(found: ControlVerdict) -> str:
    if found.effect is None:
        return f"{found.control} on {found.dataset}: **missing**, {found.note}."
    return (
        f"{found.control} on {found.dataset}: **{found.verdict}**, {found.note}: {found.effect:+.2f} "
        f"[{found.low:+.2f}, {found.high:+.2f}] pp, n = {found.n}."
    )
