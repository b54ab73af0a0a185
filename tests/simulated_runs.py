"""Runs tables with known means, and the verdicts on them by claim number."""

from dataclasses import replace

import numpy as np
import pandas as pd

from repro.protocol import CIFAR10
from repro.verify.claims import CLAIMS
from repro.verify.pruned_runs import of_runs
from repro.verify.verdict import with_holm

MEANS = {"all_tstar": 91.0, "all_tstar_half": 90.0, "all_t0": 88.0, "random": 90.1, "easy": 90.9, "hard": 88.3}
DENSE = 91.1
STEPS = {"all_tstar": 400, "all_tstar_half": 200, "all_t0": 0, "random": 200, "easy": 200, "hard": 200, "shuffled": 400}


NOISY = {
    0.1: {"all_tstar": 90.5, "all_tstar_half": 89.5, "random": 89.5, "easy": 90.85},
    0.5: {"all_tstar": 88.4, "all_tstar_half": 88.3, "random": 88.2, "easy": 90.7},
}


def simulate(
    means=None,
    *,
    dataset="cifar10",
    size=3200,
    n=8,
    levels=13,
    seed=0,
    noise=0.15,
    common=0.5,
    label_noise=0.0,
    base=None,
):
    """Runs whose means are percent over levels 6 to 10; common is the spread (pp) all conditions of a replicate share,
    noise their own. base: the conditions and means that `means` changes (default: MEANS)."""
    rng = np.random.default_rng(seed)
    shared = common * rng.normal(size=n)
    rng = rng if base is None else np.random.default_rng([seed, size, int(10 * label_noise)])
    rows = []
    for condition, mean in {**(MEANS if base is None else base), **(means or {})}.items():
        for replicate in range(n):
            own = mean + shared[replicate] + noise * rng.normal()
            for level in range(levels):
                start = DENSE + shared[replicate] + noise * rng.normal()
                acc = start if level == 0 else own - 0.1 * (level - 8) + 0.05 * rng.normal()
                rows.append(
                    (
                        dataset,
                        condition,
                        0 if condition.startswith(("all", "shuffled")) else size,
                        STEPS.get(condition, 200),
                        label_noise,
                        replicate,
                        level,
                        acc / 100,
                        False,
                    )
                )
    return pd.DataFrame(
        rows, columns=["dataset", "condition", "size", "t", "noise", "replicate", "level", "acc", "diverged"]
    )


def with_noise(means=None, *, size=2048, **options):
    """The clean runs, those of the clean subsets of the noise panels' size, and the two noise panels; means:
    {label noise: {condition: percent}}."""
    means = means or {}
    small = simulate(means.get("small"), size=size, base={"random": 90.1, "easy": 90.9}, **options)
    panels = [simulate(means.get(noise), size=size, base=NOISY[noise], label_noise=noise, **options) for noise in NOISY]
    return pd.concat([simulate(means.get(0.0), **options), small, *panels], ignore_index=True)


def verdicts_of(runs, *, figures=("figure2",), **fields):
    """Verdicts on CIFAR-10's pruned runs, without a sweep and noise panels. fields: others of the protocol."""
    p = replace(CIFAR10, **{**dict(sizes=(), noise=(), replicates=2), **fields})
    found = of_runs(runs, p)
    return with_holm([replace(v, promised=v.promised and CLAIMS[v.claim].figure in figures) for v in found])


def judge(runs, **options):
    return {v.claim: v for v in verdicts_of(runs, **options)}
