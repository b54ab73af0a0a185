"""What ranks the images of a subset: a score artifact, a barrier artifact, or a user's own numbers."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet
from repro.data.user_numbers import HDF5, SUFFIXES, split_key
from repro.errors import UsageError
from repro.stages.labels import Labels, numbers_of
from repro.store.file_kinds import SIGNATURE
from repro.store.files import open_regular

SCORES = ("el2n", "margin", "forgetting", "grand")


def ranking_artifact(path: str | Path) -> store.Artifact | None:
    """The score or barrier artifact at ``path``; None for a user's own file.

    Raises UsageError for a file that is missing or damaged, and for an artifact of another kind.
    """
    path, key = split_key(path)
    if key is not None or path.suffix.lower() in set(SUFFIXES) - set(HDF5) or _is_plain_hdf5(path):
        return None
    found = store.read(path)
    if found.kind not in ("score", "barrier"):
        store.read(path, kind="score")  # says what is needed
    return found


def _is_plain_hdf5(path: Path) -> bool:
    """Whether it is HDF5 of another program: an artifact begins with its seal."""
    try:
        with open_regular(path) as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False  # `store.read` says what is wrong


def ranking(
    scores: str | Path | None,
    score: str | None,
    ranked: store.Artifact | None,
    data: ImageSet,
    labels: Labels,
    replicates: int,
) -> tuple[dict, Callable[[int], np.ndarray] | None]:
    """The recipe fields of the scores, and replicate -> those of its training images; ({}, None) without scores."""
    folds = len(data.splits)
    if score and not (ranked and ranked.kind == "score"):
        raise UsageError(f"--score {score} is one of a score artifact: give that as --scores, or leave it out")
    if ranked and ranked.kind == "score":
        score = score or "el2n"
        return {"score": score}, _of_score_artifact(ranked, score, folds, labels.per_replicate, replicates)
    if ranked:
        # a barrier artifact grows under one identity, and the mean over its lines changes with every line
        lines = [len(_lines(ranked, fold, folds)) for fold in range(folds)]
        return {"score": "lmc", "lines": lines}, _of_barrier_artifact(ranked, folds)
    if scores:
        own = numbers_of(Path(scores), "score", data)
        digest = hashlib.sha256(own.astype("<f8")).hexdigest()
        return {"score": "file", "scores_sha256": digest}, lambda r: own[data.split(r)[0].numpy()]
    return {}, None


def _of_score_artifact(
    ranked: store.Artifact, score: str, folds: int, per_replicate: bool, replicates: int
) -> Callable[[int], np.ndarray]:
    """Replicate -> the scores of its training images, easiest lowest, by ascending index."""

    def values(r: int) -> np.ndarray:
        unit, group = ("replicate", r) if per_replicate else ("fold", r % folds)
        key = f"{unit}_{group}/{score}"
        if f"{unit}_{group}/index" not in ranked:
            held = sum(re.fullmatch(rf"{unit}_\d+/index", key) is not None for key in ranked.keys())
            raise UsageError(
                f"{ranked.path} has scores for {held} {unit}{'s' * (held > 1)}: give --replicates {held} here, or run "
                f"score with --replicates {replicates}"
            )
        if key not in ranked:
            there = [name for name in SCORES if f"{unit}_{group}/{name}" in ranked]
            raise UsageError(
                f"{ranked.path} has no score {score!r}: choose {' or '.join(there)}, or make it anew "
                "by its score command with --force (and --grand for grand)"
            )
        return -ranked[key] if score == "margin" else ranked[key]

    return values


def _lines(ranked: store.Artifact, fold: int, folds: int) -> list[str]:
    """The losses along the lines between children of a fold's parents, batch norm averaged."""
    found = ((re.fullmatch(r"replicate_(\d+)/pair_\d+_\d+(/averaged)?/train_loss", key), key) for key in ranked.keys())
    return [key for match, key in found if match and int(match[1]) % folds == fold]


def _of_barrier_artifact(ranked: store.Artifact, folds: int) -> Callable[[int], np.ndarray]:
    """Replicate -> LMC score of its training images: cross-entropy at alpha = 1/2 less the mean of the end points'."""
    if any(re.fullmatch(r".+/replicate_\d+/pair_.+/train_loss", key) for key in ranked.keys()):
        raise UsageError(f"{ranked.path} has barriers of several rewind points: run barrier with the one to rank by")
    alphas = ranked["alphas"].tolist()
    start, middle, end = (alphas.index(alpha) for alpha in (0.0, 0.5, 1.0))

    def values(r: int) -> np.ndarray:
        losses = [ranked[key].astype(np.float64) for key in _lines(ranked, r % folds, folds)]
        barriers = [loss[middle] - (loss[start] + loss[end]) / 2 for loss in losses]
        barriers = [each for each in barriers if np.isfinite(each).all()]  # a child that diverged says nothing
        if not barriers:
            raise UsageError(
                f"{ranked.path} has no barriers with averaged batch norm for fold {r % folds}: run its "
                "barrier command for a replicate of that fold first"
            )
        return np.mean(barriers, 0)

    return values
