"""A folder of artifacts of a study with known numbers: everything but the training is real."""

import numpy as np

from repro import plan, store
from repro.plan.options import given_labels
from repro.study.study import Study

KINDS = {"select": "subset"}
CENTRES = {"all": 0.97, "random": 0.965, "easy": 0.96, "hard": 0.955}


def make(study: Study) -> None:
    """Writes every artifact of the study that has a table of its own, each in the place and of the recipe planned."""
    for step in plan.steps(study.items(), study.results):
        command = step.verb
        inputs = {f"input{i}": store.read(path) for i, path in enumerate(step.needs)}
        pieces = sorted(
            step.wanted, key=lambda piece: [int(w) if w.isdigit() else w for w in piece.replace("/", "_").split("_")]
        )
        rng = np.random.default_rng(len(pieces))
        table = {"piece": np.array(pieces), **_columns(command, step, pieces, rng)}
        run = store.provenance(device="cpu", threads=2, seed=1, started=0.0, wall_seconds=36.0, engine="sparse")
        arrays = {"labels": given_labels(step.labels, step.protocol)} if step.labels else {}
        store.write(
            step.target,
            kind=KINDS.get(command, command),
            recipe=step.recipe | {"data_sha256": "ab" * 32},
            inputs=inputs,
            arrays=arrays,
            table=table,
            provenance={"runs": [run]},
            defaults={},
        )


def _columns(command: str, step, pieces: list[str], rng) -> dict:
    parts = [piece.split("/") for piece in pieces]
    name = step.target.stem.split("-")[1] if "-" in step.target.stem else "all"
    centre = next((acc for kind, acc in CENTRES.items() if name.startswith(kind)), 0.97)
    centre -= 0.1 * ("-labels-" in step.target.stem)  # what was made with a user's labels is told apart at once
    if command == "imp":
        replicate, level = (np.array([int(p[i].split("_")[1]) for p in parts]) for i in (0, 1))
        acc = (centre - 0.001 * level + 0.002 * rng.normal(size=len(parts))).round(6)
        return {"replicate": replicate, "level": level, "acc": acc, "density": 0.8**level, "diverged": level < 0}
    if command == "warmup":
        subset, w, replicate = zip(*parts)
        kind = [next(k for k in CENTRES if k in each) for each in subset]
        size = [int("".join(c for c in each if c.isdigit()) or 0) for each in subset]
        acc = np.array([CENTRES[k] for k in kind]) + 0.002 * rng.normal(size=len(parts))
        steps = np.array([int(each.removeprefix("w")) for each in w])
        replicates = np.array([int(each.removeprefix("replicate_")) for each in replicate])
        return {
            "kind": np.array(kind),
            "size": np.array(size),
            "w": steps,
            "acc": acc.round(6),
            "replicate": replicates,
            "diverged": acc < 0,
        }
    if command == "select":
        replicate = np.array([int(p[0].split("_")[1]) for p in parts])
        return {"replicate": replicate, "wrong_labels": 0.0 * replicate, "missing_classes": 0 * replicate}
    return {}
