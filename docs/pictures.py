"""Pictures of the pages, from the tables of the reported runs. Written by `make docs`.

The README's is Figure 2 on CIFAR-10 at 16×16 beside the curves that were published; the demo's is what `repro compare`
says of tickets of equal and of other seeds. `python -m docs.pictures results/cpu/report.html` photographs Figure 2 of a
report instead, for the page about reports. It needs Playwright (requirements-extras.txt) and Chromium.
"""

import io
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from paper_figures import figure2
from paper_figures.shared import drawing, two_runs
from paper_figures.shared.panels import STD
from repro.archive import tables
from repro.store.files import write_whole

DOCS = Path(__file__).parent
REPORTED = DOCS.parent / "results" / "cpu-cifar10"
PICTURE = DOCS / "figure2-cifar10.png"
DEMO = DOCS.parent / "results" / "demo-digits" / "compared.csv"
COMPARED = DOCS / "compared-demo.png"


def figure2_beside_the_paper() -> bytes:
    """The PNG, from the tables of the reported run. Its ground is white, so that a dark page shows it as well."""
    study, evidence, _ = tables.read([REPORTED])
    (p,) = study.protocols
    figure = Figure(figsize=(10.4, 4.4), layout="constrained", facecolor="white")
    pair = figure2.panels(evidence, p)[0]
    for axes, panel, whose in zip(figure.subplots(1, 2), pair.panels, ("here, on CPUs", "published")):
        panel = replace(panel, points=tuple(point for point in panel.points if point.x <= p.levels))
        drawing.rules(axes, panel, panel.rules, lw=1.4)
        drawing.lines(axes, panel, 0.1, ms=5)
        left = panel.table.groupby("level")["weights_left_pct"].mean()
        ticks = range(0, p.levels + 1, 2)
        axes.set_xticks(ticks, [f"{left[level]:.3g}" for level in ticks])
        axes.set_title(f"{whose}: {panel.title}, {panel.about.removeprefix(f'{STD}, ')}", fontsize=10)
        axes.set(xlabel=panel.x.title, ylabel=f"{panel.y.title}, mean ± 1 std")
        axes.legend(fontsize=7, frameon=False, loc="lower left")
        drawing.grid(axes)
    return png(figure)


def tickets_compared() -> bytes:
    """The PNG of what `repro compare` found on the demo: networks rewound to step t* of all data, and easy ones."""
    figure = two_runs.draw(pd.read_csv(DEMO), "digits: all data, t = 20, and easiest 256, t = 10")
    figure.set_facecolor("white")
    return png(figure)


def png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()


def figure2_in_a_report(report: Path) -> bytes:
    """A PNG of a report's section on Figure 2, its numbers folded, as Chromium shows it in light mode."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        section = page.locator("section", has=page.locator("h2", has_text="Figure 2"))
        section.locator("svg").nth(1).wait_for()  # the paper's chart is drawn last
        return section.screenshot()


DRAWN = {PICTURE: figure2_beside_the_paper, COMPARED: tickets_compared}


if __name__ == "__main__":
    for report in map(Path, sys.argv[1:]):
        write_whole(DOCS / "report.png", [figure2_in_a_report(report)])
    if not sys.argv[1:]:
        for path, draw in DRAWN.items():
            write_whole(path, [draw()])
