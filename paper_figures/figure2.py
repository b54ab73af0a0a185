"""Figure 2: accuracy against sparsity for ways to pre-train: all data, random, easiest and hardest examples."""

import pandas as pd
from matplotlib.figure import Figure

from paper_figures.shared.curves import Arm, all_data, curve_panel, panel_of, subsets
from paper_figures.shared.drawing import heading, panel_title
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 2"
Y_RANGES = {"cifar10": (84, 92), "cifar100": (57, 69), "cinic10": (83.5, 86.5)}  # percent, as published


def arms(protocol: Protocol, control: str | None = None) -> list[Arm]:
    """The curves of one panel."""
    chosen = all_data(protocol) + subsets(protocol, protocol.subset_size)
    return chosen + ([Arm("shuffled", 0, protocol.t_star)] if control == "shuffle-mask" else [])


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, one panel per protocol, and the table of what it shows."""
    figure = Figure(figsize=(5.6 * len(protocols), 4.8), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
    panels = figure.subplots(1, len(protocols), squeeze=False)[0]
    shown = []
    for panel, protocol in zip(panels, protocols):
        chosen = arms(protocol, control)
        shown.append(panel_of(evidence.runs, protocol, chosen))
        curve_panel(
            panel,
            shown[-1],
            protocol,
            chosen,
            title=panel_title(protocol),
            published_range=Y_RANGES.get(protocol.dataset),
        )
    return figure, pd.concat(shown, ignore_index=True)
