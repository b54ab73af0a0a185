"""The labels that scoring and pre-training use: the data set's own, with noise, or a user's (protocol section 9).

Mask search and every test accuracy use the data set's own labels. Noisy labels are stored in each artifact that uses
them, and what is made from a score or subset artifact takes them from there.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from repro import store
from repro.data import ImageSet
from repro.data.user_numbers import read_numbers
from repro.errors import UsageError
from repro.recipes.artifacts import DEFAULTS, array_name
from repro.train.random_streams import stream

DRAWS = ("shared", "replicate")
FIELDS = ("label_noise", "noise_draw", "labels_sha256")
OWN = {field: DEFAULTS[field] for field in FIELDS}


@dataclass(frozen=True)
class Labels:
    """Labels in use.

    Arguments:
        fields: for the recipe; ``noise_seed`` is among them when noise was drawn.
        of: replicate -> int64 [N], for the whole image set.
    """

    fields: dict
    of: Callable[[int], np.ndarray]

    @property
    def own(self) -> bool:
        """Whether they are the data set's own."""
        return all(self.fields[field] == OWN[field] for field in FIELDS)

    @property
    def per_replicate(self) -> bool:
        return self.fields["noise_draw"] == "replicate"

    def for_job(self, replicate: int) -> torch.Tensor | None:
        """The ``labels`` of a `repro.train.job.Job`: None for the data set's own."""
        return None if self.own else torch.from_numpy(self.of(replicate))

    def arrays(self, replicates: int) -> dict[str, np.ndarray]:
        """The arrays that artifacts keep: ``labels``, or ``replicate_r/labels`` of each; none of the data set's own."""
        if self.own:
            return {}
        if not self.per_replicate:
            return {"labels": self.of(0)}
        return {array_name("labels", replicate=r): self.of(r) for r in range(replicates)}


def labels_in_use(
    data: ImageSet,
    *,
    source: store.Artifact | None = None,
    label_noise: float = 0.0,
    noise_draw: str = "shared",
    labels: str | Path | None = None,
    seed: int,
) -> Labels:
    """The labels of ``source``, or those that the options ask for.

    Arguments:
        source: score or subset artifact whose labels are taken over; the options must then be left out.
        label_noise: share of the images trained on (in any fold) that get a label uniform over all classes.
        noise_draw: 'shared' by all replicates, or one draw for each 'replicate'.
        labels: file (or FILE:KEY) with a label for each image, or each training image; see `read_numbers`.
        seed: address of the draw.

    Raises UsageError for options out of range or of no use together, and for any beside a ``source``.
    """
    if noise_draw not in DRAWS:
        raise UsageError(f"unknown noise draw {noise_draw!r}: choose {' or '.join(DRAWS)}")
    if not 0 <= label_noise <= 1:
        raise UsageError(f"label noise (={label_noise}) must be a share from 0 to 1")
    if source:
        if label_noise or labels or noise_draw != "shared":
            raise UsageError(
                f"{source.path} has its labels already: leave --label-noise, --noise-draw and --labels out"
            )
        return _inherited(data, source)
    if label_noise and labels:
        raise UsageError("--label-noise changes the data set's own labels and --labels replaces them: give one of them")
    if noise_draw == "replicate" and not label_noise:
        raise UsageError("--noise-draw replicate draws label noise: give --label-noise too")
    own = data.labels.numpy()
    if labels:
        given = _from_file(data, Path(labels))
        return Labels({**OWN, "labels_sha256": hashlib.sha256(given.astype("<i8")).hexdigest()}, lambda r: given)
    if not label_noise:
        return Labels(OWN, lambda r: own)
    trained_on = _trained_on(data)

    @cache
    def drawn(replicate: int) -> np.ndarray:
        rng = stream(seed, replicate, "labels")
        return corrupt(own, label_noise, num_classes=data.num_classes, pool=trained_on, rng=rng)

    fields = {**OWN, "label_noise": label_noise, "noise_draw": noise_draw, "noise_seed": seed}
    return Labels(fields, drawn if noise_draw == "replicate" else lambda r: drawn(0))


def corrupt(
    labels: np.ndarray, fraction: float, *, num_classes: int, pool: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A copy of the labels in which ceil(fraction * P) examples of the pool have a random one: int64 [N].

    The random label is uniform over all classes, so about one in `num_classes` of these examples keeps its own, as in
    public open_lth. With one generator state the noise is nested: what 10 % changes, 50 % changes in the same way.

    labels: int [N]. pool: int [P], the examples that may be changed: all that are trained on. fraction: from 0 to 1.
    """
    drawn = rng.integers(0, num_classes, len(pool))
    changed = rng.permutation(len(pool))[: math.ceil(fraction * len(pool))]
    result = np.array(labels, dtype=np.int64)
    result[np.asarray(pool)[changed]] = drawn[changed]
    return result


def _inherited(data: ImageSet, source: store.Artifact) -> Labels:
    recipe = source.recipe
    fields = {field: recipe.get(field, OWN[field]) for field in FIELDS}
    if "noise_seed" in recipe:
        fields["noise_seed"] = recipe["noise_seed"]
    if fields == OWN:
        return Labels(fields, lambda r: data.labels.numpy())
    each = fields["noise_draw"] == "replicate"

    @cache
    def stored(key: str) -> np.ndarray:
        return source[key]

    return Labels(fields, lambda r: stored(array_name("labels", replicate=r) if each else "labels"))


def _from_file(data: ImageSet, path: Path) -> np.ndarray:
    """A user's labels; images that the file leaves out (test images) keep their own."""
    given, own = numbers_of(path, "label", data), data.labels.numpy()
    labels = np.where(np.isnan(given), own, given)
    wrong = np.flatnonzero(~np.isin(labels, np.arange(data.num_classes)))
    if len(wrong):
        raise UsageError(
            f"{path} gives image {wrong[0]} the label {labels[wrong[0]]:g}: labels of {data.name} are the whole "
            f"numbers 0 to {data.num_classes - 1}"
        )
    return labels.astype(np.int64)


def numbers_of(path: Path, name: str, data: ImageSet) -> np.ndarray:
    """A user's ``name`` ('label' or 'score') of each image, float64 [N], NaN where a test image has none.

    Raises UsageError for an image that is trained on, in any fold, without one.
    """
    only = data.splits[0][0].numpy() if len(data.splits) == 1 else None  # a file may leave the test images out
    given, trained_on = read_numbers(path, name, size=len(data.labels), train=only), _trained_on(data)
    if len(absent := trained_on[np.isnan(given[trained_on])]):
        raise UsageError(
            f"{path} has no {name} for {len(absent)} training images, the first of them {absent[0]}: {name} them all"
        )
    return given


def _trained_on(data: ImageSet) -> np.ndarray:
    """The images that are trained on in any fold, int64 and ascending."""
    return np.unique(np.concatenate([train.numpy() for train, _ in data.splits]))
