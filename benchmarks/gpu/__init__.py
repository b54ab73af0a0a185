"""The first minutes on a GPU: whether the program is right there, how fast, and what would make it faster.

Stages in order of value, each in a process of its own with a limit. Results are kept after each, so that what was
measured is there whatever happens. On a CPU the same code runs where it can, and says why where it cannot.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import require_writable
from benchmarks.gpu.conclusions import markdown
from repro.errors import UsageError
from repro.store.files import write_whole

LEAST = 8.0  # seconds that are worth starting a stage for
SLOWER = 4  # times as long as on a GPU a stage may take on a CPU, which may be busy


@dataclass(frozen=True)
class Stage:
    """A function of `stages` or `kernels`.

    limit: seconds. half: of two that a machine is had for. gpu: whether it says nothing on a CPU. environment: of its
    process alone.
    """

    name: str
    limit: float
    half: int
    gpu: bool = False
    environment: tuple[tuple[str, str], ...] = ()


STAGES = (
    Stage("environment", 45, 1),
    Stage("tests", 90, 1, gpu=True),
    Stage("agreement", 60, 1),
    Stage("rates", 120, 1),
    Stage("profile", 40, 1, gpu=True),
    Stage("launch", 20, 1, gpu=True),
    Stage("checks", 60, 2),
    Stage("prototypes", 80, 2),
    Stage("convolutions", 50, 2),
    Stage("search", 60, 2, gpu=True),
    Stage("scoring", 45, 2),
    Stage("measuring", 30, 2),
    Stage("connections", 35, 2, gpu=True, environment=(("CUDA_DEVICE_MAX_CONNECTIONS", "32"),)),
    Stage("commands", 60, 2),
)


def measure(out: Path, *, device: str, tiny: bool = False, seconds: float = 280.0, names: tuple[str, ...] = ()) -> dict:
    """Run stages until time is up, and keep their results in ``out``: gpu.json, gpu.md and gpu.log.

    Arguments:
        device: 'cuda' or 'cpu'.
        tiny: networks so small that a CPU takes seconds.
        seconds: for everything. A stage that does not fit is left out.
        names: of stages, or 'one' and 'two' for the halves; () is all.

    Raises UsageError for a name that no stage has, and RunError when ``out`` cannot be written.
    """
    known = {stage.name: (stage,) for stage in STAGES}
    known |= {word: tuple(s for s in STAGES if s.half == half) for half, word in ((1, "one"), (2, "two"))}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no stage {unknown[0]!r}: choose from {', '.join(known)}")
    chosen = [stage for name in names or ("one", "two") for stage in known[name]]
    require_writable(out)
    began, found = time.monotonic(), {"device": device, "tiny": tiny, "stages": {}}
    with tempfile.TemporaryDirectory() as folder, open(out / "gpu.log", "w", encoding="utf-8") as log:
        for stage in chosen:
            left = seconds - (time.monotonic() - began)
            path, started = Path(folder, stage.name), time.monotonic()
            ended = "left out: no time was left"
            if stage.gpu and device == "cpu":
                ended = "left out: it needs a GPU"
            elif left > LEAST:
                limit = stage.limit if device == "cuda" else SLOWER * stage.limit
                ended = _run(stage, path, min(limit, left - 3), device, tiny, log)
            results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            took = round(time.monotonic() - started, 1)
            found["stages"][stage.name] = {"ended": ended, "seconds": took, **results}
            write_whole(out / "gpu.json", [json.dumps(found, indent=1).encode()])
            write_whole(out / "gpu.md", [markdown(found).encode()])
            print(f"{stage.name:12} {took:6.1f} s  {ended}", file=sys.stderr, flush=True)
    return found


def _run(stage: Stage, path: Path, limit: float, device: str, tiny: bool, log) -> str:
    """Run a stage in a process group of its own, and say how it ended."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--stage", stage.name, "--device", device]
    command += ["--results", str(path), "--seconds", str(limit), *["--tiny"] * tiny]
    own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **dict(stage.environment)}
    if device == "cpu":
        own |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    print(f"\n===== {stage.name}, {limit:.0f} s at most", file=log, flush=True)
    process = subprocess.Popen(
        command, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        status = process.wait(limit + 2)
        return {0: "done", 3: "not here"}.get(status, f"ended with status {status}: see gpu.log")
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    finally:
        if process.poll() is None:  # also after Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
