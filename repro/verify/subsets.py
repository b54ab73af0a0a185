"""Claims on the subsets themselves: passes over them (arithmetic) and wrong labels inside (from scores alone)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from repro.protocol import Protocol, protocol
from repro.verify.claims import CONTAMINATION, PASSES
from repro.verify.outcomes import SUBSETS, Evidence, noise_panel, same_replicates
from repro.verify.stats import Sample, against, contrast, decide, joint, within_replicates
from repro.verify.verdict import BY_ARITHMETIC, NOT_BY_ARITHMETIC, Verdict


def passes(p: Protocol | str) -> Verdict:
    """Claim 6 by arithmetic: t*/2 x batch size images are more than the subset holds. p: a name means the paper's."""
    p = protocol(p, "paper") if isinstance(p, str) else p
    steps, batch = p.t_star // 2, p.training.batch_size
    seen = steps * batch
    return Verdict(
        claim=PASSES.number,
        dataset=p.dataset,
        verdict=BY_ARITHMETIC if seen > p.subset_size else NOT_BY_ARITHMETIC,
        effect=seen / p.subset_size,
        margin=1.0,
        unit="passes",
        statistic=f"{steps} steps x {batch} images = {seen} images seen, subset of {p.subset_size}",
    )


def draw_of(kind: str, replicate: int, p: Protocol) -> int:
    """Which draw a replicate's subset is: easy and hard ones come from the scores of the fold, random ones are drawn
    for each replicate."""
    return replicate if kind == "random" else replicate % p.folds


def contamination(evidence: Evidence, p: Protocol) -> list[Verdict]:
    """Claim 31, once per noise panel: share of wrong labels inside easy below random below hard, within draws.

    Of the subsets of `p.noise_size`; shares in percent, differences in pp. The replicates of one fold share scores, and
    so their easy and hard subsets: they count as one draw, n is the number of draws, and one draw has no interval.
    Missing without all three kinds.
    """
    return [_contamination(evidence.subsets, p, noise) for noise in p.noise]


def _contamination(table: pd.DataFrame, p: Protocol, noise: float) -> Verdict:
    identity = dict(claim=CONTAMINATION.number, dataset=p.dataset, panel=noise_panel(noise))
    rows = table[(table["size"] == p.noise_size) & np.isclose(table["noise"].astype(float), noise)]
    rows = rows[rows["condition"].isin(SUBSETS)].drop_duplicates(["condition", "replicate"])  # listed with each step
    counts = rows["condition"].value_counts()
    promised = rows.groupby("condition")["promised"].max() if "promised" in rows else {}
    needed = {kind: max(2, int(promised.get(kind, 2))) for kind in ("easy", "random", "hard")}
    lacking = [f"{kind} ({counts.get(kind, 0)} of {n})" for kind, n in needed.items() if counts.get(kind, 0) < n]
    if lacking:
        note = f"replicates lacking of subsets of size {p.noise_size} at {noise_panel(noise)}: {', '.join(lacking)}"
        return Verdict(**identity, verdict="missing", note=note)
    rows = same_replicates(rows, ["condition"])
    draws = rows["replicate"].map(lambda r: draw_of("easy", int(r), p))
    shares = (100 * rows["wrong_labels"].astype(float)).groupby([rows["condition"], draws]).mean()
    samples = {kind: Sample.of({int(d): float(x) for d, x in shares[kind].items()}) for kind in SUBSETS}
    note = "wrong labels: " + ", ".join(f"{kind} {samples[kind].mean:.1f} %" for kind in ("easy", "random", "hard"))
    note += f"; {rows['replicate'].nunique()} replicates share {draws.nunique()} draws of scores"
    pairs = [("random", "easy"), ("hard", "random")]
    terms = [[(1.0, samples[more]), (-1.0, samples[less])] for more, less in pairs]
    if draws.nunique() < 2:
        worst = min(range(2), key=lambda i: sum(w * sample.mean for w, sample in terms[i]))
        effect = sum(w * sample.mean for w, sample in terms[worst])
        text = f"wrong labels, {' - '.join(pairs[worst])}, of one draw"
        note += ": an interval needs two"
        return Verdict(**identity, verdict="inconclusive", effect=effect, n=1, statistic=text, note=note)
    estimates = [contrast(pair, confidence=p.confidence) for pair in terms]
    words = [decide(e) for e in estimates]
    worst = max(range(2), key=lambda i: against(estimates[i]))
    e, values = estimates[worst], within_replicates(terms[worst])
    return Verdict(
        **identity,
        verdict=joint(words),
        effect=float(e.effect),
        low=float(e.low),
        high=float(e.high),
        median=float(np.median(values)),
        n=e.n,
        p=float(e.p),
        statistic=f"wrong labels, {' - '.join(pairs[worst])}, {e.method}",
        note=note,
    )
