"""The README's picture: Figure 2 on CIFAR-10 at 16×16 beside the curve that was published. Written by `make docs`."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from paper_figures.style import LOOKS
from repro.store.files import write_whole
from repro.verify import published

DOCS = Path(__file__).parent
TABLE = DOCS.parent / "results" / "cpu-cifar10" / "figure2.csv"
PICTURE = DOCS / "figure2-cifar10.png"
CONDITIONS = ("all_tstar", "all_tstar_half", "all_t0", "random", "easy", "hard")
TICKS = (100, 64, 41, 26.2, 16.8, 10.7, 6.9)  # percent of the weights: every second level


def here() -> pd.DataFrame:
    """Columns condition, size, t, left (% of the weights), mean and std (% accuracy), of the reported run."""
    table = pd.read_csv(TABLE)
    return table.assign(left=table.weights_left_pct, mean=100 * table.mean_acc, std=100 * table.std_acc)


def paper() -> pd.DataFrame:
    """The same of the published curves, at the sizes and levels that are shown here."""
    table = published.curves("cifar10")
    table = table[table["size"].isin((0, published.SIZES["cifar10"])) & (table.level <= 12)]
    return table.assign(left=100 * 0.8**table.level, mean=100 * table["mean"], std=100 * table["std"])


def panel(axes: Axes, table: pd.DataFrame, title: str) -> None:
    """Curves of the six conditions with bands of one standard deviation, and the dense networks' accuracy."""
    for condition in CONDITIONS:
        rows, look = table[table.condition == condition].sort_values("level"), LOOKS[condition]
        label = look.label.format(size=rows["size"].iloc[0], t=rows.t.iloc[0])
        axes.plot(rows.left, rows["mean"], look.line, marker=look.marker, color=look.color, ms=5, label=label)
        low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
        axes.fill_between(rows.left, low, high, color=look.color, alpha=0.1, lw=0)
    dense = table[(table.condition == "all_tstar") & (table.level == 0)]["mean"].iloc[0]
    axes.axhline(dense, color=LOOKS["dense"].color, ls=LOOKS["dense"].line, label="dense", zorder=1)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.25)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("weights remaining (%)")
    axes.legend(fontsize=7, frameon=False, loc="lower left")


def figure2() -> bytes:
    """The PNG. Its ground is white, so that a dark page shows it as well."""
    figure = Figure(figsize=(10.4, 4.4), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    panel(left, here(), "here: CIFAR-10 at 16×16, ResNet-14 of width 8, on CPUs, n = 8")
    panel(right, paper(), "published: CIFAR-10, ResNet-20, n = 4")
    left.set_ylabel("test accuracy (%), mean ± 1 std")
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()


if __name__ == "__main__":
    write_whole(PICTURE, [figure2()])
