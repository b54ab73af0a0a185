"""Which artifact a plotted number comes from."""

from collections.abc import Iterable
from pathlib import Path

from repro.plan.items import Barrier, Branch, Cell, Chosen, Gradients, Item, WarmupSweep
from repro.plan.steps import chain


class Origins:
    """The artifacts of a figure's items by what their rows are labelled with; '' where there is none.

    Paths are relative to the results folder, as people read them.
    """

    def __init__(self, items: Iterable[Item], results: Path):
        self._found: dict[tuple, str] = {}
        for item in items:
            for key, path in _keys(item, results):
                self._found.setdefault(key, path.relative_to(results).as_posix())

    def run(self, dataset: str, condition: str, size: int, t: int, noise: float, labels: str = "") -> str:
        """Of pruned runs."""
        return self._found.get(("runs", dataset, condition, int(size), int(t), float(noise), labels), "")

    def barrier(self, dataset: str, condition: str, size: int, t: int) -> str:
        return self._found.get(("barrier", dataset, condition, int(size), int(t)), "")

    def other(self, *key) -> str:
        """('warmup', data set), ('gradients', data set, trained on), ('scores', data set, noise) or
        ('subset', data set, kind, noise)."""
        return self._found.get(key, "")


def _keys(item: Item, results: Path):
    if isinstance(item, WarmupSweep):
        yield ("warmup", item.protocol.dataset), item.path(results)
        return
    if isinstance(item, Gradients):
        yield ("gradients", item.protocol.dataset, item.subset.kind if item.subset else "all"), item.path(results)
        return
    cell = item if isinstance(item, Cell) else item.cell
    place = (cell.protocol.dataset, item.condition if isinstance(item, Branch) else cell.condition, cell.size, cell.t)
    if isinstance(item, Barrier) and not cell.labels:
        yield ("barrier", *place), item.path(results)
    elif not isinstance(item, (Barrier, Chosen)):
        yield ("runs", *place, float(cell.noise), cell.labels), item.path(results)
    if isinstance(item, (Cell, Chosen)) and cell.subset is not None and not cell.labels:
        yield ("subset", cell.protocol.dataset, cell.condition, float(cell.noise)), cell.path(results, "subset")
        for step in chain(item, results):
            if step.verb == "score":
                yield ("scores", cell.protocol.dataset, float(cell.noise)), step.target
