"""How far the masks of a figure's conditions overlap, replicate by replicate, against chance."""

from collections.abc import Iterable
from itertools import combinations, groupby
from pathlib import Path

import numpy as np

from repro import store
from repro.plan.items import Cell, Item
from repro.protocol import Protocol
from repro.recipes.artifacts import array_name
from repro.recipes.overlap import overlap
from repro.report.tables import Table, number, table

COLUMNS = ("conditions", "", "replicates", "weights left", "overlap", "by chance", "overlap / chance")


def tables(items: Iterable[Item], results: Path) -> list[Table]:
    """A table for each protocol of a figure's finished items: all pairs of its cells.

    The level is the last judging one, or the last that all cells are planned to have. A row is the mean over the
    replicates that both have, whose seeds are equal. There is no table where fewer than two artifacts have masks.
    """
    cells = [item for item in items if isinstance(item, Cell)]
    grouped = groupby(sorted(cells, key=lambda cell: cell.protocol.dataset), key=lambda cell: cell.protocol)
    return [found for protocol, group in grouped if (found := _table(protocol, list(group), results))]


def _table(protocol: Protocol, cells: list[Cell], results: Path) -> Table | None:
    level, sizes, masks = min([protocol.judging_levels[-1], *(cell.depth for cell in cells)]), None, {}
    for cell in dict.fromkeys(cells):
        artifact = store.read(cell.path(results))
        packed = {
            r: key for r in range(cell.promised) if (key := array_name("mask", replicate=r, level=level)) in artifact
        }
        if packed:
            sizes = sizes or _sizes(artifact)
            count = sum(sizes)
            masks[cell.name] = {r: np.unpackbits(artifact[key], count=count).astype(bool) for r, key in packed.items()}
    rows = []
    for a, b in combinations(masks, 2):
        each = [overlap(masks[a][r], masks[b][r], sizes) for r in masks[a].keys() & masks[b].keys()]
        if each:
            found, chance, _ = np.mean([shared.whole for shared in each], axis=0)
            left = np.mean([(shared.a + shared.b).sum() / (2 * shared.weights.sum()) for shared in each])
            share, times = number(100 * left, ".2f", "%"), number(found / chance, ".2f")
            rows.append((a, b, len(each), share, number(found, ".3f"), number(chance, ".3f"), times))
    if not rows:
        return None
    caption = (
        f"{protocol.dataset}: overlap of masks at level {level}, 2 |A ∩ B| / (|A| + |B|), between conditions of equal "
        "seeds, and that of independent random masks with the same densities of layers"
    )
    return table(caption, COLUMNS, rows)


def _sizes(artifact: store.Artifact) -> list[int]:
    """The weights of each prunable tensor, in the order of the masks."""
    from repro.nets import layout_of  # here: torch takes seconds, and many reports have no masks
    from repro.reading.networks import network_of

    return [entry.size for entry in layout_of(network_of(artifact)).prunable]
