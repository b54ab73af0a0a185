"""Where, when and with what an artifact was made."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

PROGRAM = "lottery-data-diet"
PACKAGES = ("torch", "torchvision", "timm", "numba", "numpy", "h5py", "scikit-learn", "scipy", "pandas")
ROOT = Path(__file__).resolve().parents[2]


def provenance(*, device: str, threads: int, seed: int, started: float, wall_seconds: float, **details) -> dict:
    """All that may explain a difference between two runs of one recipe, in JSON types.

    Arguments:
        device: 'cpu', 'cuda' or 'cuda:N'.
        threads: of torch, in this process.
        seed: the base seed.
        started: seconds since the epoch, as `time.time` gives them.
        wall_seconds: spent in this run and in the interrupted ones that it continued.
        details: more to record, such as the engine.
    """
    requirements = ROOT / "requirements.txt"
    return {
        "program": f"{PROGRAM} {_version(PROGRAM)}",
        **_revision(),
        "image_digest": os.environ.get("REPRO_IMAGE_DIGEST"),  # set in the image, see container/build
        "image_base": os.environ.get("REPRO_IMAGE_BASE"),
        "requirements_sha256": hashlib.sha256(requirements.read_bytes()).hexdigest() if requirements.exists() else None,
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "device": device,
        **_gpu(device),
        "cpu": cpu_model(),
        "platform": platform.platform(),
        "threads": threads,
        "seed": seed,
        **details,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "started": _utc(started),
        "finished": _utc(time.time()),
        "wall_seconds": round(wall_seconds, 3),
    }


def cpu_model() -> str:
    """The processor's name, or its architecture where the system has no name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(device: str) -> dict:
    """Name of the GPU and version of its driver, None on a CPU."""
    if not device.startswith("cuda"):
        return {"gpu": None, "driver": None}
    import torch  # here, because reading an artifact must not load it

    return {"gpu": torch.cuda.get_device_name(device), "driver": _driver()}


@functools.cache
def _driver() -> str | None:
    """Version of NVIDIA's driver, from the kernel module, else from nvidia-smi (WSL has no such module)."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
        if found:
            return found[0]
    except OSError:
        pass
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return _ask(*command).splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


@functools.cache
def _revision() -> dict:
    """Git revision of the code and whether the code changed since: of the checkout, else as recorded in the image."""
    try:
        git = ("git", "--no-optional-locks", "-C", str(ROOT))  # no locks, because somebody may commit at this moment
        if Path(_ask(*git, "rev-parse", "--show-toplevel")).resolve() == ROOT:  # else the checkout is another project's
            changed = _ask(*git, "status", "--porcelain", "--", "repro", "paper_figures", "requirements.txt")
            return {"git_revision": _ask(*git, "rev-parse", "HEAD"), "git_dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        pass
    if recorded := os.environ.get("REPRO_REVISION"):
        return {"git_revision": recorded.removesuffix("-dirty"), "git_dirty": recorded.endswith("-dirty")}
    return {"git_revision": None, "git_dirty": None}


def _ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
