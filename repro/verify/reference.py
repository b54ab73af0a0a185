"""The claims judged on the paper's own numbers, and what those verdicts support, in words.

Of curves only means and standard deviations of 4 replicates (of warm-up 8) are published, so the tests are unpaired.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pandas as pd

from repro.verify import barrier_decisions, pruned_runs, published, warmup
from repro.verify.claims import CLAIMS, RUN_CLAIMS
from repro.verify.outcomes import sized
from repro.verify.stats import interval
from repro.verify.verdict import BY_ARITHMETIC, ITSELF, PAPER_DATASETS, Verdict, unshrunk, with_holm

NO_NUMBERS = "no numbers published"
_WORDS = {"reproduced": "supported", "missing": NO_NUMBERS}
_SHORT = {"cifar10": "C10", "cifar100": "C100", "cinic10": "CINIC"}


def from_published(
    dataset: str, *, size: int | None = None, noise_size: int = published.NOISE_SIZE, table: pd.DataFrame | None = None
) -> list[Verdict]:
    """The verdicts on the claims by the paper's own numbers; missing where nothing was published, and none promised.

    size, noise_size, table: see `published.outcomes`. Without them a claim about subsets also has its verdict at every
    published size.
    """
    found = pruned_runs.judge(published.outcomes(dataset, size=size, noise_size=noise_size, table=table))
    if size is None and table is None and noise_size == published.NOISE_SIZE:
        words = _words_by_size(dataset)
        found = [replace(v, sizes=words.get((v.claim, v.panel), ())) for v in found]
    found += _published_elsewhere(dataset)
    unknown = CLAIMS.keys() - {v.claim for v in found}
    found += [CLAIMS[number].missing(dataset, "the paper has published no numbers") for number in unknown]
    return with_holm([replace(v, promised=False) for v in sorted(found, key=lambda v: v.claim)])


@cache
def _published_elsewhere(dataset: str) -> tuple[Verdict, ...]:
    """The verdicts on claims whose numbers are not accuracies of pruned runs."""
    return pruned_runs.passes(dataset), *barrier_decisions.from_published(dataset), *warmup.from_published(dataset)


@cache
def _words_by_size(dataset: str) -> dict[tuple[int, str], tuple[tuple[int, str], ...]]:
    """{(claim, panel): ((size, verdict), ...)} of the published curves, for claims that depend on the subset size."""
    found = {}
    for size, outcomes in published.outcomes_by_size(dataset).items():
        for claim in RUN_CLAIMS:
            for panel in claim.panels:
                parts = [part for part in claim.parts if part.panel == panel]
                conditions = {c for part in parts for c in part.conditions}
                if any(sized(c) for c in conditions) and not outcomes.missing(conditions):
                    word = pruned_runs.decided(parts, outcomes).word
                    found.setdefault((claim.number, panel), []).append((size, word))
    return {key: tuple(words) for key, words in found.items()}


# What the verdicts support, in words


def support(published: Verdict, *, at_n: bool = True) -> str:
    """A verdict by the paper's own numbers in a word or two, like "supported" or "inconclusive at n = 4"."""
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
    """What the paper's own numbers support, in words.

    On a data set of the paper, with effect and interval. On another, for each data set that the paper claims it for.
    """
    words: dict[str, list[str]] = {}
    dataset = unshrunk(dataset)
    for name, verdict in _published_on(number, dataset, panel).items():
        numbers = f" ({interval(verdict)})" if name == dataset and verdict.low is not None else ""
        words.setdefault(support(verdict) + numbers, []).append(name)
    if not words:
        return NO_NUMBERS
    several = dataset not in PAPER_DATASETS and not {"arithmetic", NO_NUMBERS} & {*words}
    text = "; ".join(f"{word} ({', '.join(names)})" if several else word for word, names in words.items())
    return text + (", read off a picture" if CLAIMS[number].source == "picture" and NO_NUMBERS not in words else "")


def short_support(number: int, dataset: str, panel: str = "") -> str:
    """`published_support` for a narrow column: "inconclusive; supported (C100)" means inconclusive but on CIFAR-100."""
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
    """What published numbers support at each size: 'supported at 1 of 8 sizes (3200; inconclusive at 256, …)'."""
    at: dict[str, list[str]] = {}
    for size, word in published.sizes:
        at.setdefault(_WORDS.get(word, word), []).append(str(size))
    rest = [f"{word} at {', '.join(at[word])}" for word in ("contradicted", "inconclusive") if word in at]
    inside = "; ".join(filter(None, (", ".join(at.get("supported", [])), *rest)))
    return f"supported at {len(at.get('supported', []))} of {len(published.sizes)} sizes ({inside})"


def sizes_supported(verdict: Verdict) -> str:
    """A clause on the subset sizes at which the paper's numbers support a claim."""
    dataset = unshrunk(verdict.dataset)
    found = _published_on(verdict.claim, dataset, verdict.panel).items()
    several = dataset not in PAPER_DATASETS
    told = [by_size(v) + (f" of {name}" if several else "") for name, v in found if v.sizes]
    return f"; {', '.join(told)}" if told else ""


def _published_on(number: int, dataset: str, panel: str) -> dict[str, Verdict]:
    """By data set, the published verdicts to set beside one on ``dataset``.

    That of a data set of the paper alone, even if missing. Else those that are not missing, of the data sets that the
    paper claims it for.
    """
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
