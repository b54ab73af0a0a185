"""A claim of the paper as data: what it compares, the margin that decides it, and what was published about it."""

from __future__ import annotations

from dataclasses import dataclass

from repro.data.shrink import split_size

PAPER_DATASETS = ("cifar10", "cifar100", "cinic10")
SOURCES = ("exact", "picture", "arithmetic", "none")


def unshrunk(dataset: str) -> str:
    """The data set whose published numbers stand beside this one: 'cifar10' for 'cifar10@16', or itself."""
    return split_size(dataset)[0]


@dataclass(frozen=True)
class Part:
    """One comparison: sum(weight * outcome of condition), in pp, should exceed the margin.

    fraction: (subset, full, base): what the subset keeps of full - base, F = (subset - base) / (full - base). Without
    a positive gap full - base there is nothing to keep, and the claim stays inconclusive. panel: of the figure, where
    the claim is judged in each of several ("50 % noise"); parts of one panel have to hold together.
    """

    text: str
    weights: tuple[tuple[str, float], ...]
    margin: float = 0.0
    fraction: tuple[str, str, str] | None = None
    panel: str = ""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Every condition whose outcome the part needs."""
        return tuple(dict.fromkeys((*(c for c, _ in self.weights), *(self.fraction or ()))))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper.

    parts: comparisons of outcomes of pruned runs (none for claims on other tables). described: further ones, shown in
    the note and never tested. primary: one of the six hypotheses under Holm; primary_panel: in this panel only.
    figure: the one whose runs can decide it. datasets: those the paper makes it for. source: which published numbers
    it is compared with: 'exact' (vector figures and printed values), 'picture' (digitised), 'arithmetic' (follows from
    the protocol) or 'none'. caveat: where the published numbers are weaker than the text, a clause.
    """

    number: int
    title: str
    statement: str
    section: str
    parts: tuple[Part, ...] = ()
    described: tuple[Part, ...] = ()
    primary: bool = False
    primary_panel: str = ""
    figure: str = "figure2"
    datasets: tuple[str, ...] = PAPER_DATASETS
    source: str = "exact"
    caveat: str = ""

    def __post_init__(self):
        assert self.source in SOURCES, self.source

    @property
    def panels(self) -> tuple[str, ...]:
        """Where it is judged: ("",) for most claims, the panels of the figure otherwise."""
        return tuple(dict.fromkeys(part.panel for part in self.parts)) or ("",)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Every condition whose outcome the claim needs."""
        return tuple(dict.fromkeys(c for part in self.parts for c in part.conditions))

    def is_primary(self, panel: str = "") -> bool:
        return self.primary and panel == self.primary_panel
