"""Which runs each figure needs. Figures share cells, and what they share is computed once."""

from collections.abc import Callable

from repro.errors import UsageError
from repro.plan import Barrier, Branch, Cell, Chosen, Gradients, Subset, WarmupSweep
from repro.plan.items import Item
from repro.protocol import Protocol

CONTROLS = ("permute-scores", "swap-easy-hard", "shuffle-mask")


def figure2(p: Protocol, control: str | None = None) -> list[Item]:
    """Six ways to pre-train; with a control, those of the experiment that has to fail."""
    permuted = control == "permute-scores"
    easy, hard = ("hard", "easy") if control == "swap-easy-hard" else ("easy", "hard")
    found = [
        *_all_data(p),
        _arm(p, "random", p.subset_size),
        Cell("easy", p, p.t_star // 2, Subset(easy, p.subset_size, permuted=permuted)),
        Cell("hard", p, p.t_star // 2, Subset(hard, p.subset_size, permuted=permuted)),
    ]
    return found + ([Branch("shuffled", _all_data(p)[-1])] if control == "shuffle-mask" else [])


def figure3(p: Protocol) -> list[Item]:
    """Figure 2's with every subset size."""
    return figure2(p) + [_arm(p, kind, size) for size in p.sizes for kind in ("random", "easy", "hard")]


def figure4(p: Protocol) -> list[Item]:
    """Pre-training on randomised labels; initialisation and clean runs are Figure 2's."""
    found = [*_all_data(p), _arm(p, "random", p.noise_size), _arm(p, "easy", p.noise_size)]
    for noise in p.noise:
        decisive = noise == max(p.noise)  # arms of a primary claim
        few = _few(p)
        found += [
            Cell("all_tstar_half", p, p.t_star // 2, None, noise, few),
            Cell("all_tstar", p, p.t_star, None, noise, None if decisive else few),
            Cell("random", p, p.t_star // 2, Subset("random", p.noise_size), noise, few),
            Cell("easy", p, p.t_star // 2, Subset("easy", p.noise_size), noise, None if decisive else few),
            Chosen(p, Subset("hard", p.noise_size), noise, few),
        ]
    return found if p.noise else []


def figure5(p: Protocol) -> list[Item]:
    """Barriers of many initialisations, and the accuracy of the networks pruned from them."""
    cells = [_all_at(p, t) for t in p.barrier_all]
    for t in p.barrier_subsets:
        kinds = ("random", "easy") if p.full else ("random", "easy", "hard")
        cells += [_arm(p, kind, size, t) for size in p.barrier_sizes for kind in kinds]
    if p.scale == "paper":
        cells += [_ranked_by(p, "lmc", size) for size in p.barrier_sizes]
    elif p.scale == "day":  # conditions whose pruned runs Figures 2 and 4 have: only their children are new
        cells += [_arm(p, "hard", p.subset_size), _arm(p, "random", p.noise_size), _arm(p, "easy", p.noise_size)]
    else:
        cells += [_ranked_by(p, score, p.subset_size) for score in ("lmc", "forgetting")]
    return cells + [Barrier(cell) for cell in cells]


def figure1(p: Protocol) -> list[Item]:
    """The path between two children, and the three phases of the easy run."""
    cells = figure2(p)
    return cells + [Barrier(cell) for cell in cells if cell.condition in ("all_tstar", "all_tstar_half")]


def figure6(p: Protocol) -> list[Item]:
    """Learning-rate warm-up."""
    return [WarmupSweep(p)] if p.warmup else []


def appendix(p: Protocol) -> list[Item]:
    """Every subset size, other scores, the composition of easy, the onset of linear mode connectivity, gradients."""
    easy = Subset("easy", p.subset_size)
    other = Subset("easy", p.subset_size, balanced=not p.balanced)
    unbalanced = other if p.balanced else easy
    half, few = p.t_star // 2, _few(p)
    composition = [
        Cell("easy_unbalanced" if p.balanced else "easy_balanced", p, half, other, replicates=few),
        Cell("random_like_easy", p, half, Subset("random", p.subset_size, like=unbalanced), replicates=few),
    ]
    onset = [Cell("all_t", p, t, replicates=few, levels=0) for t in p.onset_steps]
    dense = [_all_at(p, t) for t in p.barrier_all]
    scores = [_ranked_by(p, score, p.subset_size) for score in ("lmc", "forgetting")]
    noisy = [Chosen(p, Subset("hard", p.noise_size), noise, few) for noise in p.noise]
    return [
        *figure3(p),
        *scores,
        *noisy,
        *composition,
        *onset,
        *(Barrier(cell) for cell in (*dense, *onset)),
        Gradients(p, replicates=few),
        Gradients(p, easy, replicates=few),
    ]


def scores(p: Protocol) -> list[Item]:
    """Subsets of the noise panels' size by scores on clean and on randomised labels; nothing is trained on them."""
    kinds = ("easy", "random", "hard")
    return [Chosen(p, Subset(kind, p.noise_size), noise) for noise in (0.0, *p.noise) for kind in kinds]


FIGURES: dict[str, Callable[[Protocol], list[Item]]] = {
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": figure5,
    "figure6": figure6,
    "appendix": appendix,
    "scores": scores,
}
_AT = {"day": ("figure1", "figure2", "figure4", "figure5", "figure6"), "scores": ("scores",)}


def figures_at(scale: str) -> tuple[str, ...]:
    """The figures of a scale: elsewhere than at the scale ``scores``, its own is contained in Figure 4."""
    return _AT.get(scale, tuple(name for name in FIGURES if name != "scores"))


def needed(name: str, p: Protocol, control: str | None = None) -> list[Item]:
    """What a figure needs on one data set, each item once: nothing where the paper, or this scale, does not have it.

    Raises UsageError for an unknown figure, and for a control that it does not have.
    """
    if name not in FIGURES:
        raise UsageError(f"unknown figure {name!r}: choose {', '.join(FIGURES)} or all")
    if control is None:
        return list(dict.fromkeys(FIGURES[name](p))) if name in figures_at(p.scale) else []
    if name != "figure2" or control not in CONTROLS:
        raise UsageError(f"unknown control {control!r} of {name}: choose {', '.join(CONTROLS)}, with figure2")
    return figure2(p, control)


def _few(p: Protocol) -> int | None:
    """Replicates of what Figure 2 and the decisive arms of Figure 4 do not hold."""
    return p.more_replicates


def _all_data(p: Protocol) -> list[Cell]:
    return [_all_at(p, t) for t in (0, p.t_star // 2, p.t_star)]


def _all_at(p: Protocol, t: int) -> Cell:
    roles = {0: "all_t0", p.t_star // 2: "all_tstar_half", p.t_star: "all_tstar"}
    if t in roles:
        return Cell(roles[t], p, t)
    return Cell("all_t", p, t, replicates=_few(p), levels=min(p.levels, p.barrier_level))


def _arm(p: Protocol, kind: str, size: int, t: int | None = None) -> Cell:
    """A subset at t*/2, as in Figures 2 and 3 (one cell where they meet), or at another step, for Figure 5 alone."""
    half = p.t_star // 2
    if t not in (None, half):
        return Cell(kind, p, t, Subset(kind, size), replicates=_few(p), levels=min(p.levels, p.barrier_level))
    return Cell(kind, p, half, Subset(kind, size), replicates=None if size == p.subset_size else _few(p))


def _ranked_by(p: Protocol, score: str, size: int) -> Cell:
    return Cell(score, p, p.t_star // 2, Subset("easy", size, score=score), replicates=_few(p))
