"""The benchmark: every engine against the plain script and SparseProp, one table. `make bench` runs it."""

import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile

from repro.errors import UsageError
from repro.store.files import write_failure, write_whole

MINUTES = {"cpu": 7.5, "cuda": 3.5}  # what is begun by then is ended: at most half a minute more
LONGEST = 1440


def bench(out: Path = Path("results/bench.json"), *, device: str = "auto", minutes: float | None = None) -> str:
    """Measure, write the rows to ``out`` and a table beside it (``.md``) after each group, and return the table.

    Arguments:
        device: 'auto', 'cpu' or 'cuda'.
        minutes: to take at most, about; `MINUTES` by default. What there is no time for is left out, the least
            valuable first.

    A row is a dict; docs/performance.md says what its fields are.

    Raises UsageError for a name that does not end in .json, a time that is not positive and a device that is not there,
    RunError when ``out`` cannot be written.
    """
    from repro import store
    from repro.bench import limits, report, timing, variants
    from repro.stages import Machine

    began, started = time.monotonic(), time.time()
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: give a file name that ends in .json, such as results/bench.json")
    where = Machine(device=device).torch_device.type
    minutes = MINUTES[where] if minutes is None else minutes
    if not 0 < minutes <= LONGEST:
        raise UsageError(f"--minutes (={minutes:g}) must be above 0, and {LONGEST} at most: try {MINUTES[where]:g}")
    _require_writable(out.parent)
    left, end, rows = variants.groups(where), began + 60 * minutes, []
    with TemporaryDirectory() as folder:
        compiling = cache = peaks = None
        if where == "cpu":
            compiling, cache = _compile(folder)
        else:
            peaks = timing.in_child(limits.gpu_limits)
        while left:
            now = time.monotonic()
            share = len(left[0].variants) / sum(len(group.variants) for group in left)
            group = left.pop(0)
            found = timing.measure(group, device=where, end=now + share * (end - now), cache=cache)
            ran = dict(device=where, threads=1, seed=0, started=started, wall_seconds=time.monotonic() - began)
            machine = store.provenance(**ran)
            if any(each.variant.threads > 1 for each in found):
                _add_threads(rows, found)
            else:
                rows += _rows(found, machine["gpu"] or machine["cpu"], where, peaks)
            if compiling is not None:  # the first row of the engine tells what a new machine waits for
                first = next((row for row in rows if row["engine"] == "sparse" and not row["error"]), {})
                first["first_call_seconds"] = compiling
            text = report.markdown(rows, machine)
            write_whole(out, [(json.dumps(rows, indent=1) + "\n").encode()])
            write_whole(out.with_suffix(".md"), [text.encode()])
    return text


def _compile(folder: str) -> tuple[float, str]:
    """(seconds that the engine `sparse` needs for its first step where nothing is compiled yet, folder of the code)."""
    from repro.bench import timing, variants
    from repro.protocol import DIGITS

    print("bench: compiling", file=sys.stderr, flush=True)
    return timing.in_child(timing.first_call, variants.Variant(DIGITS, "sparse"), "cpu", folder), folder


def _rows(found: list, name: str, device: str, peaks: dict | None) -> list[dict]:
    """A row for each variant of a group; ``peaks``: limits of a GPU."""
    from repro.bench.variants import PEAK, PLAIN

    plain = next((each for each in found if each.variant.engine == PLAIN), None)
    core = next((each for each in found if each.variant.engine == PEAK and not each.error), None)
    rows = []
    for each in found:
        v, p = each.variant, each.variant.protocol
        if v.engine == PEAK:
            continue
        rates = each.cpu if device == "cpu" else each.wall
        good = not each.error
        row = {
            "network": p.network,
            "image_size": p.image_size,
            "in_chans": p.in_chans,
            "batch": p.training.batch_size,
            "augment": p.training.augment,
            "density": v.density,
            "engine": each.engine or v.engine,
            "precision": v.precision,
            "replicas": v.replicas,
            "device": name,
            "images_per_cpu_second" if device == "cpu" else "images_per_second": median(rates) if good else None,
            "low": min(rates) if good else None,
            "high": max(rates) if good else None,
            "rounds": len(rates),
            "times_plain": _ratio(each, plain, device)["median"] if good and plain and not plain.error else None,
            "peak_mib": each.peak_mib if good else None,
            "first_call_seconds": each.first if good else None,
            **_shares(each, core, peaks),
            "two_threads": None,
            "error": each.error,
        }
        rows.append(row)
    engines = list(dict.fromkeys((row["engine"], row["precision"]) for row in rows))
    return sorted(rows, key=lambda row: (engines.index((row["engine"], row["precision"])), -row["density"]))


def _shares(each, core, peaks: dict | None) -> dict:
    """Multiply-adds of an image, and the shares that the variant's rate is of the limits."""
    from repro.bench import limits
    from repro.bench.variants import PLAIN, masks_of, network_of
    from repro.nets import layout_of

    v, p = each.variant, each.variant.protocol
    network = network_of(p)
    mask = masks_of(v, layout_of(network).num_prunable)[0]
    row = {
        "multiply_adds": limits.multiply_adds(network, p.image_size, p.in_chans, mask),
        "peak": None,
        "share_of_peak": None,
    }
    if each.error:
        return row
    if core and v.precision == "fp32":
        row["peak"] = median(core.cpu)
        row["share_of_peak"] = row["multiply_adds"] * _ratio(each, core, "cpu")["median"]
    if peaks:  # PyTorch lets a plain script's convolutions use TF32
        rate, bits = median(each.wall), {"fp32": 4, "bf16": 2}[v.precision]
        row["peak"] = peaks["tf32" if v.engine == PLAIN else v.precision] / 2
        row["share_of_peak"] = row["multiply_adds"] * rate / row["peak"]
        row["share_of_bandwidth"] = limits.traffic_per_image(p) * bits * rate / peaks["copy"]
    return row


def _ratio(each, other, device: str) -> dict:
    """Median, low and high of the ratios round by round: what slows a whole round down cancels out."""
    pairs = zip(*((m.cpu if device == "cpu" else m.wall) for m in (each, other)))
    ratios = [a / b for a, b in pairs]
    return {"median": median(ratios), "low": min(ratios), "high": max(ratios)}


def _add_threads(rows: list[dict], found: list) -> None:
    """Write to the rows how much faster a cohort is on two threads than on one, by time on the clock."""
    for one, two in zip(found[::2], found[1::2]):
        v = one.variant
        wanted = (v.protocol.network, v.protocol.image_size, v.density, v.engine, v.precision)
        for row in rows:
            key = (row["network"], row["image_size"], row["density"], row["engine"], row["precision"])
            if key == wanted and not one.error and not two.error:
                row["two_threads"] = {**_ratio(two, one, "wall"), "replicas": v.replicas}


def _require_writable(folder: Path) -> None:
    """Better known now than after minutes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_failure(folder, error) from error
