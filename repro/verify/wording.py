"""Verdicts in words: the cells of a table, and one sentence a claim."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from repro.protocol import FULL
from repro.verify.claim import unshrunk
from repro.verify.claims import CLAIMS, PAPER_DATASETS
from repro.verify.pruned_runs import from_published
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, NO_GAP, Verdict

NO_NUMBERS = "no numbers published"
_WORDS = {"reproduced": "supported", "missing": NO_NUMBERS}
_SHORT = {"cifar10": "C10", "cifar100": "C100", "cinic10": "CINIC"}
_FIGURES = ("figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "appendix")


def survives_holm(verdict: Verdict) -> bool:
    significance = round(1 - verdict.confidence, 9)
    return verdict.verdict != "inconclusive" and verdict.p_holm is not None and verdict.p_holm <= significance


def paper_claim(verdict: Verdict, scale: str) -> str:
    """What this verdict says about the paper's claim: the same with the paper's schedule on its data, nothing elsewhere."""
    if verdict.dataset not in PAPER_DATASETS:
        return f"not tested ({verdict.dataset})"
    if verdict.dataset not in CLAIMS[verdict.claim].datasets:
        return f"not made for {verdict.dataset}"
    return verdict.verdict if scale in FULL else f"not tested ({verdict.dataset} at {scale} scale)"


def support(published: Verdict, *, at_n: bool = True) -> str:
    """A verdict on the paper's own numbers: "supported", "inconclusive at n = 4", "contradicted", or why there is
    none."""
    claim = CLAIMS[published.claim]
    if claim.source == "none" or published.verdict == "missing":
        return NO_NUMBERS
    if published.statistic == ITSELF:
        return ITSELF
    if claim.source == "arithmetic":
        return "arithmetic" if published.verdict == BY_ARITHMETIC else "arithmetic: contradicted"
    word = _WORDS.get(published.verdict, published.verdict)
    return f"{word} at n = {published.n}" if word == "inconclusive" and at_n and published.n else word


def published_support(number: int, dataset: str, panel: str = "") -> str:
    """What the paper's own numbers support, in words: with effect and interval on a data set of the paper, over all
    the data sets it claims this for otherwise."""
    words: dict[str, list[str]] = {}
    dataset = unshrunk(dataset)
    for name, verdict in _published_on(number, dataset, panel).items():
        numbers = f" ({effect(verdict)})" if name == dataset and verdict.low is not None else ""
        words.setdefault(support(verdict) + numbers, []).append(name)
    if not words:
        return NO_NUMBERS
    several = dataset not in PAPER_DATASETS and not {"arithmetic", NO_NUMBERS} & {*words}
    text = "; ".join(f"{word} ({', '.join(names)})" if several else word for word, names in words.items())
    return text + (", read off a picture" if CLAIMS[number].source == "picture" and NO_NUMBERS not in words else "")


def short_support(number: int, dataset: str, panel: str = "") -> str:
    """The same for a narrow column: "inconclusive; supported (C100)" is inconclusive on all but CIFAR-100."""
    words: dict[str, list[str]] = {}
    dataset = unshrunk(dataset)
    for name, verdict in _published_on(number, dataset, panel).items():
        words.setdefault(support(verdict, at_n=dataset in PAPER_DATASETS), []).append(_SHORT[name])
    if not words:
        return NO_NUMBERS
    ordered = sorted(words, key=lambda word: -len(words[word]))
    text = "; ".join([ordered[0], *(f"{word} ({', '.join(words[word])})" for word in ordered[1:])])
    return text + (", picture" if CLAIMS[number].source == "picture" and NO_NUMBERS not in words else "")


def by_size(published: Verdict) -> str:
    """What published numbers support at every size: 'supported at 1 of 8 sizes (3200; inconclusive at 256, …)'."""
    at: dict[str, list[str]] = {}
    for size, word in published.sizes:
        at.setdefault(_WORDS.get(word, word), []).append(str(size))
    rest = [f"{word} at {', '.join(at[word])}" for word in ("contradicted", "inconclusive") if word in at]
    inside = "; ".join(filter(None, (", ".join(at.get("supported", [])), *rest)))
    return f"supported at {len(at.get('supported', []))} of {len(published.sizes)} sizes ({inside})"


def _sizes(verdict: Verdict) -> str:
    """A clause on the subset sizes at which the paper's numbers support a claim."""
    dataset = unshrunk(verdict.dataset)
    found = _published_on(verdict.claim, dataset, verdict.panel).items()
    several = dataset not in PAPER_DATASETS
    told = [by_size(v) + (f" of {name}" if several else "") for name, v in found if v.sizes]
    return f"; {', '.join(told)}" if told else ""


def _published_on(number: int, dataset: str, panel: str) -> dict[str, Verdict]:
    """The published verdicts that count: of this data set if it is one of the paper's, else of those that have one."""
    datasets = [dataset] if dataset in PAPER_DATASETS else CLAIMS[number].datasets
    found = {}
    for name in datasets:
        for verdict in _published(name):
            if verdict.claim == number and verdict.panel == panel and (verdict.verdict != "missing" or name == dataset):
                found[name] = verdict
    return found


@cache
def _published(dataset: str) -> tuple[Verdict, ...]:
    return tuple(from_published(dataset))


def by_figure(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts by figure, in the paper's order: {"Figure 2": [...], ..., "Appendix": [...]}."""
    found = {}
    for verdict in sorted(verdicts, key=lambda v: (_FIGURES.index(CLAIMS[v.claim].figure), v.claim)):
        figure = CLAIMS[verdict.claim].figure.replace("figure", "Figure ").capitalize()
        found.setdefault(figure, []).append(verdict)
    return found


def title(verdict: Verdict) -> str:
    panel = f", {verdict.panel.removesuffix(' noise')}" if verdict.panel else ""
    return f"{verdict.claim}. {CLAIMS[verdict.claim].title}{panel}"


def cells(verdict: Verdict, scale: str) -> dict[str, str]:
    """The cells of a verdict's row: P, claim, effect, n, p, levels, data, paper, published, and short: the last two
    for a narrow table."""
    claim = CLAIMS[verdict.claim]
    missing = verdict.verdict == "missing"
    above = sum(level.effect > verdict.margin for level in verdict.levels)
    word = verdict.verdict + (f": {NO_GAP}" if verdict.note.startswith(NO_GAP) else "")
    paper = paper_claim(verdict, scale)
    picture = ", picture" if claim.source == "picture" and not missing else ""
    return {
        "P": "P" if verdict.primary or missing and claim.is_primary(verdict.panel) else "",
        "claim": title(verdict),
        "effect": "" if missing else effect(verdict) + ("" if verdict.unit == "pp" else f" {verdict.unit}"),
        "n": "" if verdict.n is None else str(verdict.n),
        "p": "" if verdict.p is None else f"{verdict.p:.2g}",
        "levels": f"{above}/{len(verdict.levels)}" if verdict.levels else "",
        "data": ("not planned here" if missing and not verdict.promised else word)
        + (" *" if survives_holm(verdict) else ""),
        "paper": paper,
        "short paper": paper.partition(" (")[0].partition(" for ")[0],
        "published": published_support(claim.number, verdict.dataset, verdict.panel),
        "short published": short_support(claim.number, verdict.dataset, verdict.panel),
        "support": support(verdict) + (" *" if survives_holm(verdict) else "") + picture + _not_made(verdict),
    }


def effect(verdict: Verdict) -> str:
    interval = "" if verdict.low is None else f" [{verdict.low:+.2f}, {verdict.high:+.2f}]"
    return f"{verdict.effect:+.2f}{interval}"


def sentence(verdict: Verdict, scale: str) -> str:
    """One plain sentence on a claim, and one on what the published numbers say."""
    head = _head(verdict)
    if verdict.verdict == "missing":
        return f"{head} **Missing** on {verdict.dataset}: {verdict.note}."
    return (
        f"{head} **{verdict.verdict.capitalize()}** on {verdict.dataset}, {_numbers(verdict)}. "
        f"The paper's claim: {paper_claim(verdict, scale)}. The paper's own numbers: "
        f"{published_support(verdict.claim, verdict.dataset, verdict.panel)}{_sizes(verdict)}{_caveat(verdict)}."
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
    return numbers + (f" ({verdict.note})" if verdict.note else "")
