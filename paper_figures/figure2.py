"""Figure 2: accuracy against sparsity for ways to pre-train: all data, random, easiest and hardest examples."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_figures.style import LOOKS
from repro.errors import UsageError
from repro.plan import Cell
from repro.protocol import Protocol
from repro.verify import published

TITLE = "Figure 2"
Y_RANGES = {"cifar10": (84, 92), "cifar100": (57, 69), "cinic10": (83.5, 86.5)}  # percent, as published
CONTROLS = ("permute-scores", "swap-easy-hard", "shuffle-mask")
PANEL_TITLES = {
    "cifar10": "CIFAR-10 + ResNet-20", "cifar100": "CIFAR-100 + ResNet-32", "cinic10": "CINIC-10 + ResNet-56",
    "digits": "digits (8×8) + ResNet-14 of width 4",
}  # fmt: skip


def cells(protocol: Protocol, control: str | None = None) -> list[Cell]:
    """The runs of one panel; with a control, those of the experiment that must fail."""
    if control not in (None, *CONTROLS):
        raise UsageError(f"unknown control {control!r}: choose {', '.join(CONTROLS)}")
    t_star, half, size = protocol.t_star, protocol.t_star // 2, protocol.subset_size
    permuted = control == "permute-scores"
    easy, hard = ("hard", "easy") if control == "swap-easy-hard" else ("easy", "hard")
    top = Cell("all_tstar", protocol, t_star)
    chosen = [
        Cell("all_t0", protocol, 0),
        Cell("all_tstar_half", protocol, half),
        top,
        Cell("random", protocol, half, "random", size),
        Cell("easy", protocol, half, easy, size, permuted),
        Cell("hard", protocol, half, hard, size, permuted),
    ]
    return chosen + ([Cell("shuffled", protocol, t_star, masks_of=top)] if control == "shuffle-mask" else [])


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """What is plotted: per data set, condition and level, mean and std (ddof 0, as published) over n replicates."""
    keys = ["dataset", "condition", "size", "t", "level"]
    found = runs.groupby(keys, sort=False).agg(
        weights_left_pct=("density", lambda d: 100 * d.mean()), mean_acc=("acc", "mean"),
        std_acc=("acc", lambda a: a.std(ddof=0)), n=("acc", "size"),
    )  # fmt: skip
    return found.reset_index()


def draw(runs: pd.DataFrame, protocols: list[Protocol], *, control: str | None = None) -> tuple[Figure, pd.DataFrame]:
    """The figure, one panel per protocol, and the table of what it shows."""
    table = summarise(runs)
    figure = Figure(figsize=(5.6 * len(protocols), 4.4), layout="constrained")
    panels = figure.subplots(1, len(protocols), squeeze=False)[0]
    for panel, protocol in zip(panels, protocols):
        _panel(panel, table[table.dataset == protocol.dataset], protocol)
    scale = protocols[0].scale
    note = f"{TITLE} at {scale} scale" + (f", control {control} (has to fail)" if control else "")
    if scale == "demo":
        note += ": a configuration chosen because rewinding helped there before"
    figure.suptitle(note, fontsize=8)
    return figure, table


def _panel(panel, table: pd.DataFrame, protocol: Protocol) -> None:
    dense = table[(table.condition == "all_tstar") & (table.level == 0)].iloc[0]
    look = LOOKS["dense"]
    panel.axhline(100 * dense.mean_acc, color=look.color, linestyle=look.line, label=look.label, lw=1.4)
    band, faint = (0.2, 0.1) if protocol.scale == "paper" else (0.1, 0.06)  # folds widen the demo's bands: they overlap
    for condition, rows in table.groupby("condition", sort=False):
        look, first = LOOKS[condition], rows.iloc[0]
        x, y, spread = (rows[c].to_numpy(float) for c in ("level", "mean_acc", "std_acc"))
        y, spread = 100 * y, 100 * spread
        label = look.label.format(size=int(first["size"]), t=int(first["t"]))
        panel.plot(x, y, look.line, color=look.color, marker=look.marker, ms=4, lw=1.4, label=label)
        panel.fill_between(
            x, y - spread, y + spread, color=look.color, alpha=faint if condition == "random" else band, lw=0
        )
    if protocol.scale == "paper":
        _paper_curves(panel, protocol)
    left = table[table.condition == "all_tstar"].groupby("level").weights_left_pct.mean()
    shown = left.index[::2]
    panel.set_xticks(shown, [f"{left[k]:.3g}" for k in shown], rotation=0)
    panel.set(
        xlabel="weights remaining (%)",
        ylabel="test accuracy (%)",
        title=PANEL_TITLES.get(protocol.dataset, protocol.dataset),
    )
    if protocol.scale == "paper":
        panel.set_ylim(Y_RANGES[protocol.dataset])
    panel.set_xlim(-0.3, left.index.max() + 0.3)
    panel.yaxis.set_major_locator(MaxNLocator(8))
    panel.grid(alpha=0.25, lw=0.5)
    n = sorted(set(table.n))
    panel.legend(fontsize=7, loc="lower left", title=f"mean ± 1 std, n = {'–'.join(map(str, n))}", title_fontsize=7)


def _paper_curves(panel, protocol: Protocol) -> None:
    """The published means as thin lines of the same colours."""
    curves = published.curves(protocol.dataset)
    curves = curves[curves["size"].isin((0, protocol.subset_size)) & (curves.level <= protocol.levels)]
    label = "thin: as published"
    for condition, rows in curves.groupby("condition"):
        if condition in LOOKS and condition != "dense":
            rows = rows.sort_values("level")
            panel.plot(rows.level, 100 * np.asarray(rows["mean"]), color=LOOKS[condition].color, lw=0.7, label=label)
            label = None
