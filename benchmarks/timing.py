"""Timings in turns: every variant has a process of its own, and they train for a while one after the other.

Separate processes keep the plain script from profiting from settings of our loop, and peak memory is known per process
only.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.variants import Group, Variant, build
from repro.errors import RunError

LEAST, MOST = 3, 9  # rounds of turns
PATIENCE = {"cpu": 90.0, "cuda": 30.0}  # seconds until a variant has to be ready, or its turn to be over
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "benchmarks.variants"])  # children start in milliseconds


@dataclass
class Measured:
    """What a variant's turns took; ``error`` where it could not run.

    cpu, wall: what was counted (`Variant.per_step`) in a second of the process's CPU time, and of time, one for each
    round. first: seconds of the first call. engine: the one that trained.
    """

    variant: Variant
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    engine: str = ""
    first: float = 0.0
    peak_mib: float = 0.0
    steps: int = 0
    error: str = ""


def measure(group: Group, *, device: str, end: float, cache: str | None = None) -> list[Measured]:
    """Time the variants of a group in turns (a, b, c, a, b, c, …), `MOST` times, and `LEAST` times if time is short.

    Arguments:
        end: of ``time.monotonic()``: variants that are not ready by then are left out, and none is waited for longer
            than its `PATIENCE` after it.
        cache: folder for compiled code; None is the engine's own.

    They are warmed up one after the other: together they would slow each other.
    """
    workers = [_Worker(variant, (device, group.seconds, cache), end) for variant in group.variants]
    found = [Measured(variant) for variant in group.variants]
    try:
        for result, worker in zip(found, workers):
            _start(result, worker, end)
        for done in range(MOST):
            if done >= LEAST and time.monotonic() > end or all(result.error for result in found):
                break
            print(f"  round {done + 1}", file=sys.stderr, flush=True)
            for result, worker in zip(found, workers):
                if not result.error:
                    _turn(result, worker)
        for result, worker in zip(found, workers):
            if not result.error:
                result.peak_mib, result.engine = worker.ask(None, "peak_mib", "engine")
        return found
    finally:
        for worker in workers:
            worker.end()


def _start(result: Measured, worker: "_Worker", end: float) -> None:
    if time.monotonic() > end:
        result.error = "left out: no time was left"
        return
    print(f"  {result.variant.what}", file=sys.stderr, flush=True)
    worker.start()
    try:
        result.steps, result.first = worker.hear("steps", "first")
    except RunError as error:
        result.error = str(error)


def _turn(result: Measured, worker: "_Worker") -> None:
    try:
        wall, cpu = worker.ask(result.steps, "wall", "cpu")
    except RunError as error:
        result.error = str(error)
        return
    done = result.steps * result.variant.per_step
    result.wall.append(done / wall)
    result.cpu.append(done / cpu)


class _Worker:
    """The parent's end of one variant's process. Raises RunError for what went wrong there."""

    def __init__(self, variant: Variant, how: tuple, end: float):
        self.arguments, self.process = (variant, *how), None
        self.patience, self.ends = PATIENCE[how[0]], end

    def start(self) -> None:
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_serve, args=(theirs, *self.arguments))
        self.process.start()
        theirs.close()

    def hear(self, *names: str) -> list:
        limit = max(0.0, min(self.patience, self.ends + self.patience - time.monotonic()))
        try:
            if not self.pipe.poll(limit):
                raise RunError(f"no answer in {limit:.0f} s")
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RunError(f"the process was ended by {_cause(self.process.exitcode)}") from None
        if "error" in answer:
            raise RunError(answer["error"])
        return [answer[name] for name in names]

    def ask(self, message, *names: str) -> list:
        try:
            self.pipe.send(message)
        except OSError:
            pass  # the process ended: `hear` says how
        return self.hear(*names)

    def end(self) -> None:
        if self.process:
            self.pipe.close()
            self.process.join(1)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()


def _cause(status: int) -> str:
    killed = signal.Signals(-status).name if status < 0 else f"itself with status {status}"
    return f"{killed} (out of memory?)" if killed == "SIGKILL" else killed


def _serve(pipe, variant: Variant, device: str, seconds: float, cache: str | None) -> None:
    """A variant's process: warm up, then train so many steps whenever asked to; None asks for what it came to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    try:
        timed, engine, multiple = _prepared(variant, device, cache)
        first = timed(multiple)["wall"]
        pipe.send({"steps": steps_for(seconds, lambda steps: timed(steps)["wall"], multiple), "first": first})
        while (steps := pipe.recv()) is not None:
            pipe.send(timed(steps))
        pipe.send({"peak_mib": peak_mib(device), "engine": engine()})
    except EOFError:
        pass  # the parent closed the pipe
    except Exception as error:  # whatever a network, a compiler or a device may raise is that row's result
        text = " ".join(str(error).split())
        pipe.send({"error": f"{type(error).__name__}: {text[:200]}"})


def _prepared(variant: Variant, device: str, cache: str | None) -> tuple[Callable[[int], dict], Callable[[], str], int]:
    """(function that trains for so many steps and says what they took, the engine that has trained, and how many steps
    it makes at once)."""
    os.environ["OMP_NUM_THREADS"] = str(variant.threads)  # for libraries that are not loaded yet
    if cache:
        os.environ["XDG_CACHE_HOME"] = cache
    run, engine, multiple = build(variant, device)

    def timed(steps: int) -> dict:
        wall, cpu = time.perf_counter(), time.process_time()
        run(steps)
        _finish(device)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    return timed, engine, multiple


def steps_for(seconds: float, timed: Callable[[int], float], multiple: int = 1) -> int:
    """How many steps take about ``seconds``, at least one; ``timed`` runs so many and returns how long they took.

    multiple: the steps come in so many at once, as a GPU replays them.
    """
    steps = multiple
    while True:
        took = timed(steps)
        wanted = multiple * max(1, round(steps * seconds / took / multiple))
        if took >= seconds / 4:
            return wanted
        steps = min(wanted, 8 * steps)


def first_call(variant: Variant, device: str, cache: str) -> float:
    """Seconds of the first step, with compiling it if ``cache`` is an empty folder."""
    return _prepared(variant, device, cache)[0](1)["wall"]


def _finish(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def peak_mib(device: str) -> float:
    """Peak memory in MiB: of this process (resident set), or of what torch allocated on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def in_child(function: Callable, *arguments):
    """The result of a function (of a module) called in a process of its own. Raises RunError with what it failed of."""
    pipe, theirs = _context.Pipe()
    process = _context.Process(target=_call, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        good, result = pipe.recv()
    except EOFError:
        good, result = False, "the process ended without a result (out of memory?)"
    finally:
        process.join()
        pipe.close()
    if not good:
        raise RunError(f"{function.__name__}: {result}")
    return result


def _call(pipe, function: Callable, arguments: tuple) -> None:
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
