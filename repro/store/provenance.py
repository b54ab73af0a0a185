"""Where, when and with what an artifact was made."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

PROGRAM = "lottery-data-diet"
PACKAGES = ("torch", "torchvision", "timm", "numba", "numpy", "h5py", "scikit-learn", "scipy", "pandas")
ROOT = Path(__file__).resolve().parents[2]


def provenance(*, device: str, threads: int, seed: int, started: float, wall_seconds: float, **details) -> dict:
    """Everything that may explain a difference between two runs of one recipe, in JSON types.

    Arguments:
        device: its name as torch gives it, or the CPU's.
        threads: of torch, in this process.
        seed: the base seed.
        started: seconds since the epoch, as `time.time` gives them.
        wall_seconds: spent in this run and in those it took up.
        details: more to record, such as the engine.
    """
    requirements = ROOT / "requirements.txt"
    return {
        "program": f"{PROGRAM} {_version(PROGRAM)}",
        **_git(),
        "image_digest": os.environ.get("REPRO_IMAGE_DIGEST"),
        "requirements_sha256": hashlib.sha256(requirements.read_bytes()).hexdigest() if requirements.exists() else None,
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "device": device,
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
    """The processor's name, as good as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
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


@functools.cache
def _git() -> dict:
    """Revision and whether the code differs from it; None for both where this is no checkout or git is missing."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if Path(ask("rev-parse", "--show-toplevel")).resolve() != ROOT:  # installed inside somebody else's checkout
            return {"git_revision": None, "git_dirty": None}
        changed = ask("status", "--porcelain", "--", "repro", "paper_figures", "requirements.txt")
        return {"git_revision": ask("rev-parse", "HEAD"), "git_dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"git_revision": None, "git_dirty": None}
