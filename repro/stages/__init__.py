"""The verbs: one module each, from artifacts and a recipe to one artifact."""

from repro.stages.common import Machine, Result
from repro.stages.imp import imp
from repro.stages.pretrain import pretrain
from repro.stages.score import score
from repro.stages.select import select

__all__ = ["Machine", "Result", "imp", "pretrain", "score", "select"]
