"""Networks trained and measured for a stage: which engine, in which cohorts, and which of them diverged."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher, ImageSet
from repro.engines import EVALUATION_BATCH, Cohort, choose, create
from repro.errors import UsageError, say_once
from repro.nets import Layout, check, classic, initialise, layout_of
from repro.nets.resnet import CifarResNet
from repro.recipes.training import Training
from repro.stages.inputs import network_for
from repro.stages.machine import Machine, tune_process
from repro.train import evaluate
from repro.train.job import NEVER, Job, Progress
from repro.train.loop import train
from repro.train.random_streams import torch_stream

if TYPE_CHECKING:
    from repro.stages.artifact_writer import ArtifactWriter


@dataclass
class Trained:
    """Networks at the end of their training, and which of them diverged. All stages decide by this one rule:

    A network has diverged when a loss during its training, a number of its state, or a logit in a measurement of it
    (`Trainer.measure`) is not finite.

    engines: by network. diverged_at: int64 [R], the step of the first loss that was not finite; the last step where
    only the state or a logit is not finite; else -1.
    """

    jobs: Sequence[Job]
    state: Progress
    engines: list[str]
    diverged_at: np.ndarray = field(init=False)

    def __post_init__(self):
        self.diverged_at = self.state.diverged_at.copy()
        self.lose(~self.state.vectors.isfinite().all(1).numpy())

    def lose(self, lost: np.ndarray) -> None:
        """These networks, bool [R], have diverged by the end of their training."""
        stops = [job.stop for job in self.jobs]
        self.diverged_at = np.where(lost & (self.diverged_at == NEVER), stops, self.diverged_at)

    @property
    def vectors(self) -> Tensor:
        """[R, layout.size]."""
        return self.state.vectors

    @property
    def diverged(self) -> np.ndarray:
        """bool [R]."""
        return self.diverged_at != NEVER

    @property
    def seconds(self) -> float:
        """A network's share of the time that the training took."""
        return self.state.seconds / len(self.jobs)


def advice(diverged_at: int, first: int, lr: float) -> str:
    """What to do about a loss that was not finite at step ``diverged_at`` of a training from step ``first`` on."""
    if diverged_at == first:
        weights = "the weights it starts from, and at " if first else ""
        return (
            f"that was before any update, so the learning rate (={lr}) is not why: look at {weights}what its forward "
            "gives in training mode"
        )
    return f"lower --lr (={lr})"


@dataclass
class Trainer:
    """Data on a device, and cohorts of one architecture to train on it.

    Raises UsageError for a network that is unknown, cannot take the images or cannot be trained with the same result
    again (`repro.nets.check`), and for an engine that it cannot have.
    """

    data: ImageSet
    network: str
    training: Training
    machine: Machine
    engines: set[str] = field(default_factory=set)
    """The engines that networks were trained or measured with."""

    def __post_init__(self):
        tune_process(self.machine.cpu_threads)
        self.device = self.machine.torch_device
        self.batcher = Batcher(
            self.data.images,
            self.data.mean,
            self.data.std,
            augment=self.training.augment,
            border=self.training.border,
            device=self.device,
        )
        self.labels = self.data.labels.to(self.device)
        single = self._network()
        self._try(single)
        for line in check.require_trainable(self._network, self.network, self.image_shape, self.data.num_classes):
            say_once(f"warning: {line}")
        self.layout: Layout = layout_of(single)
        if self.machine.engine != "auto":
            self.engine()  # complains of an engine that the network cannot have
        self._cohort = cache(self._create)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.data.in_chans, self.data.image_size, self.data.image_size

    def _network(self) -> torch.nn.Module:
        return network_for(self.data, self.network)

    def _try(self, network: torch.nn.Module) -> None:
        """One image through the network: many of timm's take images of one size only."""
        size = self.data.image_size
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, self.data.in_chans, size, size))
        except Exception as error:  # of other people's code
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"network {self.network!r} cannot take the {size} x {size} images of {self.data.name} "
                f"({reason}): choose another --network"
            ) from error
        require_finite(initialise(network, torch.Generator()), self.network, self.data)

    def require_batches(self, size: int, *, scoring: bool = False) -> None:
        """Raises UsageError for passes over ``size`` images with a batch of one that the network cannot be trained on.

        scoring: the batches are those of scores by batch statistics.
        """
        batch_size, drop_last = self.training.batch_size, self.training.drop_last
        advice = "a larger --batch-size" if batch_size == 1 else "--drop-last, or another --batch-size"
        if scoring:
            batch_size, drop_last, advice = EVALUATION_BATCH, False, "--batch-norm running"
        check.require_batches(
            self._network,
            self.network,
            self.image_shape,
            size=size,
            batch_size=batch_size,
            drop_last=drop_last,
            advice=advice,
        )

    @property
    def provenance(self) -> dict:
        """Device and engines, for the record; of the sparse one the lanes, by which its sums are rounded."""
        found = {"device": str(self.device), "engine": "/".join(sorted(self.engines))}
        if "sparse" in self.engines:
            from repro.engines.sparse.lanes import W  # Numba takes a second to import

            found["lanes"] = W
        return found

    # --- cohorts ------------------------------------------------------------------------------------------------

    @property
    def most(self) -> int:
        """Networks of a cohort at most: one for each thread, and 16 where there are fewer."""
        return max(16, self.machine.cpu_threads)

    def engine(self, kept: Tensor | None = None) -> str:
        """The engine for a network with this mask, bool [num_prunable]; None is dense."""
        return choose(
            self.machine.engine,
            self.network,
            image_size=self.data.image_size,
            in_chans=self.data.in_chans,
            num_classes=self.data.num_classes,
            density=1.0 if kept is None else kept.double().mean().item(),
            device=self.device,
            precision=self.training.precision,
        )

    def engine_of(self, vector: Tensor) -> str:
        """The engine for measuring a network [layout.size], by its weights that are not zero."""
        return self.engine(vector[: self.layout.num_prunable] != 0)

    def cohort(self, replicas: int, engine: str) -> Cohort:
        """R networks of an engine that `engine` gave. Made once."""
        cohort = self._cohort(replicas, engine)
        self.engines.add(cohort.engine)
        return cohort

    def _create(self, replicas: int, engine: str) -> Cohort:
        return create(
            engine,
            self.network,
            replicas=replicas,
            num_classes=self.data.num_classes,
            in_chans=self.data.in_chans,
            image_size=self.data.image_size,
            device=self.device,
            precision=self.training.precision,
            threads=self.machine.cpu_threads,
        )

    def _cohort_of(self, jobs: Sequence[Job]) -> Cohort:
        engines = {self.engine(job.mask) for job in jobs}
        assert len(engines) == 1, f"jobs of one cohort need one engine, not {engines}: chunk them by `cohort_key`"
        return self._cohort(len(jobs), engines.pop())

    def cohort_key(self, subset: np.ndarray, mask: Tensor | None = None) -> Hashable:
        """Equal for jobs that one cohort can train: by one engine, in batches of equal size at every step.

        Raises UsageError as `require_batches`.
        """
        self.require_batches(len(subset))
        return 0 if self.training.drop_last else len(subset), self.engine(mask)

    def chunks(self, rows: Iterable, key: Callable = lambda row: 0) -> list[list]:
        """Rows in cohorts of at most `most`, of nearly equal size; rows of another ``key`` (`cohort_key`) apart.

        Without its first cohort, the rest is split as before: a command that is taken up with as many threads has the
        same cohorts.
        """
        groups: dict = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        cohorts = []
        for group in groups.values():
            for remaining in range(-(-len(group) // self.most), 0, -1):
                size = -(-len(group) // remaining)
                cohorts.append(group[:size])
                group = group[size:]
        return cohorts

    # --- networks -----------------------------------------------------------------------------------------------

    def initial(self, seed: int, replicate: int, role: str = "") -> Tensor:
        """The random initialisation of a replicate, [layout.size]."""
        with check.undisturbed():  # modules that initialise themselves draw from the global generator
            torch.manual_seed(torch_stream(seed, replicate, role + "create").initial_seed())
            network = self._network()
        ours = self.network.startswith("lowres_") or classic.NAME.fullmatch(self.network)
        if not (isinstance(network, CifarResNet) or ours):
            say_once(
                f"warning: {self.network} begins as the paper's networks do (Kaiming normal weights of Conv2d and "
                "Linear, BatchNorm2d uniform): what its code or a checkpoint put there is overwritten"
            )
        vector = self.layout.flatten(initialise(network, torch_stream(seed, replicate, role + "init")))
        return vector.double() if self.training.precision == "fp64" else vector

    def module(self, vector: Tensor) -> torch.nn.Module:
        """One network with the numbers of ``vector``, in their precision, on the device and in evaluation mode."""
        network = self._network().to(self.device, vector.dtype).eval()
        network.load_state_dict(self.layout.state_dict(vector), strict=False)
        return network

    # --- training, measuring ------------------------------------------------------------------------------------

    def train(self, writer: "ArtifactWriter", jobs: list[Job], pieces: list[str], where: str, **options) -> Trained:
        """Train jobs as one cohort, one for each of ``pieces``, with checkpoints and progress of the writer.

        Arguments:
            where: the cohort's place in the command, for the progress line.
            options: of `repro.train.loop.train`.
        """
        return self.run(jobs, **writer.training(pieces, jobs, self.training, where), **options)

    def run(self, jobs: list[Job], **options) -> Trained:
        """Train jobs as one cohort; the options are those of `repro.train.loop.train`."""
        state = train(
            jobs, self.training, cohort_of=self._cohort_of, batcher=self.batcher, labels=self.labels, **options
        )
        engines = [state.engines.get(j) or self.engine(job.mask) for j, job in enumerate(jobs)]
        self.engines.update(engines)
        return Trained(jobs, state, engines)

    def measure(
        self,
        trained: Trained,
        *splits: Sequence[np.ndarray],
        batch_norm: str = "running",
        report: Callable[[int], None] | None = None,
    ) -> list[list[Tensor]]:
        """Logits of the networks, a list for each of ``splits`` (see `repro.train.evaluate.predict`).

        Networks with a logit that is not finite have diverged from then on.
        """
        cohort = self.cohort(len(trained.jobs), self.engine(trained.jobs[0].mask))
        evaluate.load(cohort, trained.vectors)
        found = [
            evaluate.predict(cohort, self.batcher, list(index), batch_norm=batch_norm, report=report)
            for index in splits
        ]
        for logits in found:
            trained.lose(np.array([not bool(each.isfinite().all()) for each in logits]))
        return found

    def accuracy(self, trained: Trained, j: int, correct: Tensor) -> float:
        """Share of the test images that network ``j`` classifies correctly; chance for one that diverged."""
        return 1 / self.data.num_classes if trained.diverged[j] else correct.double().mean().item()


IMAGES = 16


def require_finite(network: torch.nn.Module, name: str, data: ImageSet) -> None:
    """Tries a new network on the first images of a data set. Raises UsageError that names what is not finite."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if bad := [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise UsageError(
            f"network {name!r} begins with infinity or NaN in {', '.join(bad[:3])}, with which nothing can "
            "be averaged or interpolated: put a finite value there, -1e9 in a mask of scores"
        )
    images = (data.images[:IMAGES] / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    if not images.isfinite().all():
        raise UsageError(
            f"the images of {data.name} are not finite after normalisation (mean {data.mean}, deviation "
            f"{data.std}): leave out a channel in which all are the same"
        )
    with torch.no_grad():
        logits = network.eval()(images.permute(0, 3, 1, 2))
    if not logits.isfinite().all():
        raise UsageError(
            f"network {name!r} gives infinity or NaN for images of {data.name} before the first step, which "
            "is no matter of the learning rate: mend its forward"
        )
