"""Networks by name, and the flat layout of their numbers."""

from repro.nets.build import Layout, create, initialise, layout_of

__all__ = ["Layout", "create", "initialise", "layout_of"]
