"""select: the easiest, the hardest or random images, as a subset to pre-train on (paper, section 3)."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet, choose, histogram, missing_classes
from repro.data.subsets import SUBSET_KINDS
from repro.data.user_numbers import HDF5, SUFFIXES, split_key
from repro.errors import UsageError
from repro.protocol import protocol
from repro.recipes.artifacts import array_name, piece_name
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import data_fields, data_of, open_data, require_replicates
from repro.stages.labels import Labels, labels_in_use, numbers_of
from repro.stages.machine import Machine
from repro.store.file_kinds import SIGNATURE
from repro.store.files import open_regular
from repro.train.random_streams import stream

SCORES = ("el2n", "margin", "forgetting", "grand")


def select(
    out: str | Path,
    *,
    kind: str,
    size: int,
    scores: str | Path | None = None,
    score: str | None = None,
    dataset: str | None = None,
    balanced: bool | None = None,
    like: str | Path | None = None,
    permute_scores: bool = False,
    normalization: str | None = None,
    replicates: int | None = None,
    scale: str | None = None,
    seed: int | None = None,
    label_noise: float = 0.0,
    noise_draw: str = "shared",
    labels: str | Path | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Choose ``size`` training images for each replicate and write their dataset indices to ``out``.

    Arguments:
        kind: 'easy' (lowest scores; of margins the highest), 'hard' (the other end) or 'random'. Random subsets are
            redrawn for each replicate; easy and hard ones are the same for all replicates of a fold (protocol section
            5), unless each replicate has scores of its own.
        scores: what ranks the images, for easy and hard: a score artifact; a barrier artifact (LMC score: mean barrier
            of an image over the fold's rewind points and their pairs of children, protocol section 11); or a user's
            file with one number per image, the easiest lowest (`repro.data.user_numbers.read_numbers`).
        score: which one of a score artifact: 'el2n' (when None), 'margin', 'forgetting' or 'grand'.
        dataset: needed for random, unless ``like`` is given, and for scores from a user's file.
        balanced: equally many of each class, by the labels in use; None is the protocol's choice for easy and hard and
            True for random.
        like: subset artifact; random images with that subset's class histogram.
        replicates, scale: the protocol's number, by default that of the data set's own protocol.
        permute_scores: a control that must fail: permute the scores among the images first.
        label_noise, noise_draw, labels: other labels, to balance by and to pre-train on; see
            `repro.stages.labels.labels_in_use`. A score artifact and ``like`` have their own, which are taken over.

    Written: ``replicate_r/index`` int64 [size], easiest or hardest first; ``replicate_r/histogram`` int64 [classes], by
    the labels in use; in the table ``wrong_labels``, the share of the images whose label is not the data set's own.
    """
    _require_together(kind, scores, like, permute_scores)
    ranked = ranking_artifact(scores) if scores else None
    model = store.read(like, kind="subset") if like else None
    source = ranked or model
    if source is None and dataset is None:
        raise UsageError(
            f"{scores} does not say which data set it scores: give --dataset"
            if scores
            else "a random subset needs --dataset (or --like a subset artifact)"
        )
    recipe = protocol(source.recipe["dataset"] if source else dataset, scale)
    replicates = recipe.replicates if replicates is None else replicates
    require_replicates(replicates, model)
    if source:
        data, normalization = data_of(source, machine), source.recipe["normalization"]
    else:
        normalization = normalization or recipe.normalization
        data = open_data(dataset, normalization, machine)
    if balanced is None:
        balanced = not like if kind == "random" else recipe.balanced
    seed = recipe.seed if seed is None else seed
    with_labels = source if source and source.kind in ("score", "subset") else None  # barriers are by clean labels
    noise = {"label_noise": label_noise, "noise_draw": noise_draw, "labels": labels}
    used = labels_in_use(data, source=with_labels, seed=seed, **noise)
    fields = {**data_fields(data, normalization), "subset": kind, "size": size, "balanced": balanced, **used.fields}
    if kind == "random" or permute_scores:
        fields |= {"seed": seed, "permute_scores": permute_scores}
    said, values = _ranking(scores, score, ranked, data, used, replicates)
    inputs = {role: artifact for role, artifact in (("scores", ranked), ("like", model)) if artifact}
    run = _Selection(fields | said, seed, data, used, values, model)
    with ArtifactWriter(out, "subset", run.fields, inputs, machine) as writer:
        wanted = {piece_name(replicate=r): r for r in range(replicates)}
        # all are chosen before any is kept: what does not fit one fold is refused as a whole
        new = {piece: run.kept(r) for piece, r in wanted.items() if piece not in writer.rows}
        if machine.dry_run:
            return writer.preview(wanted)
        if new:
            writer.add(new)
        held = int(writer.table().replicate.max()) + 1
        lines = run.summary(writer, replicates)
        made = {"device": "cpu", "engine": "none", "seed": seed}
        return writer.finish(order=["replicate"], extra=used.arrays(held), lines=lines, **made)


def _require_together(kind: str, scores: str | Path | None, like: str | Path | None, permute_scores: bool) -> None:
    """Raises UsageError for an unknown kind, and for options that it needs or has no use for."""
    if kind not in SUBSET_KINDS:
        raise UsageError(f"unknown kind of subset {kind!r}: choose {', '.join(SUBSET_KINDS)}")
    if (kind == "random") == (scores is not None):
        needed = "needs --scores: give a score or barrier artifact, or a file of your own"
        raise UsageError(f"kind {kind!r} {'takes no scores: leave them out' if scores else needed}")
    if like and kind != "random":
        raise UsageError(f"--like takes the histogram for random subsets, not for {kind!r}: leave it out")
    if permute_scores and kind == "random":
        raise UsageError("--permute-scores is for easy and hard: a random subset has no scores, leave it out")


@dataclass(frozen=True)
class _Selection:
    """One select command: the images of each replicate, and what is kept of them.

    values: replicate -> scores of its training images by ascending index, easiest lowest; None for random.
    model: the subset whose histogram is taken.
    """

    fields: dict
    seed: int
    data: ImageSet
    labels: Labels
    values: Callable[[int], np.ndarray] | None
    model: store.Artifact | None

    def chosen(self, r: int) -> np.ndarray:
        """The dataset indices of a replicate, int64 [size]."""
        pool, scores = self.data.split(r)[0].numpy(), None
        if self.values:
            scores = np.full(len(self.data.labels), np.nan)
            scores[pool] = self._permuted(r) if self.fields.get("permute_scores") else self.values(r)
        like = self.model[array_name("index", replicate=r)] if self.model else None
        what = {"labels": self.labels.of(r), "pool": pool, "scores": scores, "like": like}
        kind, size, balanced = (self.fields[name] for name in ("subset", "size", "balanced"))
        return choose(kind, size, **what, balanced=balanced, rng=stream(self.seed, r, "subset"))

    def _permuted(self, r: int) -> np.ndarray:
        """The scores in another order, the same for all replicates that share them."""
        group = r if self.labels.per_replicate else r % len(self.data.splits)
        return stream(self.seed, group, "permute").permutation(self.values(r))

    def kept(self, r: int) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and row of a replicate."""
        index = self.chosen(r)
        labels, classes = self.labels.of(r)[index], self.data.num_classes
        row = {"replicate": r, "fold": r % len(self.data.splits), "size": len(index)}
        row["missing_classes"] = len(missing_classes(labels, classes))
        row["wrong_labels"] = float((labels != self.data.labels.numpy()[index]).mean())
        return {"index": index, "histogram": histogram(labels, classes)}, row

    def summary(self, writer: ArtifactWriter, replicates: int) -> tuple[str, ...]:
        """A line for each replicate, and one on the labels where they are not the data set's own."""
        counts = [writer.arrays[array_name("histogram", replicate=r)] for r in range(replicates)]
        lines = [_describe(r, each, self.data.classes) for r, each in enumerate(counts)]
        if not self.labels.own:
            wrong = writer.table().wrong_labels
            lines.append(f"labels that are not the data set's own: {100 * wrong.mean():.1f} % (n={len(wrong)})")
        return tuple(lines)


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


def _ranking(
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
            raise UsageError(
                f"{ranked.path} has no scores for {unit} {group}: run its score command with --replicates {replicates} "
                "first"
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


def _describe(replicate: int, counts: np.ndarray, classes: tuple[str, ...]) -> str:
    absent = [classes[c] for c in np.flatnonzero(counts == 0)]
    shown = " ".join(map(str, counts)) if len(counts) <= 20 else f"{counts.min()} to {counts.max()} each"
    return f"replicate {replicate}: images per class {shown}" + (f"; missing: {', '.join(absent)}" if absent else "")
