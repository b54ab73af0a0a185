"""Seconds of the demo's stages, run small but for real, and the profile of a finished demo."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from repro.bench.timing import in_child, summary
from repro.errors import UsageError
from repro.protocol import DIGITS


def stage_seconds(quick: bool) -> list[dict]:
    """Rows {stage, what, seconds: summary, training: seconds of it in training steps, or None}."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        again = 1 if quick else 3
        rows = [
            _row("start-up", "repro --version, which imports no torch", [_command("--version") for _ in range(again)]),
            _row("start-up with torch", "repro pretrain, to where training would begin",
                 [_until_training(folder) for _ in range(again)]),
            _row("planning", "repro plan, which measures this machine's speed if it is worth it",
                 [_plan(folder, "figure2", "--levels", 1) if quick else _plan(folder, "all")]),
        ]  # fmt: skip
        return rows + in_child(_chain, folder, quick)


def _row(stage: str, what: str, runs: list[dict], training: float | None = None) -> dict:
    wall, cpu = ([run[kind] for run in runs] for kind in ("wall", "cpu"))
    return {"stage": stage, "what": what, "seconds": summary(wall), "cpu_seconds": summary(cpu), "training": training}


def _command(*words) -> dict:
    """Wall and CPU seconds of a command in a process of its own; ``error`` when it failed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "repro", *map(str, words)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    error = "" if ended.returncode == 0 else (ended.stderr.strip().splitlines() or ["failed"])[-1]
    return {"wall": wall, "cpu": cpu, "error": error}


def _until_training(folder: Path) -> dict:
    return _command("pretrain", "--dataset", "digits", "--scale", "demo", "-t", 10, "--dry-run", "--out",
                    folder / "none.h5")  # fmt: skip


def _plan(folder: Path, *what) -> dict:
    return _command("plan", *what, "--scale", "demo", "--results", folder, "--make", folder / "plan.mk")


def _timed(work: Callable) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _chain(folder: Path, quick: bool) -> list[dict]:
    """The stages one after the other in this process: the demo's recipes with one level and few networks."""
    import numpy as np
    import torch

    from repro import barrier, imp, pretrain, score, select, store
    from repro.data import load
    from repro.stages.common import DEFAULTS
    from repro.train.prune import prune_by_magnitude

    torch.set_num_threads(1)
    p, replicas = DIGITS, 2 if quick else 4
    training = replace(p.training, steps=44, milestones=(22, 33)) if quick else p.training
    scoring = replace(p.scoring, networks=2, training=replace(p.scoring.training, steps=training.steps * 2))
    out = {name: folder / f"{name}.h5" for name in ("score", "select", "pretrain", "imp", "barrier", "copy")}
    rows = [_row("data loading", "digits", [_timed(lambda: load("digits"))])]

    def stage(name: str, what: str, work: Callable) -> None:
        ran = _timed(work)
        table = store.read(out[name]).table()
        rows.append(_row(name, what, [ran], float(table.seconds.sum()) if "seconds" in table else None))

    stage("score", f"{scoring.networks} networks, {scoring.training.steps} steps",
          lambda: score(out["score"], dataset="digits", replicates=1, scoring=scoring))  # fmt: skip
    stage("select", "the easiest 256", lambda: select(
        out["select"], kind="easy", size=256, scores=out["score"], replicates=1))  # fmt: skip
    stage("pretrain", f"{replicas} networks, t = {p.t_star}", lambda: pretrain(
        out["pretrain"], dataset="digits", t=p.t_star, replicates=replicas, training=training))  # fmt: skip
    stage("imp", f"{replicas} networks, {training.steps - p.t_star} steps, levels 0 and 1",
          lambda: imp(out["imp"], out["pretrain"], levels=1))  # fmt: skip
    stage("barrier", f"2 more children of {replicas} parents, their lines",
          lambda: barrier(out["barrier"], [out["imp"]]))  # fmt: skip

    made, parent = store.read(out["imp"]), store.read(out["pretrain"])
    arrays = {key: made[key] for key in made.keys()}
    write = dict(kind="imp", recipe=made.recipe, inputs={"pretrain": parent}, defaults=DEFAULTS, arrays=arrays,
                 table=made.table(), provenance=made.provenance)  # fmt: skip
    rows.append(_row("artifact write", "that imp artifact", [_timed(lambda: store.write(out["copy"], **write))
                                                             for _ in range(3)]))  # fmt: skip
    rows.append(_row("artifact read", "that imp artifact, every array", [_timed(lambda: _read(out["copy"]))
                                                                         for _ in range(3)]))  # fmt: skip
    weights = torch.from_numpy(arrays["replicate_0/level_0/weights"])
    kept = int(np.unpackbits(arrays["replicate_0/level_0/mask"]).sum())  # all of them at level 0
    mask = torch.ones(kept, dtype=torch.bool)
    rows.append(_row("pruning", "one level of one network",
                     [_timed(lambda: prune_by_magnitude(weights[:kept], mask)) for _ in range(5)]))  # fmt: skip
    return rows


def _read(path: Path) -> None:
    from repro import store

    artifact = store.read(path)
    for key in artifact.keys():
        artifact[key]


def demo_files(results: Path) -> list[Path]:
    """The artifacts of a demo. Raises UsageError where there are none."""
    if paths := sorted((results / "digits").glob("*.h5")):
        return paths
    raise UsageError(f"--results {results} holds no artifacts in digits/: make them with `make demo`")


def figures_of(results: Path, folder: Path) -> dict:
    """Wall and CPU seconds of drawing and judging everything from a finished demo, in another folder."""
    (folder / "digits").symlink_to((results / "digits").resolve())
    all_of_it = ("all", "--scale", "demo", "--results", folder)
    return _command("figure", *all_of_it, "then", "verify", *all_of_it)


def demo_profile(results: Path) -> dict:
    """Where the time of a finished demo went, from the provenance of its artifacts.

    {"kinds": rows {kind, artifacts, rows, wall, training}, "processes", "span", "start_up", "planning", "figures",
    "stages", "outside", "share_outside", "share_training"}, in seconds. ``training`` is what a stage recorded as seconds
    in training steps, None where it records none. ``outside`` the stages are start-up and loading (of every process that
    wrote artifacts), planning, and figures with verdicts, in CPU seconds, measured now.

    Raises UsageError where there is no demo.
    """
    from repro import store

    headers = [store.read_header(path) for path in demo_files(results)]
    kinds = kind_rows([(h.kind, h.table(), h.provenance["runs"]) for h in headers])
    runs = [run for header in headers for run in header.provenance["runs"]]
    started, finished = (f([datetime.fromisoformat(run[edge]) for run in runs]) for f, edge in
                         ((min, "started"), (max, "finished")))  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {"start_up": _until_training(folder), "planning": _plan(folder, "all")}
        measured["figures"] = figures_of(results, folder)
    processes = len({tuple(run["argv"]) for run in runs})
    outside = processes * measured["start_up"]["cpu"] + measured["planning"]["cpu"] + measured["figures"]["cpu"]
    stages = sum(row["wall"] for row in kinds)
    recorded = [row for row in kinds if row["training"] is not None]
    return {
        "results": str(results), "kinds": kinds, "processes": processes,
        "span": (finished - started).total_seconds(), **measured,
        "stages": stages, "outside": outside, "share_outside": outside / (outside + stages),
        "share_training": sum(row["training"] for row in recorded) / (sum(row["wall"] for row in recorded) or 1.0),
    }  # fmt: skip


def kind_rows(artifacts: list[tuple]) -> list[dict]:
    """Sums over artifacts (kind, table, runs) of each kind: wall seconds of the runs, seconds in training steps.

    A row's ``seconds`` are its share of its cohort's, so their sum is the time the training took.
    """
    rows: dict[str, dict] = {}
    for kind, table, runs in artifacts:
        row = rows.setdefault(kind, {"kind": kind, "artifacts": 0, "rows": 0, "wall": 0.0, "training": None})
        row["artifacts"] += 1
        row["rows"] += len(table)
        row["wall"] += sum(run["wall_seconds"] for run in runs)
        if "seconds" in table:
            row["training"] = (row["training"] or 0.0) + float(table.seconds.sum())
    return sorted(rows.values(), key=lambda row: -row["wall"])
