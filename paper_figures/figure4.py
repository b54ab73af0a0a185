"""Figure 4: pre-training on data with randomised labels; the mask search that follows uses clean ones."""

import pandas as pd
from matplotlib.figure import Figure

from paper_figures.shared.curves import Arm, all_data, curve_panel, panel_of, subsets, summarise
from paper_figures.shared.drawing import heading, no_runs, panel_title
from repro.protocol import Protocol
from repro.verify.outcomes import Evidence

TITLE = "Figure 4"
Y_RANGES = {"cifar10": (84, 92)}  # percent, as published


def arms(protocol: Protocol, noise: float) -> list[Arm]:
    """The curves of one panel: hard examples were not tried with label noise (protocol section 9)."""
    return all_data(protocol, noise) + subsets(protocol, protocol.noise_size, ("random", "easy"), noise)


def draw(evidence: Evidence, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, a row per data set that has label noise and a column per share of noise, and its table."""
    noisy = [p for p in protocols if p.noise] or protocols[:1]
    columns = max(1, max(len(p.noise) for p in noisy))
    figure = Figure(figsize=(5.6 * columns, 4.8 * len(noisy)), layout="constrained")
    figure.suptitle(heading(TITLE, protocols, control), fontsize=8)
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
