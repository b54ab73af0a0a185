"""Where and how a stage runs."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import torch

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
        tensorboard: folder for curves (`repro.stages.tensorboard`), if that package is there; None draws none.

    Raises UsageError for a device that is not there, a number of threads that no machine has, and for tensorboard where
    it is not installed.
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


def _usable_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def tune_process(threads: int) -> None:
    """Settings of PyTorch and of the C library for training with so many threads."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False  # equal commands choose alike; what is chosen once stays for the process
    torch.backends.cudnn.allow_tf32 = False  # on by default, and then fp32 convolutions are not float32
    torch.set_flush_denormal(True)  # pruned networks make denormals, which are many times slower
    try:  # glibc: keep freed memory, or each step's activations are page faults again (a fifth of the time)
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
    except (AttributeError, OSError):  # another C library manages without
        pass
