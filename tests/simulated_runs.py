"""Runs tables with known means, and the verdicts on them by claim number."""

import numpy as np
import pandas as pd

from repro.verify import evaluate

MEANS = {"all_tstar": 91.0, "all_tstar_half": 90.0, "all_t0": 88.0, "random": 90.1, "easy": 90.9, "hard": 88.3}
DENSE = 91.1
STEPS = {"all_tstar": 400, "all_tstar_half": 200, "all_t0": 0, "random": 200, "easy": 200, "hard": 200, "shuffled": 400}


def simulate(means=None, *, dataset="cifar10", size=3200, n=8, levels=13, seed=0, noise=0.15, common=0.5):
    """Runs whose means are percent over levels 6 to 10; common is the spread (pp) all conditions of a replicate share,
    noise their own."""
    rng = np.random.default_rng(seed)
    shared = common * rng.normal(size=n)
    rows = []
    for condition, mean in {**MEANS, **(means or {})}.items():
        for replicate in range(n):
            own = mean + shared[replicate] + noise * rng.normal()
            for level in range(levels):
                start = DENSE + shared[replicate] + noise * rng.normal()
                acc = start if level == 0 else own - 0.1 * (level - 8) + 0.05 * rng.normal()
                rows.append(
                    (
                        dataset,
                        condition,
                        size if condition in ("random", "easy", "hard") else 0,
                        STEPS[condition],
                        replicate,
                        level,
                        acc / 100,
                        False,
                    )
                )
    return pd.DataFrame(rows, columns=["dataset", "condition", "size", "t", "replicate", "level", "acc", "diverged"])


def judge(runs, *, dataset="cifar10", scale="paper", chance=0.1, **options):
    return {v.claim: v for v in evaluate(runs, dataset=dataset, scale=scale, chance=chance, **options)}
