"""select: the easiest, the hardest, random or listed images, as a subset to pre-train on (paper, section 3)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro import store
from repro.data import ImageSet, choose, histogram, missing_classes
from repro.data.subsets import OTHER_KINDS, SUBSET_KINDS, band
from repro.data.user_indices import read_indices
from repro.errors import UsageError
from repro.protocol import protocol
from repro.recipes.artifacts import array_name, piece_name
from repro.stages.arguments import checked
from repro.stages.artifact_writer import ArtifactWriter, Result
from repro.stages.inputs import data_fields, data_of, open_data, require_replicates
from repro.stages.labels import Labels, labels_in_use
from repro.stages.machine import Machine
from repro.stages.ranking import ranking, ranking_artifact
from repro.train.random_streams import stream


@checked
def select(
    out: str | Path,
    *,
    kind: str,
    size: int | None = None,
    indices: str | Path | None = None,
    between: tuple[float, float] | None = None,
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
            5), unless each replicate has scores of its own. 'band': those ``between`` two shares of the ranking from
            the easiest, (0.1, 0.4) say (`repro.data.subsets.band`). 'given': those of ``indices``, a file with the
            numbers of training images (`repro.data.user_indices.read_indices`), the same for all replicates.
        size: of easy, hard and random; of ``indices`` what their count has to be, if it is given.
        scores: what ranks the images, for easy, hard and band: a score artifact; a barrier artifact (LMC score: mean
            barrier of an image over the fold's rewind points and their pairs of children, protocol section 11); or a
            user's file with one number per image, the easiest lowest (`repro.data.user_numbers.read_numbers`).
        score: which one of a score artifact: 'el2n' (when None), 'margin', 'forgetting' or 'grand'.
        dataset: needed for random, unless ``like`` is given, and for scores from a user's file.
        balanced: equally many of each class, by the labels in use; None is the protocol's choice for easy and hard and
            True for random.
        like: subset artifact; random images with that subset's class histogram.
        replicates, scale: the protocol's number, by default that of the data set's own protocol.
        permute_scores: a control that must fail: permute the scores among the images first.
        label_noise, noise_draw, labels: other labels, to balance by and to pre-train on; see
            `repro.stages.labels.labels_in_use`. A score artifact and ``like`` have their own, which are taken over.

    Written: ``replicate_r/index`` int64 [size], easiest or hardest first, a list as it was given;
    ``replicate_r/histogram`` int64 [classes], by the labels in use; in the table ``wrong_labels``, the share of the
    images whose label is not the data set's own.
    """
    _require_together(kind, size, indices, between, scores, like, permute_scores, balanced)
    ranked = ranking_artifact(scores) if scores else None
    model = store.read(like, kind="subset") if like else None
    source = ranked or model
    if source is None and dataset is None:
        raise UsageError(
            f"{scores} does not say which data set it scores: give --dataset"
            if scores
            else f"a {kind} subset needs --dataset{' (or --like a subset artifact)' if kind == 'random' else ''}"
        )
    recipe = protocol(source.recipe["dataset"] if source else dataset, scale)
    replicates = recipe.replicates if replicates is None else replicates
    require_replicates(replicates, model)
    if source:
        data, normalization = data_of(source, machine), source.recipe["normalization"]
    else:
        normalization = normalization or recipe.normalization
        data = open_data(dataset, normalization, machine)
    if kind in OTHER_KINDS:
        balanced = False
    elif balanced is None:
        balanced = not like if kind == "random" else recipe.balanced
    seed = recipe.seed if seed is None else seed
    with_labels = source if source and source.kind in ("score", "subset") else None  # barriers are by clean labels
    noise = {"label_noise": label_noise, "noise_draw": noise_draw, "labels": labels}
    used = labels_in_use(data, source=with_labels, seed=seed, **noise)
    fields = {**data_fields(data, normalization), "subset": kind, "size": size, "balanced": balanced, **used.fields}
    if kind == "random" or permute_scores:
        fields |= {"seed": seed, "permute_scores": permute_scores}
    said, values = ranking(scores, score, ranked, data, used, replicates)
    listed = None
    if indices:
        listed = _given(indices, size, data, replicates)
        fields |= {"size": len(listed), "indices_sha256": hashlib.sha256(listed.astype("<i8")).hexdigest()}
    if between:
        fields |= {"size": len(_band(between, data, np.arange(len(data.labels)))), "between": list(between)}
    inputs = {role: artifact for role, artifact in (("scores", ranked), ("like", model)) if artifact}
    run = _Selection(fields | said, seed, data, used, values, model, listed)
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


def _require_together(
    kind: str,
    size: int | None,
    indices: str | Path | None,
    between: tuple[float, float] | None,
    scores: str | Path | None,
    like: str | Path | None,
    permute_scores: bool,
    balanced: bool | None,
) -> None:
    """Raises UsageError for an unknown kind, and for options that it needs or has no use for."""
    if kind not in (*SUBSET_KINDS, *OTHER_KINDS):
        raise UsageError(f"unknown kind of subset {kind!r}: choose {', '.join(SUBSET_KINDS)}")
    if (kind == "given") != (indices is not None) or (kind == "band") != (between is not None):
        raise UsageError(
            f"kind {kind!r} does not go with --indices or a band: give --kind easy, hard or random, or --indices, or "
            "--from and --to"
        )
    ranks = kind not in ("random", "given")
    if ranks == (scores is None):
        needed = "needs --scores: give a score or barrier artifact, or a file of your own"
        raise UsageError(f"kind {kind!r} {'takes no scores: leave them out' if scores else needed}")
    if like and kind != "random":
        raise UsageError(f"--like takes the histogram for random subsets, not for {kind!r}: leave it out")
    if permute_scores and not ranks:
        raise UsageError(f"--permute-scores is for easy and hard: a {kind} subset has no scores, leave it out")
    if kind in OTHER_KINDS and balanced:
        raise UsageError(f"a {kind} subset has the classes that its images have: leave --balanced out")
    if kind == "band" and size is not None:
        raise UsageError(f"--size {size}, but --from and --to say how many images a band has: leave --size out")
    if kind in SUBSET_KINDS and size is None:
        raise UsageError(f"{kind} images without a number of them: give --size")


def _band(between: tuple[float, float], data: ImageSet, scores: np.ndarray, replicate: int = 0) -> np.ndarray:
    """The images of a replicate whose scores [N] lie in a band of its ranking; as many in every fold."""
    count = min(len(train) for train, _ in data.splits)
    return band(*between, pool=data.split(replicate)[0].numpy(), scores=scores, count=count)


def _given(path: str | Path, size: int | None, data: ImageSet, replicates: int) -> np.ndarray:
    """The indices in a user's file. Raises UsageError for one that is no training image of every replicate."""
    listed = read_indices(path, size=size)
    if len(listed) and listed.max() >= len(data.labels):
        raise UsageError(
            f"{path} names image {listed.max()}, and {data.name} has the images 0 to {len(data.labels) - 1}: give "
            "indices of its training images"
        )
    for r in range(min(replicates, len(data.splits))):
        train, _ = data.split(r)
        if len(test := listed[~np.isin(listed, train.numpy())]):
            advice = f"the training images of {data.name} are {train[0]} to {train[-1]}"
            if len(data.splits) > 1:
                fewer = " or fewer" if r > 1 else ""
                advice = f"{data.name} rotates its folds, so give --replicates {r}{fewer}" if r else "leave it out"
            raise UsageError(f"{path} names image {test[0]}, a test image of replicate {r}: {advice}")
    return listed


@dataclass(frozen=True)
class _Selection:
    """One select command: the images of each replicate, and what is kept of them.

    values: replicate -> scores of its training images by ascending index, easiest lowest; None for random.
    model: the subset whose histogram is taken. listed: the images of a 'given' subset.
    """

    fields: dict
    seed: int
    data: ImageSet
    labels: Labels
    values: Callable[[int], np.ndarray] | None
    model: store.Artifact | None
    listed: np.ndarray | None = None

    def chosen(self, r: int) -> np.ndarray:
        """The dataset indices of a replicate, int64 [size]."""
        if self.listed is not None:
            return self.listed
        pool, scores = self.data.split(r)[0].numpy(), None
        if self.values:
            scores = np.full(len(self.data.labels), np.nan)
            scores[pool] = self._permuted(r) if self.fields.get("permute_scores") else self.values(r)
        if between := self.fields.get("between"):
            return _band(between, self.data, scores, r)
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


def _describe(replicate: int, counts: np.ndarray, classes: tuple[str, ...]) -> str:
    absent = [classes[c] for c in np.flatnonzero(counts == 0)]
    shown = " ".join(map(str, counts)) if len(counts) <= 20 else f"{counts.min()} to {counts.max()} each"
    return f"replicate {replicate}: images per class {shown}" + (f"; missing: {', '.join(absent)}" if absent else "")
