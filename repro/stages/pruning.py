"""Masks by any criterion (`repro.recipes.pruning.Pruning`) for the levels of imp."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from repro import usercode
from repro.errors import RunError, UsageError
from repro.nets import Layout, check
from repro.recipes.pruning import Pruning
from repro.stages.trainer import Trainer
from repro.train import criteria
from repro.train.prune import erk_counts, keep_highest, prune_by_magnitude, shared_out, weights_left
from repro.train.random_streams import plain_batches, stream, torch_stream


@dataclass
class Pruner:
    """Makes the masks, bool [layout.num_prunable], of the networks of a trainer.

    Arguments:
        fraction: of the surviving weights that each level removes; those of dense layers are not counted.
        seed: base of the random streams.

    Raises UsageError for patterns of dense layers that fit nothing or everything, and for a user's criterion that is
    not there.
    """

    pruning: Pruning
    fraction: float
    trainer: Trainer
    seed: int
    free: Tensor = field(init=False)
    """bool [num_prunable]: what may be pruned."""

    def __post_init__(self):
        self.layout = self.trainer.layout
        self.free = prunable(self.layout, self.pruning.keep_dense)
        self.layers = [entry for entry in self.layout.prunable if self.free[entry.offset]]
        self.names = [entry.name for entry in self.layout.prunable]
        self.function = None
        if self.pruning.own:
            self.path, self.name, self.function = usercode.attribute(self.pruning.criterion, "pruning criterion")
            if not callable(self.function):
                raise UsageError(
                    f"{self.name} of {self.path} is no function: a pruning criterion takes (weights, gradients, masks)"
                )

    def mask(self, replicate: int, level: int, vector: Tensor, mask: Tensor) -> Tensor:
        """The mask of a level.

        Arguments:
            vector: [layout.size] of the network that is ranked.
            mask: bool [num_prunable] of the level before where a level is made from it, else dense.
        """
        weights = vector[: self.layout.num_prunable]
        found, free = mask.clone(), self.free
        if self.pruning.at == "trained" and self.pruning.criterion == "magnitude":
            found[free] = prune_by_magnitude(weights[free], mask[free], self.fraction)
            return found
        steps = 1 if self.pruning.needs_level_before else level
        count = weights_left(int(mask[free].sum()), self.fraction, steps)
        sizes, counts = self._groups(mask, count)
        rounds = criteria.ITERATIONS if self.pruning.criterion == "synflow" else 1
        total = int(found[free].sum())
        for n in range(1, rounds + 1):  # more than one: to a density that falls exponentially
            if rounds > 1:
                counts = [count if n == rounds else round(total * (count / total) ** (n / rounds))]
            scores = self._scores(replicate, level, vector, found)
            if not bool(scores[found & free].isfinite().all()):
                raise RunError(f"cannot prune by {self.pruning.criterion}: its scores hold NaN or infinity: lower --lr")
            found[free] = keep_highest(scores[free], found[free], sizes, counts)
        return found

    def _groups(self, mask: Tensor, count: int) -> tuple[list[int], list[int]]:
        """Sizes of the groups that are ranked apart, and how many weights stay in each."""
        sizes = [entry.size for entry in self.layers]
        alive = [int(part.sum()) for part in mask[self.free].split(sizes)]
        if self.pruning.criterion == "erk":
            return sizes, erk_counts([entry.shape for entry in self.layers], count, alive)
        if self.pruning.criterion == "layerwise":
            return sizes, shared_out(count, alive)
        return [sum(sizes)], [count]

    def _scores(self, replicate: int, level: int, vector: Tensor, mask: Tensor) -> Tensor:
        """[num_prunable], of the network with this mask."""
        if self.pruning.at is None:
            drawn = stream(self.seed, replicate, "prune.random", level).random(self.layout.num_prunable)
            return torch.from_numpy(drawn)
        if self.pruning.criterion in ("magnitude", "layerwise"):
            return vector[: self.layout.num_prunable].abs()
        vector = vector.clone()
        vector[: self.layout.num_prunable] *= mask
        network = self.trainer.module(vector)
        if self.pruning.criterion == "synflow":
            found = criteria.synflow(network, self.names, self.trainer.image_shape)
        else:
            batches = self._batches(replicate, level if self.pruning.at == "trained" else 0)
            masks = {e.name: mask[e.offset : e.offset + e.size].view(e.shape) for e in self.layout.prunable}
            masks = {name: each.to(self.trainer.device) for name, each in masks.items()}
            if self.pruning.criterion == "snip":
                found = criteria.snip(network, self.names, batches)
            elif self.pruning.criterion == "grasp":
                found = criteria.grasp(network, self.names, batches, masks)
            else:
                number = torch_stream(self.seed, replicate, "prune.own", level).initial_seed()
                found = self._asked(network, batches, masks, number)
        return torch.cat([found[name].detach().reshape(-1).cpu() for name in self.names])

    def _batches(self, replicate: int, address: int) -> criteria.Batches:
        """Training images of a replicate, without augmentation, with the data set's own labels."""
        data, batcher, dtype = self.trainer.data, self.trainer.batcher, torch.float32
        dtype = torch.float64 if self.trainer.training.precision == "fp64" else dtype
        images = data.split(replicate)[0].numpy()
        size = min(self.trainer.training.batch_size, len(images))
        drawn = plain_batches(images, size, self.pruning.batches, self.seed, replicate, "prune.order", address)
        rows = torch.from_numpy(drawn).to(self.trainer.device)
        return [
            (batcher.normalise(batcher.gather(each), dtype).permute(0, 3, 1, 2), self.trainer.labels[each])
            for each in rows
        ]

    def try_once(self, vector: Tensor) -> None:
        """Ask a criterion that runs the network for scores of ``vector``, before anything is trained.

        Raises UsageError for a network that it fails on, and for what a user's function gives: also for scores that
        differ from call to call, because a level's mask is made again when a command is resumed.
        """
        if self.pruning.at is None or self.pruning.criterion in ("magnitude", "layerwise"):
            return
        dense = torch.ones(self.layout.num_prunable, dtype=torch.bool)
        try:
            scores = self._scores(0, 0, vector, dense).double()
        except (UsageError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a user's network may raise anything
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"--pruning {self.pruning.criterion} fails on {self.trainer.network} ({reason}): choose another "
                "criterion"
            ) from error
        if not self.function:
            return
        change = (self._scores(0, 0, vector, dense).double() - scores)[self.free].norm()
        if bool(change > 1e-3 * scores[self.free].norm()):  # a GPU may round a gradient differently
            raise UsageError(
                f"{self.name} of {self.path} gives other scores each time it is called, so that no run could be "
                "repeated: draw random numbers from the global generators, which are seeded, and keep no state"
            )

    def _asked(
        self, network: nn.Module, batches: criteria.Batches, masks: dict[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """The scores of a user's criterion, checked. seed: of the global generators while it runs."""
        gradients = criteria.gradients(network, self.names, batches)
        weights = {name: network.get_parameter(name).detach() for name in self.names}
        given = {name: (weights[name].clone(), gradients[name], masks[name]) for name in self.names}
        with check.undisturbed(seed):
            return _call(self.function, f"{self.name} of {self.path}", given, lambda e: usercode.reason(e, self.path))


def _call(function: Callable, called: str, given: dict, reason: Callable) -> dict[str, Tensor]:
    """What a user's function gives for (weights, gradients, masks), dicts by name. Raises UsageError for anything else
    than a score of each weight."""
    try:
        found = function(*({name: each[k] for name, each in given.items()} for k in range(3)))
    except Exception as error:  # a user's function may raise anything
        raise UsageError(f"{called} fails ({reason(error)}): it is called with (weights, gradients, masks)") from error
    if not isinstance(found, dict) or found.keys() != given.keys():
        said = f"a dict of {_listed(found)}" if isinstance(found, dict) and found else repr(found)[:60]
        raise UsageError(f"{called} gives {said}: return a dict with a tensor for each of {_listed(given)}")
    for name, (weights, *_) in given.items():
        shape = getattr(found[name], "shape", type(found[name]).__name__)
        if not isinstance(found[name], Tensor) or shape != weights.shape:
            shown = tuple(shape) if isinstance(shape, torch.Size) else shape
            raise UsageError(f"{called} gives {shown} for {name}: a tensor of shape {tuple(weights.shape)} is needed")
        if found[name].is_complex():
            raise UsageError(f"{called} gives complex numbers for {name}: give real ones, such as their abs()")
    return found


def prunable(layout: Layout, keep_dense: tuple[str, ...]) -> Tensor:
    """What may be pruned, bool [num_prunable], by patterns of the names of layers that may not.

    Raises UsageError for a pattern that fits no layer, and for patterns that leave nothing to prune.
    """
    names = [entry.name.removesuffix(".weight") for entry in layout.prunable]
    free = torch.ones(layout.num_prunable, dtype=torch.bool)
    for pattern in keep_dense:
        fitting = [e for name, e in zip(names, layout.prunable) if fnmatchcase(name, pattern) or e.name == pattern]
        if not fitting:
            raise UsageError(f"--keep-dense {pattern} fits no layer that is pruned: choose among {_listed(names)}")
        for entry in fitting:
            free[entry.offset : entry.offset + entry.size] = False
    if not bool(free.any()):
        raise UsageError(f"--keep-dense {','.join(keep_dense)} leaves no layer to prune: name fewer")
    return free


def _listed(names: Iterable) -> str:
    """At most eight names, the first and the last of them."""
    shown = [*map(str, names)]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-3:]])
