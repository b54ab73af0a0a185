"""Networks, and cohorts of networks trained as one."""

from repro.nets.build import Layout, create, fusible, initialise, layout_of

__all__ = ["Layout", "create", "fusible", "initialise", "layout_of"]
