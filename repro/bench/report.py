"""The benchmark's rows as one Markdown table."""


def markdown(rows: list[dict], machine: dict) -> str:
    """The table, under what it was measured with (of `repro.store.provenance`) and over what its columns mean."""
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
