"""All verdicts on the figures asked for: their claims on every data set, agreement with the published curves, a
control. `reference` judges the same claims on the paper's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from repro.protocol import Protocol
from repro.verify import barriers, pruned_runs, warmup
from repro.verify.checks import ControlVerdict, agreement, control_verdict
from repro.verify.claims import CLAIMS
from repro.verify.outcomes import Evidence
from repro.verify.reference import from_published
from repro.verify.report import Judgement
from repro.verify.stats import interval
from repro.verify.verdict import PAPER_DATASETS, Verdict, unshrunk, with_holm

_INTERVALS = "intervals of 97.5 % at both"
_ORDINALS = {2: "second", 3: "third"}


def judge(
    evidence: Evidence,
    protocols: Sequence[Protocol],
    *,
    figures: Sequence[str],
    control: str | None = None,
    unspoiled: Evidence | None = None,
    complete: bool = True,
) -> Judgement:
    """Judge the claims of some figures on what was measured; promised data that are missing make missing verdicts.

    Claims of other figures are shown where their data are there, and never promised. With a control the runs are
    spoiled on purpose, and the control alone is judged. ``unspoiled`` is the evidence of the same figure without it:
    where that shows no effect, the control has nothing to destroy and says nothing. complete: everything that the
    figures need is there; otherwise the exit status is 3 whatever the claims say.
    """
    if control:  # spoiled runs say nothing about the paper's claims
        controls = [control_verdict(evidence.runs, control, p) for p in protocols]
        if unspoiled:
            plain = (control_verdict(unspoiled.runs, control, p) for p in protocols)
            controls = [_informed(*pair) for pair in zip(controls, plain)]
        return Judgement(protocols[0].scale, controls=controls, complete=complete)
    verdicts = [v for p in protocols for v in verdicts_on(evidence, p, figures)]
    compared = [p for p in protocols if p.full and "figure2" in figures]
    agreements = [agreement(evidence.runs, p) for p in compared]
    told = {p.dataset: note for p in protocols if (note := looks(evidence, p))}
    return Judgement(protocols[0].scale, verdicts, agreements, looks=told, complete=complete)


def verdicts_on(evidence: Evidence, p: Protocol, figures: Sequence[str]) -> list[Verdict]:
    """The verdicts of `judge` on one data set: Holm is over the primary hypotheses of all figures together."""
    own = evidence.of(p.dataset).without_own_labels()
    found = [v for claims in (pruned_runs, barriers, warmup) for v in claims.verdicts(own, p)]
    found = [replace(v, promised=v.promised and CLAIMS[v.claim].figure in figures) for v in found]
    computed = {number for number, claim in CLAIMS.items() if claim.source == "arithmetic"}  # need no data
    whole = unshrunk(p.dataset)
    made = {n for n, c in CLAIMS.items() if whole in c.datasets or whole not in PAPER_DATASETS}
    asked = {n for n in made if CLAIMS[n].figure in figures}  # listed even where this scale cannot decide them
    shown = [v for v in found if v.promised or v.claim in asked or v.verdict != "missing" and v.claim not in computed]
    return with_holm([replace(v, confidence=p.confidence) for v in sorted(shown, key=lambda v: v.claim)])


def looks(evidence: Evidence, p: Protocol) -> str:
    """What a reader must know about replicates and looks; '' where the runs were judged once, as declared."""
    if p.replicates < 2:
        return "one replicate gives no interval: claims on accuracies need 2 or more (--replicates, make's REPLICATES=)"
    grown = evidence.of(p.dataset).growth
    if grown.empty:
        if p.second_look and p.replicates >= p.second_look:
            return f"one look, at n = {p.replicates}, of two declared: {_INTERVALS}"
        return f"first of two looks, declared: {_INTERVALS}" if p.second_look else ""
    artifacts = grown.groupby("artifact")  # several items may ask for one, each with its rows
    taken = 1 + int(artifacts["before"].nunique().max())
    before, after = (" and ".join(map(str, sorted(set(n)))) for n in (grown["before"], artifacts["after"].max()))
    look = f"{_ORDINALS.get(taken, f'{taken}th')} look"
    if p.second_look and taken == 2:
        as_declared = set(artifacts["after"].max()) == {p.second_look}
        said = "declared" if as_declared else f"declared at n = {p.second_look} and not at this one"
        return f"{look} at n = {after} after n = {before}, {said}: {_INTERVALS}"
    return (
        f"{look}, not declared: {_artifacts(len(artifacts))} grew from n = {before} to n = {after}, and intervals are "
        f"narrower than {taken} looks allow"
    )


def _artifacts(count: int) -> str:
    return f"{count} artifact{'s' if count > 1 else ''}"


def reference() -> Judgement:
    """The claims judged on the paper's own numbers, of all its data sets: ``repro verify --reference``.

    A claim without numbers is listed where the paper makes it. The exit status is 0.
    """
    verdicts = [
        v
        for dataset in PAPER_DATASETS
        for v in from_published(dataset)
        if v.verdict != "missing" or dataset in CLAIMS[v.claim].datasets
    ]
    return Judgement("paper", verdicts, reference=True)


def _informed(control: ControlVerdict, unspoiled: ControlVerdict) -> ControlVerdict:
    if control.verdict == "missing" or unspoiled.effect is None or unspoiled.low > 0 or unspoiled.high < 0:
        return control
    note = f"{control.note}; without the control it is {interval(unspoiled)} pp: no effect that a control could destroy"
    return replace(control, verdict="uninformative", note=note)
