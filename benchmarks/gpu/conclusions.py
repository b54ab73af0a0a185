"""What the results say: tables, and which changes they are a reason for."""

TOGETHER = 4 / 3  # R = 16 against R = 4: from here on, cohorts across conditions are worth building
FASTER = 1.2  # of a prototype, in images a second of whole steps at R = 4: from here on, it is worth its code
CONVOLUTIONS = 1.5  # of convolutions alone: more is asked, since a step has other work too


def conclusions(stages: dict) -> list[str]:
    """A sentence for each question that the results decide, or why they do not."""
    rates = {
        (row["engine"], row["replicas"], row["precision"]): row["images_s"]
        for row in stages.get("rates", {}).get("rates", [])
    }
    steps = {
        (row["what"], row["replicas"]): row["images_s"] for row in stages.get("prototypes", {}).get("prototypes", [])
    }
    checked = stages.get("checks", {}).get("checks", [])
    wrong = [row["what"] for row in checked if not row["right"]]
    layers = [row for row in stages.get("convolutions", {}).get("convolutions", []) if row["replicas"] == 4]
    ours, theirs = (sum(row[name] for row in layers) for name in ("ours_us", "cudnn_us"))
    return [
        _said(
            "cohorts across conditions (R = 16 against 4, graph, bf16)",
            rates.get(("graph", 16, "bf16")),
            rates.get(("graph", 4, "bf16")),
            TOGETHER,
        ),
        *(
            _said(f"{what} (R = 4)", steps.get((what, 4)), steps.get(("as it is", 4)), FASTER)
            for what in ("shadow weights", "shadow weights, fused norms")
        ),
        _said("batched convolutions (R = 4, all stages and passes)", theirs or None, ours or None, CONVOLUTIONS),
        f"prototypes that differ from PyTorch: {', '.join(wrong) or 'none' if checked else 'not checked'}",
    ]


def _said(what: str, mine: float | None, other: float | None, wanted: float) -> str:
    if mine is None or other is None:
        return f"{what}: not measured"
    ratio = mine / other
    return f"{what}: {ratio:.2f} times as fast, {wanted:.2f} are asked for: {'yes' if ratio >= wanted else 'no'}"


def markdown(found: dict) -> str:
    """All results as tables, after what follows from them."""
    tiny = ", tiny networks: these are no measurements" if found["tiny"] else ""
    parts = [f"# First minutes on a GPU ({found['device']}{tiny})"]
    parts += ["\n".join(f"- {line}" for line in conclusions(found["stages"]))]
    for name, stage in found["stages"].items():
        parts.append(f"## {name}: {stage['ended']}, {stage['seconds']} s")
        tables = {key: value for key, value in stage.items() if isinstance(value, list) and value and _rows(value)}
        single = {key: value for key, value in stage.items() if key not in (*tables, "ended", "seconds")}
        if single:
            parts.append("; ".join(f"{key}: {_cell(value)}" for key, value in single.items()))
        parts += [f"**{key}**\n\n{_table(rows)}" for key, rows in tables.items()]
    return "\n\n".join(parts) + "\n"


def _rows(value: list) -> bool:
    return all(isinstance(row, dict) for row in value)


def _table(rows: list[dict]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys), *([_cell(row.get(key, "")) for key in keys] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(each)}" for key, each in value.items())
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    return " ".join(str(value).replace("|", "/").split())
