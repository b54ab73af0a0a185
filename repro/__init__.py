"""Lottery Tickets on a Data Diet (Paul et al., NeurIPS 2022), reproduced.

from repro import score, select, pretrain, imp, load
score("scores.h5", dataset="digits")
select("easy.h5", kind="easy", size=256, scores="scores.h5", replicates=8)
pretrain("easy-t10.h5", subset="easy.h5", t=10, replicates=8)
imp("imp.h5", "easy-t10.h5", levels=12)
load("imp.h5").table            # pandas; see repro.reading.notebook
"""

import ast
from importlib import import_module
from pathlib import Path

_INTERFACE = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
_HOME = {name.name: line.module for line in _INTERFACE if isinstance(line, ast.ImportFrom) for name in line.names}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Names are imported at their first use: torch takes seconds, and many commands do without."""
    if name not in _HOME:
        raise AttributeError(f"module 'repro' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
