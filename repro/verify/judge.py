"""All verdicts on one figure: its claims on every data set, agreement with the published curves, a control."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from repro.protocol import Protocol
from repro.verify.compare import agreement
from repro.verify.controls import ControlVerdict, control_verdict
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


def judge(runs: pd.DataFrame, protocols: Sequence[Protocol], *, figure: str, control: str | None = None,
          unspoiled: pd.DataFrame | None = None) -> Judgement:  # fmt: skip
    """Judge a figure's claims on its runs (see `repro.plan.collect`); missing runs make missing verdicts.

    With a control the runs are spoiled on purpose, and the control alone is judged. ``unspoiled`` are the runs of the
    same figure without it: where they show no effect, the control has nothing to destroy and says nothing.
    """
    scale, verdicts, agreements, controls = protocols[0].scale, [], [], []
    for p in protocols:
        chance = 1 / p.num_classes
        about = dict(dataset=p.dataset, chance=chance, size=p.subset_size)
        if control:  # spoiled runs say nothing about the paper's claims
            found = control_verdict(runs, control, **about)
            controls.append(
                found if unspoiled is None else _informed(found, control_verdict(unspoiled, control, **about))
            )
            continue
        verdicts += evaluate(runs, figure=figure, scale=scale, replicates=p.replicates, **about)
        if scale == "paper":
            agreements.append(agreement(runs, p.dataset, chance=chance, replicates=p.replicates))
    parts = dict(scale=scale, agreements=agreements, controls=controls)
    return Judgement(
        terminal(verdicts, **parts),
        markdown(verdicts, **parts),
        to_json(verdicts, **parts),
        exit_status(verdicts, scale, controls),
    )


def _informed(control: ControlVerdict, unspoiled: ControlVerdict) -> ControlVerdict:
    if control.verdict == "missing" or unspoiled.effect is None or unspoiled.low > 0 or unspoiled.high < 0:
        return control
    note = (f"{control.note}; without the control it is {unspoiled.effect:+.2f} "
            f"[{unspoiled.low:+.2f}, {unspoiled.high:+.2f}] pp: no effect that a control could destroy")  # fmt: skip
    return replace(control, verdict="uninformative", note=note)
