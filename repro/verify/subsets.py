"""Claims on the subsets themselves: passes over them (arithmetic) and wrong labels inside (from scores alone)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from repro.protocol import Protocol, protocol
from repro.verify.claims import CONTAMINATION, PASSES
from repro.verify.evidence import Evidence
from repro.verify.outcomes import SUBSETS, noise_panel
from repro.verify.stats import Sample, contrast, decide, within_replicates
from repro.verify.verdict import Verdict


def passes(p: Protocol | str) -> Verdict:
    """Claim 6 by arithmetic: t*/2 x batch size images are more than the subset holds. p: a name means the paper's."""
    p = protocol(p, "paper") if isinstance(p, str) else p
    steps, batch = p.t_star // 2, p.training.batch_size
    seen = steps * batch
    return Verdict(
        claim=PASSES.number,
        dataset=p.dataset,
        verdict="reproduced" if seen > p.subset_size else "contradicted",
        effect=seen / p.subset_size,
        margin=1.0,
        unit="passes",
        statistic=f"{steps} steps x {batch} images = {seen} images seen, subset of {p.subset_size}",
    )


def contamination(evidence: Evidence, p: Protocol) -> list[Verdict]:
    """Claim 31, once per noise panel: share of wrong labels inside easy below random below hard, within replicates.

    Of the subsets of `p.noise_size`; shares in percent, differences in pp. Missing without all three kinds.
    """
    return [_contamination(evidence.subsets, p, noise) for noise in p.noise]


def _contamination(table: pd.DataFrame, p: Protocol, noise: float) -> Verdict:
    identity = dict(claim=CONTAMINATION.number, dataset=p.dataset, panel=noise_panel(noise))
    rows = table[(table["size"] == p.noise_size) & np.isclose(table["noise"].astype(float), noise)]
    rows = rows.drop_duplicates(["condition", "replicate"])  # one subset may be listed with each rewind step
    shares = {
        kind: {int(r.replicate): 100 * float(r.wrong_labels) for r in rows[rows["condition"] == kind].itertuples()}
        for kind in SUBSETS
    }
    promised = rows.groupby("condition")["promised"].max() if "promised" in rows else {}
    needed = {kind: max(2, int(promised.get(kind, 2))) for kind in ("easy", "random", "hard")}
    lacking = [f"{kind} ({len(shares[kind])} of {n})" for kind, n in needed.items() if len(shares[kind]) < n]
    if lacking:
        note = f"replicates lacking of subsets of size {p.noise_size} at {noise_panel(noise)}: {', '.join(lacking)}"
        return Verdict(**identity, verdict="missing", note=note)
    samples = {kind: Sample.of(values) for kind, values in shares.items()}
    pairs = [("random", "easy"), ("hard", "random")]
    terms = [[(1.0, samples[more]), (-1.0, samples[less])] for more, less in pairs]
    estimates = [contrast(pair) for pair in terms]
    words = [decide(e) for e in estimates]
    order = ("contradicted", "inconclusive", "reproduced")
    worst = min(range(2), key=lambda i: (order.index(words[i]), estimates[i].effect))
    e, values = estimates[worst], within_replicates(terms[worst])
    note = ", ".join(f"{kind} {samples[kind].mean:.1f} %" for kind in ("easy", "random", "hard"))
    return Verdict(
        **identity,
        verdict=next((word for word in ("contradicted", "inconclusive") if word in words), "reproduced"),
        effect=float(e.effect),
        low=float(e.low),
        high=float(e.high),
        median=None if values is None else float(np.median(values)),
        n=e.n,
        p=float(e.p),
        statistic=f"wrong labels, {' - '.join(pairs[worst])}, {e.method}",
        note=f"wrong labels: {note}",
    )
