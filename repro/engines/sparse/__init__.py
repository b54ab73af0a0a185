"""The CPU engine: whole blocks of steps in one compiled call that skips pruned weights.

Read in this order: `reader` makes `layers` of a network, `plan` gives them places and an order, `taps` lists the kept
weights, `step` carries the plan out with the sums of `gather` and `weigh`; `cohort` is what the rest of the program sees.
"""

from repro.engines.sparse.cohort import SparseCohort, unsupported

__all__ = ["SparseCohort", "unsupported"]
