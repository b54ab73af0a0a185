"""The paper's claims about Figures 2 and 3 as data: what each compares, and the margin that decides it.

Numbers are those of this project's list of claims; 6 is arithmetic and has no runs. Each part is a contrast of
conditions, oriented so that the claim asks for a value above the margin (pp). A claim of several parts holds if all do.
Margins are this project's, not the paper's, which asks for "no worse" and gives none.
"""

from __future__ import annotations

from dataclasses import dataclass

from repro.verify.outcomes import SMALLEST, label

PAPER_DATASETS = ("cifar10", "cifar100", "cinic10")
PRIMARY_HYPOTHESES = 6
"""Fixed before the runs, over all figures; Holm's family in a data set. Figure 2 holds two of them."""

MATCHING_MARGIN = 0.5  # pp by which all@t* may stay below dense
INITIALISATION = 0.35  # share of what pre-training buys, below which a start is "little better than none"


@dataclass(frozen=True)
class Part:
    """One comparison: sum(weight * outcome of condition), in pp, should exceed the margin."""

    text: str
    weights: tuple[tuple[str, float], ...]
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper.

    fraction: (subset, full, base): what the subset keeps of full - base, F = (subset - base) / (full - base). Without
    a positive gap full - base there is nothing to keep, and the claim stays inconclusive. figure: the one whose runs
    can decide it. datasets: those the paper makes it for.
    """

    number: int
    title: str
    statement: str
    section: str
    parts: tuple[Part, ...]
    primary: bool = False
    figure: str = "figure2"
    fraction: tuple[str, str, str] | None = None
    datasets: tuple[str, ...] = PAPER_DATASETS

    @property
    def conditions(self) -> tuple[str, ...]:
        """Every condition whose outcome the claim needs."""
        return tuple(dict.fromkeys((*(c for p in self.parts for c, _ in p.weights), *(self.fraction or ()))))


def _above(better: str, worse: str, margin: float = 0.0) -> Part:
    return Part(f"{label(better)} - {label(worse)}", ((better, 1.0), (worse, -1.0)), margin)


CLAIMS = {
    claim.number: claim
    for claim in (
        Claim(
            number=1,
            title="Rewinding to step 0 falls off",
            statement="Pruned networks rewound to initialisation end below dense.",
            section="section 3, Figure 2",
            parts=(_above("dense", "all_t0"),),
        ),
        Claim(
            number=2,
            title="Later rewinding is better",
            statement="Sparse networks gain from pre-training: t* beats t*/2, and t*/2 beats initialisation.",
            section="section 3, Figure 2",
            parts=(_above("all_tstar", "all_tstar_half"), _above("all_tstar_half", "all_t0")),
        ),
        Claim(
            number=3,
            title="All data at t* is matching",
            statement=f"Rewound to t*, sparse networks are no more than {MATCHING_MARGIN} pp below dense.",
            section="section 3, Figure 2",
            parts=(_above("all_tstar", "dense", -MATCHING_MARGIN),),
        ),
        Claim(
            number=4,
            title="All data at t*/2 is not matching",
            statement=f"Rewound to t*/2, sparse networks stay more than {MATCHING_MARGIN} pp below dense.",
            section="section 3, experimental design",
            parts=(_above("dense", "all_tstar_half", MATCHING_MARGIN),),
        ),
        Claim(
            number=5,
            title="Random matches all data at t*/2",
            primary=True,
            statement="A small random subset is as good as all data for the same t*/2 steps: it loses less than half of "
            "what the second half of pre-training buys.",
            section="section 3, Figure 2",
            parts=(
                Part(
                    "random - all@t*/2 + (all@t* - all@t*/2)/2",
                    (("random", 1.0), ("all_tstar_half", -1.5), ("all_tstar", 0.5)),
                ),
            ),
            fraction=("random", "all_tstar", "all_tstar_half"),
        ),
        Claim(
            number=7,
            title="Very small subsets degrade",
            statement="The smallest random subset of the sweep is worse than the one of Figure 2.",
            section="section 3, Figure 3",
            figure="figure3",
            datasets=("cifar10", "cifar100"),
            parts=(_above("random", SMALLEST),),
        ),
        Claim(
            number=8,
            title="Easy at t*/2 matches all data at t*",
            primary=True,
            statement="The easiest examples, for half the steps, are as good as all data for t*: they keep more than half "
            "of what the second half of pre-training buys.",
            section="section 3, Definition 3.2, Figure 2",
            parts=(
                Part("easy - (all@t* + all@t*/2)/2", (("easy", 1.0), ("all_tstar", -0.5), ("all_tstar_half", -0.5))),
            ),
            fraction=("easy", "all_tstar", "all_tstar_half"),
        ),
        Claim(
            number=9,
            title="Easy beats all data at t*/2",
            statement="At the same number of steps the easiest examples beat all data.",
            section="section 3, Figure 2",
            parts=(_above("easy", "all_tstar_half"),),
        ),
        Claim(
            number=10,
            title="Easy beats random",
            statement="The easiest examples beat as many random ones.",
            section="section 3, Figure 2",
            parts=(_above("easy", "random"),),
        ),
        Claim(
            number=11,
            title="Hard is harmful",
            statement="The hardest examples are worse than all data and than as many random ones, at the same steps.",
            section="section 3, Figure 2",
            parts=(_above("all_tstar_half", "hard"), _above("random", "hard")),
        ),
        Claim(
            number=12,
            title="Hard is little better than no pre-training",
            statement=f"The hardest examples bring less than {INITIALISATION} of what pre-training on all data to t* "
            "brings over none.",
            section="section 3, hardest examples",
            datasets=("cifar10",),
            parts=(
                Part(
                    f"all@0 + {INITIALISATION}(all@t* - all@0) - hard",
                    (("hard", -1.0), ("all_t0", 1 - INITIALISATION), ("all_tstar", INITIALISATION)),
                ),
            ),
            fraction=("hard", "all_tstar", "all_t0"),
        ),
    )
}
"""The claims by number."""
