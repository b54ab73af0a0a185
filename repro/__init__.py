"""Lottery Tickets on a Data Diet (Paul et al., NeurIPS 2022), reproduced.

from repro import score, select, pretrain, imp, load
score("scores.h5", dataset="digits")
select("easy.h5", kind="easy", size=256, scores="scores.h5", replicates=8)
pretrain("easy-t10.h5", subset="easy.h5", t=10, replicates=8)
imp("imp.h5", "easy-t10.h5", levels=12)
load("imp.h5").table            # pandas; see repro.reading.notebook
"""

from importlib import import_module

_HOME = {
    "score": "repro.stages",
    "select": "repro.stages",
    "pretrain": "repro.stages",
    "imp": "repro.stages",
    "warmup": "repro.stages",
    "barrier": "repro.stages",
    "branch": "repro.stages",
    "gradients": "repro.stages",
    "Machine": "repro.stages",
    "load": "repro.reading.notebook",
    "Training": "repro.recipes.training",
    "Scoring": "repro.protocol",
    "read": "repro.store",
    "runs": "repro.reading.query",
    "create": "repro.nets",
    "UsageError": "repro.errors",
    "RunError": "repro.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Names are imported at their first use: torch takes seconds, and many commands do without."""
    if name not in _HOME:
        raise AttributeError(f"module 'repro' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
