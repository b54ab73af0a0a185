"""Straight lines between networks: the networks on a line, their losses and errors, and the barrier.

Paper, section 2, "Linear Mode Connectivity"; protocol section 11. Whole vectors are interpolated, batch-norm running
statistics included, and evaluated on un-augmented images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher
from repro.engines import Cohort, Report
from repro.errors import UsageError
from repro.train import evaluate

AVERAGED, RECALIBRATED = "averaged", "recalibrated"
MODES = (AVERAGED, RECALIBRATED)
"""Batch-norm statistics on the line: interpolated like the weights (published), or taken anew at each alpha."""
MOST_ALPHAS = 1000  # more points are taken for a typing error


def grid(alphas: int | str | Sequence[float]) -> tuple[float, ...]:
    """The ascending values of alpha to evaluate; 0, 1/2 and 1 are always among them.

    Arguments:
        alphas: N for N equally spaced values from 0 to 1, or values between 0 and 1; as text, "11" or "0.25,0.5".

    Raises UsageError for fewer than 2 equally spaced values and for a value outside [0, 1].
    """
    try:
        if isinstance(alphas, str):
            words = [word for word in alphas.split(",") if word.strip()]
            alphas = int(words[0]) if len(words) == 1 and words[0].strip().isdigit() else [float(w) for w in words]
        if isinstance(alphas, int):
            if not 2 <= alphas <= MOST_ALPHAS:
                raise ValueError
            alphas = [k / (alphas - 1) for k in range(alphas)]
        values = {float(alpha) for alpha in alphas}
        if not values or not all(0 <= value <= 1 for value in values):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"alphas (={alphas!r}) must be a number of equally spaced values from 2 to {MOST_ALPHAS}, like 11, or "
            "values from 0 to 1 with commas, like 0.25,0.5"
        ) from None
    return tuple(sorted(values | {0.0, 0.5, 1.0}))


def mix(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) a + alpha b in the type of ``a``, computed in float64: exactly a at 0, b at 1, and a where a = b."""
    return ((1 - alpha) * a.double() + alpha * b.double()).to(a.dtype)


def barrier(values: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    """Value on the line minus the straight line between its ends' values (at 1/2: their mean), float64 [A, ...].

    Arguments:
        values: [A, ...], one row for each of ``alphas``, which ascend from 0 to 1.
    """
    assert alphas[0] == 0 and alphas[-1] == 1 and len(values) == len(alphas)
    values = np.asarray(values, np.float64)
    weight = np.asarray(alphas, np.float64).reshape(-1, *[1] * (values.ndim - 1))
    return values - ((1 - weight) * values[0] + weight * values[-1])


@dataclass(frozen=True)
class Evaluation:
    """One network on every training and test image: cross-entropy in nats, float32 [n], and whether wrong, bool [n].

    A network whose logits are not finite is wrong.
    """

    train_loss: np.ndarray
    train_wrong: np.ndarray
    test_loss: np.ndarray
    test_wrong: np.ndarray


def _load(
    cohort: Cohort, batcher: Batcher, vectors: list[Tensor], splits: list, batch_norm: str, report: Report
) -> None:
    evaluate.load(cohort, vectors)
    if batch_norm == RECALIBRATED:
        cohort.recalibrate(batcher, torch.from_numpy(np.stack([train for train, _ in splits])), report=report)


def measure(
    cohort: Cohort,
    batcher: Batcher,
    labels: Tensor,
    vectors: list[Tensor],
    splits: list[tuple[np.ndarray, np.ndarray]],
    batch_norm: str,
    report: Report = None,
) -> list[Evaluation]:
    """Losses and errors of each network on its training and its test images, in evaluation mode.

    Arguments:
        labels: int64 [N] of the data set, on the CPU.
        vectors: R vectors [layout.size], loaded into the cohort of R.
        splits: for each network its (train index, test index); train indices of one length.
        batch_norm: 'averaged' takes the statistics in the vectors; 'recalibrated' those of `Cohort.recalibrate` on the
            training images, whatever the alpha, end points included, so that a barrier compares like with like.
    """
    _load(cohort, batcher, vectors, splits, batch_norm, report)
    found = []
    for part in (0, 1):
        index = [split[part] for split in splits]
        logits = evaluate.predict(cohort, batcher, index, report=report)
        truth = [labels[torch.from_numpy(rows)] for rows in index]
        found.append(
            [
                (evaluate.losses(each, own).numpy(), ~evaluate.correct(each, own).numpy())
                for each, own in zip(logits, truth)
            ]
        )
    return [Evaluation(*on_train, *on_test) for on_train, on_test in zip(*found)]


def accuracies(
    cohort: Cohort,
    batcher: Batcher,
    labels: Tensor,
    vectors: list[Tensor],
    splits: list[tuple[np.ndarray, np.ndarray]],
    batch_norm: str,
    report: Report = None,
) -> list[float]:
    """Share of test images that each network classifies correctly; arguments as for `measure`."""
    _load(cohort, batcher, vectors, splits, batch_norm, report)
    tests = [test for _, test in splits]
    logits = evaluate.predict(cohort, batcher, tests, report=report)
    return [
        evaluate.correct(each, labels[torch.from_numpy(rows)]).double().mean().item()
        for each, rows in zip(logits, tests)
    ]
