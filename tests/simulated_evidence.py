"""Tables of every figure with known effects, without artifacts."""

from functools import cache

import numpy as np
import pandas as pd

from repro.verify import published
from repro.verify.outcomes import COLUMNS, Evidence

OFFSETS = {
    "all_tstar": 0.0,
    "all_tstar_half": -0.5,
    "all_t0": -0.9,
    "random": -0.4,
    "easy": -0.2,
    "hard": -1.0,
    "lmc": -0.3,
    "forgetting": -0.4,
    "easy_balanced": -0.2,
    "easy_unbalanced": -1.1,
    "random_like_easy": -0.9,
    "shuffled": -1.5,
    "all_t": 0.1,
}


def arms(p):
    """(condition, size, t, noise) of everything that the figures of a protocol show."""
    half, sizes = p.t_star // 2, sorted({*p.sizes, p.subset_size, *p.barrier_sizes})
    yield from (("all_t0", 0, 0, 0.0), ("all_tstar_half", 0, half, 0.0), ("all_tstar", 0, p.t_star, 0.0))
    yield from (("all_t", 0, t, 0.0) for t in {*p.barrier_all, *p.onset_steps} - {half, p.t_star})
    yield from ((kind, size, half, 0.0) for size in sizes for kind in ("random", "easy", "hard"))
    yield from (
        (kind, size, t, 0.0)
        for t in {*p.barrier_subsets} - {half}
        for size in p.barrier_sizes
        for kind in ("random", "easy")
    )
    other = "easy_unbalanced" if p.balanced else "easy_balanced"
    yield from ((c, p.subset_size, half, 0.0) for c in ("lmc", "forgetting", other, "random_like_easy"))
    for noise in p.noise:
        yield from (("all_tstar_half", 0, half, noise), ("all_tstar", 0, p.t_star, noise))
        yield from ((kind, p.noise_size, half, noise) for kind in ("random", "easy"))


@cache
def published_points(dataset, noise):
    if dataset not in published.SIZES or (noise and dataset != "cifar10"):
        return {}
    curves = published.curves(dataset, noise=noise)
    return {(r.condition, r.size, r.t, r.level): (100 * r.mean, 100 * r.std) for r in curves.itertuples(name="Row")}


def accuracy(p, condition, size, t, noise, level):
    """(mean, std) in percent: published where there is a curve, else a plausible one."""
    if (found := published_points(p.dataset, noise).get((condition, size, t, level))) is not None:
        return found
    dense = {"cifar10": 91.3, "cifar100": 67.9, "cinic10": 85.2}.get(p.dataset, 97.0)
    smaller = 0.3 * np.log2(p.subset_size / size) if 0 < size < p.subset_size else 0
    drop = OFFSETS[condition] * (1 + 2 * noise) - smaller
    return dense + drop * min(1, level / 6) - 0.02 * max(0, level - 6) ** 2, 0.4 + 0.05 * level


def simulate(protocols, seed=0):
    rng = np.random.default_rng(seed)
    tables = {name: [] for name in COLUMNS}
    for p in protocols:
        every = list(dict.fromkeys(arms(p)))
        for condition, size, t, noise in every:
            for level in range(p.levels + 1):
                mean, std = accuracy(p, condition, size, t, noise, level)
                for r in range(p.replicates):
                    acc = (mean + std * rng.normal()) / 100
                    tables["runs"].append((p.dataset, condition, size, t, noise, r, level, acc, 0.8**level, False))
        for condition, size, t, noise in every:
            if noise == 0 and condition in ("all_tstar", "all_tstar_half", "all_t", "random", "easy", "lmc"):
                _barriers(tables, p, condition, size, t, rng)
        for noise in (0.0, *p.noise):
            tables["scores"] += [
                (p.dataset, noise, f, 0.85 - 0.4 * noise + 0.03 * rng.normal()) for f in range(p.folds)
            ]
        for trained_on in ("all", "easy"):
            for r in range(p.replicates):
                for step in range(0, 400, 20):
                    cosine = (0.6 if trained_on == "easy" else 0.45) * 0.995**step + 0.1 + 0.02 * rng.normal()
                    acc = 0.1 + 0.6 * (1 - 0.99**step) + 0.02 * rng.normal() if step % 40 == 0 else np.nan
                    tables["gradients"].append((p.dataset, trained_on, r, step, cosine, acc))
        if p.warmup:
            _warmup(tables, p, rng)
    return Evidence(**{name: pd.DataFrame(rows, columns=list(COLUMNS[name])) for name, rows in tables.items()})


def _barriers(tables, p, condition, size, t, rng):
    quality = OFFSETS[condition] + 0.4 * np.log2(t / p.t_star)
    mean = max(0.03, 0.5 - 0.6 * quality)
    alphas = np.linspace(0, 1, 11)
    for r in range(p.replicates):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            ce, wrong = (max(0.001, m * (1 + 0.1 * rng.normal())) for m in (mean, 0.04 * mean))
            tables["barriers"].append(
                (
                    p.dataset,
                    condition,
                    size,
                    t,
                    0.0,
                    r,
                    0,
                    a,
                    b,
                    a > 0,
                    "averaged",
                    ce,
                    ce,
                    wrong,
                    1.2 * wrong,
                    ce,
                    wrong,
                    1.2 * wrong,
                    0.5,
                    0.9,
                    0.9,
                    0.4 + 0.2 * rng.random(),
                    0.5,
                    False,
                )
            )
    edges = np.arange(-5, 10.5, 0.5)
    for r in range(p.replicates):
        values = np.clip(mean * rng.gamma(0.6, 1 / 0.6, 3000) - 0.1 * rng.exponential(size=3000), -5, 9.99)
        for low, count in zip(edges, np.histogram(values, edges)[0]):
            tables["histograms"].append((p.dataset, condition, size, t, "averaged", r, low, count))
        for alpha in alphas:
            loss, error = 0.02 + mean * 4 * alpha * (1 - alpha), 0.005 + 0.04 * mean * 4 * alpha * (1 - alpha)
            tables["paths"].append(
                (p.dataset, condition, size, t, "averaged", r, alpha, loss, error, 2 * loss, 2 * error)
            )


def _warmup(tables, p, rng):
    top = 91.3 if p.dataset == "cifar10" else 96.0
    for w in p.warmup.steps:
        doublings = np.log2(w / p.warmup.steps[0])
        for kind, size in [("all", 0), *((k, s) for k in ("easy", "random", "hard") for s in p.warmup.sizes)]:
            slope = {"all": 0.08, "easy": -0.25, "random": 0.0, "hard": -0.05}[kind] * (
                p.warmup.sizes[-1] / max(size, 1) if size else 1
            )
            for r in range(p.warmup.replicates):
                lost = bool(w == p.warmup.steps[0] and r < 2 and size in (0, p.warmup.sizes[0]))
                acc = 0.1 if lost else (top + slope * doublings + 0.15 * rng.normal()) / 100
                tables["warmup"].append((p.dataset, kind, size, w, r, acc, lost))
