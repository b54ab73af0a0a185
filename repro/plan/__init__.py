"""From a figure's runs to the commands that make them.

A figure declares the items that it needs. `steps` gives the command for each artifact, and `as_jobs` says which
commands share a process. An artifact that two figures need is made once.
"""

from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Subset, WarmupSweep, resize
from repro.plan.jobs import Job, as_jobs
from repro.plan.steps import Step, last, steps, unfinished
from repro.recipes.pruning import Pruning

__all__ = [
    "Barrier",
    "Branch",
    "Cell",
    "Chosen",
    "Gradients",
    "Job",
    "Pruning",
    "Step",
    "Subset",
    "WarmupSweep",
    "as_jobs",
    "last",
    "resize",
    "steps",
    "unfinished",
]
