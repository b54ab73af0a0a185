"""What `repro compare` found, as a figure: overlap by level and layer against chance, distance, agreement, barriers."""

import pandas as pd

from paper_figures.shared.drawing import GREY, grid, no_runs
from paper_figures.shared.panels import Look
from repro.reading.compare import EQUAL, OTHER, WHOLE

LOOKS = {EQUAL: Look("#0173b2", "o", "-"), OTHER: Look("#d55e00", "^", "--")}
PANELS = (  # title, column, label of the axis, factor
    ("overlap of masks", "overlap", "2 |A ∩ B| / (|A| + |B|)", 1),
    ("distance of weights", "distance", "L2 distance", 1),
    ("agreement of predictions", "agreement", "same class (% of test images)", 100),
    ("loss barrier", "train_loss_barrier", "training loss at 1/2 less ends' mean (nats)", 1),
    ("error barrier", "test_error_barrier", "test error at 1/2 less ends' mean (%)", 100),
)


def draw(table: pd.DataFrame, title: str):
    """The matplotlib figure of a table of `repro.reading.compare.compare`.

    Lines are medians over pairs, since one pair whose batch norm explodes would be all that a mean shows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 7.2), layout="constrained")
    figure.suptitle(f"{title} (median and middle half of the pairs of replicates)", fontsize=9)
    axes = figure.subplots(2, 3)
    whole = table[table.layer == WHOLE]
    for panel, (name, column, label, factor) in zip((axes[0, 0], *axes[0, 2:], *axes[1]), PANELS):
        panel.set_xlabel("pruning level", fontsize=8)
        panel.set_ylabel(label, fontsize=8)
        panel.set_title(name, fontsize=9)
        drawn = 0
        for seeds, rows in whole.dropna(subset=[column]).groupby("seeds"):
            _line(panel, rows, "level", column, seeds, factor)
            drawn += len(rows)
        if column == "overlap":
            chance = whole.groupby("level").chance.median()
            panel.plot(chance.index, chance, ":", color=GREY, lw=1.4, label="by chance")
        panel.xaxis.get_major_locator().set_params(integer=True)
        grid(panel) if drawn else no_runs(panel, "no pairs with the same test images")
    _layers(axes[0, 1], table)
    axes[0, 0].legend(fontsize=7, frameon=False)
    return figure


def _line(axes, rows: pd.DataFrame, x: str, column: str, seeds: str, factor: float = 1) -> None:
    """The medians of a column, with a band from the first quartile to the third."""
    each, look = rows.groupby(x, sort=False)[column], LOOKS[seeds]
    low, middle, high = (factor * each.quantile(share) for share in (0.25, 0.5, 0.75))
    label = f"{seeds} seeds (n={rows[['replicate_a', 'replicate_b']].drop_duplicates().shape[0]})"
    axes.plot(middle.index, middle, look.line, color=look.color, marker=look.marker, ms=4, lw=1.4, label=label)
    axes.fill_between(middle.index, low, high, color=look.color, alpha=0.15, lw=0)


def _layers(axes, table: pd.DataFrame) -> None:
    """The overlap of every layer, in the order of the network, at the highest level."""
    level = table.level.max()
    rows = table[(table.level == level) & (table.layer != WHOLE)]
    rows = rows.assign(layer=rows.layer.str.removesuffix(".weight"))
    for seeds, each in rows.groupby("seeds"):
        _line(axes, each, "layer", "overlap", seeds)
    chance = rows.groupby("layer", sort=False).chance.median()
    axes.plot(chance.index, chance, ":", color=GREY, lw=1.4)
    axes.set_title(f"overlap of masks by layer, level {level}", fontsize=9)
    axes.set_ylabel(PANELS[0][2], fontsize=8)
    axes.tick_params("x", labelrotation=90, labelsize=6)
    grid(axes)
