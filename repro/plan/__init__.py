"""A figure's runs -> the commands that make them.

A figure declares what it needs (`paper_figures.shared.cells`) in the terms of `items`; `steps` gives each artifact's command,
`as_jobs` says which share a process. Artifacts that two figures share are made once.
"""

from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Subset, WarmupSweep, resize
from repro.plan.jobs import Job, as_jobs
from repro.plan.steps import Step, last, steps, unfinished

__all__ = [
    "Barrier",
    "Branch",
    "Cell",
    "Chosen",
    "Gradients",
    "Job",
    "Step",
    "Subset",
    "WarmupSweep",
    "as_jobs",
    "last",
    "resize",
    "steps",
    "unfinished",
]
