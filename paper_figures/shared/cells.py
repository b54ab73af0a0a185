"""Cells that several figures need. A run that two figures name by the same cell is computed once."""

from repro.plan import Cell, Subset
from repro.protocol import Protocol


def all_data(p: Protocol) -> list[Cell]:
    """Pre-trained on all data for 0, t*/2 and t* steps."""
    return [all_at(p, t) for t in (0, p.t_star // 2, p.t_star)]


def all_at(p: Protocol, t: int) -> Cell:
    """Pre-trained on all data for t steps. Steps of Figure 5 alone are pruned to its level, with fewer replicates."""
    roles = {0: "all_t0", p.t_star // 2: "all_tstar_half", p.t_star: "all_tstar"}
    if t in roles:
        return Cell(roles[t], p, t)
    return Cell("all_t", p, t, replicates=p.more_replicates, levels=min(p.levels, p.barrier_level))


def subset(p: Protocol, kind: str, size: int, t: int | None = None) -> Cell:
    """Pre-trained on a subset for t*/2 steps, as in Figures 2 and 3; or for t steps, which Figure 5 alone shows."""
    half = p.t_star // 2
    if t not in (None, half):
        levels = min(p.levels, p.barrier_level)
        return Cell(kind, p, t, Subset(kind, size), replicates=p.more_replicates, levels=levels)
    return Cell(kind, p, half, Subset(kind, size), replicates=None if size == p.subset_size else p.more_replicates)


def ranked_by(p: Protocol, score: str, size: int) -> Cell:
    """Pre-trained on the easiest examples by another score than EL2N."""
    return Cell(score, p, p.t_star // 2, Subset("easy", size, score=score), replicates=p.more_replicates)
