"""check-ticket: whether a lottery ticket in anyone's PyTorch files is one, as far as files can tell.

A ticket is mask × rewind point (Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis"): the
weights of step t of a dense training, of which the smallest, by their magnitude at the end of the training before, are
pruned and stay pruned. Each part is a file of ``torch.save`` or safetensors (`repro.reading.ticket_files`); nothing in
them is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from repro.errors import RunError, UsageError
from repro.reading.ticket_files import parts_of, stated_masks, step_in, weights_in
from repro.train.prune import count_to_prune, prune_by_magnitude

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
            level before, whose smallest weights were pruned. The mask may also stand in one of trained and ticket, or
            be the weights there that are not zero.
        t: the step that the rewind point is said to be of.
        density: the share of weights that the mask is said to keep, like '13.4%', as precise as it is written.
        prune_fraction: share of the level's weights that were pruned, of which k = ceil(fraction × weights).

    Raises UsageError where no file tells a mask, for files of different networks, and for numbers out of range.
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


class _Ticket:
    """The files of one ticket, by their roles.

    masks: bool by name; source: the role of the file that they are from; zeros: they are the zeros of its weights.
    """

    def __init__(self, files: Mapping[str, Path]):
        self.files = files
        self.source, self.zeros, self.masks = self._mask()
        self.shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        self.flat = _flat(self.masks)
        self.parts = cache(lambda role: parts_of(files[role], self.shapes))
        if not bool(self.flat.any()):
            raise UsageError(f"{files[self.source]} keeps no weight: give a mask with some ones")

    def _mask(self) -> tuple[str, bool, dict[str, Tensor]]:
        sources = [role for role in ("mask", "trained", "ticket") if role in self.files]
        if not sources:
            raise UsageError("no file tells a mask: give --mask, or --trained or --ticket, whose zeros are one")
        for role in sources:
            if masks := stated_masks(self.files[role]):
                return role, False, masks
        role = sources[0]
        return role, True, {name: weight != 0 for name, weight in weights_in(self.files[role]).items()}

    @property
    def described(self) -> str:
        """What the mask is, in a line."""
        kept, count = int(self.flat.sum()), len(self.flat)
        share = f"{kept:,} of {count:,} weights in {len(self.masks)} tensors, {100 * kept / count:.4g} %"
        path = self.files[self.source]
        return f"{path} has no mask, so it is what is not zero: {share}" if self.zeros else f"{path} keeps {share}"

    def vector(self, role: str) -> Tensor:
        """The masked tensors of a file as one, float64 [P]."""
        return _flat(self.parts(role)[0]).double()

    def lacks(self, question: str, *roles: str) -> Check | None:
        """The check that cannot be made, where a file is not given."""
        lacking = [f"--{role}" for role in roles if role not in self.files]
        return Check(question, UNTOLD, f"give {' and '.join(lacking)}") if lacking else None

    def names(self, *roles: str) -> str:
        return " and ".join(str(self.files[role]) for role in roles)

    def same(self, role: str, other: str) -> bool:
        """Whether two files have the same weights where the mask keeps them."""
        return _same(self.parts(role)[0], self.parts(other)[0], self.masks)

    def equal(self, role: str, other: str) -> bool:
        """Whether two files have the same weights, also where the mask prunes them."""
        return all(_alike(*pair) for pair in zip(self.parts(role)[0].values(), self.parts(other)[0].values()))

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
        found = 100 * Decimal(int(self.flat.sum())) / len(self.flat)
        half = Decimal(1).scaleb(said.as_tuple().exponent) / 2
        verdict = HOLDS if abs(found - said) <= half else FAILS
        return Check(question, verdict, f"{found:.6g} % of the weights are kept, {said} % is said")

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
        weights = self.parts("trained")[0]
        moved = {name: (weights[name] != 0) & ~mask for name, mask in self.masks.items()}
        count, pruned = int(_flat(moved).sum()), int((~self.flat).sum())
        if not count:
            return Check(question, HOLDS, f"all {pruned:,} pruned weights are 0")
        largest = max(float(weights[name][bad].abs().max()) for name, bad in moved.items() if bad.any())
        where = _listed([name for name, bad in moved.items() if bad.any()])
        return Check(
            question, FAILS, f"{count:,} of {pruned:,} pruned weights are not 0, up to {largest:.3g}, in {where}"
        )

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
        both = zip(self.parts("rewind")[0].values(), self.parts("start")[0].values())
        equal = sum(_alike(a, b) for a, b in both)
        told = f"{equal} of {len(self.masks)} tensors of {self.names('rewind')} are those of {self.names('start')}"
        if t == 0:
            return Check(question, HOLDS if equal == len(self.masks) else FAILS, f"{told}, and t is 0")
        return Check(question, FAILS if equal == len(self.masks) else HOLDS, told)

    def step(self, t: int | None) -> Check:
        """The batches that batch norm counted, or the step that stands beside the tensors, are t."""
        question = "the rewind point is the one of step t"
        if check := self.lacks(question, "rewind"):
            return check
        counted = {int(value) for name, value in self.parts("rewind")[1].items() if name.endswith(COUNTER)} - {0}
        written = step_in(self.files["rewind"])
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
        ticket, rewind = (self.parts(role)[1] for role in ("ticket", "rewind"))
        shared = [name for name in ticket if name in rewind and ticket[name].is_floating_point()]
        if not shared:
            return Check(question, UNTOLD, "the files have none in common")
        odd = [name for name in shared if not _alike(ticket[name], rewind[name])]
        told = f"{len(odd)} of {len(shared)} tensors differ" + (f": {_listed(odd)}" if odd else "")
        return Check(question, FAILS if odd else HOLDS, told)

    def pruned(self, fraction: float) -> Check:
        """The k + 1 smallest of the weights that were left, over the whole network, by the published rule."""
        question = "the k + 1 smallest weights of the level before are pruned"
        if check := self.lacks(question, "previous"):
            return check
        weights = self.vector("previous")
        before = self._mask_before()
        if back := int((self.flat & ~before).sum()):
            return Check(question, FAILS, f"{back:,} weights are kept that were pruned in {self.names('previous')}")
        left, cut = int(before.sum()), before & ~self.flat
        try:
            expected = prune_by_magnitude(weights, before, fraction)
            rule = count_to_prune(left, fraction)
        except RunError as error:
            return Check(question, FAILS, str(error))
        told = f"{int(cut.sum()):,} of {left:,} are pruned, ceil({fraction:g} × {left:,}) + 1 = {rule:,}"
        if torch.equal(expected, self.flat):
            return Check(question, HOLDS, told)
        return Check(question, FAILS, f"{told}; {self._instead(weights, before, cut, expected)}")

    def _mask_before(self) -> Tensor:
        """The mask of the level before: what its file states, or its weights that are not zero."""
        stated = stated_masks(self.files["previous"])
        if stated.keys() == self.masks.keys():
            return _flat({name: stated[name] for name in self.masks})
        return self.vector("previous") != 0

    def _instead(self, weights: Tensor, before: Tensor, cut: Tensor, expected: Tensor) -> str:
        """What was pruned, where it was not the k + 1 smallest."""
        if _smallest(weights, before, cut):
            return "they are the smallest of the whole network, in another number"
        sizes = [mask.numel() for mask in self.masks.values()]
        layers = zip(*(each.split(sizes) for each in (weights, before, cut)))
        if all(_smallest(*layer) for layer in layers):
            return "they are the smallest of each tensor: it was pruned layer by layer, not globally"
        for role in ("rewind", "start", "ticket", "trained"):
            if role in self.files and _smallest(self.vector(role), before, cut):
                return f"they are the smallest of {self.names(role)}, not of the trained {self.names('previous')}"
        return f"{int((cut & expected).sum()):,} of them are not among the smallest"


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    return all(_alike(a[name][mask], b[name][mask]) for name, mask in masks.items())


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in the coarser of their types: a file may have been saved in half precision."""
    coarser = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(a.to(coarser), b.to(coarser))


def _smallest(weights: Tensor, before: Tensor, cut: Tensor) -> bool:
    """Whether no weight that is kept is smaller than one that is cut."""
    gone, kept = weights[cut].abs(), weights[before & ~cut].abs()
    return not len(gone) or not len(kept) or bool(gone.max() <= kept.min())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
