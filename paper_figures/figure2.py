"""Figure 2: accuracy against sparsity for ways to pre-train: all data, random, easiest and hardest examples."""

import pandas as pd

from paper_figures.shared import cells
from paper_figures.shared.curves import Arm, all_data, compared, draw_curves, panel_of, subsets
from paper_figures.shared.drawing import new_figure
from paper_figures.shared.panels import Pair, panel_title
from repro.plan import Branch, Cell, Subset
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 2"
SCALES = ("demo", "small", "cpu", "day", "paper")
Y_RANGES = {"cifar10": (84, 92), "cifar100": (57, 69), "cinic10": (83.5, 86.5)}  # percent, as published


def needed(p: Protocol, control: str | None = None) -> list[Item]:
    """Six ways to pre-train; with a control, those of the experiment that has to fail."""
    permuted = control == "permute-scores"
    easy, hard = ("hard", "easy") if control == "swap-easy-hard" else ("easy", "hard")
    all_runs = cells.all_data(p)
    runs = [
        *all_runs,
        cells.subset(p, "random", p.subset_size),
        Cell("easy", p, p.t_star // 2, Subset(easy, p.subset_size, permuted=permuted)),
        Cell("hard", p, p.t_star // 2, Subset(hard, p.subset_size, permuted=permuted)),
    ]
    return runs + ([Branch("shuffled", all_runs[-1])] if control == "shuffle-mask" else [])


def arms(p: Protocol, control: str | None = None) -> list[Arm]:
    """The curves of one panel."""
    chosen = all_data(p) + subsets(p, p.subset_size)
    return chosen + ([Arm("shuffled", 0, p.t_star)] if control == "shuffle-mask" else [])


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """The one panel of a data set."""
    chosen = arms(p, control)
    return [compared(panel_title(p), panel_of(evidence.runs, p, chosen), p, chosen, arms)]


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, one panel per protocol, and the table of what it shows."""
    figure = new_figure((5.6 * len(protocols), 4.8), TITLE, protocols, control)
    pairs = [panels(evidence, p, control)[0] for p in protocols]
    for axes, pair, p in zip(figure.subplots(1, len(protocols), squeeze=False)[0], pairs, protocols):
        draw_curves(axes, pair, p, limits=Y_RANGES.get(p.dataset))
    return figure, pd.concat([pair.own.table for pair in pairs], ignore_index=True)
