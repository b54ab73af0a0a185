"""Timings in turns: every variant has a process of its own, and one after the other they train for a while.

A process of its own, because the plain script must not profit from what our loop sets for the whole process, and
because peak memory is known per process only.
"""

import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from repro.bench.variants import Variant, build
from repro.engines.graph import GraphCohort
from repro.errors import RunError

LARGE_STEP = 2**19  # pixels: on a CPU such a step takes about a second, and is a turn
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "repro.bench.variants"])  # children start in milliseconds


def summary(values: Sequence[float]) -> dict:
    """n, median, min and max."""
    return {"n": len(values), "median": median(values), "min": min(values), "max": max(values)}


def ratios(values: Sequence[float], baseline: Sequence[float]) -> dict:
    """`summary` of the ratios to the baseline, round by round: what slows a whole round down cancels out."""
    assert len(values) == len(baseline)
    return summary([value / base for value, base in zip(values, baseline)])


def steps_for(seconds: float, timed: Callable[[int], float], multiple: int = 1) -> int:
    """How many steps take about ``seconds``, at least one; ``timed`` runs so many and returns how long they took.

    multiple: the steps come in so many at once, as a GPU replays them.
    """
    timed(multiple)  # the first makes buffers, and may compile or record
    steps = multiple
    while True:
        took = timed(steps)
        wanted = multiple * max(1, round(steps * seconds / took / multiple))
        if took >= seconds / 4:
            return wanted
        steps = min(wanted, 8 * steps)


@dataclass
class Measured:
    """Rates in images/s, one for each round; ``error`` in place of them where the variant could not run.

    ``busy``: the least share of a turn, over rounds, in which the process was running; 1 on a GPU.
    """

    variant: Variant
    rates: list[float] = field(default_factory=list)
    engine: str = ""
    peak_mib: float = 0.0
    steps: int = 0
    busy: float = 1.0
    error: str = ""


def measure(variants: Sequence[Variant], *, device: str, rounds: int, seconds: float) -> list[Measured]:
    """Time the variants in turns (a, b, c, a, b, c, …), each turn about ``seconds`` and at least one step.

    They are warmed up one after the other: together they might not fit into memory, and would slow each other.
    """
    workers = [[_Worker(variant, device, seconds) for _ in range(variant.processes)] for variant in variants]
    try:
        for each in (worker for team in workers for worker in team):
            each.start()
            each.ready()
        found = [Measured(variant) for variant in variants]
        for result, team in zip(found, workers):
            answers = [worker.ready() for worker in team]
            result.error = next((answer["error"] for answer in answers if "error" in answer), "")
            if not result.error:
                result.engine, result.steps = answers[0]["engine"], answers[0]["steps"]
        for number in range(rounds):
            for result, team in zip(found, workers):
                if not result.error:
                    _turn(result, team)
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for result, team in zip(found, workers):
            if not result.error:
                result.peak_mib = sum(worker.ask(None)["peak_mib"] for worker in team)
        return found
    finally:
        for worker in (worker for team in workers for worker in team):
            worker.end()


def _turn(result: Measured, team: list["_Worker"]) -> None:
    for worker in team:
        worker.tell(result.steps)
    answers = [worker.hear() for worker in team]
    if failed := next((answer["error"] for answer in answers if "error" in answer), ""):
        result.error = failed
    else:
        result.rates.append(sum(result.steps * result.variant.images_per_step / each["took"] for each in answers))
        result.busy = min(result.busy, *(each["busy"] for each in answers))


class _Worker:
    """The parent's end of one variant's process."""

    def __init__(self, variant: Variant, device: str, seconds: float):
        self.variant, self.arguments, self._ready, self.process = variant, (variant, device, seconds), None, None

    def start(self) -> None:
        print(f"  warming up {self.variant.what}", file=sys.stderr, flush=True)
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_serve, args=(theirs, *self.arguments))
        self.process.start()
        theirs.close()

    def ready(self) -> dict:
        self._ready = self._ready or self.hear()
        return self._ready

    def tell(self, message) -> None:
        try:
            self.pipe.send(message)
        except OSError:
            pass  # it is gone: `hear` says so

    def hear(self) -> dict:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return {"error": f"the process ended with status {self.process.exitcode} (out of memory?)"}

    def ask(self, message) -> dict:
        self.tell(message)
        return self.hear()

    def end(self) -> None:
        if self.process:
            self.pipe.close()
            self.process.join(1)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()


def _serve(pipe, variant: Variant, device: str, seconds: float) -> None:
    """A variant's process: warm up, then train so many steps whenever asked to; None asks for the peak memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    try:
        run, engine = build(variant, device)

        def timed(steps: int) -> float:
            began = time.perf_counter()
            run(steps)
            _finish(device)
            return time.perf_counter() - began

        if device == "cpu" and variant.images_per_step * variant.protocol.image_size**2 >= LARGE_STEP:
            timed(steps := 1)
        else:
            steps = steps_for(seconds, timed, GraphCohort.steps_at_once if device == "cuda" else 1)
        pipe.send({"engine": engine, "steps": steps})
        while (steps := pipe.recv()) is not None:
            before = time.process_time()
            took = timed(steps)
            busy = 1.0 if device == "cuda" else (time.process_time() - before) / took
            pipe.send({"took": took, "busy": busy})
        pipe.send({"peak_mib": peak_mib(device)})
    except EOFError:
        pass  # the parent has seen enough
    except Exception as error:  # whatever a network, a compiler or a device may raise is that row's result
        text = " ".join(str(error).split())
        pipe.send({"error": f"{type(error).__name__}: {text[:200]}"})


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
