"""Networks by name, and the flat layout of their numbers."""

from repro.nets.build import CLASSIC, create, initialise
from repro.nets.layout import Layout, freeze, layout_of

__all__ = ["CLASSIC", "Layout", "create", "freeze", "initialise", "layout_of"]
