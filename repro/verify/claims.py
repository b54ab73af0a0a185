"""The paper's claims: what each compares, and the margin that decides it.

Numbers are those of this project's list of claims. `RUN_CLAIMS` are on the accuracy of pruned runs and are decided by
their row alone (`pruned_runs` does it): each part is a contrast of conditions, oriented so that the claim asks for a
value above the margin (pp), and a claim of several parts holds if all do. Margins are this project's: the paper asks
for "no worse" and gives none. Conditions under label noise end in its share: "easy~0.5"; "@noise" is the clean
condition at the subset size of the noise panels. The statistics of `SUBSET_CLAIMS` are in `pruned_runs`, those of
`BARRIER_CLAIMS` in `barriers`, those of `WARMUP_CLAIMS` in `warmup`.
"""

from __future__ import annotations

from repro.verify.outcomes import SMALLEST, label, noise_panel
from repro.verify.verdict import Claim, Part

MATCHING_MARGIN = 0.5  # pp by which all@t* may stay below dense
INITIALISATION = 0.35  # share of what pre-training buys, below which a start is "little better than none"
WARMUP_MARGIN = 0.25
"""Equivalence margin of warm-ups, pp."""

_FIGURE2 = {"section": "section 3, Figure 2"}
_FIGURE4 = {"section": "section 3, Figure 4", "figure": "figure4", "datasets": ("cifar10",)}
_FIGURE5 = {
    "section": "section 4, Figure 5",
    "figure": "figure5",
    "datasets": ("cifar100", "cinic10"),
    "source": "picture",
}
_FIGURE6 = {"section": "section 5, Figure 6", "figure": "figure6", "datasets": ("cifar10",)}


def _above(better: str, worse: str, margin: float = 0.0, panel: str = "") -> Part:
    return Part(f"{label(better)} - {label(worse)}", ((better, 1.0), (worse, -1.0)), margin, panel=panel)


def _no_worse(condition: str, reference: str, panel: str = "") -> Part:
    """No worse than the reference by more than half of what the second half of (clean) pre-training buys."""
    weights = ((condition, 1.0), (reference, -1.0), ("all_tstar", 0.5), ("all_tstar_half", -0.5))
    merged = {c: sum(w for other, w in weights if other == c) for c, _ in weights}
    text = f"{label(condition)} - {label(reference)} + (all@t* - all@t*/2)/2"
    return Part(text, tuple(merged.items()), fraction=(condition, "all_tstar", "all_tstar_half"), panel=panel)


def _no_better_than_initialisation(condition: str, panel: str = "") -> Part:
    """R = (x - x_0) / (x_t* - x_0) below INITIALISATION, as a contrast that needs no ratio."""
    return Part(
        f"all@0 + {INITIALISATION}(all@t* - all@0) - {label(condition)}",
        ((condition, -1.0), ("all_t0", 1 - INITIALISATION), ("all_tstar", INITIALISATION)),
        fraction=(condition, "all_tstar", "all_t0"),
        panel=panel,
    )


def _both_panels(parts) -> tuple[Part, ...]:
    return tuple(part for noise in ("0.1", "0.5") for part in parts(f"~{noise}", noise_panel(float(noise))))


RUN_CLAIMS = (
    Claim(
        number=1,
        title="Rewinding to step 0 falls off",
        statement="Pruned networks rewound to initialisation end below dense.",
        parts=(_above("dense", "all_t0"),),
        **_FIGURE2,
    ),
    Claim(
        number=2,
        title="Later rewinding is better",
        statement="Sparse networks gain from pre-training: t* beats t*/2, and t*/2 beats initialisation.",
        parts=(_above("all_tstar", "all_tstar_half"), _above("all_tstar_half", "all_t0")),
        **_FIGURE2,
    ),
    Claim(
        number=3,
        title="All data at t* is matching",
        statement=f"Rewound to t*, sparse networks are no more than {MATCHING_MARGIN} pp below dense.",
        parts=(_above("all_tstar", "dense", -MATCHING_MARGIN),),
        caveat="the paper says as well as or better than dense: its means are above dense at levels 3 and 5 (CIFAR-10) "
        "and 1 to 7 (CIFAR-100), within the margin up to level 9; CINIC-10's at every level",
        **_FIGURE2,
    ),
    Claim(
        number=4,
        title="All data at t*/2 is not matching",
        statement=f"Rewound to t*/2, sparse networks stay more than {MATCHING_MARGIN} pp below dense.",
        section="section 3, experimental design",
        parts=(_above("dense", "all_tstar_half", MATCHING_MARGIN),),
        caveat="on CINIC-10 all@t*/2 stays within the margin up to level 11, so there it is worse than all@t* only",
    ),
    Claim(
        number=5,
        title="Random matches all data at t*/2",
        primary=True,
        statement="A small random subset is as good as all data for the same t*/2 steps: it loses less than half of "
        "what the second half of pre-training buys.",
        parts=(
            Part(
                "random - all@t*/2 + (all@t* - all@t*/2)/2",
                (("random", 1.0), ("all_tstar_half", -1.5), ("all_tstar", 0.5)),
                fraction=("random", "all_tstar", "all_tstar_half"),
            ),
        ),
        caveat="on CINIC-10 random is slightly below all data (-0.20 pp over levels 1 to 12), and so are subsets of "
        "256 on both CIFARs",
        **_FIGURE2,
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
            Part(
                "easy - (all@t* + all@t*/2)/2",
                (("easy", 1.0), ("all_tstar", -0.5), ("all_tstar_half", -0.5)),
                fraction=("easy", "all_tstar", "all_tstar_half"),
            ),
        ),
        caveat="the published means are slightly below all@t* on every data set and at every size: supported on "
        "CIFAR-100 only, where the size shown is the best one tried",
    ),
    Claim(
        number=9,
        title="Easy beats all data at t*/2",
        statement="At the same number of steps the easiest examples beat all data.",
        parts=(_above("easy", "all_tstar_half"),),
        caveat="not with the easiest 256 examples",
        **_FIGURE2,
    ),
    Claim(
        number=10,
        title="Easy beats random",
        statement="The easiest examples beat as many random ones.",
        parts=(_above("easy", "random"),),
        **_FIGURE2,
    ),
    Claim(
        number=11,
        title="Hard is harmful",
        statement="The hardest examples are worse than all data and than as many random ones, at the same steps.",
        parts=(_above("all_tstar_half", "hard"), _above("random", "hard")),
        caveat="CINIC-10 has three runs on hard examples only",
        **_FIGURE2,
    ),
    Claim(
        number=12,
        title="Hard is little better than none",
        statement=f"The hardest examples bring less than {INITIALISATION} of what pre-training on all data to t* "
        "brings over none.",
        section="section 3, hardest examples",
        datasets=("cifar10",),
        parts=(_no_better_than_initialisation("hard"),),
        caveat="above none at every size, by 0.25 to 0.9 pp; not said of CIFAR-100 and CINIC-10, where hard is up to "
        "1.35 and 2.75 pp above none",
    ),
    Claim(
        number=13,
        title="More label noise is worse",
        statement="The larger the share of randomised labels, the worse all data and random subsets.",
        parts=(
            _above("all_tstar", "all_tstar~0.1", panel=noise_panel(0.1)),
            _above("random@noise", "random~0.1", panel=noise_panel(0.1)),
            _above("all_tstar~0.1", "all_tstar~0.5", panel=noise_panel(0.5)),
            _above("random~0.1", "random~0.5", panel=noise_panel(0.5)),
        ),
        caveat="at 10 % noise all@t* loses 0.3 to 0.6 pp, about the spread of four replicates; random subsets of 3200 "
        "lose 0.8 to 1.6 pp",
        **_FIGURE4,
    ),
    Claim(
        number=14,
        title="Half noise is like no pre-training",
        statement="With half of the labels randomised all data at t*, all data at t*/2 and random subsets are no "
        f"better than initialisation: they bring less than {INITIALISATION} of what clean pre-training brings.",
        parts=tuple(
            _no_better_than_initialisation(f"{c}~0.5", noise_panel(0.5))
            for c in ("all_tstar", "all_tstar_half", "random")
        ),
        caveat="'no better' is approximate: all of them are 0.3 to 0.9 pp above initialisation",
        **_FIGURE4,
    ),
    Claim(
        number=15,
        title="Easy withstands label noise",
        statement="The easiest examples by scores on half randomised labels are as good as the clean easiest ones: "
        "they lose less than half of what the second half of clean pre-training buys.",
        parts=(_no_worse("easy~0.5", "easy@noise", noise_panel(0.5)),),
        caveat="the published means differ by -0.18 to +0.41 pp, which four replicates cannot tell from half the gap",
        **_FIGURE4,
    ),
    Claim(
        number=16,
        title="Easy dominates under noise",
        primary=True,
        primary_panel=noise_panel(0.5),
        statement="Under label noise the easiest examples for t*/2 steps beat all data for t* steps, all data for t*/2 "
        "and random subsets.",
        parts=_both_panels(
            lambda noise, panel: [
                _above(f"easy{noise}", f"{c}{noise}", panel=panel) for c in ("all_tstar", "all_tstar_half", "random")
            ]
        ),
        described=_both_panels(lambda noise, panel: [_no_worse(f"easy{noise}", f"all_tstar{noise}", panel)]),
        caveat="at 10 % noise easy is above all@t* by 0.04 to 0.17 pp only, and below it with 512 examples",
        **_FIGURE4,
    ),
    Claim(
        number=17,
        title="Easy beats random under noise",
        statement="Under label noise the easiest examples beat as many random ones.",
        parts=_both_panels(lambda noise, panel: [_above(f"easy{noise}", f"random{noise}", panel=panel)]),
        caveat="not with 512 examples at 10 % noise",
        **_FIGURE4,
    ),
    Claim(
        number=32,
        title="Easiness, not the choice of classes",
        statement="The easiest examples beat random ones with the same class histogram, and balanced easiest ones beat "
        "balanced random ones.",
        section="a control of this project's, appendix",
        figure="appendix",
        source="none",
        parts=(_above("easy_unbalanced", "random_like_easy"), _above("easy_balanced", "random")),
        described=(_above("random_like_easy", "random"),),
    ),
)

SUBSET_CLAIMS = (
    Claim(
        number=6,
        title="Images seen exceed the subset",
        statement="Pre-training for t*/2 steps passes over the subset more than once.",
        section="section 3, randomly chosen examples",
        source="arithmetic",
    ),
    Claim(
        number=31,
        title="Easy subsets hold fewer wrong labels",
        statement="Under label noise the share of wrong labels is lowest among the easiest and highest among the "
        "hardest examples by scores on the noisy labels.",
        section="section 3, Figure 4, 'largely uncorrupted data'",
        figure="figure4",
        datasets=("cifar10",),
        source="none",
    ),
)

BARRIER_CLAIMS = (
    Claim(
        number=18,
        title="More pre-training lowers barriers",
        statement="With more pre-training per-example loss barriers shift down: all@t* has a lower mean barrier than "
        "all@t*/2 and a larger share of barriers below 0.5 nats.",
        caveat="two networks per step, whose step was inferred",
        **_FIGURE5,
    ),
    Claim(
        number=19,
        title="Random has the barriers of all data",
        statement="Random subsets at t*/2 have the mean barrier of all data at t*/2, to within half of what the second "
        "half of pre-training lowers it by.",
        caveat="random barriers lie slightly higher",
        **_FIGURE5,
    ),
    Claim(
        number=20,
        title="Easy has the barriers of all data at t*",
        statement="The mean barrier of easy subsets at t*/2 is nearer to that of all data at t* than to t*/2.",
        caveat="one histogram without any spread",
        **_FIGURE5,
    ),
    Claim(
        number=21,
        title="The mode shifts as well",
        statement="With more pre-training the mode of the barriers shifts down, not only their mean.",
        caveat="the highest bin is the same in all four histograms: no shift is visible at this binning",
        **_FIGURE5,
    ),
    Claim(
        number=22,
        title="Barriers predict final accuracy better",
        primary=True,
        statement="Over conditions, the mean barrier is more strongly correlated (rank) with final accuracy than the "
        "accuracy at the end of pre-training is.",
        caveat="which parents are of one condition was inferred, and only by single parents is the interval above 0",
        **_FIGURE5,
    ),
    Claim(
        number=23,
        title="Easy has smaller barriers than random",
        primary=True,
        statement="At equal subset size and step, easy subsets lead to smaller barriers than random ones.",
        caveat="the step and size of an easy point are unknown, so both are pooled",
        **_FIGURE5,
    ),
    Claim(
        number=24,
        title="LMC-score subsets do not reach easy",
        statement="Subsets of the examples with the smallest barriers end below the easiest by EL2N.",
        section="appendix D",
        figure="appendix",
        datasets=("cinic10",),
        source="picture",
        caveat="LMC-score subsets at one step against easy ones at two",
    ),
    Claim(
        number=25,
        title="Linear connectivity sets in after t*",
        statement="At t* children are not yet linearly connected: their 0-1 barrier is above 2 %.",
        caveat="no 0-1 barrier was published, and of the loss barrier two points",
        **{**_FIGURE5, "section": "section 4"},
    ),
)

WARMUP_CLAIMS = (
    Claim(
        number=26,
        title="Easy warm-up hurts, longer more",
        primary=True,
        statement="The longer the warm-up, the more accuracy the easiest examples lose against random ones (slope at "
        "the smallest subset; the losses themselves and other sizes are shown, not tested).",
        source="picture",
        **_FIGURE6,
    ),
    Claim(
        number=27,
        title="Hard is like random for large subsets",
        statement=f"A long warm-up on the hardest examples equals one on random ones to within {WARMUP_MARGIN} pp, "
        "at the largest size.",
        source="picture",
        caveat="random subsets are class-balanced there and hard ones are not",
        **_FIGURE6,
    ),
    Claim(
        number=28,
        title="Easy brings nothing at the shortest warm-up",
        statement="At the shortest warm-up easy subsets equal all data and random subsets to within "
        f"{WARMUP_MARGIN} pp.",
        source="picture",
        caveat="inconclusive with the wider band that the random panel draws around all data",
        **_FIGURE6,
    ),
    Claim(
        number=29,
        title="All-data warm-up has the published accuracies",
        statement="Warm-up on all data gains over the shortest what the paper's does, at every length, to within "
        f"{WARMUP_MARGIN} pp.",
        source="picture",
        **_FIGURE6,
    ),
    Claim(
        number=30,
        title="Pruning needs less pre-training than training needs warm-up",
        statement="t* is a smaller part of its training than the best all-data warm-up is of its own.",
        source="arithmetic",
        **_FIGURE6,
    ),
)

_ALL = (*RUN_CLAIMS, *SUBSET_CLAIMS, *BARRIER_CLAIMS, *WARMUP_CLAIMS)
CLAIMS = {claim.number: claim for claim in sorted(_ALL, key=lambda claim: claim.number)}
"""The claims by number."""
