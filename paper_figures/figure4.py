"""Figure 4: pre-training on data with randomised labels; the mask search that follows uses clean ones."""

import pandas as pd

from paper_figures.shared import cells
from paper_figures.shared.curves import Arm, all_data, curve_panel, panel_of, subsets, summarise
from paper_figures.shared.drawing import new_figure, no_runs, panel_title
from repro.plan import Cell, Chosen, Subset
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 4"
SCALES = ("demo", "small", "cpu", "day", "paper")
CLAIMS = (13, 14, 15, 16, 17, 31)
Y_RANGES = {"cifar10": (84, 92)}  # percent, as published


def needed(p: Protocol) -> list[Item]:
    """Pre-training on randomised labels; initialisation and clean runs are Figure 2's."""
    half, few = p.t_star // 2, p.more_replicates
    random, easy, hard = (Subset(kind, p.noise_size) for kind in ("random", "easy", "hard"))
    items = [*cells.all_data(p), cells.subset(p, "random", p.noise_size), cells.subset(p, "easy", p.noise_size)]
    for noise in p.noise:
        primary = None if noise == max(p.noise) else few  # replicates of the arms of a primary claim: all
        items += [
            Cell("all_tstar_half", p, half, None, noise, few),
            Cell("all_tstar", p, p.t_star, None, noise, primary),
            Cell("random", p, half, random, noise, few),
            Cell("easy", p, half, easy, noise, primary),
            Chosen(p, hard, noise, few),
        ]
    return items if p.noise else []


def arms(protocol: Protocol, noise: float) -> list[Arm]:
    """The curves of one panel: hard examples were not tried with label noise (protocol section 9)."""
    return all_data(protocol, noise) + subsets(protocol, protocol.noise_size, ("random", "easy"), noise)


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, a row per data set that has label noise and a column per share of noise, and its table."""
    noisy = [p for p in protocols if p.noise] or protocols[:1]
    columns = max(1, max(len(p.noise) for p in noisy))
    figure = new_figure((5.6 * columns, 4.8 * len(noisy)), TITLE, protocols, control)
    panels = figure.subplots(len(noisy), columns, squeeze=False)
    shown = []
    for row, protocol in zip(panels, noisy):
        for panel, noise in zip(row, protocol.noise):
            chosen = arms(protocol, noise)
            table = panel_of(evidence.runs, protocol, chosen)
            title = f"{panel_title(protocol)}, {100 * noise:.3g} % of labels randomised"
            curve_panel(panel, table, protocol, chosen, title=title, published_range=Y_RANGES.get(protocol.dataset))
            # the clean t = 0 runs stand in every panel, so the table says which panel a row is of
            shown.append(table.assign(panel=f"{100 * noise:.3g} % noise"))
        for panel in row[len(protocol.noise) :]:
            no_runs(panel)
    nothing = summarise(evidence.runs[:0]).assign(panel="")
    found = pd.concat(shown, ignore_index=True) if shown else nothing
    return figure, found[["panel", *found.columns.drop("panel")]]
