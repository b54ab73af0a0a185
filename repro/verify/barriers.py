"""Claims on loss barriers (section 4, Figure 5), judged on own barriers; the paper's points: `reference`.

The unit is the parent: pairs of its children are averaged first. What a claim compares is over the parents that all
of its conditions have. Barriers are those of dense children at alpha = 1/2,
per-example cross-entropy on the training images, with averaged batch norm statistics as published. With recalibrated
ones every claim is judged again, and the note says where its verdict flips. Diverged pairs are left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from repro.protocol import Protocol
from repro.recipes.onset import CONNECTED, onset
from repro.verify.barrier_claims import (
    BY_NUMBER,
    CLAIMS,
    easy_nearer,
    judged,
    missing,
    modes_compared,
    random_alike,
    ranked,
)
from repro.verify.correlation import FEWEST_CONDITIONS, Advantage, advantage, mode_shift, spearman
from repro.verify.outcomes import Evidence, accuracies, label, levels_in_words, same_replicates
from repro.verify.reference import from_published
from repro.verify.stats import Sample, against, contrast, decide, joint, shared
from repro.verify.verdict import Verdict

__all__ = ["CLAIMS", "from_published", "verdicts"]

CONDITION = ["condition", "size", "t", "noise"]
_FEWEST_WITHIN = 4  # conditions at one step, below which a rank correlation among them is not worth a clause


def verdicts(evidence: Evidence, protocol: Protocol) -> list[Verdict]:
    """Verdicts on claims 18 to 25 from the tables of one data set; 'missing' where two parents are lacking."""
    rows = evidence.barriers[evidence.barriers["level"] == 0]
    failed = rows["diverged"].astype(bool)
    lost = int((failed & (rows["batch_norm"] == "averaged")).sum())
    found = []
    planned = rows[(rows["noise"] == 0) & (rows["batch_norm"] == "averaged")]
    for number in BY_NUMBER:
        if lacking := _lacking(planned, _wanted(number, protocol)):
            found.append(missing(number, protocol.dataset, lacking))
            continue
        verdict, other = (
            _judge(number, rows[~failed & (rows["batch_norm"] == mode)], mode, evidence, protocol)
            for mode in ("averaged", "recalibrated")
        )
        notes = [verdict.note]
        if "missing" not in (verdict.verdict, other.verdict):
            notes.append(f"with recalibrated batch norm {other.verdict}, {other.effect:+.2f}")
            if other.verdict != verdict.verdict:
                notes.append("the verdict flips with the batch norm statistics")
        if lost and number != 24:
            notes.append(f"pairs left out because a child diverged: {lost}")
        found.append(replace(verdict, note="; ".join(filter(None, notes))))
    return found


def _wanted(number: int, p: Protocol) -> list[tuple[str, int, int]]:
    """(condition, size, t) of every initialisation whose barriers the claim promises to look at."""
    half, size = p.t_star // 2, p.subset_size
    full, first = ("all_tstar", 0, p.t_star), ("all_tstar_half", 0, half)
    roles = {half: "all_tstar_half", p.t_star: "all_tstar"}
    swept = [(c, s, t) for c in ("random", "easy") for s in p.barrier_sizes for t in p.barrier_subsets]
    everything = [(roles.get(t, "all_t"), 0, t) for t in p.barrier_all] + swept
    pair = [full, first]
    return {
        18: pair,
        19: [*pair, ("random", size, half)],
        20: [*pair, ("easy", size, half)],
        21: pair,
        22: everything,
        23: swept,
        24: [],
        25: [full],
    }[number]


def _lacking(rows: pd.DataFrame, wanted: Sequence[tuple[str, int, int]]) -> str:
    """What is missing of these, '' if nothing is. A parent whose children diverged is there: that is a result."""
    for condition, size, t in wanted:
        part = rows[(rows["condition"] == condition) & (rows["size"] == size) & (rows["t"] == t)]
        promised = max(2, int(part["promised"].max())) if "promised" in part and len(part) else 2
        if (n := part["replicate"].nunique()) < promised:
            name = f"{label(condition)}{f' {size}' if size else ''}"
            return f"barriers of {name} at step {t}: {n} of {promised} parents"
    return ""


def _judge(number: int, rows: pd.DataFrame, mode: str, evidence: Evidence, protocol: Protocol) -> Verdict:
    dataset = protocol.dataset
    if number in (22, 24) and mode != "averaged":  # one compares the modes itself, the other has no barriers
        return missing(number, dataset, "")
    if number == 21:
        return _modes(evidence.histograms[evidence.histograms["batch_norm"] == mode], protocol)
    if number == 22:
        return _figure5(rows, evidence, protocol)
    if number == 24:
        return _lmc(evidence, protocol)
    if rows.empty:
        return missing(number, dataset, "no barriers")
    clean = rows[rows["noise"] == 0]
    if number == 23:
        return _easy_below_random(clean, protocol)
    if number == 25:
        return _onset(clean, protocol)
    size = protocol.subset_size
    half_t = clean.loc[clean["condition"] == "all_tstar_half", "t"].unique()
    chosen = {
        "half": clean["condition"] == "all_tstar_half",
        "full": clean["condition"] == "all_tstar",
        **{
            c: (clean["condition"] == c) & (clean["size"] == size) & clean["t"].isin(half_t) for c in ("random", "easy")
        },
    }
    needed = ["half", "full"] + {18: [], 19: ["random"], 20: ["easy"]}[number]
    samples = {name: _sample(clean[chosen[name]], "train_ce") for name in needed}
    for name, sample in samples.items():
        if sample is None:
            names = {"half": "all@t*/2", "full": "all@t*"}
            return missing(number, dataset, f"fewer than two parents of {names.get(name, f'{name} {size} at t*/2')}")
    samples = shared(samples)
    if number == 19:
        return random_alike(samples, dataset, confidence=protocol.confidence)
    if number == 20:
        return easy_nearer(samples, dataset, protocol.confidence)
    below = [_sample(clean[chosen[name]], "share_below_half", 100) for name in ("full", "half")]
    return _more_is_lower(samples, below, protocol)


def _sample(rows: pd.DataFrame, column: str, scale: float = 1.0) -> Sample | None:
    """Mean over the pairs of each parent; None with fewer than two parents."""
    means = (scale * rows[column].astype(float)).groupby(rows["replicate"]).mean().dropna()
    return Sample.of({int(r): float(x) for r, x in means.items()}) if len(means) >= 2 else None


def _more_is_lower(samples: dict[str, Sample], below: Sequence[Sample], protocol: Protocol) -> Verdict:
    parts = [
        ("barrier of all@t*/2 - all@t*", "nats", [(1.0, samples["half"]), (-1.0, samples["full"])]),
        ("share of barriers below 0.5, all@t* - all@t*/2", "pp", [(1.0, below[0]), (-1.0, below[1])]),
    ]
    estimates = [contrast(terms, confidence=protocol.confidence) for _, _, terms in parts]
    found = [
        judged(18, protocol.dataset, e, text, unit, terms=terms) for e, (text, unit, terms) in zip(estimates, parts)
    ]
    note = "; ".join(f"{v.statistic}: {v.effect:+.2f} [{v.low:+.2f}, {v.high:+.2f}] {v.unit}" for v in found)
    worst = max(range(len(parts)), key=lambda i: against(estimates[i])[0])  # nats and points cannot be compared
    return replace(found[worst], verdict=joint([v.verdict for v in found]), note=note)


def _modes(histograms: pd.DataFrame, protocol: Protocol) -> Verdict:
    dataset = protocol.dataset
    if histograms.empty:
        return missing(21, dataset, "no histogram of barriers")
    totals = histograms.groupby(["condition", "size", "t", "bin_lo"])["count"].sum()
    modes = {key: float(part.idxmax()[-1]) for key, part in totals.groupby(level=[0, 1, 2])}
    names = {f"{label(c)}{f' {size}' if size else ''} at step {t}": low for (c, size, t), low in modes.items()}
    pair = same_replicates(histograms[histograms["condition"].isin(("all_tstar", "all_tstar_half"))], ["condition"])
    if pair["condition"].nunique() < 2 or pair["replicate"].nunique() < 2:
        return missing(21, dataset, "fewer than two parents with histograms of all@t* and of all@t*/2")
    counts = pair.pivot_table(index=["condition", "replicate"], columns="bin_lo", values="count", aggfunc="sum")
    half, full = (counts.loc[c].to_numpy(np.int64) for c in ("all_tstar_half", "all_tstar"))
    shift = mode_shift(half, full, counts.columns.to_numpy(float), confidence=protocol.confidence)
    return modes_compared(dataset, names, shift)


def _easy_below_random(rows: pd.DataFrame, protocol: Protocol) -> Verdict:
    dataset = protocol.dataset
    table = rows[rows["condition"].isin(("easy", "random"))].astype({"train_ce": float})
    table = table.groupby(["size", "t", "replicate", "condition"])["train_ce"].mean().unstack("condition")
    if not {"easy", "random"} <= set(table.columns):
        return missing(23, dataset, "no barriers of easy and of random subsets")
    # a mean over other sizes and steps is another quantity
    table = same_replicates(table.dropna().reset_index(), ["size", "t"]).set_index(["size", "t", "replicate"])
    cells = sorted({(int(size), int(t)) for size, t, _ in table.index})
    means = table.groupby("replicate").mean()
    if len(means) < 2:
        return missing(23, dataset, "fewer than two parents with easy and random subsets of one size and step")
    terms = [(sign, Sample.of(dict(means[c]))) for sign, c in ((1.0, "random"), (-1.0, "easy"))]
    note = "per size and step: " + ", ".join(
        f"{size}@{t} {(part['random'] - part['easy']).mean():+.2f}"
        for (size, t), part in ((cell, table.loc[cell]) for cell in cells)
    )
    estimate = contrast(terms, confidence=protocol.confidence)
    return judged(23, dataset, estimate, "barrier of random - easy", "nats", terms=terms, note=note)


def _onset(rows: pd.DataFrame, protocol: Protocol) -> Verdict:
    dataset = protocol.dataset
    at_tstar = rows[rows["condition"] == "all_tstar"]
    sample = _sample(at_tstar, "train_error_max", 100)
    if sample is None:
        return missing(25, dataset, "fewer than two parents of all@t*")
    margin = 100 * CONNECTED
    terms = [(1.0, sample)]
    loss, test = (at_tstar[column].astype(float).mean() for column in ("train_ce", "test_error_max"))
    note = f"cross-entropy barrier {loss:.2f} nats, test-error barrier {100 * test:.1f} pp"
    swept = rows[rows["condition"].str.startswith("all")]
    if swept["t"].nunique() > 1:
        first = onset(swept["t"], swept["train_error_max"].astype(float))
        steps = f"{int(swept['t'].min())} to {int(swept['t'].max())}"
        note += f"; onset over steps {steps}: {'none' if first is None else f't = {first}'}"
    text = "0-1 barrier of all@t*, training images, maximum along the line"
    estimate = contrast(terms, margin=margin, confidence=protocol.confidence)
    return judged(25, dataset, estimate, text, "pp", margin=margin, terms=terms, note=note)


def _lmc(evidence: Evidence, protocol: Protocol) -> Verdict:
    runs = evidence.runs[(evidence.runs["noise"] == 0) & evidence.runs["condition"].isin(("easy", "lmc"))]
    finals = _accuracies(runs, protocol.judging_levels, 1 / protocol.num_classes)
    if finals.empty or set(finals["condition"]) != {"easy", "lmc"}:
        levels = levels_in_words(protocol.judging_levels)
        return missing(24, protocol.dataset, f"no runs of LMC-score and easy subsets over {levels}")
    table = finals.pivot_table(index=["size", "t", "replicate"], columns="condition", values="final").dropna()
    table = same_replicates(table.reset_index(), ["size", "t"]).set_index(["size", "t", "replicate"])
    means = 100 * table.groupby("replicate").mean()
    promised = max(2, int(runs.loc[runs["condition"] == "lmc", "promised"].max())) if "promised" in runs else 2
    if len(means) < promised:
        note = f"{len(means)} of {promised} replicates with LMC-score and easy subsets of one size"
        return missing(24, protocol.dataset, note)
    terms = [(sign, Sample.of(dict(means[c]))) for sign, c in ((1.0, "easy"), (-1.0, "lmc"))]
    cells = sorted({(int(size), int(t)) for size, t, _ in table.index})
    note = "sizes and steps: " + ", ".join(f"{size}@{t}" for size, t in cells)
    estimate = contrast(terms, confidence=protocol.confidence)
    return judged(24, protocol.dataset, estimate, "easy - LMC score", "pp", terms=terms, note=note)


def _accuracies(runs: pd.DataFrame, levels: Sequence[int], chance: float) -> pd.DataFrame:
    """Mean accuracy over the levels per condition and replicate (columns: CONDITION, replicate, final, a fraction).

    A diverged run counts as chance from the level where it did; one that lacks a level is left out.
    """
    keys = [*CONDITION, "replicate"]
    found, values, _ = accuracies(runs, keys, levels, chance)
    return found.assign(final=values.mean(1)).dropna()


_COMPARED = ["barrier", "pretrain", "final"]


def _parents(rows: pd.DataFrame, finals: pd.DataFrame, pretrain: str) -> pd.DataFrame:
    """One row per condition and parent: barrier, pretrain and final, of the parents that have them in every
    condition."""
    rows = rows.assign(barrier=rows["train_ce"].astype(float), pretrain=rows[pretrain].astype(float))
    parents = rows.groupby([*CONDITION, "replicate"], as_index=False)[["barrier", "pretrain"]].mean()
    return same_replicates(parents.dropna().merge(finals, on=[*CONDITION, "replicate"]), CONDITION)


def _points(parents: pd.DataFrame) -> pd.DataFrame:
    """One row per condition: the means over its parents."""
    return parents.groupby(CONDITION, as_index=False)[_COMPARED].mean()


def _compare(points: pd.DataFrame, protocol: Protocol, groups=None) -> Advantage:
    return advantage(*(points[c].to_numpy() for c in _COMPARED), groups, confidence=protocol.confidence)


def _figure5(averaged: pd.DataFrame, evidence: Evidence, protocol: Protocol) -> Verdict:
    dataset, level = protocol.dataset, protocol.barrier_level
    rows = evidence.barriers
    rows = rows[(rows["level"] == 0) & ~rows["diverged"].astype(bool) & (rows["t"] > 0)]
    finals = _accuracies(evidence.runs, (level,), 1 / protocol.num_classes)
    parents = _parents(averaged[averaged["t"] > 0], finals, "pretrain_acc")
    points = _points(parents)
    if points.empty:
        return missing(22, dataset, f"no condition with barriers and accuracies at level {level}")
    if len(points) < 3:
        return missing(22, dataset, f"{len(points)} of {FEWEST_CONDITIONS} conditions with barriers and accuracies")
    main = _compare(points, protocol)
    single = _compare(parents, protocol, parents.groupby(CONDITION).ngroup().to_numpy())
    notes = [
        f"over {len(points)} conditions, each the mean of {parents['replicate'].nunique()} parents",
        f"over single parents: {single.effect:+.2f} [{single.low:+.2f}, {single.high:+.2f}]",
    ]
    words = {"as published": decide(main)}
    recalibrated = "recalibrated batch norm for"
    for name, mode, column, fresh in (
        ("fresh children only", "averaged", "pretrain_acc", True),
        (f"{recalibrated} pre-train accuracy", "averaged", "pretrain_acc_recalibrated", False),
        (f"{recalibrated} barriers", "recalibrated", "pretrain_acc", False),
        (f"{recalibrated} both", "recalibrated", "pretrain_acc_recalibrated", False),
    ):
        chosen = rows[(rows["batch_norm"] == mode) & (rows["fresh"].astype(bool) if fresh else True)]
        variant = _points(_parents(chosen, finals, column))
        if len(variant) >= FEWEST_CONDITIONS:
            found = _compare(variant, protocol)
            words[name] = decide(found)
            notes.append(f"{name}: {found.effect:+.2f} [{found.low:+.2f}, {found.high:+.2f}]")
    for t, part in points.groupby("t"):
        if len(part) >= _FEWEST_WITHIN:
            rho = [spearman(part[c].to_numpy(), part["final"].to_numpy()) for c in ("barrier", "pretrain")]
            notes.append(f"within t = {int(t)} ({len(part)} conditions) {rho[0]:+.2f} and {rho[1]:+.2f}")
    if main.n >= FEWEST_CONDITIONS and len(set(words.values())) > 1:
        notes.insert(0, "the verdict flips: " + ", ".join(f"{name} {word}" for name, word in words.items()))
    return ranked(dataset, main, "; ".join(notes))
