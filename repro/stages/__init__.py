"""The verbs: one module each, from artifacts and a recipe to one artifact."""

from repro.stages.artifact_writer import Result
from repro.stages.barriers.barrier import barrier, successive
from repro.stages.branch import branch
from repro.stages.gradients import gradients
from repro.stages.imp import imp
from repro.stages.machine import Machine
from repro.stages.pretrain import pretrain
from repro.stages.score import score
from repro.stages.select import select
from repro.stages.warmup import warmup

__all__ = [
    "Machine",
    "Result",
    "barrier",
    "branch",
    "gradients",
    "imp",
    "pretrain",
    "score",
    "select",
    "successive",
    "warmup",
]
