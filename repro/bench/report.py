"""A benchmark's record as Markdown."""


def markdown(record: dict) -> str:
    """The tables of the sections that the record holds."""
    parts = [_head(record["machine"], record["device"])]
    for section, write in _SECTIONS.items():
        if section in record:
            parts.append(write(record[section]))
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value: float) -> str:
    """Three significant digits, with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(found: dict, unit: str = "") -> str:
    """'12.1 (11.8 – 12.5)', or '12.1' where all are equal."""
    if found["min"] == found["max"]:
        return f"{number(found['median'])}{unit}"
    return f"{number(found['median'])}{unit} ({number(found['min'])} – {number(found['max'])})"


def _head(machine: dict, device: str) -> str:
    driver = f" (driver {machine['driver']})" if machine["driver"] else ""
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "torchvision", "timm", "numba"))
    revision = machine["git_revision"] or "no checkout"
    changed = ", with changes" if machine["git_dirty"] else ""
    return (
        f"# Benchmark\n\n{machine['finished']}, {machine['wall_seconds']:.0f} s; device: {device}{driver}; CPU: "
        f"{machine['cpu']}, {machine['cores']} cores, one thread unless said otherwise; {machine['platform']}; Python "
        f"{machine['python']}, {packages}; revision {revision}{changed}.\n\n"
        "Every number is the median over n rounds (with the range) of turns a, b, c, a, b, c, …, each variant in a "
        "process of its own; a ratio is the median of the ratios round by round."
    )


def _groups(title: str, about: str, groups: list[dict], baseline: str) -> str:
    parts = [f"## {title}\n\n{about}"]
    for group in groups:
        bounded = any("bounds" in row for row in group["rows"])
        head = ["variant", "images/s", baseline, "n", "peak MiB"]
        head += ["share of matrix rate", "bound by arithmetic", "bound by traffic"] if bounded else []
        rows = [_line(row, bounded) for row in group["rows"]]
        parts.append(f"**{group['title']}**\n\n{table(head, rows)}")
        if group["busy"] < 0.9:
            parts.append(f"The machine was not quiet: a turn got {100 * group['busy']:.0f} % of a core.")
    return "\n\n".join(parts)


def _line(row: dict, bounded: bool) -> list:
    if row["error"]:
        return [row["what"], row["error"], *[""] * (6 if bounded else 3)]
    rate = row["images_per_second"]
    cells = [row["what"], spread(rate), spread(row["ratio"], "×"), rate["n"], number(row["peak_mib"])]
    if bounded:
        bounds = row["bounds"]
        share = rate["median"] / bounds["compute"]
        cells += [f"{100 * share:.1f} %", number(bounds["compute"]), number(bounds["traffic"])]
    return cells


def _rows(groups: list[dict]) -> str:
    about = (
        "Forward, backward and step, data loading included, of all networks of a cohort together. The plain script is "
        "eager PyTorch with a DataLoader over PIL images and torch.nn.utils.prune. Bounds: FLOPs of the convolutions "
        "and the head at the best measured matrix rate of the variant's precision; and numbers read and written by layers "
        "that are not fused, at the best measured copy bandwidth (a model of main memory: where activations stay in a "
        "cache, as small images' do, it can be exceeded)."
    )
    return "\n\n".join([_groups("Training", about, groups, "against the plain script"), _by_replicas(groups)])


def _by_replicas(groups: list[dict]) -> str:
    """Images/s by R, one line for each setting and engine."""
    lines: dict[tuple, dict[int, float]] = {}
    for group in groups:
        for row in group["rows"]:
            if not row["error"] and row["replicas"] and not row["compiled"]:
                key = (row["setting"], f"{100 * row['density']:.3g} %", row["engine"], row["precision"])
                lines.setdefault(key, {})[row["replicas"]] = row["images_per_second"]["median"]
    counts = sorted({r for rates in lines.values() for r in rates})
    rows = [[*key, *(number(rates[r]) if r in rates else "" for r in counts)] for key, rates in lines.items()]
    head = ["network", "weights", "engine", "precision", *(f"R = {r}" for r in counts)]
    return f"**How images/s grow with R**\n\n{table(head, rows)}"


def _growth(groups: list[dict]) -> str:
    return _groups("How the cost grows", "Images/s with the engine that is chosen by itself unless named.", groups,
                   "against the first")  # fmt: skip


def _stages(rows: list[dict]) -> str:
    lines = [
        [row["stage"], row["what"], spread(row["seconds"]), row["seconds"]["n"],
         "" if row["training"] is None else number(row["training"])]
        for row in rows
    ]  # fmt: skip
    head = ["stage", "what was run", "seconds", "n", "of it in training steps"]
    return f"## Stages of the demo\n\nThe demo's recipe, cut short as said.\n\n{table(head, lines)}"


def _roofline(found: dict) -> str:
    lines = [["copy, GB/s read and written", spread(found["copy"])]]
    lines += [[f"matrix product {name}, TFLOP/s", spread(rate)] for name, rate in found["matrix"].items()]
    return f"## What the device can do\n\n{table(['', 'measured'], lines)}"


def _kernels(rows: list[dict]) -> str:
    lines = [
        [row["what"], row["error"], *[""] * 4] if row["error"] else
        [row["what"], f"{row['kernels']:.0f}", f"{row['copies']:.1f}", f"{row['busy_us']:.0f}", f"{row['wall_us']:.0f}",
         f"{100 * row['busy_us'] / row['wall_us']:.0f} %"]
        for row in rows
    ]  # fmt: skip
    head = ["variant", "kernels a step", "copies", "their time, µs", "step, µs", "busy"]
    return f"## Kernels of a step\n\n{table(head, lines)}"


def _demo(found: dict) -> str:
    lines = [
        [row["kind"], row["artifacts"], row["rows"], f"{row['wall']:,.0f}",
         "not recorded" if row["training"] is None else f"{row['training']:,.0f}"]
        for row in found["kinds"]
    ]  # fmt: skip
    lines.append(["all stages", *[sum(row[k] for row in found["kinds"]) for k in ("artifacts", "rows")],
                  f"{found['stages']:,.0f}", f"{sum(row['training'] or 0 for row in found['kinds']):,.0f}"])  # fmt: skip
    times = found["processes"]
    outside = [
        [f"start-up and loading, {times} processes", *_times(found["start_up"], times)],
        ["planning", *_times(found["planning"])], ["figures and verdicts", *_times(found["figures"])],
        ["together", "", f"{found['outside']:,.0f}"],
    ]  # fmt: skip
    return (
        f"## Profile of the demo in {found['results']}\n\nSeconds of all processes together, as recorded in the "
        f"artifacts; from the first start to the last end {found['span']:,.0f} s.\n\n"
        f"{table(['stage', 'artifacts', 'rows', 'seconds', 'in training steps'], lines)}\n\n"
        f"Outside the stages, measured now:\n\n{table(['', 'seconds', 'CPU seconds'], outside)}\n\n"
        f"Outside the stages: {100 * found['share_outside']:.1f} % (CPU seconds, of those and the stages' seconds, each "
        "stage being a process of one thread). In the stages that record it, "
        f"{100 * found['share_training']:.1f} % of the seconds were training steps; the rest is evaluation, pruning, "
        "writing."
    )


def _times(run: dict, count: int = 1) -> list[str]:
    failed = f" ({run['error']})" if run["error"] else ""
    return [f"{count * run['wall']:,.1f}{failed}", f"{count * run['cpu']:,.1f}"]


_SECTIONS = {
    "roofline": _roofline, "rows": _rows, "kernels": _kernels, "growth": _growth, "stages": _stages, "demo": _demo,
}  # fmt: skip
