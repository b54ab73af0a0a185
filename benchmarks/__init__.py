"""The benchmark: every engine against a plain script and SparseProp, in one table. `make bench` runs it."""

import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile

from repro.errors import UsageError
from repro.store.files import write_failure, write_whole

MINUTES = {"cpu": 7.5, "cuda": 3.5}  # a group that has begun is finished: at most half a minute more
LONGEST = 1440  # minutes


def bench(out: Path = Path("results/bench.json"), *, device: str = "auto", minutes: float | None = None) -> str:
    """Measure, write the rows to ``out`` and a table beside it (``.md``) after each group, and return the table.

    Arguments:
        device: 'auto', 'cpu' or 'cuda'.
        minutes: time to take, `MINUTES` by default. Variants that do not fit are left out, the least valuable first.

    A row is a dict; docs/performance.md says what its fields are.

    Raises UsageError for a name that does not end in .json, a time that is not positive, and a device that is not
    there; RunError when ``out`` cannot be written.
    """
    from benchmarks import limits, timing, variants
    from repro import store
    from repro.stages import Machine

    began, started = time.monotonic(), time.time()
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: give a file name that ends in .json, such as results/bench.json")
    where = Machine(device=device).torch_device.type
    minutes = MINUTES[where] if minutes is None else minutes
    if not 0 < minutes <= LONGEST:
        raise UsageError(f"--minutes (={minutes:g}) must be above 0, and {LONGEST} at most: try {MINUTES[where]:g}")
    require_writable(out.parent)
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
            if compiling is not None:  # a new machine compiles before its first row
                first = next((row for row in rows if row["engine"] == "sparse" and not row["error"]), {})
                first["first_call_seconds"] = compiling
            text = markdown(rows, machine)
            write_whole(out, [(json.dumps(rows, indent=1) + "\n").encode()])
            write_whole(out.with_suffix(".md"), [text.encode()])
    return text


def _compile(folder: str) -> tuple[float, str]:
    """(seconds that the engine `sparse` needs for its first step where nothing is compiled yet, folder of the code)."""
    from benchmarks import timing, variants
    from repro.protocol import DIGITS

    print("bench: compiling", file=sys.stderr, flush=True)
    return timing.in_child(timing.first_call, variants.Variant(DIGITS, "sparse"), "cpu", folder), folder


def _rows(found: list, name: str, device: str, peaks: dict | None) -> list[dict]:
    """A row for each variant of a group; ``peaks``: limits of a GPU."""
    from benchmarks.variants import PEAK, PLAIN

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
    from benchmarks import limits
    from benchmarks.variants import PLAIN, masks_of, network_of
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


def require_writable(folder: Path) -> None:
    """Raises RunError now rather than after minutes of measuring."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_failure(folder, error) from error


def markdown(rows: list[dict], machine: dict) -> str:
    """The rows as a Markdown table, after what it was measured with (`repro.store.provenance`) and before notes."""
    clock = "CPU second" if any("images_per_cpu_second" in row for row in rows) else "second"
    head = ["network", "weights", "engine", f"images a {clock}", "against plain", "n", "peak MiB", "first call, s"]
    head += ["share of peak", "share of bandwidth" if clock == "second" else "two threads"]
    lines = [head, ["---"] * len(head), *map(_line, rows)]
    table = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return "\n\n".join([_head(machine), table, *_notes(rows, clock)]) + "\n"


def number(value: float) -> str:
    """Three significant digits, with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _head(machine: dict) -> str:
    driver = f" (driver {machine['driver']})" if machine["driver"] else ""
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "torchvision", "numba"))
    revision = machine["git_revision"] or "no checkout"
    changed = ", with changes" if machine["git_dirty"] else ""
    device = machine["gpu"] or machine["cpu"]
    return (
        f"# Benchmark\n\n{machine['finished']}, {machine['wall_seconds']:.0f} s; {device}{driver}; "
        f"{machine['platform']}; Python {machine['python']}, {packages}; revision {revision}{changed}."
    )


def _line(row: dict) -> list:
    """A row's cells."""
    size = f"{row['image_size']}×{row['image_size']}×{row['in_chans']}"
    replicas = f", R = {row['replicas']}" if row["replicas"] > 1 else ""
    cells = [f"{row['network']}, {size}, {row['batch']}{replicas}", f"{100 * row['density']:g} %"]
    cells += [row["engine"] + (f", {row['precision']}" if row["precision"] != "fp32" else "")]
    if row["error"]:
        return [*cells, row["error"], *[""] * 6]
    rate = row.get("images_per_cpu_second") or row.get("images_per_second")
    cells += [f"{number(rate)} ({number(row['low'])}–{number(row['high'])})"]
    cells += ["" if row["times_plain"] is None else f"{row['times_plain']:.3g}×", row["rounds"]]
    cells += [number(row["peak_mib"]), f"{row['first_call_seconds']:.2f}", _percent(row["share_of_peak"])]
    if "share_of_bandwidth" in row:
        return [*cells, _percent(row["share_of_bandwidth"])]
    two = row["two_threads"]
    return [*cells, f"{two['median']:.2f}× ({two['low']:.2f}–{two['high']:.2f})" if two else ""]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _notes(rows: list[dict], clock: str) -> list[str]:
    """What the columns mean."""
    peaks = sorted(row["peak"] / 1e9 for row in rows if row["peak"])
    between = f"{number(peaks[0])} to {number(peaks[-1])}" if peaks else "not measured"
    notes = [
        "Forward, backward, SGD, data order, batches, and cropping and flipping where the recipe does (not for digits, "
        "8×8). Median (range) of n turns: variants take turns a, b, c, a, b, c, …, each in a process of its own; a "
        f"ratio is the median of the ratios turn by turn. Images a {clock}; first call: of one step, on the first row "
        "of `sparse` with compiling."
    ]
    if clock == "second":
        notes.append(
            "Share of peak: multiply-adds of weights and pixels inside of the image, of what matrix products of the "
            f"same precision do ({between} billion a second; TF32 for plain). Share of bandwidth: numbers that "
            "unfused layers read and write, of what a copy does."
        )
        return notes
    notes.append(
        "Share of peak: multiply-adds of kept weights and pixels inside of the image (forward, gradients of the "
        "weights and, but for the first layer, of the input), of what a core does in registers alone, measured in the "
        f"same turns: {between} billion a second in float32. The rest is normalisation, statistics, fetching, the "
        "update."
    )
    if any(row["two_threads"] for row in rows):
        replicas = next(row["two_threads"]["replicas"] for row in rows if row["two_threads"])
        notes.append(f"Two threads: {replicas} networks on two threads against one, by time on the clock.")
    if not any(row["engine"] == "sparseprop" for row in rows):
        notes.append("SparseProp is not installed, and left out.")
    return notes
