"""Figure 4: pre-training on data with randomised labels; the mask search that follows uses clean ones."""

import pandas as pd

from paper_figures.shared import cells
from paper_figures.shared.curves import Arm, all_data, compared, draw_curves, panel_of, subsets, summarise
from paper_figures.shared.drawing import new_figure, no_runs
from paper_figures.shared.panels import Pair, panel_title
from repro.plan import Cell, Chosen, Subset
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 4"
SCALES = ("demo", "small", "cpu", "day", "paper")
Y_RANGES = {"cifar10": (84, 92)}  # percent, as published


def needed(p: Protocol) -> list[Item]:
    """Pre-training on randomised labels; initialisation and clean runs are Figure 2's."""
    half, few = p.t_star // 2, p.more_replicates
    random, easy, hard = (Subset(kind, p.noise_size) for kind in ("random", "easy", "hard"))
    items = [*cells.all_data(p), cells.subset(p, "random", p.noise_size), cells.subset(p, "easy", p.noise_size)]
    for noise in p.noise:
        primary = None if noise == max(p.noise) else few  # the arms of a primary claim have all replicates
        items += [
            Cell("all_tstar_half", p, half, None, noise, few),
            Cell("all_tstar", p, p.t_star, None, noise, primary),
            Cell("random", p, half, random, noise, few),
            Cell("easy", p, half, easy, noise, primary),
            Chosen(p, hard, noise, few),
        ]
    return items if p.noise else []


def arms(p: Protocol, noise: float) -> list[Arm]:
    """The curves of one panel: hard examples were not tried with label noise (protocol section 9)."""
    return all_data(p, noise) + subsets(p, p.noise_size, ("random", "easy"), noise)


def panels(evidence: Evidence, p: Protocol, control: str | None = None) -> list[Pair]:
    """A panel per share of randomised labels."""
    found = []
    for noise in p.noise:
        chosen, title = arms(p, noise), f"{panel_title(p)}, {100 * noise:.3g} % of labels randomised"
        table = panel_of(evidence.runs, p, chosen)
        found.append(compared(title, table, p, chosen, lambda other, noise=noise: arms(other, noise)))
    return found


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple:
    """The figure, a row per data set that has label noise and a column per share of noise, and its table."""
    noisy = [p for p in protocols if p.noise] or protocols[:1]
    columns = max(1, *(len(p.noise) for p in noisy))
    figure = new_figure((5.6 * columns, 4.8 * len(noisy)), TITLE, protocols, control)
    # the clean t = 0 runs stand in every panel, so the table says which panel a row is of
    shown = [summarise(evidence.runs[:0]).assign(panel="")]
    for row, p in zip(figure.subplots(len(noisy), columns, squeeze=False), noisy):
        for axes, noise, pair in zip(row, p.noise, panels(evidence, p)):
            draw_curves(axes, pair, p, limits=Y_RANGES.get(p.dataset))
            shown.append(pair.own.table.assign(panel=f"{100 * noise:.3g} % noise"))
        for axes in row[len(p.noise) :]:
            no_runs(axes)
    table = pd.concat(shown[1:] or shown, ignore_index=True)
    return figure, table[["panel", *table.columns.drop("panel")]]
