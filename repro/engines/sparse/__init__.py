"""The CPU engine: whole blocks of steps in one compiled call that skips pruned weights.

Read in this order: `reader` makes `layers` of a network, which know their order; `plan` says where everything lies;
`arguments` lists the kept weights; `step` carries the plan out, by `convolution` (sums of `gather`) and `pointwise`.
`cohort` is what the rest of the program sees.
"""

from repro.engines.sparse.cohort import SparseCohort, unsupported

__all__ = ["SparseCohort", "unsupported"]
