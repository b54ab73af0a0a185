"""The paper's figures, a file each, written as a user writes one (docs/own-work.md).

A file says at which scales its figure is drawn (SCALES), which runs it needs (``needed``), what it shows (``panels``:
own points beside the paper's, for the report's charts too) and how matplotlib draws that (``draw``). A claim names the
figure whose runs decide it (`repro.verify.claims`). `shared` is what several files use, ``reference`` the published
numbers. No file loads matplotlib before it draws.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from repro.errors import UsageError
from repro.plan.items import Item
from repro.protocol import Protocol
from repro.verify.checks import CONTROLS
from repro.verify.verdict import figure_order

_FILES = (module.name for module in iter_modules(__path__) if not module.ispkg)
NAMES = tuple(sorted(_FILES, key=figure_order))
"""The figures are the files: figure1 to figure6, appendix, scores."""


def figure(name: str) -> ModuleType:
    """The module of a figure. Raises UsageError for an unknown name."""
    if name not in NAMES:
        raise UsageError(f"unknown figure {name!r}: choose {', '.join(NAMES)} or all")
    return import_module(f"paper_figures.{name}")


def figures_at(scale: str) -> tuple[str, ...]:
    """The figures that are drawn at a scale."""
    return tuple(name for name in NAMES if scale in figure(name).SCALES)


def needed(name: str, p: Protocol, control: str | None = None) -> list[Item]:
    """What a figure needs on one data set, each item once: nothing where the paper, or this scale, does not have it.

    Raises UsageError for an unknown figure, and for a control that it does not have.
    """
    module = figure(name)
    if control is None:
        return list(dict.fromkeys(module.needed(p))) if p.scale in module.SCALES else []
    if name != "figure2" or control not in CONTROLS:
        raise UsageError(f"unknown control {control!r} of {name}: choose {', '.join(CONTROLS)}, with figure2")
    return module.needed(p, control)


def draw(name: str, evidence, protocols, control: str | None = None) -> tuple:
    """(matplotlib figure, table of what it plots) of a figure. A ``$`` in the name of a data set is no mathematics."""
    import matplotlib  # takes a second to load

    with matplotlib.rc_context({"text.parse_math": False}):
        return figure(name).draw(evidence, protocols, control=control)
