"""Writes what docs/commands.md and docs/claims.md hold below their mark: `make docs`.

The commands' options come from the commands themselves, the claims from the table of claims and, by the same tests, the
paper's own numbers. A test compares the committed pages with what this gives.
"""

from collections import defaultdict
from inspect import cleandoc
from pathlib import Path

import click

from repro.cli import main
from repro.verify.claim import PAPER_DATASETS, Claim
from repro.verify.claims import CLAIMS
from repro.verify.pruned_runs import from_published
from repro.verify.published import NOISE_SIZE, SIZES
from repro.verify.verdict import ITSELF, Verdict
from repro.verify.wording import NO_NUMBERS, by_size, effect, support, survives_holm

MARK = "<!-- Below this line `make docs` writes. -->\n"
DATASETS = dict(zip(PAPER_DATASETS, ("CIFAR-10", "CIFAR-100", "CINIC-10")))
SOURCES = {
    "exact": "exact published numbers (vector figures, printed values)",
    "picture": "published numbers read off a picture",
    "arithmetic": "nothing: it follows from the protocol",
    "none": "nothing: no numbers are published",
}


def row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def table(header: tuple[str, ...], rows) -> list[str]:
    return [row(*header), f"|{'---|' * len(header)}", *(row(*cells) for cells in rows), ""]


def text(words: str) -> str:
    """Plain words for Markdown: t* is no emphasis."""
    return words.replace("*", "\\*")


def commands() -> str:
    """Every command: its words, its own options, and, once, the options that several share."""
    takes = {name: options(command) for name, command in sorted(main.commands.items())}
    users = defaultdict(list)
    for name, records in takes.items():
        for record in records:
            users[record].append(name)
    shared = {record: names for record, names in users.items() if len(names) > 1}
    lines = ["## Options of repro itself", "", *table(("option", ""), map(cells, options(main)))]
    lines += ["## Options that several commands share", ""]
    lines += table(("option", "", "commands"), ((*cells(r), ", ".join(names)) for r, names in shared.items()))
    for name, command in sorted(main.commands.items()):
        usage = command.get_usage(context(command, name)).removeprefix("Usage: ")
        lines += [f"## {name}", "", *described(command), "```sh", usage, "```", ""]
        own = [record for record in takes[name] if record not in shared]
        lines += table(("option", ""), map(cells, own)) if own else []
        common = [f"`{record[0].split()[0].rstrip(',')}`" for record in takes[name] if record in shared]
        lines += [f"Shared: {', '.join(common)}.", ""] if common else []
    return "\n".join(lines).rstrip() + "\n"


def context(command: click.Command, name: str) -> click.Context:
    return click.Context(command, info_name=f"repro {name}".strip(), terminal_width=10_000, max_content_width=10_000)


def options(command: click.Command) -> list[tuple[str, str]]:
    """(declaration, help) of a command's options, less --help and --version."""
    here = context(command, "")
    chosen = [p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "version")]
    return [parameter.get_help_record(here) for parameter in chosen]


def cells(record: tuple[str, str]) -> tuple[str, str]:
    return f"`{record[0]}`", text(record[1])


def described(command: click.Command) -> list[str]:
    """The command's help as Markdown: what click leaves as it is (after a \\b) is code."""
    lines = []
    for paragraph in cleandoc(command.help).split("\n\n"):
        if not paragraph.startswith("\b"):
            lines += [text(" ".join(paragraph.split())), ""]
            continue
        head, *example = paragraph.splitlines()[1:]
        lines += [head, "", "```sh", *(line.strip() for line in example), "```", ""]
    return lines


def claims() -> str:
    """Every claim: its words, what is tested, and what the paper's own numbers say by the same test."""
    found = defaultdict(dict)
    for dataset in PAPER_DATASETS:
        for verdict in from_published(dataset):
            found[verdict.claim, verdict.panel][dataset] = verdict
    lines = ["## All of them", ""]
    lines += table(
        ("", "claim", "figure", *DATASETS.values()),
        (
            summary(CLAIMS[n], panel, verdicts)
            for (n, panel), verdicts in sorted(found.items())
            if panel in CLAIMS[n].panels
        ),
    )
    for number, claim in CLAIMS.items():
        lines += one_claim(claim, {panel: found[number, panel] for panel in claim.panels})
    return "\n".join(lines).rstrip() + "\n"


def anchor(claim: Claim) -> str:
    """GitHub's, of the claim's heading."""
    kept = "".join(c for c in f"{claim.number}. {claim.title}".lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def summary(claim: Claim, panel: str, verdicts: dict[str, Verdict]) -> tuple[str, ...]:
    words = (word(claim, dataset, verdicts[dataset]) for dataset in DATASETS)
    title = f"[{text(claim.title)}](#{anchor(claim)})" + (f", {panel}" if panel else "")
    primary = "**P** " if claim.is_primary(panel) else ""
    return f"{primary}{claim.number}", title, claim.figure.replace("figure", ""), *words


def word(claim: Claim, dataset: str, verdict: Verdict) -> str:
    """Of the paper's own numbers; '' where the paper neither claims it nor gives numbers."""
    said = support(verdict)
    if dataset not in claim.datasets:
        return "" if said == NO_NUMBERS else f"({said}: not claimed of it)"
    return said + (" \\*" if survives_holm(verdict) else "")


def one_claim(claim: Claim, panels: dict[str, dict[str, Verdict]]) -> list[str]:
    lines = [f"## {claim.number}. {text(claim.title)}", "", text(claim.statement), ""]
    lines += table(("", ""), facts(claim, panels))
    rows = [
        (DATASETS[dataset], *([panel] if panel else []), *numbers(claim, dataset, verdict))
        for panel, verdicts in panels.items()
        for dataset, verdict in verdicts.items()
        if verdict.verdict != "missing"
    ]
    panel = ("panel",) if any(panels) else ()
    header = ("the paper's own numbers", *panel, "subset", "effect [95 %]", "n", "word", "")
    return lines + (table(*without_empty(header, rows)) if rows else [])


def without_empty(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> tuple:
    """A table less the columns in which no row says anything."""
    kept = [i for i in range(len(header)) if any(cells[i] for cells in rows)]
    return tuple(header[i] for i in kept), [tuple(cells[i] for i in kept) for cells in rows]


def facts(claim: Claim, panels: dict[str, dict[str, Verdict]]):
    yield "where", f"{claim.section}; {', '.join(DATASETS[d] for d in claim.datasets)}"
    if claim.primary:
        yield "primary", f"yes{f', at {claim.primary_panel}' if claim.primary_panel else ''}"
    for part in claim.parts:
        yield f"tested{f', {part.panel}' if part.panel else ''}", text(f"{part.text} > {part.margin:g} pp")
    for part in claim.described:
        yield f"shown, not tested{f', {part.panel}' if part.panel else ''}", text(part.text)
    if not claim.parts:
        told = {v.statistic: v for verdicts in panels.values() for v in verdicts.values() if v.statistic}
        for statistic, v in told.items():
            margin = f", margin {v.margin:g} {v.unit}" if v.margin else ""
            if statistic != ITSELF:
                yield "tested, of the paper's numbers", text(f"{statistic}{margin}")
    yield "compared with", SOURCES[claim.source]
    if claim.caveat:
        yield "caveat", text(claim.caveat)


def numbers(claim: Claim, dataset: str, v: Verdict) -> tuple[str, ...]:
    noisy = claim.figure == "figure4"
    size = f"{NOISE_SIZE if noisy else SIZES[dataset]:,}" if v.sizes else ""
    unit = "" if v.unit == "pp" else f" {v.unit}"
    said = word(claim, dataset, v)
    found = "" if v.statistic == ITSELF else f"{effect(v)}{unit}"
    return size, found, str(v.n or ""), said, by_size(v) if v.sizes else ""


PAGES = {"commands.md": commands, "claims.md": claims}

if __name__ == "__main__":
    for name, generated in PAGES.items():
        path = Path(__file__).with_name(name)
        written = path.read_text(encoding="utf-8").partition(MARK)[0]
        path.write_text(f"{written}{MARK}\n{generated()}", encoding="utf-8")
