"""One module per figure of the paper, and `scores`: how it is drawn (`draw`); which runs it needs (`cells`), and `reference/`."""

from importlib import import_module
from types import ModuleType

from repro.errors import UsageError

NAMES = ("figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "appendix", "scores")


def figure(name: str) -> ModuleType:
    """The module of a figure. Raises UsageError for an unknown name."""
    if name not in NAMES:
        raise UsageError(f"unknown figure {name!r}: choose {', '.join(NAMES)}")
    return import_module(f"paper_figures.{name}")


def draw(name: str, evidence, protocols, control: str | None = None):
    """(matplotlib figure, table of what it plots) of a figure. Names of data sets are text: a ``$`` is no mathematics."""
    import matplotlib  # takes a second to load

    with matplotlib.rc_context({"text.parse_math": False}):
        return figure(name).draw(evidence, protocols, control=control)
