"""check-ticket: whether a lottery ticket in anyone's PyTorch files is one, as far as files can tell.

A ticket is mask × rewind point (Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis"): the
weights of step t of a dense training, of which the smallest, by their magnitude at the end of the training before, are
pruned and stay pruned. Each part is a file of ``torch.save`` or safetensors (`repro.reading.ticket_files`); nothing in
them is run.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from repro.errors import UsageError
from repro.reading import ticket_rule
from repro.reading.ticket_files import TicketFiles, alike, flat
from repro.reading.ticket_rule import listed

HOLDS, FAILS, UNTOLD = "holds", "FAILS", "untold"
ROLES = ("mask", "trained", "ticket", "rewind", "start", "previous")
COUNTER = "num_batches_tracked"  # of batch norm: the batches it was trained on


@dataclass(frozen=True)
class Check:
    """One question: HOLDS, FAILS or UNTOLD, and the numbers or the files that it would take."""

    question: str
    verdict: str
    found: str

    def __str__(self) -> str:
        return f"{self.verdict:<7} {self.question}: {self.found}"


def check_ticket(
    *, t: int | None = None, density: str | None = None, prune_fraction: float = 0.2, **files: str | Path | None
) -> tuple[str, list[Check]]:
    """(what the mask is, the checks) of the files of one ticket.

    Arguments:
        files: by `ROLES`: ``mask``; ``trained``, what the ticket became; ``ticket``, what its training started from;
            ``rewind``, the dense network of step t; ``start``, that of step 0; ``previous``, the trained network of the
            level before, whose smallest weights were pruned. The mask may also stand in one of ticket and trained, or
            be the weights there that are not zero.
        t: the step that the rewind point is said to be of.
        density: the share of weights that the mask is said to keep, like '13.4%', as precise as it is written.
        prune_fraction: share of the level's weights that were pruned, of which k = ceil(fraction × weights).

    Raises UsageError where no file tells a mask, for a mask of 1 for pruned weights, for files of different networks,
    and for numbers out of range.
    """
    given = {role: Path(files[role]) for role in ROLES if files.get(role) is not None}
    if t is not None and t < 0:
        raise UsageError(f"-t (={t}) must be 0 (the start) or more")
    if not 0 < prune_fraction < 1:
        raise UsageError(f"prune fraction (={prune_fraction}) must be above 0 and below 1")
    said = None if density is None else _percentage(density)
    ticket = _Ticket(given)
    checks = [ticket.density(said), ticket.held(), ticket.rewind_point(t), ticket.step(t), ticket.rewound()]
    return ticket.described, [*checks, ticket.others(), ticket.pruned(prune_fraction)]


def _percentage(text: str) -> Decimal:
    try:
        if not text.strip().endswith("%") or not 0 <= (found := Decimal(text.strip()[:-1])) <= 100:
            raise ValueError
    except (InvalidOperation, ValueError):
        advice = f"write {_as_percentage(text)}" if _as_percentage(text) else "like 13.4%"
        raise UsageError(f"--density (={text!r}) must be a percentage from 0% to 100%, {advice}") from None
    return found


def _as_percentage(text: str) -> str | None:
    """A share below 1 as a percentage, in as many digits; None for other text."""
    try:
        share = Decimal(text.strip())
    except InvalidOperation:
        return None
    return f"{share.scaleb(2):f}%" if share.is_finite() and 0 < share < 1 else None


class _Ticket(TicketFiles):
    """The questions that are asked of the files of one ticket."""

    def lacks(self, question: str, *roles: str) -> Check | None:
        """The check that cannot be made, where a file is not given."""
        lacking = [f"--{role}" for role in roles if role not in self.files]
        return Check(question, UNTOLD, f"give {' and '.join(lacking)}") if lacking else None

    def circular(self, question: str) -> Check | None:
        """The check that would compare a ticket with itself: its rewind point has its zeros, too."""
        if self.flat.all() or self.vector("rewind")[~self.flat].any() or not self.equal("ticket", "rewind"):
            return None
        return Check(question, UNTOLD, "--rewind has the weights of --ticket, zeros too: give the dense rewind point")

    @property
    def untrained(self) -> bool:
        """Whether the trained network has the kept weights of the ticket."""
        return {"trained", "ticket"} <= self.files.keys() and self.same("trained", "ticket")

    # --- the questions ------------------------------------------------------------------------------------------------

    def density(self, said: Decimal | None) -> Check:
        question = "the density is what it says"
        if said is None:
            return Check(question, UNTOLD, "give --density")
        found, dense = {}, [name for name, mask in self.masks.items() if mask.all()]
        for names in ([], dense) if len(dense) < len(self.masks) else ([],):
            kept = self.flat[ticket_rule.without(names, self.sizes)]
            found[ticket_rule.but(names)] = 100 * Decimal(int(kept.sum())) / len(kept)
        half = Decimal(1).scaleb(said.as_tuple().exponent) / 2
        verdict = HOLDS if any(abs(share - said) <= half for share in found.values()) else FAILS
        told = "; ".join(f"{share:.6g} % of the weights are kept{but}" for but, share in found.items())
        return Check(question, verdict, f"{told}, {said} % is said")

    def held(self) -> Check:
        """A weight that the mask prunes is 0 in the trained network: momentum and weight decay may have moved it."""
        question = "the mask is held in the trained weights"
        if check := self.lacks(question, "trained"):
            return check
        if self.untrained:
            late = "rewind" in self.files and not self.same("ticket", "rewind")
            why = "--ticket was saved after training" if late else "it is not trained"
            twice = "or the same file was given twice"
            return Check(question, FAILS, f"--trained has the weights of --ticket: {why}, {twice}")
        if self.zeros and self.source == "trained":
            return Check(question, UNTOLD, f"it was taken from the zeros of {self.names('trained')}: give --mask")
        if self.zeros and self.equal("trained", self.source):
            return Check(question, UNTOLD, "--mask is the zeros of the same weights as --trained: give a file of masks")
        raw, own, pruned = self.parts("trained")[0], self.own("trained"), int((~self.flat).sum())
        other = sum(int((own[name] != mask).sum()) for name, mask in self.masks.items() if name in own)
        if other:
            return Check(question, FAILS, f"the masks in {self.names('trained')} differ from it in {other:,} weights")
        moved = {name: (raw[name] != 0) & ~mask for name, mask in self.masks.items()}
        gone = int((self.vector("trained")[self.flat] == 0).sum())
        zeros = f"{gone:,} of {int(self.flat.sum()):,} kept weights are 0"
        if count := int(flat(moved).sum()):
            largest = max(float(raw[name][bad].abs().max()) for name, bad in moved.items() if bad.any())
            where = listed([name for name, bad in moved.items() if bad.any()])
            told = f"{count:,} of {pruned:,} pruned weights are not 0, up to {largest:.3g}, in {where}"
            if not self.vector("trained")[~self.flat].any():
                why = "but masks stand beside them: give the weights times the masks, if its program multiplies them"
                return Check(question, UNTOLD, f"{told}, {why}")
            return Check(question, FAILS, f"{told}, and {zeros}: it is of another mask" if gone else told)
        if gone > ticket_rule.BY_CHANCE * self.flat.sum():
            return Check(question, FAILS, f"all {pruned:,} pruned weights are 0, but {zeros}: it is of another mask")
        if gone:
            return Check(question, UNTOLD, f"{zeros}, too: by chance, or it is of another mask")
        return Check(question, HOLDS, f"all {pruned:,} pruned weights are 0, and no other")

    def rewind_point(self, t: int | None) -> Check:
        """It differs from the start unless t is 0, and from what was trained from it."""
        question = "the rewind point is another state than the start and the end"
        if check := self.lacks(question, "rewind"):
            return check
        for end in ("trained", "previous"):
            if end in self.files and self.same("rewind", end) and not (end == "trained" and self.untrained):
                why = "it was kept by reference and trained along, or saved after training"
                return Check(question, FAILS, f"{self.names('rewind')} has the weights of {self.names(end)}: {why}")
        if "start" not in self.files:
            return Check(question, UNTOLD, "give --start")
        rewind, start = self.weights("rewind"), self.weights("start")
        kept = {name: mask for name, mask in self.masks.items() if mask.any()}
        equal = [name for name, mask in kept.items() if alike(rewind[name][mask], start[name][mask])]
        others, odd = self.shared("rewind", "start")
        told = f"{len(equal)} of {len(kept)} tensors of weights and {len(others)} of {len(others + odd)} others of "
        told += f"{self.names('rewind')} are those of {self.names('start')}"
        if t == 0:
            odd = [name for name in kept if name not in equal] + odd
            return Check(question, FAILS if odd else HOLDS, told + (f", not {listed(odd)}" if odd else "") + "; t is 0")
        if len(equal) == len(kept):
            return Check(question, FAILS, told)
        if some := equal or (not odd and others):
            return Check(question, UNTOLD, f"{told} ({listed(some)}): they were not trained, or not put back")
        return Check(question, HOLDS, told)

    def step(self, t: int | None) -> Check:
        """The batches that batch norm counted, or the step that stands beside the tensors, are t."""
        question = "the rewind point is the one of step t"
        if check := self.lacks(question, "rewind"):
            return check
        counted = {int(value) for name, value in self.parts("rewind")[1].items() if name.endswith(COUNTER)} - {0}
        written = self.step_said("rewind")
        steps = {"its batch norm counted": counted, "its global_step is": {written} - {None}}
        told = [f"{what} {', '.join(map(str, sorted(found)))}" for what, found in steps.items() if found]
        if not told:
            why = f"no {COUNTER}, no global_step"
            if any(name.endswith(COUNTER) for name in self.parts("rewind")[1]):
                why = f"its {COUNTER} are 0: who wrote it did not count steps"
            return Check(question, UNTOLD, f"{self.names('rewind')} says no step ({why})")
        if t is None:
            return Check(question, UNTOLD, f"{'; '.join(told)}: give -t")
        verdict = HOLDS if all(found <= {t} for found in steps.values()) else FAILS
        return Check(question, verdict, f"{'; '.join(told)}; t is {t}")

    def rewound(self) -> Check:
        """The weights that are kept start from the rewind point, and not from what another file holds."""
        question = "the ticket's weights start from the rewind point"
        if check := self.lacks(question, "ticket", "rewind") or self.circular(question):
            return check
        ticket, rewind = self.vector("ticket")[self.flat], self.vector("rewind")[self.flat]
        if self.same("ticket", "rewind"):
            if stray := int((self.vector("ticket")[~self.flat] != 0).sum()):
                return Check(question, FAILS, f"{stray:,} pruned weights of {self.names('ticket')} are not 0")
            return Check(question, HOLDS, f"all {len(ticket):,} kept weights are those of {self.names('rewind')}")
        differ = f"{int((ticket != rewind).sum()):,} of {len(ticket):,} kept weights differ"
        for role, why in (
            ("previous", "the weights were not rewound"),
            ("start", "they were rewound to step 0"),
            ("trained", "the file was saved after training"),
        ):
            if role in self.files and self.same("ticket", role):
                return Check(question, FAILS, f"{differ}: they are those of {self.names(role)}, so {why}")
        return Check(question, FAILS, f"{differ}, by up to {float((ticket - rewind).abs().max()):.3g}")

    def others(self) -> Check:
        """Biases and batch norm start from the rewind point, too."""
        question = "biases and batch norm start from it, too"
        if check := self.lacks(question, "ticket", "rewind") or self.circular(question):
            return check
        equal, odd = self.shared("ticket", "rewind")
        if not equal + odd:
            return Check(question, UNTOLD, "the files have none in common")
        told = f"{len(odd)} of {len(equal + odd)} tensors differ" + (f": {listed(odd)}" if odd else "")
        return Check(question, FAILS if odd else HOLDS, told)

    def pruned(self, fraction: float) -> Check:
        """The k + 1 smallest of the weights that were left, over the whole network, by the published rule."""
        question = "the k + 1 smallest weights of the level before are pruned"
        if check := self.lacks(question, "previous"):
            return check
        own = self.own("previous")
        there = {name: weight != 0 for name, weight in self.weights("previous").items()}
        found, told = ticket_rule.verdict(
            self.vector("previous"),
            self.flat,
            flat({name: own.get(name, there[name]) for name in self.masks}),
            stated=own.keys() >= self.masks.keys(),
            fraction=fraction,
            sizes=self.sizes,
            others={self.names(role): self.vector(role) for role in ("rewind", "start") if role in self.files},
        )
        return Check(question, {True: HOLDS, False: FAILS, None: UNTOLD}[found], told)
