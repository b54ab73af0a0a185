"""select: the easiest, the hardest or random images, as a subset to pre-train on (paper, section 3)."""

from pathlib import Path

import numpy as np

from repro import store
from repro.data import choose, histogram, missing_classes
from repro.errors import UsageError
from repro.protocol import protocol
from repro.stages.common import Machine, Result, data_of, open_data, require_replicates
from repro.stages.growing import Growing
from repro.train.streams import stream

KINDS = ("easy", "hard", "random")


def select(
    out: str | Path,
    *,
    kind: str,
    size: int,
    scores: str | Path | None = None,
    dataset: str | None = None,
    balanced: bool | None = None,
    like: str | Path | None = None,
    permute_scores: bool = False,
    normalization: str | None = None,
    replicates: int,
    seed: int | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Choose ``size`` training images for each replicate and write their dataset indices to ``out``.

    Arguments:
        kind: 'easy' (lowest scores), 'hard' (highest) or 'random'. Random subsets are redrawn for each replicate; easy
            and hard ones are the same for all replicates of a fold (protocol section 5).
        scores: score artifact; needed for easy and hard.
        dataset: needed for random, unless ``like`` is given.
        balanced: equally many of each class; None is the protocol's choice for easy and hard and True for random.
        like: subset artifact; random images with that subset's class histogram.
        permute_scores: a control that must fail: permute the scores among the images first.

    Written: ``replicate_r/index`` int64 [size], easiest or hardest first; ``replicate_r/histogram`` int64 [classes].
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of subset {kind!r}: choose {', '.join(KINDS)}")
    if (kind == "random") == (scores is not None):
        raise UsageError(
            f"kind {kind!r} {'takes no scores: leave them out' if scores else 'needs a score artifact: give its path'}"
        )
    if like and kind != "random":
        raise UsageError(f"--like takes the histogram for random subsets, not for {kind!r}: leave it out")
    if permute_scores and kind == "random":
        raise UsageError("--permute-scores is for easy and hard: a random subset has no scores, leave it out")
    ranked = store.read(scores, kind="score") if scores else None
    model = store.read(like, kind="subset") if like else None
    require_replicates(replicates, model)
    source = ranked or model
    if source is None and dataset is None:
        raise UsageError("a random subset needs --dataset (or --like a subset artifact)")
    recipe = protocol(source.recipe["dataset"] if source else dataset)
    if source:
        data, normalization = data_of(source, machine), source.recipe["normalization"]
    else:
        normalization = normalization or recipe.normalization
        data = open_data(dataset, normalization, machine)
    if balanced is None:
        balanced = not like if kind == "random" else recipe.balanced
    seed = recipe.seed if seed is None else seed
    fields = {
        "dataset": data.name, "data_sha256": data.checksum, "normalization": normalization, "subset": kind,
        "size": size, "balanced": balanced,
    }  # fmt: skip
    if kind == "random" or permute_scores:
        fields |= {"seed": seed, "permute_scores": permute_scores}
    inputs = {role: artifact for role, artifact in (("scores", ranked), ("like", model)) if artifact}
    labels = data.labels.numpy()

    def chosen(r: int) -> np.ndarray:
        fold = r % len(data.splits)
        values = None
        if ranked:
            values = _scores(ranked, fold, replicates)
            if permute_scores:
                values = stream(seed, fold, "permute").permutation(values)
            values = _by_dataset_index(values, ranked[f"fold_{fold}/index"], len(labels))
        model_index = model[f"replicate_{r}/index"] if model else None
        return choose(kind, size, labels=labels, pool=data.split(r)[0].numpy(), scores=values, balanced=balanced,
                      rng=stream(seed, r, "subset"), like=model_index)  # fmt: skip

    with Growing(out, "subset", fields, inputs, machine) as cell:
        new = {}  # all are chosen before any is kept: what does not fit one fold is refused as a whole
        for r in range(replicates):
            if f"replicate_{r}" not in cell.rows:
                index = chosen(r)
                counts = histogram(labels[index], data.num_classes)
                absent = len(missing_classes(labels[index], data.num_classes))
                row = {"replicate": r, "fold": r % len(data.splits), "size": len(index), "missing_classes": absent}
                new[f"replicate_{r}"] = ({"index": index, "histogram": counts}, row)
        if machine.dry_run:
            return cell.preview(f"replicate_{r}" for r in range(replicates))
        if new:
            cell.add(new)
        lines = [_describe(r, cell.arrays[f"replicate_{r}/histogram"], data.classes) for r in range(replicates)]
        return cell.finish(order=["replicate"], lines=tuple(lines), device="cpu", engine="none", seed=seed)


def _scores(ranked: store.Artifact, fold: int, replicates: int) -> np.ndarray:
    if f"fold_{fold}/el2n" not in ranked.keys():
        raise UsageError(
            f"{ranked.path} has no scores for fold {fold}: run its score command with --replicates {replicates} first"
        )
    return ranked[f"fold_{fold}/el2n"]


def _by_dataset_index(values: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    scores = np.full(size, np.nan)
    scores[index] = values
    return scores


def _describe(replicate: int, counts: np.ndarray, classes: tuple[str, ...]) -> str:
    absent = [classes[c] for c in np.flatnonzero(counts == 0)]
    shown = " ".join(map(str, counts)) if len(counts) <= 20 else f"{counts.min()} to {counts.max()} each"
    return f"replicate {replicate}: images per class {shown}" + (f"; missing: {', '.join(absent)}" if absent else "")
