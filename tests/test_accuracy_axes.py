"""Axes of accuracies end at 100 %, in figures and in the charts of the report, however far a band reaches."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes

import paper_figures
from paper_figures.shared.panels import same_axis
from repro.protocol import datasets_at
from repro.report import charts, sections
from tests.simulated_evidence import simulate

COLUMNS = {"runs": ["acc"], "warmup": ["acc"], "gradients": ["acc"], "barriers": ["pretrain_acc"]}


@pytest.fixture(scope="module")
def near_the_top():
    """The demo's protocols, with evidence whose means (97.5 %) plus one standard deviation pass 100 %."""
    protocols = datasets_at("demo")
    evidence = simulate(protocols)
    changed = {}
    for name, columns in COLUMNS.items():
        table = getattr(evidence, name)
        changed[name] = table.assign(**dict.fromkeys(columns, np.where(table["replicate"] % 4 == 0, 0.9, 1.0)))
    return protocols, replace(evidence, **changed)


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure4", "figure5", "figure6", "appendix"])
def test_of_a_figure(name, near_the_top):
    protocols, evidence = near_the_top
    figure, _ = paper_figures.figure(name).draw(evidence, protocols)
    tops = [panel.get_ylim()[1] for panel in figure.findobj(Axes) if "accuracy" in panel.get_ylabel()]
    tops += [panel.get_xlim()[1] for panel in figure.findobj(Axes) if "accuracy" in panel.get_xlabel()]
    assert tops and max(tops) == 100


@pytest.mark.parametrize("name", ["figure2", "figure6"])
def test_of_a_chart(name, near_the_top):
    protocols, evidence = near_the_top
    pairs = sections.charts(name, evidence, protocols, None, {})
    reach, shown = [], []
    for pair in pairs:
        points = [p for p in pair.own.points if p.std]
        reach += [p.y + p.std for p in points]
        values = charts.spec(pair.own)["data"]["values"]
        shown += [v["high"] for v in values if "high" in v]
        assert max(same_axis(pair.own, pair.own)[0].y.domain) == 100
    assert max(reach) > 100 == max(shown)
