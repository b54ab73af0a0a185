"""From measurements to verdicts: statistics, the paper's claims and published curves, reports. Imports no torch."""

from repro.verify.agreement import Agreement, agreement
from repro.verify.claims import CLAIMS, Claim
from repro.verify.controls import CONTROLS, ControlVerdict, control_verdict
from repro.verify.pruned_runs import across_datasets, evaluate, from_published
from repro.verify.report import exit_status, markdown, to_json
from repro.verify.verdict import Verdict

__all__ = [
    "CLAIMS",
    "CONTROLS",
    "Agreement",
    "Claim",
    "ControlVerdict",
    "Verdict",
    "across_datasets",
    "agreement",
    "control_verdict",
    "evaluate",
    "exit_status",
    "from_published",
    "markdown",
    "to_json",
]
