"""Engines: R networks trained a block of steps at a time, by one of several ways behind one interface.

`serial` is plain PyTorch and the reference, `sparse` (CPU) skips pruned weights in compiled code, and `graph` replays
CUDA graphs. They give the same results to rounding.
"""

from repro.engines.choice import ENGINES, choose, create
from repro.engines.cohort import EVALUATION_BATCH, Block, Cohort, Report, Sgd

__all__ = ["ENGINES", "EVALUATION_BATCH", "Block", "Cohort", "Report", "Sgd", "choose", "create"]
