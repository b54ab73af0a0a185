"""What every stage shares: the machine it runs on, the data it opens, cohorts."""

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

from repro import store
from repro.data import Batcher, ImageSet, load
from repro.errors import UsageError
from repro.nets import Layout, create, initialise, layout_of
from repro.nets.cohort import Cohort, choose_engine
from repro.stages.curves import require_tensorboard
from repro.stages.first_look import require_finite
from repro.train.schedule import Training
from repro.train.streams import torch_stream

# Fields left out of an identity while they have these values, so that an option added later renames nothing.
DEFAULTS = {
    "balanced": False, "permute_scores": False, "pruning": "magnitude", "prune_fraction": 0.2, "precision": "fp32",
    "nesterov": False, "momentum": 0.9, "weight_decay": 1e-4, "drop_last": True, "augment": True, "score": "el2n",
    "label_noise": 0.0, "noise_draw": "shared", "labels_sha256": "", "grand": False,
}  # fmt: skip
COHORT_LIMIT = 16  # more than this gained nothing on one core (README, performance)


@dataclass(frozen=True)
class Machine:
    """Where and how a stage runs; nothing here is part of an identity.

    Arguments:
        device: 'auto', 'cpu' or 'cuda'.
        engine: 'auto' or one of `repro.nets.cohort.ENGINES`.
        checkpoint_seconds: time between step checkpoints of a long stage.
        data_dir: folder with the data sets; see `repro.data.load`.
        download: fetch a missing CIFAR archive.
        force: begin anew, whatever stands at the output path.
        dry_run: compute and write nothing, only say what would be done.
        tensorboard: folder for curves (`repro.stages.curves`), which needs an extra; None draws none.

    Raises UsageError for a device that is not there, and for an extra that is not installed.
    """

    device: str = "auto"
    engine: str = "auto"
    checkpoint_seconds: float = 60.0
    data_dir: str | Path | None = None
    download: bool = False
    force: bool = False
    dry_run: bool = False
    tensorboard: str | Path | None = None

    def __post_init__(self):
        if not self.checkpoint_seconds > 0:
            raise UsageError(f"checkpoint seconds (={self.checkpoint_seconds}) must be above 0: try 60")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda, but PyTorch sees no CUDA device here: use --device cpu or auto")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"unknown device {self.device!r}: choose auto, cpu or cuda")
        if self.tensorboard is not None:
            require_tensorboard()

    @property
    def torch_device(self) -> torch.device:
        """The CUDA device where there is one, unless 'cpu' was asked for."""
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Result:
    """What a stage did. ``computed`` and ``reused`` name its pieces; ``lines`` are findings worth printing."""

    path: Path
    identity: str
    computed: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"computed {len(self.computed)}, reused {len(self.reused)}"
        return "\n".join([f"{self.path}: {counts}", *self.lines])


def training_fields(training: Training) -> dict:
    """The recipe fields of a `Training`, flat and in JSON types."""
    return {**asdict(training), "milestones": list(training.milestones)}


def training_of(recipe: dict) -> Training:
    """The `Training` that `training_fields` put into a recipe."""
    fields = {name: recipe[name] for name in Training.__dataclass_fields__}
    return Training(**{**fields, "milestones": tuple(fields["milestones"])})


def open_data(dataset: str, normalization: str, machine: Machine) -> ImageSet:
    """The image set of a recipe; a folder of images is looked for by its name in ``machine.data_dir``."""
    if dataset.startswith("folder:"):
        name = Path(dataset.removeprefix("folder:")).expanduser()
        places = [folder for folder in (Path(machine.data_dir or ".") / name, name) if folder.is_dir()]
        if not places:
            raise UsageError(f"no folder {name} of images: point --data-dir at the folder that holds {name.name}")
        dataset = f"folder:{places[0]}"
    return load(dataset, data_dir=machine.data_dir, download=machine.download, normalization=normalization)


def data_of(artifact: store.Artifact, machine: Machine) -> ImageSet:
    """The image set an artifact was made from. Raises UsageError when the images at hand are others."""
    data = open_data(artifact.recipe["dataset"], artifact.recipe["normalization"], machine)
    if data.checksum != artifact.recipe["data_sha256"]:
        raise UsageError(
            f"{artifact.path} was made from other images of {data.name} (sha256 {artifact.recipe['data_sha256'][:12]}…, "
            f"here {data.checksum[:12]}…): point --data-dir to the same data"
        )
    return data


def require_replicates(replicates: int, source: store.Artifact | None = None) -> None:
    """Raises UsageError for less than one replicate, or for more than ``source``, which is read, holds."""
    if replicates < 1:
        raise UsageError(f"number of replicates (={replicates}) must be at least 1")
    if source and replicates > (available := len(source.table())):
        command = {"subset": "select"}.get(source.kind, source.kind)
        raise UsageError(
            f"{replicates} replicates, but {source.path} holds {available}: "
            f"run its {command} command with --replicates {replicates} first"
        )


@dataclass
class Trainer:
    """Data on a device, and cohorts of one architecture to train on it.

    Raises UsageError for a network that is unknown or cannot take the images.
    """

    data: ImageSet
    network: str
    training: Training
    machine: Machine
    cohorts: list[Cohort] = field(default_factory=list)

    def __post_init__(self):
        _tune_process()
        self.device = self.machine.torch_device
        self.batcher = Batcher(
            self.data.images, self.data.mean, self.data.std, augment=self.training.augment, device=self.device
        )
        self.labels = self.data.labels.to(self.device)
        single = self._network()
        self._try(single)
        self.layout: Layout = layout_of(single)
        self.cohort = cache(self._cohort)

    def _network(self) -> torch.nn.Module:
        return create(self.network, num_classes=self.data.num_classes, in_chans=self.data.in_chans)

    def _try(self, network: torch.nn.Module) -> None:
        """One image through the network: many of timm's take images of one size only."""
        size = self.data.image_size
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, self.data.in_chans, size, size))
        except Exception as error:  # of other people's code
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(f"network {self.network!r} cannot take the {size} x {size} images of {self.data.name} "
                             f"({reason}): choose another --network") from error  # fmt: skip
        require_finite(initialise(network, torch.Generator()), self.network, self.data)

    def _cohort(self, replicas: int) -> Cohort:
        engine = choose_engine(
            self.machine.engine, self.network, replicas=replicas, device=self.device, precision=self.training.precision
        )
        self.cohorts.append(
            Cohort(self.network, replicas=replicas, num_classes=self.data.num_classes, in_chans=self.data.in_chans,
                   engine=engine, device=self.device, precision=self.training.precision)
        )  # fmt: skip
        return self.cohorts[-1]

    @property
    def engines(self) -> set[str]:
        """The engines that cohorts were trained with; of a cohort that only evaluated, the one it has."""
        return set().union(*(cohort.used or {cohort.engine} for cohort in self.cohorts))

    def initial(self, seed: int, replicate: int, role: str = "") -> torch.Tensor:
        """The random initialisation of a replicate, [layout.size]."""
        with torch.random.fork_rng(devices=[]):  # modules that initialise themselves draw from the global generator
            torch.manual_seed(torch_stream(seed, replicate, role + "create").initial_seed())
            network = self._network()
        vector = self.layout.flatten(initialise(network, torch_stream(seed, replicate, role + "init")))
        return vector.double() if self.training.precision == "fp64" else vector

    def module(self, vector: torch.Tensor) -> torch.nn.Module:
        """One network with the numbers of ``vector``, in their precision, on the device and in evaluation mode."""
        network = self._network().to(self.device, vector.dtype).eval()
        network.load_state_dict(self.layout.state_dict(vector), strict=False)
        return network

    def chunks(self, rows: Iterable, key: Callable = lambda row: 0) -> list[list]:
        """Rows in cohorts of at most COHORT_LIMIT, of nearly equal size; rows of another ``key`` (batch sizes) apart.

        Without its first cohort, the rest is split as before: a resumed command has the same cohorts.
        """
        groups: dict = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        cohorts = []
        for group in groups.values():
            for remaining in range(-(-len(group) // COHORT_LIMIT), 0, -1):
                size = -(-len(group) // remaining)
                cohorts.append(group[:size])
                group = group[size:]
        return cohorts

    def batch_key(self, subset: np.ndarray) -> int:
        """Subsets with equal keys have batches of equal size at every step."""
        return 0 if self.training.drop_last else len(subset)


def _tune_process() -> None:
    torch.backends.cudnn.allow_tf32 = False  # on by default, and then fp32 convolutions are not float32
    torch.set_flush_denormal(True)  # pruned networks make denormals, which are many times slower
    try:  # glibc: keep freed memory, or each step's activations are page faults again (a fifth of the time)
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
    except (AttributeError, OSError):  # another C library manages without
        pass


def threads() -> int:
    """Torch threads of this process; results are bit-identical for equal numbers of threads."""
    return torch.get_num_threads()
