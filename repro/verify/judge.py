"""All verdicts of the figures asked for: their claims on every data set, agreement with the published curves, a
control; and the same claims judged on the paper's own numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.protocol import Protocol
from repro.verify import barriers, warmup
from repro.verify.agreement import agreement
from repro.verify.claim import PAPER_DATASETS, unshrunk
from repro.verify.claims import CLAIMS
from repro.verify.controls import ControlVerdict, control_verdict
from repro.verify.outcomes import Evidence
from repro.verify.pruned_runs import evaluate, from_published, with_holm
from repro.verify.report import exit_status, markdown, terminal, to_json
from repro.verify.subsets import contamination, passes
from repro.verify.verdict import Verdict

_INTERVALS = "intervals of 97.5 % at both"
_ORDINALS = {2: "second", 3: "third"}


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
    scale, verdicts, agreements, controls, told = protocols[0].scale, [], [], [], {}
    for p in protocols:
        about = dict(dataset=p.dataset, chance=1 / p.num_classes, size=p.subset_size, levels=p.judging_levels)
        if control:  # spoiled runs say nothing about the paper's claims
            found = control_verdict(evidence.runs, control, **about)
            controls.append(
                found if unspoiled is None else _informed(found, control_verdict(unspoiled.runs, control, **about))
            )
            continue
        verdicts += verdicts_on(evidence, p, figures=figures)
        if note := looks(evidence, p):
            told[p.dataset] = note
        if p.full and "figure2" in figures:
            agreements.append(
                agreement(
                    evidence.runs, p.dataset, chance=1 / p.num_classes, replicates=p.replicates, levels=p.judging_levels
                )
            )
    parts = dict(scale=scale, agreements=agreements, controls=controls, looks=told)
    status = exit_status(verdicts, scale, controls) if complete else 3
    return Judgement(
        terminal(verdicts, **parts), markdown(verdicts, **parts), to_json(verdicts, **parts, status=status), status
    )


def verdicts_on(evidence: Evidence, p: Protocol, *, figures: Sequence[str]) -> list[Verdict]:
    """The verdicts of `judge` on one data set: Holm is over the primary hypotheses of all figures together."""
    own = evidence.of(p.dataset).without_own_labels()
    found = evaluate(
        own.runs,
        figures=figures,
        dataset=p.dataset,
        scale=p.scale,
        chance=1 / p.num_classes,
        size=p.subset_size,
        noise=p.noise,
        noise_size=p.noise_size,
        smallest=min(p.sizes, default=p.subset_size),
        balanced=p.balanced,
        replicates=p.replicates,
        confidence=p.confidence,
        levels=p.judging_levels,
    )
    for others in ([passes(p)], contamination(own, p), barriers.verdicts(own, p), warmup.verdicts(own, p)):
        found += [replace(v, promised=v.promised and CLAIMS[v.claim].figure in figures) for v in others]
    computed = {number for number, claim in CLAIMS.items() if claim.source == "arithmetic"}  # need no data
    whole = unshrunk(p.dataset)
    made = {n for n, c in CLAIMS.items() if whole in c.datasets or whole not in PAPER_DATASETS}
    asked = {n for n in made if CLAIMS[n].figure in figures}  # listed even where this scale cannot decide them
    shown = [v for v in found if v.promised or v.claim in asked or v.verdict != "missing" and v.claim not in computed]
    return with_holm([replace(v, confidence=p.confidence) for v in sorted(shown, key=lambda v: v.claim)])


def looks(evidence: Evidence, p: Protocol) -> str:
    """What a reader must know of the number of replicates and of looks: '' of runs that were judged once, as declared."""
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
    parts = dict(scale="paper", reference=True)
    return Judgement(terminal(verdicts, **parts), markdown(verdicts, **parts), to_json(verdicts, scale="paper"), 0)


def _informed(control: ControlVerdict, unspoiled: ControlVerdict) -> ControlVerdict:
    if control.verdict == "missing" or unspoiled.effect is None or unspoiled.low > 0 or unspoiled.high < 0:
        return control
    note = (
        f"{control.note}; without the control it is {unspoiled.effect:+.2f} "
        f"[{unspoiled.low:+.2f}, {unspoiled.high:+.2f}] pp: no effect that a control could destroy"
    )
    return replace(control, verdict="uninformative", note=note)
