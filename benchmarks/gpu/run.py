"""What every stage has: its device, its time, where its results are kept, and how something is timed."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.variants import Variant
from repro.engines.recording import record
from repro.protocol import CIFAR10, Protocol
from repro.store.files import write_whole


class Impossible(Exception):
    """A stage cannot run here; the message says why."""


@dataclass
class Run:
    """A stage in its process.

    Arguments:
        device: 'cuda' or 'cpu'. tiny: networks and numbers so small that a CPU takes seconds.
        ends: of ``time.monotonic()``.
        path: file of the results; it is rewritten with each of them, because the process may be ended.
    """

    device: str
    tiny: bool
    ends: float
    path: Path
    found: dict = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @property
    def protocol(self) -> Protocol:
        """ResNet-20 on CIFAR-10 as published, or one that is tiny."""
        if not self.tiny:
            return CIFAR10
        training = replace(CIFAR10.training, batch_size=8)
        return replace(CIFAR10, network="cifar_resnet8_w4", image_size=8, train_images=64, training=training)

    def variant(self, engine: str, replicas: int, precision: str) -> Variant:
        """Of the protocol; with two networks at most where it is tiny."""
        replicas = min(replicas, 2) if self.tiny else replicas
        return Variant(self.protocol, engine, precision=precision, replicas=replicas)

    def save(self, **values) -> None:
        """Keep single results."""
        self.found.update(values)
        write_whole(self.path, [json.dumps(self.found, indent=1, default=str).encode()])

    def row(self, table: str, **values) -> None:
        """Keep a row of a table."""
        self.found.setdefault(table, []).append(values)
        self.save()
        print(table, values, flush=True)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A failure inside is a result, too, and the stage goes on. The memory of what was inside is freed."""
        try:
            yield
        except Impossible:
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self.row("failures", what=what, error=text[:400])
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, work: Callable[[], object], seconds: float = 0.4) -> float:
        """Seconds of one call: the median of three batches of calls that take ``seconds`` together; if tiny, of one."""
        work()
        self.finish()

        def batch(calls: int) -> float:
            began = time.perf_counter()
            for _ in range(calls):
                work()
            self.finish()
            return (time.perf_counter() - began) / calls

        if self.tiny:
            return batch(1)
        calls = max(1, int(seconds / 3 / max(batch(1), 1e-6)))
        return median(batch(calls) for _ in range(3))

    def recorded(self, work: Callable[[], object]) -> Callable[[], object]:
        """The replay of a graph of the work; on a CPU the work."""
        if self.device != "cuda":
            return work
        graph = record(work, 1, torch.device("cuda"))
        return graph.replay  # which keeps the graph
