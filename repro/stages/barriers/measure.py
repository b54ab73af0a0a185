"""Lines between the networks of one family, measured in cohorts: the pieces of a barrier artifact."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from repro.engines import Report
from repro.errors import RunError, UsageError
from repro.stages.progress import FORWARD, Ticker, place
from repro.stages.trainer import Trainer
from repro.train.interpolate import AVERAGED, MODES, RECALIBRATED, Evaluation, accuracies, barrier, measure, mix

BELOW = 0.5  # nats: examples with a smaller barrier are counted as connected (the first bins of Figure 5)
NUMBERS = (
    "train_ce",
    "test_ce",
    "train_error",
    "test_error",
    "train_ce_max",
    "train_error_max",
    "test_error_max",
    "share_below_half",
    "acc_a",
    "acc_b",
)


@dataclass
class Family:
    """Networks of one parent and the lines between them that are wanted.

    Arguments:
        name: for messages, the file and replicate.
        split: (train index, test index) of its replicate.
        networks: number -> vector [layout.size], or None where the network diverged.
        recorded: number -> test accuracy that was measured when the network was trained (with its own batch norm).
        lines: piece -> (a, b), numbers of networks; the piece without the batch-norm mode.
        row: columns that all its rows share; ``fresh`` follows from a, unless it is here.
        start: the rewind weights [layout.size], or None where there is no such thing.
    """

    name: str
    split: tuple[np.ndarray, np.ndarray]
    networks: dict[int, Tensor | None]
    recorded: dict[int, float]
    lines: dict[str, tuple[int, int]]
    row: dict
    start: Tensor | None = None
    start_acc: dict = field(default_factory=dict)


def modes_of(batch_norm: str) -> tuple[str, ...]:
    """'averaged', 'recalibrated' or 'both' as the modes to measure. Raises UsageError for anything else."""
    if batch_norm not in (*MODES, "both"):
        raise UsageError(f"unknown batch norm mode {batch_norm!r}: choose averaged, recalibrated or both")
    return MODES if batch_norm == "both" else (batch_norm,)


def measured(
    trainer: Trainer,
    families: list[Family],
    alphas: tuple[float, ...],
    modes: tuple[str, ...],
    done: set[str],
    ticker: Ticker | None = None,
) -> Iterator[dict[str, tuple[dict, dict]]]:
    """Pieces, {piece/mode: (arrays, row)}, of all lines that are not in ``done``, some families at a time.

    Arrays: ``train_loss`` float32 [A, n_train] and ``train_wrong`` uint8 [A, ceil(n_train / 8)] (packed bits, 1 is
    wrong), in the order of the fold's training images; the same for test. NaN and wrong where an end diverged.
    Raises RunError for an end point that does not reproduce its recorded accuracy.
    """
    report = ticker and ticker.measured
    total = sum(len(_missing(family.lines, mode, done)) for family in families for mode in modes)
    behind = 0
    for mode in modes:
        wanted = {j: _missing(family.lines, mode, done) for j, family in enumerate(families)}
        for group in _groups(families, wanted, len(alphas), trainer.most):
            count = sum(len(wanted[j]) for j in group)
            if ticker:
                ticker.begin(place("line", behind, count, total))
            behind += count
            vectors = {}
            for j in group:
                vectors |= _vectors(j, families[j], wanted[j], alphas)
            found = known = _evaluate(trainer, families, vectors, mode, report)
            if AVERAGED not in modes:  # accuracies were recorded with the networks' own statistics
                ends = {key: at for key, at in vectors.items() if len(key) == 2}
                known = _evaluate(trainer, families, ends, AVERAGED, report)
            _start_accuracies(trainer, [families[j] for j in group if families[j].start is not None], report)
            pieces = {}
            for j in group:
                ends = {key[1]: at for key, at in known.items() if len(key) == 2 and key[0] == j}
                if mode == AVERAGED or AVERAGED not in modes:
                    _require_recorded(families[j], ends)
                for piece, (a, b) in wanted[j].items():
                    along = [found.get(_key(j, a, b, alpha)) for alpha in alphas]
                    pieces[f"{piece}/{mode}"] = _piece(families[j], a, b, alphas, along, mode)
            yield pieces


def measuring(
    split: tuple[np.ndarray, np.ndarray],
    lines: dict[str, tuple[int, int]],
    alphas: tuple[float, ...],
    modes: tuple[str, ...],
    done: set[str],
    *,
    start: bool,
) -> dict[str, float]:
    """Work of the pieces of one family that `measured` would make, for its ticker: the family's in equal parts.

    start: it has rewind weights. The other arguments are a family's and those of `measured`.
    """
    train, test = map(len, split)
    work = {}
    for mode in modes:
        wanted = _missing(lines, mode, done)
        ends = len({end for pair in wanted.values() for end in pair})
        images = (ends + len(wanted) * (len(alphas) - 2)) * (train + test + train * (mode == RECALIBRATED))
        if AVERAGED not in modes:
            images += ends * (train + test)
        if start and wanted and not work:
            images += test + train + test
        work |= {f"{piece}/{mode}": FORWARD * images / len(wanted) for piece in wanted}
    return work


def _missing(lines: dict[str, tuple[int, int]], mode: str, done: set[str]) -> dict[str, tuple[int, int]]:
    return {piece: pair for piece, pair in lines.items() if f"{piece}/{mode}" not in done}


def _groups(families: list[Family], wanted: dict[int, dict], alphas: int, most: int) -> list[list[int]]:
    """Families together whose networks fill a cohort of ``most``; with training sets of one length (`recalibrate`)."""
    groups: list[list[int]] = []
    room: dict[int, int] = {}
    last: dict[int, list[int]] = {}
    for j, lines in wanted.items():
        if not lines:
            continue
        length = len(families[j].split[0])
        need = len({end for pair in lines.values() for end in pair}) + len(lines) * (alphas - 2)
        if need > room.get(length, 0):
            last[length], room[length] = [], most
            groups.append(last[length])
        last[length].append(j)
        room[length] -= need
    return groups


def _key(j: int, a: int, b: int, alpha: float) -> tuple:
    return (j, a) if alpha == 0 else (j, b) if alpha == 1 else (j, a, b, alpha)


def _vectors(j: int, family: Family, lines: dict, alphas: tuple[float, ...]) -> dict[tuple, Tensor]:
    """Every network to be evaluated once, by key: an end point belongs to several lines."""
    vectors = {}
    for a, b in lines.values():
        ends = family.networks[a], family.networks[b]
        if ends[0] is not None and ends[1] is not None:
            vectors |= {_key(j, a, b, alpha): mix(*ends, alpha) for alpha in alphas}
    return vectors


def _evaluate(
    trainer: Trainer, families: list[Family], vectors: dict, mode: str, report: Report
) -> dict[tuple, Evaluation]:
    found = {}
    for keys in trainer.chunks(vectors, lambda key: trainer.engine_of(vectors[key])):
        cohort = trainer.cohort(len(keys), trainer.engine_of(vectors[keys[0]]))
        splits = [families[key[0]].split for key in keys]
        chosen = [vectors[key] for key in keys]
        each = measure(cohort, trainer.batcher, trainer.data.labels, chosen, splits, mode, report)
        found |= dict(zip(keys, each))
    return found


def _start_accuracies(trainer: Trainer, families: list[Family], report: Report) -> None:
    for chunk in trainer.chunks([family for family in families if not family.start_acc]):
        starts, splits = [family.start for family in chunk], [family.split for family in chunk]
        for column, mode in (("pretrain_acc", AVERAGED), ("pretrain_acc_recalibrated", RECALIBRATED)):
            cohort = trainer.cohort(len(chunk), trainer.engine())
            found = accuracies(cohort, trainer.batcher, trainer.data.labels, starts, splits, mode, report)
            for family, accuracy in zip(chunk, found):
                family.start_acc[column] = accuracy


def _require_recorded(family: Family, ends: dict[int, Evaluation]) -> None:
    """Raises RunError for an end point whose test accuracy is not the recorded one: it is another network."""
    for number, at in ends.items():
        recorded = family.recorded.get(number)
        count = len(at.test_wrong)
        allowed = math.ceil(count / 1000)  # images near a decision boundary, on another device
        if recorded is not None and abs((~at.test_wrong).sum() - recorded * count) > allowed + 1e-6:
            raise RunError(
                f"{family.name}: network {number} has test accuracy {(~at.test_wrong).mean():.4f} at the end of the "
                f"line, but {recorded:.4f} is on record: its weights are not those that were measured, make them anew"
            )


def _piece(
    family: Family, a: int, b: int, alphas: tuple, along: list[Evaluation | None], mode: str
) -> tuple[dict, dict]:
    row = {**family.row, "a": a, "b": b, "batch_norm": mode}
    row = {"fresh": a >= 1, **row, **dict.fromkeys(("pretrain_acc", "pretrain_acc_recalibrated"), math.nan)}
    row |= family.start_acc
    if any(at is None for at in along):
        sizes = zip(("train", "test"), map(len, family.split))
        arrays = {}
        for part, size in sizes:
            arrays[f"{part}_loss"] = np.full((len(alphas), size), np.nan, np.float32)
            arrays[f"{part}_wrong"] = np.packbits(np.ones((len(alphas), size), bool), axis=1)
        return arrays, row | dict.fromkeys(NUMBERS, math.nan) | {"diverged": True}
    values = {name: np.stack([getattr(at, name) for at in along]) for name in Evaluation.__dataclass_fields__}
    row |= numbers(values, alphas) | {"diverged": False}
    for part in ("train", "test"):
        values[f"{part}_wrong"] = np.packbits(values[f"{part}_wrong"], axis=1)
    return values, row


def numbers(values: dict[str, np.ndarray], alphas: tuple[float, ...]) -> dict[str, float]:
    """The columns `NUMBERS` of one line: mean barriers at 1/2 and their maxima over the grid (0 at the end points).

    Arguments:
        values: train_loss, train_wrong, test_loss, test_wrong, each [A, n].
    """
    half = alphas.index(0.5)
    mean = {name: barrier(each.mean(1, dtype=np.float64), alphas) for name, each in values.items()}
    accuracy = (~values["test_wrong"]).mean(1)
    loss, ends = values["train_loss"], values["train_loss"][[0, -1]].astype(np.float64)
    return {
        "train_ce": mean["train_loss"][half],
        "test_ce": mean["test_loss"][half],
        "train_error": mean["train_wrong"][half],
        "test_error": mean["test_wrong"][half],
        "train_ce_max": mean["train_loss"].max(),
        "train_error_max": mean["train_wrong"].max(),
        "test_error_max": mean["test_wrong"].max(),
        "share_below_half": (loss[half] - ends.mean(0) < BELOW).mean(),
        "acc_a": accuracy[0],
        "acc_b": accuracy[-1],
    }


def summary(table: pd.DataFrame, by: list[str]) -> list[str]:
    """Mean barriers at alpha = 1/2 over parents and pairs that did not diverge, a line per group, as text."""
    groups = []
    for group, rows in table.groupby(by):
        mean = rows.loc[~rows.diverged, list(NUMBERS)].mean()
        parents, pairs = rows.replicate.nunique(), len(rows[["a", "b"]].drop_duplicates())
        groups.append(
            {
                **dict(zip(by, group)),
                "parents x pairs": f"{parents} x {pairs}",
                "train loss": f"{mean.train_ce:.4f}",
                "train error": f"{100 * mean.train_error:.2f} %",
                "test loss": f"{mean.test_ce:.4f}",
                "test error": f"{100 * mean.test_error:.2f} %",
                "examples below 0.5": f"{100 * mean.share_below_half:.2f} %",
            }
        )
    lines = ["mean barrier at alpha = 1/2", *pd.DataFrame(groups).to_string(index=False).splitlines()]
    if bad := int(table.diverged.sum()):
        lines.append(f"warning: {bad} of {len(table)} pairs have a diverged network and are left out of the means")
    return lines


def vector(array: np.ndarray) -> Tensor | None:
    """A stored network; None when it diverged."""
    return torch.from_numpy(array) if np.isfinite(array).all() else None
