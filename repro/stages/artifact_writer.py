"""An artifact under construction, piece by piece, so that nothing finished is ever lost or computed twice.

A piece is one replicate's share (of one level, say): some arrays and one row of the artifact's table. Pieces come from
the finished artifact, from the work folder beside it, or are computed now; each batch of new pieces goes to the work
folder at once, and `finish` folds everything into the artifact.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from repro import store
from repro.errors import UsageError
from repro.recipes.artifacts import DEFAULTS
from repro.recipes.training import Training
from repro.stages.machine import Machine
from repro.stages.progress import Ticker, images_of
from repro.stages.tensorboard import Curves
from repro.store.file_kinds import require_replaceable
from repro.store.work import sweep
from repro.train.loop import Job, Progress

CHECKPOINT = "checkpoint"
PIECES = "pieces-"


@dataclass(frozen=True)
class Result:
    """What a stage did. ``computed`` and ``reused`` name its pieces; ``lines`` are findings worth printing."""

    path: Path
    identity: str
    computed: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"{self.path}: computed {len(self.computed)}, reused {len(self.reused)}"
        return "\n".join([*[counts] * bool(self.computed or self.reused), *self.lines])  # neither in a dry run


class ArtifactWriter:
    """Context manager that holds the writer's lock on ``path`` from entry to exit.

    ``ticker`` says how far the command is, ``curves`` draws it for TensorBoard (None without ``machine.tensorboard``).

    Raises UsageError when an artifact of another recipe stands at ``path`` (unless ``machine.force``), RunError when
    another process is writing it.
    """

    def __init__(self, path: str | Path, kind: str, recipe: dict, inputs: dict[str, store.Artifact], machine: Machine):
        self.path, self.kind, self.recipe, self.inputs, self.machine = Path(path), kind, recipe, inputs, machine
        self.arrays: dict[str, np.ndarray] = {}
        self.rows: dict[str, dict] = {}
        self.reused: list[str] = []
        self.computed: list[str] = []
        self.began, self.clock = time.time(), time.monotonic()  # the wall clock may be set back
        self.work: store.WorkFolder | None = None
        self.ticker = Ticker(f"{kind} {self.path.stem}", self.path)
        self.curves: Curves | None = None
        if any(source.path.resolve() == self.path.resolve() for source in inputs.values()):
            raise UsageError(f"--out {self.path} is also what is read: choose another --out")

    def __enter__(self) -> "ArtifactWriter":
        require_replaceable(self.path, "artifact")
        if self.machine.force and (there := _kind_at(self.path)) not in (None, self.kind):
            raise UsageError(
                f"--out {self.path} is of kind {there}, and --force begins one of kind {self.kind} anew: choose "
                "another --out"
            )
        if self.machine.dry_run:
            self._look()
            return self
        self._lock = store.writer_lock(self.path)
        self._lock.__enter__()
        sweep(self.path.parent)
        try:
            self._collect()
            if folder := self.machine.tensorboard:
                self.curves = Curves(folder, self.path, self.recipe, anew=not (self.reused or self.work.names()))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exception) -> None:
        if self.machine.dry_run:
            return
        try:
            self.ticker.close()
            if self.curves:
                self.curves.close()
            if self.work and not self.work.names():  # empty, it would only block another recipe
                self.work.discard()
        finally:
            self._lock.__exit__(*exception)

    def _look(self) -> None:
        """Take the finished pieces of the artifact and touch nothing."""
        if not self.machine.force:
            present = store.check_same(self.path, self.kind, self.recipe, self.inputs, DEFAULTS)
            if present:
                self._take({}, present.table().to_dict("records"))

    def preview(self, wanted: Iterable[str], *, steps: int = 0, batch_size: int = 0) -> Result:
        """The result of a dry run: how many pieces, of ``steps`` of ``batch_size`` images, are missing; the recipe."""
        wanted = list(wanted)
        missing = [piece for piece in wanted if piece not in self.rows]
        cost = f", {len(missing)} × {steps} steps = {len(missing) * steps * batch_size:,} images" if steps else ""
        lines = [f"dry run: would compute {len(missing)} and reuse {len(wanted) - len(missing)}{cost}"]
        lines += [f"  {field}: {value}" for field, value in sorted(self.recipe.items())]
        return Result(self.path, self.identity, lines=tuple(lines))

    @property
    def identity(self) -> str:
        return store.identity(self.kind, self.recipe, self.inputs, DEFAULTS)

    def _collect(self) -> None:
        what = dict(kind=self.kind, recipe=self.recipe, inputs=self.inputs, defaults=DEFAULTS)
        if not self.machine.force:
            store.check_same(self.path, **what)
        self.work = store.WorkFolder(self.path, **what, force=self.machine.force)
        self.history: list[dict] = []
        if self.path.exists() and not self.machine.force:
            finished = store.read(self.path, kind=self.kind)
            self.history = finished.provenance["runs"]
            self._say_of_other_vectors(self.path, self.history[-1].get("vectors") if self.history else None)
            self._take({key: finished[key] for key in finished.keys()}, finished.table().to_dict("records"))
        self.finished = set(self.rows)
        for name in self.work.numbered(PIECES):
            if loaded := self.work.load(name):
                self._take(loaded[0], json.loads(loaded[1]["rows"]))
        self.reused = list(self.rows)

    def _take(self, arrays: dict[str, np.ndarray], rows: list[dict]) -> None:
        self.arrays.update(arrays)
        self.rows.update({row["piece"]: row for row in rows})

    def add(self, pieces: dict[str, tuple[dict[str, np.ndarray], dict]]) -> None:
        """Keep new pieces, {piece: (arrays, row)}, in memory and, atomically and together, in the work folder."""
        arrays = {f"{piece}/{name}": a for piece, (each, _) in pieces.items() for name, a in each.items()}
        rows = [{**row, "piece": piece} for piece, (_, row) in pieces.items()]
        self._take(arrays, rows)
        self.computed += pieces
        self.ticker.finish(pieces)
        self.work.save(self.work.next_name(PIECES), arrays, {"rows": json.dumps(rows)})
        self.drop_checkpoint()
        if self.curves:
            self.curves.add(rows)

    def drop_checkpoint(self) -> None:
        """Remove the training state, because its jobs are finished or have failed."""
        self.work.remove(CHECKPOINT)
        if self.curves:
            self.curves.flush()

    def training(self, pieces: list[str], jobs: Sequence[Job], training: Training, where: str) -> dict:
        """Options of `repro.train.loop.train` that resume the jobs of ``pieces`` from their checkpoint, save new
        ones, and report progress. where: the cohort's place in the command, for the progress line."""
        resume = self.checkpoint(pieces)
        behind = sum(images_of(training, job, resume.step) for job in jobs) if resume else 0
        self.ticker.begin(where, jobs, training, behind)
        return {
            "resume": resume,
            "checkpoint": self.save_checkpoint(pieces),
            "checkpoint_seconds": self.machine.checkpoint_seconds,
            "report": self.ticker,
            "watch": self.curves and self.curves.watch(pieces, jobs),
        }

    def save_checkpoint(self, jobs: list[str]) -> Callable[[Progress], None]:
        """A function that saves the training state of ``jobs`` (their pieces) in the work folder."""

        def save(state: Progress) -> None:
            arrays = {
                "vectors": state.vectors.numpy(),
                "momentum": state.momentum.numpy(),
                "diverged_at": state.diverged_at,
                **{f"extra/{name}": array for name, array in state.extra.items()},
            }
            attributes = {"jobs": json.dumps(jobs), "step": state.step, "seconds": state.seconds, "vectors": vectors()}
            self.work.save(CHECKPOINT, arrays, attributes)
            if self.curves:
                self.curves.flush()

        return save

    def checkpoint(self, jobs: list[str]) -> Progress | None:
        """The saved training state of exactly these jobs, if there is one."""
        loaded = self.work.load(CHECKPOINT) if CHECKPOINT in self.work.names() else None
        if loaded is None or json.loads(loaded[1]["jobs"]) != jobs:
            return None
        arrays, attributes = loaded
        self._say_of_other_vectors(self.work.folder, attributes.get("vectors"))
        return Progress(
            step=int(attributes["step"]),
            vectors=torch.from_numpy(arrays["vectors"]),
            momentum=torch.from_numpy(arrays["momentum"]),
            diverged_at=arrays["diverged_at"],
            seconds=float(attributes["seconds"]),
            extra={name.removeprefix("extra/"): a for name, a in arrays.items() if name.startswith("extra/")},
        )

    def _say_of_other_vectors(self, path: Path, then: str | None) -> None:
        """Warn where another kind of CPU began the work, as happens on clusters: it may round sums differently."""
        if then is not None and then != vectors() and self.machine.torch_device.type == "cpu":
            print(
                f"warning: {path} was begun on a CPU with {then}, this one has {vectors()}: it goes on, and bits may "
                "differ from a run on one CPU",
                file=sys.stderr,
            )

    def table(self) -> pd.DataFrame:
        """One row per piece so far."""
        table = pd.DataFrame(list(self.rows.values()))
        if "engine" in table:
            table["engine"] = table["engine"].fillna("")  # rows made before it was recorded
        return table

    def finish(
        self, *, order: list[str], extra: dict[str, np.ndarray] | None = None, lines: tuple[str, ...] = (), **provenance
    ) -> Result:
        """Write the artifact if anything is new, drop the work folder, and say what was computed and reused.

        Arguments:
            order: table columns to sort by.
            extra: arrays that belong to no piece.
            provenance: device, engine, seed …, recorded with this run, as is its number of threads, by which `serial`
                may round differently.
        """
        if set(self.rows) != self.finished:
            table = self.table().sort_values(order, kind="stable").reset_index(drop=True)
            new = [row for piece, row in self.rows.items() if piece not in self.finished]
            # pieces from the work folder may have been made by other engines
            engines = {*provenance["engine"].split("/"), *"/".join(row.get("engine", "") for row in new).split("/")}
            provenance["engine"] = "/".join(sorted(engines - {""}))
            run = store.provenance(
                started=self.began,
                wall_seconds=time.monotonic() - self.clock,
                threads=torch.get_num_threads(),
                vectors=vectors(),
                **provenance,
            )
            made = table.replicate.nunique() if "replicate" in table else 0
            store.write(
                self.path,
                kind=self.kind,
                recipe=self.recipe,
                inputs=self.inputs,
                defaults=DEFAULTS,
                arrays={**self.arrays, **(extra or {})},
                table=table,
                provenance={"runs": [*self.history, {**run, "pieces": len(new), "replicates": made}]},
            )
        self.work.discard()
        return Result(self.path, self.identity, tuple(self.computed), tuple(self.reused), lines)


def vectors() -> str:
    """The vector instructions of this CPU, by which the rounding of a sum may differ: 'AVX512', 'AVX2' …"""
    return torch.backends.cpu.get_cpu_capability()


def _kind_at(path: Path) -> str | None:
    """The kind of the artifact that stands at a path; None where none does, or a damaged one."""
    try:
        return store.read_header(path).kind
    except UsageError:
        return None
