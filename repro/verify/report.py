"""Verdicts as a table for people, as JSON for programs, and as an exit status for Make."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

from repro.verify.claims import CLAIMS, PAPER_DATASETS
from repro.verify.compare import Agreement
from repro.verify.controls import ControlVerdict
from repro.verify.outcomes import label
from repro.verify.verdicts import NO_GAP, Verdict, across_datasets, check_scale, from_published

SIGNIFICANCE = 0.05

HEADER = (
    "claim",
    "effect [95 %], pp",
    "n",
    "p",
    "levels",
    "on this data",
    "the paper's claim",
    "the paper's own numbers",
)


def exit_status(verdicts: Sequence[Verdict], scale: str, controls: Sequence[ControlVerdict] = ()) -> int:
    """0, 1 or 3: 3 if promised data are missing (of a control too, or there is nothing at all), at any scale; 1 if,
    at paper scale, a primary claim is contradicted after Holm. Elsewhere no sign of an effect ever matters."""
    check_scale(scale)
    gaps = [v for v in verdicts if v.promised and v.verdict == "missing"]
    if not (verdicts or controls) or gaps or any(c.verdict == "missing" for c in controls):
        return 3
    return int(scale == "paper" and any(v.verdict == "contradicted" and _survives_holm(v) for v in verdicts))


def _survives_holm(verdict: Verdict) -> bool:
    return verdict.verdict != "inconclusive" and verdict.p_holm is not None and verdict.p_holm <= SIGNIFICANCE


def paper_claim(verdict: Verdict, scale: str) -> str:
    """What this verdict says about the paper's claim: the same at the paper's scale on its data, nothing elsewhere."""
    if verdict.dataset not in PAPER_DATASETS:
        return f"not tested ({verdict.dataset})"
    if verdict.dataset not in CLAIMS[verdict.claim].datasets:
        return f"not made for {verdict.dataset}"
    return verdict.verdict if scale == "paper" else f"not tested ({verdict.dataset} at {scale} scale)"


def published_support(claim: int, dataset: str) -> str:
    """What the paper's own numbers support, in words: with effect and interval on a data set of the paper, over all
    its data sets otherwise."""
    datasets = [dataset] if dataset in PAPER_DATASETS else CLAIMS[claim].datasets
    words = {}
    for name in datasets:
        verdict = next(v for v in _published(name) if v.claim == claim)
        numbers = f" ({verdict.effect:+.2f} [{verdict.low:+.2f}, {verdict.high:+.2f}])" if dataset == name else ""
        word = {"reproduced": "supported", "inconclusive": f"inconclusive at n = {verdict.n}"}.get(
            verdict.verdict, verdict.verdict
        )
        words.setdefault(word + numbers, []).append(name)
    return "; ".join(
        word if dataset in PAPER_DATASETS else f"{word} ({', '.join(names)})" for word, names in words.items()
    )


@cache
def _published(dataset: str) -> tuple[Verdict, ...]:
    return tuple(from_published(dataset))


def markdown(
    verdicts: Sequence[Verdict],
    *,
    scale: str,
    agreements: Sequence[Agreement] = (),
    controls: Sequence[ControlVerdict] = (),
) -> str:
    """The verdicts of one or more data sets as Markdown: a table each, a sentence a claim, agreement and controls."""
    lines = []
    for dataset in dict.fromkeys(v.dataset for v in verdicts):
        chosen = [v for v in verdicts if v.dataset == dataset]
        lines += [f"## Verdicts on {dataset}, {scale} scale", "", _row(HEADER), _row(["---"] * len(HEADER))]
        lines += [_row(_cells(v, scale)) for v in chosen]
        lines += [
            "",
            "Mean accuracy over levels 6 to 10; p is two-sided against the claim's margin. "
            "\\* primary claim significant after Holm over the six primary hypotheses. "
            "levels: how many of the pruning levels have an effect above the margin (not tested).",
            "",
        ]
        lines += [f"- {sentence(v, scale)}" for v in chosen] + [""]
    if len({v.dataset for v in verdicts}) > 1:
        lines += ["## On all data sets", ""]
        lines += [f"- Claim {n}, {CLAIMS[n].title}: {word}." for n, word in across_datasets(verdicts).items()] + [""]
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
) -> str:
    """The verdicts as aligned columns for a terminal: claim, effect, n, on this data, the paper's claim."""
    lines = []
    for dataset in dict.fromkeys(v.dataset for v in verdicts):
        rows = [
            [cells[i] for i in (0, 1, 2, 5, 6)]
            for cells in ([*HEADER], *(_cells(v, scale) for v in verdicts if v.dataset == dataset))
        ]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += [f"{dataset}, {scale} scale"]
        lines += [
            "  " + "  ".join(f"{text:{w}}" for text, w in zip(row, widths)).replace("\\*", "*").rstrip() for row in rows
        ]
        lines.append("")
    lines += [f"agreement with the paper's curves, {found.dataset}: {found.verdict}" for found in agreements]
    lines += [f"control {_control_line(found)}".replace("**", "") for found in controls]
    return "\n".join(lines).rstrip()


def sentence(verdict: Verdict, scale: str) -> str:
    """One plain sentence on a claim."""
    claim = CLAIMS[verdict.claim]
    head = f"Claim {claim.number} ({claim.section}): {claim.statement}"
    if verdict.verdict == "missing":
        return f"{head} **Missing** on {verdict.dataset}: {verdict.note}."
    numbers = f"{verdict.statistic}: {_effect(verdict)} pp, n = {verdict.n}"
    if verdict.margin:
        numbers += f", margin {verdict.margin:+.2f}"
    if verdict.median is not None:
        numbers += f", median {verdict.median:+.2f}"
    note = f" ({verdict.note})" if verdict.note else ""
    return (
        f"{head} **{verdict.verdict.capitalize()}** on {verdict.dataset}, {numbers}{note}. "
        f"The paper's claim: {paper_claim(verdict, scale)}."
    )


def to_json(
    verdicts: Sequence[Verdict],
    *,
    scale: str,
    agreements: Sequence[Agreement] = (),
    controls: Sequence[ControlVerdict] = (),
) -> str:
    """The same as JSON text; what is not finite is null."""
    entries = [
        {
            **asdict(v),
            "title": CLAIMS[v.claim].title,
            "statement": CLAIMS[v.claim].statement,
            "section": CLAIMS[v.claim].section,
            "paper_claim": paper_claim(v, scale),
            "published": published_support(v.claim, v.dataset),
        }
        for v in verdicts
    ]
    document = {
        "scale": scale,
        "exit_status": exit_status(verdicts, scale, controls),
        "verdicts": entries,
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


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(verdict: Verdict, scale: str) -> list[str]:
    claim = CLAIMS[verdict.claim]
    title = f"{claim.number}. {claim.title}" + (" (primary)" if claim.primary else "")
    ending = [paper_claim(verdict, scale), published_support(claim.number, verdict.dataset)]
    if verdict.verdict == "missing":
        word = "missing" if verdict.promised else f"not part of this figure ({claim.figure})"
        return [title, "", "", "", "", word, *ending]
    above = sum(level.effect > verdict.margin for level in verdict.levels)
    word = verdict.verdict + (f": {NO_GAP}" if verdict.p is None else "") + (" \\*" if _survives_holm(verdict) else "")
    p = "" if verdict.p is None else f"{verdict.p:.2g}"
    return [title, _effect(verdict), str(verdict.n), p, f"{above}/{len(verdict.levels)}", word, *ending]


def _effect(verdict: Verdict) -> str:
    return f"{verdict.effect:+.2f} [{verdict.low:+.2f}, {verdict.high:+.2f}]"


def _agreement_lines(found: Agreement) -> list[str]:
    if found.largest_z is None:
        return [f"{found.verdict.capitalize()}{': ' + found.note if found.note else ''}."]
    lines = [
        f"**{found.verdict.capitalize()}**: largest |z| = {found.largest_z:.2f}, bound {found.bound:.2f}, "
        f"s = {found.s:.2f} pp.",
        "",
        _row(["condition", "own - all@t*", "published", "z", "offset, pp"]),
        _row(["---"] * 5),
    ]
    lines += [
        _row([label(c.condition), f"{c.own:+.2f}", f"{c.published:+.2f}", f"{c.z:+.2f}", f"{c.offset:+.2f}"])
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
