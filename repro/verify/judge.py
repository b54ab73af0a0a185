"""All verdicts on one figure: its claims on every data set, agreement with the published curves, a control."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from repro.protocol import Protocol
from repro.verify.compare import agreement
from repro.verify.controls import control_verdict
from repro.verify.report import exit_status, markdown, terminal, to_json
from repro.verify.verdicts import evaluate


@dataclass(frozen=True)
class Judgement:
    """Verdicts for a terminal, for people and for programs, and the exit status of ``repro verify``."""

    terminal: str
    markdown: str
    json: str
    exit_status: int

    def files(self, stem: Path) -> list[tuple[Path, str]]:
        """(path, content) of the report beside a figure."""
        return [(stem.with_name(stem.name + ".md"), self.markdown), (stem.with_name(stem.name + ".json"), self.json)]


def judge(runs: pd.DataFrame, protocols: Sequence[Protocol], *, figure: str, control: str | None = None) -> Judgement:
    """Judge a figure's claims on its runs (see `repro.plan.collect`); missing runs make missing verdicts."""
    scale, verdicts, agreements, controls = protocols[0].scale, [], [], []
    for p in protocols:
        chance = 1 / p.num_classes
        about = dict(dataset=p.dataset, chance=chance, size=p.subset_size)
        if control:
            controls.append(control_verdict(runs, control, **about))
        verdicts += evaluate(runs, figure=figure, scale=scale, replicates=p.replicates, **about)
        if scale == "paper":
            agreements.append(agreement(runs, p.dataset, chance=chance, replicates=p.replicates))
    parts = dict(scale=scale, agreements=agreements, controls=controls)
    return Judgement(terminal(verdicts, **parts), markdown(verdicts, **parts), to_json(verdicts, **parts), exit_status(verdicts, scale, controls))
