"""imp: train, prune, rewind, and again: iterative magnitude pruning from a rewind point (paper, Algorithm 1)."""

from pathlib import Path

import numpy as np
import torch

from repro import store
from repro.data import ImageSet
from repro.errors import RunError, UsageError
from repro.stages.common import Machine, Result, Trainer, data_of, require_replicates, ticker, training_of
from repro.stages.growing import Growing
from repro.train import evaluate
from repro.train.loop import NEVER, Job, Progress, train
from repro.train.prune import count_to_prune, prune_at_random, prune_by_magnitude, shuffle_within_layers
from repro.train.streams import stream

PRUNINGS = ("magnitude", "random", "shuffled")


def imp(
    out: str | Path,
    rewind_point: str | Path,
    *,
    levels: int,
    replicates: int | None = None,
    pruning: str = "magnitude",
    masks: str | Path | None = None,
    prune_fraction: float = 0.2,
    machine: Machine = Machine(),
) -> Result:
    """Iterative pruning of every replicate of ``rewind_point`` for ``levels`` levels after the dense one.

    Network, training recipe and seed are those of the rewind point. Every level starts from its weights and
    batch-norm statistics, with zero momentum and the clock at t (protocol section 4).

    Arguments:
        rewind_point: pretrain artifact.
        replicates: the first so many of the rewind point; None is all.
        pruning: 'magnitude' is IMP; the controls are 'random' (as many weights, uniformly among survivors) and
            'shuffled' (the masks of an IMP run, shuffled within each layer; needs ``masks``).
        masks: imp artifact whose masks 'shuffled' takes.
        prune_fraction: share of the surviving weights removed per level.

    Kept for every (replicate, level): the mask (np.packbits of the prunable weights), all final weights (float32, in
    the order of the layout), test correctness per example (np.packbits), training margin per example (float16); with
    level 0 the rewind point. `repro.stages.tickets` loads them into networks again.
    """
    parent = store.read(rewind_point, kind="pretrain")
    replicates = len(parent.table()) if replicates is None else replicates
    require_replicates(replicates, parent)
    if levels < 0:
        raise UsageError(f"levels (={levels}) must be 0 (dense training alone) or more")
    if pruning not in PRUNINGS:
        raise UsageError(f"unknown pruning {pruning!r}: choose {', '.join(PRUNINGS)}")
    if (pruning == "shuffled") != (masks is not None):
        raise UsageError("--pruning shuffled and --masks FILE go together: give both or neither")
    if not 0 < prune_fraction < 1:
        raise UsageError(f"prune fraction (={prune_fraction}) must be above 0 and below 1")
    if parent.recipe["t"] >= parent.recipe["steps"]:
        raise UsageError(
            f"{parent.path} is trained to the end (t = {parent.recipe['t']} of {parent.recipe['steps']} steps), which "
            "leaves nothing to train after rewinding: pre-train with a smaller -t"
        )
    source = store.read(masks, kind="imp") if masks else None
    for field in ("dataset", "network") if source else ():
        if source.recipe[field] != parent.recipe[field]:
            raise UsageError(f"{source.path} has masks for {source.recipe[field]}, {parent.path} is of "
                             f"{parent.recipe[field]}: give --masks of the same {field}")  # fmt: skip
    data = data_of(parent, machine)
    inputs = {"pretrain": parent} | ({"masks": source} if source else {})
    recipe = {**parent.recipe, "pruning": pruning, "prune_fraction": prune_fraction}
    with Growing(out, "imp", recipe, inputs, machine) as cell:
        run = _Imp(cell, parent, source, data, machine)
        run.require_levels(replicates, levels)
        if machine.dry_run:
            wanted = [_piece(r, level) for r in range(replicates) for level in range(levels + 1)]
            return cell.preview(wanted, steps=recipe["steps"] - recipe["t"], batch_size=recipe["batch_size"])
        while todo := [(r, level) for r in range(replicates) if (level := run.next_level(r)) <= levels]:
            for chunk in run.trainer.chunks(todo, lambda row: run.trainer.batch_key(data.split(row[0])[0])):
                run.train_level(chunk)
        return cell.finish(
            order=["replicate", "level"], lines=run.summary(), device=str(run.trainer.device),
            engine="/".join(sorted(run.trainer.engines)), seed=parent.recipe["seed"],
        )  # fmt: skip


def _piece(replicate: int, level: int) -> str:
    return f"replicate_{replicate}/level_{level}"


class _Imp:
    """One imp command: which level comes next, with which mask, and what is kept of it."""

    def __init__(self, cell: Growing, parent: store.Artifact, source: store.Artifact | None, data: ImageSet,
                 machine: Machine):  # fmt: skip
        self.cell, self.parent, self.source, self.data, self.machine = cell, parent, source, data, machine
        self.recipe = cell.recipe
        self.training = training_of(self.recipe)
        self.trainer = Trainer(data, self.recipe["network"], self.training, machine)
        self.layout = self.trainer.layout

    def require_levels(self, replicates: int, levels: int) -> None:
        """Raises UsageError, before anything is trained, for levels that would leave no weight or have no masks."""
        remaining = self.layout.num_prunable
        for level in range(1, levels + 1):
            try:
                remaining -= count_to_prune(remaining, self.recipe["prune_fraction"])
            except RunError:
                raise UsageError(
                    f"{levels} levels, but level {level} would remove the last {remaining} of "
                    f"{self.layout.num_prunable} weights: ask for --levels {level - 1} or fewer"
                ) from None
        if self.source:
            there = set(self.source.table().piece)
            for r, level in ((r, level) for r in range(replicates) for level in range(1, levels + 1)):
                if _piece(r, level) not in there:
                    raise UsageError(
                        f"{self.source.path} has no level {level} of replicate {r}: "
                        "ask for fewer --levels or --replicates, or run its imp command with more"
                    )

    def rewind_weights(self, replicate: int) -> np.ndarray:
        """The rewind point its first level started from: the parent may have been made anew, elsewhere, since."""
        kept = self.cell.arrays.get(f"{_piece(replicate, 0)}/rewind_weights")
        return self.parent[f"replicate_{replicate}/weights"] if kept is None else kept

    def next_level(self, replicate: int) -> int:
        level = 0
        while _piece(replicate, level) in self.cell.rows:
            level += 1
        return level

    def mask(self, replicate: int, level: int) -> torch.Tensor:
        """The mask a level trains with, made from the level before it."""
        if level == 0:
            return torch.ones(self.layout.num_prunable, dtype=torch.bool)
        seed = self.recipe["seed"]
        if self.recipe["pruning"] == "shuffled":
            packed = self.source[f"{_piece(replicate, level)}/mask"]
            sizes = [entry.size for entry in self.layout.prunable]
            return shuffle_within_layers(self.unpack(packed), sizes, stream(seed, replicate, "shuffle", level))
        before = _piece(replicate, level - 1)
        mask = self.unpack(self.cell.arrays[f"{before}/mask"])
        if self.recipe["pruning"] == "random":
            return prune_at_random(mask, stream(seed, replicate, "prune", level), self.recipe["prune_fraction"])
        weights = torch.from_numpy(self.cell.arrays[f"{before}/weights"])[: self.layout.num_prunable]
        return prune_by_magnitude(weights, mask, self.recipe["prune_fraction"])

    def unpack(self, packed: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.unpackbits(packed, count=self.layout.num_prunable).astype(bool))

    def train_level(self, chunk: list[tuple[int, int]]) -> None:
        """Train one level of each (replicate, level), evaluate it, and keep it."""
        lost = [(r, level) for r, level in chunk if level and self._is_lost(r, level)]
        if lost:
            self.cell.add({_piece(r, level): self._lost(r, level) for r, level in lost})
            chunk = [row for row in chunk if row not in lost]
        if not chunk:
            return
        t, total, seed = self.recipe["t"], self.training.steps, self.recipe["seed"]
        masks = [self.mask(r, level) for r, level in chunk]
        jobs = []
        for (r, _), mask in zip(chunk, masks):
            rewind = torch.from_numpy(self.rewind_weights(r))
            jobs.append(Job(rewind, self.data.split(r)[0].numpy(), t, total, seed, r, mask=mask))
        pieces = [_piece(r, level) for r, level in chunk]
        span = sorted({level for _, level in chunk})
        title = (
            f"imp {self.cell.path.stem}, level {span[0]}{f'-{span[-1]}' if span[1:] else ''}, {len(chunk)} replicates"
        )
        with ticker(title, total) as tick:
            state = train(
                jobs, self.training, cohort_of=self.trainer.cohort, batcher=self.trainer.batcher,
                labels=self.trainer.labels, resume=self.cell.checkpoint(pieces),
                checkpoint=self.cell.save_checkpoint(pieces),
                checkpoint_seconds=self.machine.checkpoint_seconds, report=tick,
            )  # fmt: skip
        self.cell.add(self._measure(chunk, masks, state))

    def _measure(self, chunk: list, masks: list[torch.Tensor], state: Progress) -> dict:
        cohort = self.trainer.cohort(len(chunk))
        cohort.load(state.vectors.to(cohort.device))
        splits = [[index.numpy() for index in self.data.split(r)] for r, _ in chunk]
        on_train = evaluate.predict(cohort, self.trainer.batcher, [train for train, _ in splits])
        on_test = evaluate.predict(cohort, self.trainer.batcher, [test for _, test in splits])
        pieces = {}
        for j, (r, level) in enumerate(chunk):
            train_labels, test_labels = (self.data.labels[index] for index in splits[j])
            correct = evaluate.correct(on_test[j], test_labels)
            diverged = bool(state.diverged_at[j] != NEVER) or not bool(state.vectors[j].isfinite().all())
            arrays = {
                "mask": np.packbits(masks[j].numpy()),
                "weights": state.vectors[j].numpy(),
                "test_correct": np.packbits(correct.numpy()),
                "train_margin": evaluate.margins(on_train[j], train_labels).half().numpy(),
            }
            if level == 0:
                arrays["rewind_weights"] = self.rewind_weights(r)
            row = self._row(r, level, int(masks[j].sum()), diverged)
            row |= {
                "acc": 1 / self.data.num_classes if diverged else correct.double().mean().item(),
                "loss": evaluate.losses(on_test[j], test_labels).double().mean().item(),
                "train_acc": evaluate.correct(on_train[j], train_labels).double().mean().item(),
                "train_loss": evaluate.losses(on_train[j], train_labels).double().mean().item(),
                "diverged_at": int(state.diverged_at[j]), "seconds": state.seconds / len(chunk),
            }  # fmt: skip
            pieces[_piece(r, level)] = (arrays, row)
        return pieces

    def _row(self, replicate: int, level: int, remaining: int, diverged: bool) -> dict:
        density = remaining / self.layout.num_prunable
        return {
            "replicate": replicate, "level": level, "remaining": remaining, "density": density, "diverged": diverged
        }  # fmt: skip

    def _is_lost(self, replicate: int, level: int) -> bool:
        """Whether there is no mask to start from, because the level it is taken from diverged."""
        if self.recipe["pruning"] == "shuffled":
            return f"{_piece(replicate, level)}/mask" not in self.source
        magnitude = self.recipe["pruning"] == "magnitude"
        return magnitude and bool(self.cell.rows[_piece(replicate, level - 1)]["diverged"])

    def _lost(self, replicate: int, level: int) -> tuple[dict, dict]:
        """A level that cannot be pruned from a diverged one: it counts as chance, with nothing kept."""
        row = self._row(replicate, level, 0, True)
        nothing = {name: float("nan") for name in ("loss", "train_acc", "train_loss", "density")}
        return {}, row | nothing | {"acc": 1 / self.data.num_classes, "diverged_at": NEVER, "seconds": 0.0}

    def summary(self) -> tuple[str, ...]:
        table = self.cell.table()
        if table.diverged.all():
            raise RunError(
                f"all replicates of {self.cell.path.stem} diverged (loss not finite from step "
                f"{table.diverged_at.max()}): lower --lr (={self.training.lr}) of its pretrain command, with --force"
            )
        lines = ["level  weights left  test accuracy"]
        for level, rows in table.groupby("level"):
            spread = f"{rows.acc.mean():.4f} ± {rows.acc.std(ddof=0):.4f} (n={len(rows)})"
            lines.append(f"{level:5d}  {100 * rows.density.mean():10.2f} %  {spread}")
        bad = sorted(set(table.replicate[table.diverged]))
        if bad:
            lines.append(
                f"warning: replicates {bad} diverged and count as chance: try a lower --lr (={self.training.lr})"
            )
        return tuple(lines)
