"""compare: two runs of pruned networks side by side, level by level: masks, weights, predictions and barriers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from repro import store
from repro.errors import UsageError
from repro.recipes.artifacts import array_name, piece_name, training_of
from repro.recipes.overlap import overlap
from repro.stages.barriers.measure import Family, measured, measuring
from repro.stages.inputs import data_of, require_idle, require_replicates
from repro.stages.machine import Machine
from repro.stages.progress import ticker
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.interpolate import AVERAGED, grid

WHOLE = "all"
"""The layer of rows on the whole network, which alone have predictions and barriers."""
EQUAL, OTHER = "equal", "other"
COLUMNS = (
    *("seeds", "replicate_a", "replicate_b", "level", "layer", "weights", "kept_a", "kept_b"),
    *("overlap", "chance", "chance_std", "distance", "norm_a", "norm_b", "agreement", "acc_a", "acc_b"),
    *("train_loss_barrier", "test_loss_barrier", "train_error_barrier", "test_error_barrier"),
)
BARRIERS = {"train_ce": "train_loss", "test_ce": "test_loss", "train_error": "train_error", "test_error": "test_error"}


@dataclass(frozen=True)
class Pair:
    """Replicate ``a`` of the first run and ``b`` of the second: from EQUAL seeds or from OTHER ones."""

    seeds: str
    a: int
    b: int


def compare(
    first: str | Path,
    second: str | Path,
    *,
    levels: Sequence[int] | None = None,
    replicates: int | None = None,
    machine: Machine = Machine(),
) -> pd.DataFrame:
    """How alike the networks of two imp or branch artifacts are, a row for each pair, level and layer.

    Replicates of equal seeds are compared: of one number, where both runs have one base seed, so that they share the
    initialisation (but see `beginnings`) and the order of the data of mask search. And replicates of other seeds: each
    of the first run with the next one of the second that has the same test images (or, where there is none, with the
    next one), which is what two runs of one experiment have in common. Of a run with itself a pair is compared once,
    whichever comes first.

    Columns: ``seeds``, ``replicate_a``, ``replicate_b``, ``level``; ``layer``, WHOLE for the network; ``weights``,
    ``kept_a``, ``kept_b``, prunable ones; ``overlap`` of the masks with ``chance`` and ``chance_std``
    (`repro.recipes.overlap`); ``distance`` (L2) of the trained weights, with ``norm_a`` and ``norm_b``, over all
    parameters in rows of WHOLE. These alone have ``agreement``, the share of test images that both give one class;
    ``acc_a`` and ``acc_b``; and ``train_loss_barrier`` (nats), ``test_loss_barrier``, ``train_error_barrier`` and
    ``test_error_barrier`` (shares), at 1/2 of the straight path with averaged batch norm (`repro.train.interpolate`).
    They are NaN for replicates of different test images.

    Arguments:
        levels: those to compare; None is all that both have.
        replicates: the first so many of the first run.

    Raises UsageError for artifacts of another kind, data set or network, and for levels or replicates they lack.
    """
    return _Comparison(first, second, levels, replicates, machine).table()


class _Comparison:
    def __init__(self, first, second, levels, replicates, machine: Machine):
        self.runs = tuple(map(_opened, (first, second)))
        for field in ("dataset", "network", "normalization", "data_sha256"):
            one, other = (run.recipe[field] for run in self.runs)
            if one != other:
                raise UsageError(f"{first} is of {field} {one}, {second} of {other}: give runs of the same {field}")
        tables = [run.table() for run in self.runs]
        finished = [table[~table.diverged.astype(bool)] for table in tables]
        self.there = [set(zip(table.replicate, table.level)) for table in finished]
        self.acc = [dict(zip(zip(t.replicate, t.level), t.acc)) for t in tables]
        self.data = data_of(self.runs[0], machine)
        self.pairs = self._pairs([int(table.replicate.max()) + 1 for table in tables], replicates)
        both = set.intersection(*({level for _, level in there} for there in self.there))
        self.levels = sorted(both if levels is None else set(levels))
        if odd := set(self.levels) - both:
            known = ", ".join(map(str, sorted(both))) or "none"
            raise UsageError(f"level {min(odd)} is not in both runs, which share {known}: choose --levels among those")
        if not self.levels:
            raise UsageError(f"{first} and {second} have no level in common: give runs of the same levels")
        recipe = self.runs[0].recipe
        self.trainer = Trainer(self.data, recipe["network"], training_of(recipe), machine)
        for run in self.runs:
            require_idle(run, self.trainer.layout)
        self.vector = cache(self._vector)

    def _pairs(self, held: list[int], replicates: int | None) -> list[Pair]:
        """Of equal seeds, if the runs have one base seed and are two; of other seeds, once where they are one run."""
        count = held[0] if replicates is None else replicates
        require_replicates(count, self.runs[0], held[0])
        seeded = self.runs[0].recipe["seed"] == self.runs[1].recipe["seed"]
        one_run = self.runs[0].identity == self.runs[1].identity
        pairs = []
        for r in range(count):
            if r < held[1] and not (seeded and one_run):
                pairs.append(Pair(EQUAL if seeded else OTHER, r, r))
            others = [(r + k) % held[1] for k in range(1, held[1] + 1) if (r + k) % held[1] != r]
            if seeded and others:
                s = next(filter(lambda s: self._alike(r, s), others), others[0])
                pairs += [] if one_run and Pair(OTHER, s, r) in pairs else [Pair(OTHER, r, s)]
        if not pairs:
            raise UsageError(f"{self.runs[0].path} has one replicate, and none to compare it with: give two runs")
        return pairs

    def _alike(self, r: int, s: int) -> bool:
        """Whether two replicates have the same test images."""
        return r % len(self.data.splits) == s % len(self.data.splits)

    # --- what is stored -----------------------------------------------------------------------------------------------

    def _vector(self, run: int, replicate: int, level: int) -> Tensor:
        kept = torch.from_numpy(self.runs[run][array_name("weights", replicate=replicate, level=level)])
        return kept.double() if self.trainer.training.precision == "fp64" else kept.float()

    def _mask(self, run: int, replicate: int, level: int) -> np.ndarray:
        packed = self.runs[run][array_name("mask", replicate=replicate, level=level)]
        return np.unpackbits(packed, count=self.trainer.layout.num_prunable).astype(bool)

    def _wanted(self) -> list[tuple[Pair, int]]:
        """The pairs and levels of which both networks are there: one that diverged says nothing."""
        each = ((pair, level) for pair in self.pairs for level in self.levels)
        return [(p, k) for p, k in each if (p.a, k) in self.there[0] and (p.b, k) in self.there[1]]

    def _rows(self, pair: Pair, level: int) -> Iterator[dict]:
        """Masks and weights, of the whole network and of each prunable tensor."""
        layout = self.trainer.layout
        masks = self._mask(0, pair.a, level), self._mask(1, pair.b, level)
        vectors = [self.vector(*key).double() for key in _ends(pair, level)]
        shared = overlap(*masks, [entry.size for entry in layout.prunable])
        about = {"seeds": pair.seeds, "replicate_a": pair.a, "replicate_b": pair.b, "level": level}
        yield about | _measures(WHOLE, shared, [each[: layout.num_parameters] for each in vectors])
        for place, entry in enumerate(layout.prunable):
            part = [each[entry.offset : entry.offset + entry.size] for each in vectors]
            yield about | _measures(entry.name, shared.of(place), part)

    # --- what is measured ---------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        wanted = self._wanted()
        if not wanted:
            raise UsageError(f"no network of {self.runs[0].path} and {self.runs[1].path} is left that did not diverge")
        alike = [(pair, level) for pair, level in wanted if self._alike(pair.a, pair.b)]
        found = self._barriers(alike)
        predicted = self._predictions(dict.fromkeys(end for pair, level in alike for end in _ends(pair, level)))
        for pair, level in alike:
            a, b = (predicted[end] for end in _ends(pair, level))
            found[pair, level]["agreement"] = float((a == b).mean())
        rows = [
            row | (found.get((pair, level), {}) if row["layer"] == WHOLE else {})
            for pair, level in wanted
            for row in self._rows(pair, level)
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _barriers(self, wanted: list[tuple[Pair, int]]) -> dict[tuple[Pair, int], dict]:
        """Barriers, and the accuracies of the ends, by pair and level."""
        lines: dict[int, dict] = {}
        for pair, level in wanted:
            lines.setdefault(pair.a, {})[piece_name(pair=self.pairs.index(pair), level=level)] = pair, level
        families = [self._family(r, each) for r, each in lines.items()]
        found, alphas = {}, grid((0.5,))
        with ticker(f"compare {self.runs[0].name} {self.runs[1].name}") as tick:
            for family in families:
                tick.expect(measuring(family.split, family.lines, alphas, (AVERAGED,), set(), start=False))
            for pieces in measured(self.trainer, families, alphas, (AVERAGED,), set(), tick):
                tick.finish(pieces)
                for piece, (_, row) in pieces.items():
                    pair, level = lines[row["replicate"]][piece.removesuffix(f"/{AVERAGED}")]
                    values = {f"{name}_barrier": row[ours] for ours, name in BARRIERS.items()}
                    found[pair, level] = {"acc_a": row["acc_a"], "acc_b": row["acc_b"], **values}
        return found

    def _family(self, replicate: int, lines: dict[str, tuple[Pair, int]]) -> Family:
        """The networks on the lines from one replicate of the first run."""
        ends = dict.fromkeys(end for pair, level in lines.values() for end in _ends(pair, level))
        number = {end: place for place, end in enumerate(ends)}
        return Family(
            f"{self.runs[0].path} and {self.runs[1].path}, replicate {replicate}",
            tuple(index.numpy() for index in self.data.split(replicate)),
            {number[end]: self.vector(*end) for end in ends},
            {number[end]: self.acc[end[0]][end[1:]] for end in ends},
            {piece: tuple(number[end] for end in _ends(*line)) for piece, line in lines.items()},
            {"replicate": replicate},
        )

    def _predictions(self, ends) -> dict[tuple[int, int, int], np.ndarray]:
        """The class that each network gives its replicate's test images, int64 [n]."""
        found = {}
        for keys in self.trainer.chunks(ends, lambda end: self.trainer.engine_of(self.vector(*end))):
            vectors = [self.vector(*end) for end in keys]
            cohort = self.trainer.cohort(len(keys), self.trainer.engine_of(vectors[0]))
            evaluate.load(cohort, vectors)
            tests = [self.data.split(replicate)[1].numpy() for _, replicate, _ in keys]
            logits = evaluate.predict(cohort, self.trainer.batcher, tests)
            found |= {end: each.argmax(1).numpy() for end, each in zip(keys, logits)}
        return found


def _opened(path: str | Path) -> store.Artifact:
    artifact = store.read(path)
    if artifact.kind not in ("imp", "branch"):
        raise UsageError(
            f"{path} is a {artifact.kind} artifact where an imp or a branch artifact is needed: give the path of one"
        )
    return artifact


def _ends(pair: Pair, level: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(number of the run, replicate, level) of both networks."""
    return (0, pair.a, level), (1, pair.b, level)


def _measures(layer: str, shared, vectors: list[Tensor]) -> dict:
    found, chance, std = shared.whole
    counts = {name: int(getattr(shared, field).sum()) for name, field in _COUNTS.items()}
    lengths = {f"norm_{name}": float(each.norm()) for name, each in zip("ab", vectors)}
    distance = float((vectors[0] - vectors[1]).norm())
    against = {"overlap": found, "chance": chance, "chance_std": std}
    return {"layer": layer, **counts, **against, "distance": distance, **lengths}


_COUNTS = {"weights": "weights", "kept_a": "a", "kept_b": "b"}


def beginnings(first: str | Path, second: str | Path) -> list[str]:
    """A line where the words equal and other seeds say too much, because networks begin in another way (``init``)."""
    one, two = (store.read_header(path).recipe for path in (first, second))
    ways = [recipe.get("init", "paper") for recipe in (one, two)]
    numbers = [recipe.get("init_sha256") for recipe in (one, two)]
    told = ways[0] == "file" or one["seed"] == two["seed"]  # other seeds draw other numbers in any case
    if ways[0] != ways[1] or (told and numbers[0] != numbers[1]):
        return ["the two runs begin in different ways (--init): equal seeds share the order of the data alone"]
    if ways[0] == "file":
        return ["all networks begin with the numbers of one file (--init): other seeds share them, too"]
    return []


def summary(table: pd.DataFrame) -> str:
    """The medians over pairs of every level, as text: a line for each level and kind of seeds; – for what is NaN."""
    rows = table[table.layer == WHOLE]
    shown = []
    for (level, seeds), each in rows.groupby(["level", "seeds"]):
        middle = each.median(numeric_only=True)
        shown.append(
            {
                "level": level,
                "seeds": seeds,
                "pairs": len(each),
                "weights left": f"{100 * (middle.kept_a + middle.kept_b) / (2 * middle.weights):.2f} %",
                "overlap": f"{middle.overlap:.3f}",
                "by chance": f"{middle.chance:.3f} ± {middle.chance_std:.3f}",
                "distance": f"{middle.distance:.2f}",
                "agreement": f"{100 * middle.agreement:.2f} %",
                "loss barrier": f"{middle.train_loss_barrier:.3f}",
                "error barrier": f"{100 * middle.test_error_barrier:.2f} %",
            }
        )
    lines = [pd.DataFrame(shown).replace(r"^nan\b.*", "–", regex=True).to_string(index=False)]
    others = rows[rows.seeds == OTHER]
    if len(others) and others.agreement.isna().all():
        lines.append("other seeds have other test images here: no predictions compared")
    return "\n".join(lines)
