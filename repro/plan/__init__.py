"""A figure's runs -> the commands that make them, as make rules; and the finished runs -> tables.

A figure declares what it needs (`paper_figures.cells`) in the terms of `declare`; `steps` gives each artifact's command,
`as_jobs` says which share a process, `make` writes rules, `collect` reads what is finished. Artifacts that two figures share are made once.
"""

from repro.plan.collect import collect, finished
from repro.plan.declare import Barrier, Branch, Cell, Chosen, Gradients, Subset, WarmupSweep, resize
from repro.plan.jobs import Job, as_jobs
from repro.plan.make import rules, words_of
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
    "collect",
    "finished",
    "as_jobs",
    "last",
    "resize",
    "rules",
    "steps",
    "unfinished",
    "words_of",
]
