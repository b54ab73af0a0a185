"""Training and measuring of networks, for every stage: by which engine, and in which cohorts."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from repro.data import Batcher, ImageSet
from repro.engines import EVALUATION_BATCH, Cohort, choose, create
from repro.errors import UsageError, say_once
from repro.nets import CLASSIC, Layout, check, initialise, layout_of
from repro.nets.resnet import CifarResNet
from repro.recipes.training import Training
from repro.stages.inputs import Init, created, network_for, require_runs, shape_of
from repro.stages.machine import Machine, tune_process
from repro.stages.progress import FORWARD, images_of, place
from repro.stages.trained import Network, Trained
from repro.train import evaluate
from repro.train.job import Job
from repro.train.loop import parts_of, train
from repro.train.random_streams import torch_stream

if TYPE_CHECKING:
    from repro.stages.artifact_writer import ArtifactWriter


@dataclass
class Trainer:
    """Data on a device, and cohorts of one architecture to train on it.

    init: what networks begin as.

    Raises UsageError for a network that is unknown, cannot take the images or cannot be trained with the same result
    again (`repro.nets.check`), and for an engine that it cannot have.
    """

    data: ImageSet
    network: str
    training: Training
    machine: Machine
    init: Init = Init()
    engines: set[str] = field(default_factory=set)
    """The engines that networks were trained or measured with."""

    def __post_init__(self):
        tune_process(self.machine.cpu_threads)
        self.device = self.machine.torch_device
        self.dtype = torch.float64 if self.training.precision == "fp64" else torch.float32
        self.how = {"device": self.device, "precision": self.training.precision, **shape_of(self.data)}  # of engines
        augment, border = self.training.augment, self.training.border
        images = self.data.images, self.data.mean, self.data.std
        self.batcher = Batcher(*images, augment=augment, border=border, device=self.device)
        self.labels = self.data.labels.to(self.device)
        single = self._network()
        require_runs(single, self.network, self.data, self.init)
        for line in check.require_trainable(self._network, self.network, self.image_shape, self.data.num_classes):
            say_once(f"warning: {line}")
        self.layout: Layout = layout_of(single)
        if self.init.how == "network" and not torch.equal(self.initial(0, 0), self.initial(0, 0)):
            raise UsageError(
                f"{self.network} begins with other numbers each time it is made, so that no run could be repeated: "
                "draw them from torch's global generator, or leave --init network out"
            )
        if self.machine.engine != "auto":
            self.engine()  # raises for an engine that the network cannot have
        self._cohorts: dict[tuple[int, str], Cohort] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.data.in_chans, self.data.image_size, self.data.image_size

    def _network(self) -> torch.nn.Module:
        return network_for(self.data, self.network)

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
        """Device and engines, and the lanes of the sparse one, by which its sums are rounded."""
        found = {"device": str(self.device), "engine": "/".join(sorted(self.engines))}
        if "sparse" in self.engines:
            from repro.engines.sparse.lanes import W  # Numba takes a second to import

            found["lanes"] = W
        return found

    # --- cohorts ------------------------------------------------------------------------------------------------

    @property
    def most(self) -> int:
        """The largest cohort: one network for each thread, and 16 where there are fewer."""
        return max(16, self.machine.cpu_threads)

    def engine(self, kept: Tensor | None = None) -> str:
        """The engine for a network with this mask, bool [num_prunable]; None is dense."""
        density = 1.0 if kept is None else kept.double().mean().item()
        return choose(self.machine.engine, self.network, density=density, **self.how)

    def engine_of(self, vector: Tensor) -> str:
        """The engine for measuring a network [layout.size], by its weights that are not zero."""
        return self.engine(vector[: self.layout.num_prunable] != 0)

    def cohort(self, replicas: int, engine: str) -> Cohort:
        """A cohort of R networks, of an engine that `engine` gave; there is one of each size."""
        cohort = self._cohort(replicas, engine)
        self.engines.update(cohort.engine.split("/"))
        return cohort

    def _cohort(self, replicas: int, engine: str) -> Cohort:
        key = replicas, engine
        if key not in self._cohorts:
            threads = self.machine.cpu_threads
            self._cohorts[key] = create(engine, self.network, replicas=replicas, threads=threads, **self.how)
        return self._cohorts[key]

    def _cohort_of(self, jobs: Sequence[Job]) -> Cohort:
        engines = {self.engine(job.mask) for job in jobs}
        assert len(engines) == 1, f"jobs of one cohort need one engine, not {engines}: chunk them by `cohort_key`"
        return self._cohort(len(jobs), engines.pop())

    def cohort_key(self, job: Job) -> Hashable:
        """Equal for jobs that one cohort can train: by one engine, in batches of equal size at every step."""
        sizes = len(job.subset), job.then is not None and len(job.then), job.warmup
        return 0 if self.training.drop_last else sizes, self.engine(job.mask)

    def chunks(self, rows: Iterable, key: Callable = lambda row: 0) -> list[list]:
        """Rows in cohorts of at most `most`, of nearly equal size; rows of another ``key`` apart.

        The rest is split in the same way once the first cohort is done, so a command that is resumed with as many
        threads has the same cohorts.
        """
        groups: dict = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        return [part for group in groups.values() for part in parts_of(group, self.most)]

    def cohorts(
        self, jobs: dict[str, Job], total: int, key: Callable[[Job], Hashable] | None = None
    ) -> Iterator[tuple[dict[str, Job], str]]:
        """Jobs by piece, in cohorts of one ``key`` (`cohort_key`), each with its place among ``total`` networks.

        Raises UsageError as `require_batches`, before anything is trained.
        """
        both = (images for job in jobs.values() for images in (job.subset, job.then) if images is not None)
        for size in dict.fromkeys(map(len, both)):
            self.require_batches(size)
        done = total - len(jobs)
        for pieces in self.chunks(jobs, lambda piece: (key or self.cohort_key)(jobs[piece])):
            yield {piece: jobs[piece] for piece in pieces}, place("network", done, len(pieces), total)
            done += len(pieces)

    # --- networks -----------------------------------------------------------------------------------------------

    def initial(self, seed: int, replicate: int, role: str = "") -> Tensor:
        """What a replicate begins as, [layout.size]."""
        if self.init.vector is not None:
            return self.init.vector.to(self.dtype, copy=True)
        network = created(self.data, self.network, seed, replicate, role)
        if self.init.how == "network":
            return self.layout.flatten(network).to(self.dtype)
        ours = self.network.startswith("lowres_") or CLASSIC.fullmatch(self.network)
        if not (isinstance(network, CifarResNet) or ours):
            say_once(
                f"warning: {self.network} begins as the paper's networks do (Kaiming normal weights of Conv2d and "
                "Linear, BatchNorm2d uniform): what its code or a checkpoint put there is overwritten, which "
                "--init network leaves as it is"
            )
        return self.layout.flatten(initialise(network, torch_stream(seed, replicate, role + "init"))).to(self.dtype)

    @property
    def alike(self) -> tuple[str, ...]:
        """A line that says so where all networks begin with the same numbers."""
        if self.init.how == "paper":
            return ()
        if self.init.how == "network" and not torch.equal(self.initial(0, 0), self.initial(0, 1)):
            return ()
        return (
            "all networks begin with the same weights: they differ by data order only (and by fold, subset and "
            "augmentation, where there are any)",
        )

    def module(self, vector: Tensor) -> torch.nn.Module:
        """One network with the numbers of ``vector``, in their precision, on the device and in evaluation mode."""
        network = self._network().to(self.device, vector.dtype).eval()
        network.load_state_dict(self.layout.state_dict(vector), strict=False)
        return network

    # --- training, measuring ------------------------------------------------------------------------------------

    def expect(self, writer: "ArtifactWriter", jobs: dict[str, Job], *splits: str, more: float = 0.0) -> None:
        """Tell the progress line what the pieces will take: training their jobs, measuring them on the splits, and
        ``more`` work for each image of these."""
        for piece, job in jobs.items():
            measured = sum(len(self.images(job, split)) for split in splits)
            writer.ticker.expect({piece: images_of(self.training, job) + (FORWARD + more) * measured})

    def train(self, writer: "ArtifactWriter", jobs: dict[str, Job], where: str, **options) -> Trained:
        """Train the jobs of pieces as one cohort, with checkpoints and progress of the writer.

        Jobs without a vector start from the random initialisation that their streams draw.

        Arguments:
            where: the cohort's place in the command, for the progress line.
            options: of `repro.train.loop.train`.
        """
        if late := [str(step) for step in self.training.milestones if step >= self.training.steps]:
            say_once(
                f"warning: the rate does not fall at {', '.join(late)}, because the schedule ends at step "
                f"{self.training.steps}: give --milestones below it"
            )
        pieces = list(jobs)
        started = [job if job.vector is not None else self.started(job) for job in jobs.values()]
        trained = self.run(started, **writer.training(pieces, started, self.training, where), **options)
        trained.pieces, trained.report = pieces, writer.ticker.measured
        return trained

    def started(self, job: Job) -> Job:
        """The job with the random initialisation that its streams draw."""
        return replace(job, vector=self.initial(job.seed, job.replicate, job.role))

    def run(self, jobs: list[Job], **options) -> Trained:
        """Train jobs as one cohort; the options are those of `repro.train.loop.train`."""
        state = train(
            jobs, self.training, cohort_of=self._cohort_of, batcher=self.batcher, labels=self.labels, **options
        )
        engines = [state.engines.get(j) or self.engine(job.mask) for j, job in enumerate(jobs)]
        self.engines.update("/".join(engines).split("/"))
        return Trained(jobs, state, engines)

    def measure(self, trained: Trained, *splits: str, batch_norm: str = "running") -> list[Network]:
        """The networks, with their predictions on each split, un-augmented (see `repro.train.evaluate.predict`).

        Networks with a logit that is not finite have diverged from then on.

        Arguments:
            splits: 'train' and 'test' images of a network's replicate, or its job's 'subset', with the job's labels.
        """
        cohort = self.cohort(len(trained.jobs), self.engine(trained.jobs[0].mask))
        evaluate.load(cohort, trained.vectors)
        seen: list[dict] = [{} for _ in trained.jobs]
        for split in splits:
            index = [self.images(job, split) for job in trained.jobs]
            found = evaluate.predict(cohort, self.batcher, index, batch_norm=batch_norm, report=trained.report)
            for j, job in enumerate(trained.jobs):
                labels = self.data.labels if split != "subset" or job.labels is None else job.labels
                seen[j][split] = evaluate.Predictions(found[j], labels[torch.from_numpy(index[j])])
            trained.lose(np.array([not bool(logits.isfinite().all()) for logits in found]))
        return trained.networks(seen)

    def images(self, job: Job, split: str) -> np.ndarray:
        """Dataset indices, int64, of a split of `measure`."""
        if split == "subset":
            return job.subset
        return self.data.split(job.replicate)[("train", "test").index(split)].numpy()
