"""The benchmark: one run, one table, with the plain script as its baseline. `bench` runs it; `make bench` is it."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from repro.errors import RunError, UsageError
from repro.store.files import write_failure, write_whole

SECTIONS = ("roofline", "rows", "growth", "stages", "demo")


def bench(out: Path, *, device: str = "auto", quick: bool = False, only: tuple[str, ...] = (),
          results: Path = Path("results/demo"), compiled: bool = False) -> str:  # fmt: skip
    """Measure, write ``bench.json`` and ``bench.md`` in ``out`` after every section, and return the Markdown.

    Arguments:
        device: 'auto', 'cpu' or 'cuda'.
        quick: a smoke run of a minute, whose numbers mean little.
        only: sections among `SECTIONS`; all when empty. ``demo`` is left out of a quick run and where ``results`` holds
            no demo, unless it was asked for.
        results: folder of a finished demo.
        compiled: torch.compile on a CPU too, where it compiles for a minute.

    Raises UsageError for an unknown section or a device that is not there, RunError when ``out`` cannot be written.
    """
    import torch

    from repro import store
    from repro.bench import report, stages
    from repro.stages import Machine

    if unknown := set(only) - set(SECTIONS):
        raise UsageError(f"no section {', '.join(sorted(unknown))} of the benchmark: choose {', '.join(SECTIONS)}")
    if "demo" in only:
        stages.demo_files(results)
    where = Machine(device=device).torch_device.type
    began = time.time()
    name = torch.cuda.get_device_name() if where == "cuda" else "cpu"
    record: dict = {"quick": quick, "device": name}
    _require_writable(out)
    for section in [s for s in SECTIONS if s in (only or SECTIONS)]:
        if section == "demo" and not only and (quick or not any((results / "digits").glob("*.h5"))):
            continue
        print(f"bench: {section}", file=sys.stderr, flush=True)
        record |= _run(section, where, quick, compiled, results, record)
        machine = store.provenance(device=where, threads=1, seed=0, started=began, wall_seconds=time.time() - began)
        record["machine"] = {**machine, "cores": len(os.sched_getaffinity(0))}
        write_whole(out / "bench.json", [(json.dumps(record, indent=1) + "\n").encode()])
        write_whole(out / "bench.md", [(text := report.markdown(record)).encode()])
    return text


def _run(section: str, device: str, quick: bool, compiled: bool, results: Path, record: dict) -> dict:
    """The record of a section, {section: …}."""
    from repro.bench import roofline, rows, stages, timing

    if section == "roofline":
        return {section: timing.in_child(roofline.limits, device, quick)}
    if section == "rows":
        limits = record.get("roofline") or timing.in_child(roofline.limits, device, quick)
        groups = rows.comparisons(device, quick=quick, compiled=compiled)
        found = {"roofline": limits, section: [_measured(group, device, limits) for group in groups]}
        return {**found, "kernels": _kernels(quick)} if device == "cuda" else found
    if section == "growth":
        return {section: [_measured(group, device) for group in rows.growth(device, quick=quick)]}
    if section == "stages":
        return {section: stages.stage_seconds(quick)}
    return {section: stages.demo_profile(results)}


def _measured(group, device: str, limits: dict | None = None) -> dict:
    """A group's rows, measured; with the device's limits also their bounds."""
    from repro.bench import rows, timing
    from repro.bench.variants import PLAIN

    print(group.title, file=sys.stderr, flush=True)
    found = timing.measure(group.variants, device=device, rounds=group.rounds, seconds=group.seconds)
    lines = []
    for each in found:
        v = each.variant
        line = {
            "what": v.what, "setting": rows.title_of(v.protocol), "engine": each.engine or v.engine,
            "replicas": 0 if v.engine == PLAIN else v.replicas, "precision": v.precision, "density": v.density,
            "images": v.images, "processes": v.processes, "threads": v.threads, "compiled": v.compiled,
            "steps": each.steps, "peak_mib": each.peak_mib, "rates": each.rates, "error": each.error,
        }  # fmt: skip
        if not each.error:
            line["images_per_second"] = timing.summary(each.rates)
            good = not found[0].error
            line["ratio"] = timing.ratios(each.rates, found[0].rates if good else each.rates)
            if limits:
                from repro.bench import roofline

                line["bounds"] = roofline.bounds(v, limits)
        lines.append(line)
    busy = min((each.busy for each in found if not each.error), default=1.0)
    return {"title": group.title, "rounds": group.rounds, "busy": busy, "rows": lines}


def _kernels(quick: bool) -> list[dict]:
    """Kernel counts of a step of ResNet-20, one network, in every engine a GPU has."""
    from repro.bench import roofline, rows, timing
    from repro.bench.variants import Variant
    from repro.protocol import CIFAR10

    found = []
    for precision in ("fp32", "bf16"):
        start = Variant(CIFAR10, "serial", precision=precision)
        for engine in rows.engines_of(CIFAR10, "cuda", precision):
            variant = replace(start, engine=engine)
            row = {"what": variant.what, "error": ""}
            try:
                row |= timing.in_child(roofline.kernels, variant, 10 if quick else 50)
            except RunError as error:
                row["error"] = str(error)[:200]
            found.append(row)
    return found


def _require_writable(folder: Path) -> None:
    """Better known now than after ten minutes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_failure(folder, error) from error
