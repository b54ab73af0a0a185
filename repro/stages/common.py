"""What every stage shares: the machine it runs on, and the data it opens."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from repro import store
from repro.data import ImageSet, load
from repro.data.shrink import sized, split_size
from repro.errors import UsageError
from repro.stages.tensorboard import require_tensorboard

MOST_THREADS = 1024


@dataclass(frozen=True)
class Machine:
    """Where and how a stage runs; nothing here is part of an identity.

    Arguments:
        device: 'auto', 'cpu' or 'cuda'.
        engine: one of `repro.engines.ENGINES`.
        threads: CPU threads; None is what OMP_NUM_THREADS says, or else the CPUs that this process may use.
        checkpoint_seconds: time between step checkpoints of a long stage.
        data_dir: folder with the data sets; see `repro.data.load`.
        download: fetch a missing CIFAR archive.
        force: begin anew, whatever stands at the output path.
        dry_run: compute and write nothing, only say what would be done.
        tensorboard: folder for curves (`repro.stages.tensorboard`), which needs an extra; None draws none.

    Raises UsageError for a device that is not there, a number of threads that no machine has, and an extra that is not
    installed.
    """

    device: str = "auto"
    engine: str = "auto"
    threads: int | None = None
    checkpoint_seconds: float = 60.0
    data_dir: str | Path | None = None
    download: bool = False
    force: bool = False
    dry_run: bool = False
    tensorboard: str | Path | None = None

    def __post_init__(self):
        if not self.checkpoint_seconds > 0:
            raise UsageError(f"checkpoint seconds (={self.checkpoint_seconds}) must be above 0: try 60")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"number of threads (={self.threads}) must be from 1 to {MOST_THREADS}")
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

    @property
    def cpu_threads(self) -> int:
        """CPU threads to use."""
        if self.threads is not None:
            return self.threads
        given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is for nested regions
        return min(int(given), MOST_THREADS) if given.isdigit() and int(given) else _usable_cpus()


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


def _usable_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def open_data(dataset: str, normalization: str, machine: Machine) -> ImageSet:
    """The image set of a recipe; a folder of images is looked for by its name in ``machine.data_dir``."""
    if dataset.startswith("folder:"):
        base, size = split_size(dataset)
        name = Path(os.path.expanduser(base.removeprefix("folder:")))
        places = [folder for folder in (Path(machine.data_dir or ".") / name, name) if folder.is_dir()]
        if not places:
            raise UsageError(f"no folder {name} of images: point --data-dir at the folder that holds {name.name}")
        dataset = sized(f"folder:{places[0]}", size)
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
