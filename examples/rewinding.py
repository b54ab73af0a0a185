"""Figure 2 with two other ways to go on after pruning: the learning rate alone is rewound, or nothing (fine-tuning).

    make figure FIGURE=examples/rewinding.py DATASETS=digits

On CIFAR-10 at scale cpu it has learning-rate rewinding alone, with four replicates. Beside Figure 2's runs of that
scale only the new ones are made:

    make figure FIGURE=examples/rewinding.py DATASETS=cifar10@16 RESULTS=results/cpu DATA=/folder
"""

from dataclasses import replace

import pandas as pd

from paper_figures import figure2
from paper_figures.shared.curves import compared, draw_curves, panel_of
from paper_figures.shared.drawing import new_figure
from paper_figures.shared.panels import panel_title
from repro.plan import Pruning
from repro.protocol import CPU, DIGITS

PROTOCOLS = [DIGITS, replace(CPU, replicates=4, second_look=None)]
WAYS = {"digits": ("weights", "learning-rate", "none"), "cifar10@16": ("weights", "learning-rate")}


def needed(p):
    return [replace(cell, pruning=Pruning(rewind=way)) for way in WAYS[p.dataset] for cell in figure2.needed(p)]


def draw(evidence, protocols):
    columns = max(len(WAYS[p.dataset]) for p in protocols)
    figure = new_figure((5.6 * columns, 4.8 * len(protocols)), "Rewinding", protocols, None)
    grid, tables = figure.subplots(len(protocols), columns, squeeze=False), []
    for row, p in zip(grid, protocols):
        for axes in row[len(WAYS[p.dataset]) :]:
            axes.set_axis_off()
        for axes, way in zip(row, WAYS[p.dataset]):
            runs, mark, arms = evidence.runs, Pruning(rewind=way).mark, figure2.arms(p)
            roles = {f"{arm.condition}{mark}": arm.condition for arm in arms}
            runs = runs[runs.condition.isin(roles)].replace({"condition": roles})
            pair = compared(panel_title(p), panel_of(runs, p, arms), p, arms)
            draw_curves(axes, pair, p, title=f"{panel_title(p)}, rewound: {way}")
            tables.append(pair.own.table.assign(rewound=way))
        limits = [axes.get_ylim() for axes, _ in zip(row, WAYS[p.dataset])]
        for axes, _ in zip(row, limits):  # every panel chose its own, and they are to be compared
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure, pd.concat(tables, ignore_index=True)
