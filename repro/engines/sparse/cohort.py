"""R networks trained by compiled code that skips pruned weights, on as many threads as there are."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor, nn

from repro.data import Batcher
from repro.engines.cohort import EVALUATION_BATCH, Block, Cohort, Report, Sgd
from repro.engines.sparse.arguments import Images, Lists, Room, Tables, list_taps, room_of, tables_of
from repro.engines.sparse.compiled import call, is_ready
from repro.engines.sparse.lanes import L
from repro.engines.sparse.layers import Convolution, Layers
from repro.engines.sparse.plan import Plan, make_plan
from repro.engines.sparse.reader import Unsupported, read
from repro.engines.sparse.step import advance
from repro.errors import RunError, UsageError


def unsupported(network: nn.Module, image_size: int, in_chans: int) -> str | None:
    """A phrase that names the first layer this engine cannot have, such as "a ConvTranspose2d ('up')"; None if none."""
    try:
        read(network, image_size, in_chans)
    except Unsupported as obstacle:
        return str(obstacle)
    return None


class SparseCohort(Cohort):
    """A `Cohort` whose replicas are trained one after the other, each with all steps of a block in one compiled call.

    Threads take replicas, so results are the same for any number of threads. Raises UsageError for a network with a
    layer that this engine does not have.
    """

    engine = "sparse"

    def __init__(self, network: str, **how):
        super().__init__(network, **how)
        try:
            self.layers: Layers = read(self.module(), self.image_size, self.in_chans)
        except Unsupported as obstacle:
            raise UsageError(
                f"engine sparse cannot train {network!r}, which has {obstacle}: use --engine serial"
            ) from None
        self.kind = np.float64 if self.dtype == torch.float64 else np.float32
        self.free = self._free()
        self._plans: dict[tuple[int, bool], Plan] = {}
        self._lists: list[Lists] | None = None
        self._rooms: tuple[Plan, SimpleQueue] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def _free(self) -> np.ndarray:
        """Places of the trained parameters that are no taps: biases, and weights of batch norms."""
        layers = [layer for layer in self.layers.all if isinstance(layer, Convolution)]
        names = {name for layer in layers for name in (layer.bias, layer.gamma, layer.beta)}
        spans = [np.arange(e.offset, e.offset + e.size) for e in self.layout.parameters if e.name in names]
        places = np.concatenate([np.zeros(0, np.int64), *spans])
        return places[places < self.layout.num_trained]

    def load_masks(self, masks: Tensor | None) -> None:
        super().load_masks(masks)
        self._lists = self._rooms = None

    # --- training, measuring --------------------------------------------------------------------------------

    def train(
        self, block: Block, batcher: Batcher, targets: Tensor, sgd: Sgd, *, logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        count, replicas, batch = block.index.shape
        self._require_images(batcher)
        self._require_statistics(batch)
        plan, images = self._plan(batch, training=True), self._images(batcher)
        losses = np.zeros((replicas, count), self.kind)
        seen = np.zeros((replicas, count, batch if logits else 0, self.num_classes), self.kind)
        none = torch.zeros(count, replicas, batch, dtype=torch.int64)
        offsets = block.offsets or (none, none, none.bool())
        constants = self.kind(sgd.momentum), self.kind(sgd.weight_decay), sgd.nesterov, self.kind(sgd.label_smoothing)

        def one(r: int, tables: Tables, room: Room) -> None:
            index, dy, dx, flip = (part[:, r].contiguous().numpy() for part in (block.index, *offsets))
            labels = (targets if targets.ndim == 1 else targets[r]).contiguous().numpy()
            rates = block.rates[:, r].contiguous().numpy().astype(self.kind)
            vectors = self.state[r].numpy(), self.momentum[r].numpy()
            given = images, index, dy, dx, flip, block.offsets is not None, labels, rates, *constants, True, True
            lists = self._taps(plan)[r]
            call(advance, self.kind, *given, tables, lists, room, *vectors, losses[r], seen[r])

        self._each(one, plan, batch)
        return torch.from_numpy(losses.T.copy()), torch.from_numpy(seen).transpose(0, 1) if logits else None

    def predict(self, batcher: Batcher, index: Tensor, *, batch_norm: str = "running", report: Report = None) -> Tensor:
        states = [row.numpy().copy() for row in self.state]
        return self._evaluate(batcher, index, states, batch_norm == "batch", lambda part: 0.0, report)

    def recalibrate(self, batcher: Batcher, index: Tensor, report: Report = None) -> None:
        for entry in self.layout.buffers:
            if (kind := entry.name.rpartition(".")[2]) in ("running_mean", "running_var"):
                self.state[:, entry.offset : entry.offset + entry.size] = float(kind == "running_var")
        states = [row.numpy() for row in self.state]
        self._evaluate(batcher, index, states, True, lambda part: 1 / (part + 1), report)

    def _evaluate(
        self,
        batcher: Batcher,
        index: Tensor,
        states: list[np.ndarray],
        by_batch: bool,
        momentum: Callable[[int], float],
        report: Report,
    ) -> Tensor:
        """Logits [R, n, num_classes] of the networks ``states``; by_batch moves their statistics by momentum(part)."""
        self._require_images(batcher)
        size = EVALUATION_BATCH if by_batch else L
        count = index.shape[1]
        if by_batch:
            self._require_statistics(count % size or size)
        plan, images = self._plan(size, training=False), self._images(batcher)
        logits = np.zeros((self.replicas, count, self.num_classes), self.kind)
        none = np.zeros((1, 1), np.int64)
        whole = count // size

        def one(r: int, tables: Tables, room: Room) -> None:
            rows = index[r].contiguous().numpy()
            for first, parts, batch in ((0, whole, size), (whole * size, 1, count % size)):
                if not parts * batch:
                    continue
                part = slice(first, first + parts * batch)
                momenta = np.array([momentum(k + (first > 0) * whole) for k in range(parts)], self.kind)
                order = rows[part].reshape(parts, batch), none, none, none > 0, False  # no crops, no labels, no SGD
                given = images, *order, none[0], momenta, *map(self.kind, (0, 0)), False, self.kind(0), False, by_batch
                lists, found = self._taps(plan)[r], logits[r, part].reshape(parts, batch, -1)
                call(advance, self.kind, *given, tables, lists, room, states[r], states[r], momenta, found)

        self._each(one, plan, size, report and partial(report, count))
        return torch.from_numpy(logits).float()

    def _each(self, one: Callable, plan: Plan, batch: int, report: Callable[[], None] | None = None) -> None:
        """Do ``one`` for every replica: on threads, each with work arrays of its own."""
        rooms, tables = self._work_arrays(plan, batch), tables_of(plan, self.free, self.kind)

        def work(r: int) -> None:
            room = rooms.get()
            try:
                one(r, tables, room)
            finally:
                rooms.put(room)

        if rooms.qsize() == 1:
            for r in range(self.replicas):
                work(r)
                if report:
                    report()
            return
        todo = range(self.replicas)
        if not is_ready(advance, self.kind):  # one thread compiles
            work(0)
            todo = todo[1:]
            if report:
                report()
        for done in as_completed([self._threads().submit(work, r) for r in todo]):
            done.result()
            if report:
                report()

    def _work_arrays(self, plan: Plan, batch: int) -> SimpleQueue:
        """A `Room` for each thread; kept until another plan is asked for."""
        if self._rooms is None or self._rooms[0] is not plan:
            self._rooms, threads = None, max(1, min(self.threads, self.replicas))
            rooms: SimpleQueue = SimpleQueue()
            try:
                for _ in range(threads):
                    rooms.put(room_of(plan, self._taps(plan), self.layout.num_parameters, batch, self.kind))
            except MemoryError:
                need = plan.size * np.dtype(self.kind).itemsize / 2**20
                raise RunError(
                    f"{threads} threads need {need:,.0f} MiB each for batches of {batch}, which is more than "
                    "there is: give fewer --threads, or a smaller --batch-size"
                ) from None
            self._rooms = plan, rooms
        return self._rooms[1]

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            denormals = partial(torch.set_flush_denormal, True)  # a setting of each thread
            self._pool = ThreadPoolExecutor(self.threads, initializer=denormals)
        return self._pool

    # --- what the compiled code needs -----------------------------------------------------------------------

    def _plan(self, batch: int, *, training: bool) -> Plan:
        if (batch, training) not in self._plans:
            itemsize = np.dtype(self.kind).itemsize
            self._plans[batch, training] = make_plan(self.layers, self.layout, batch, itemsize, training=training)
        return self._plans[batch, training]

    def _taps(self, plan: Plan) -> list[Lists]:
        """Each replica's lists, which are the same for all plans."""
        if self._lists is None:
            masks = np.ones((self.replicas, self.layout.num_prunable), bool)
            if self.masks is not None:
                masks = self.masks.numpy()
            self._lists = [list_taps(self.layers, self.layout, plan, m, self.kind) for m in masks]
        return self._lists

    def _images(self, batcher: Batcher) -> Images:
        pixels, border, scale, shift = batcher.raw(self.dtype)
        return Images(pixels.numpy(), border, scale.numpy(), shift.numpy())

    def _require_images(self, batcher: Batcher) -> None:
        if batcher.shape != (self.image_size, self.image_size, self.in_chans):
            raise UsageError(
                f"images of shape {batcher.shape} for networks of {self.image_size} x {self.image_size} x "
                f"{self.in_chans}: give the network the images it was made for"
            )

    def _require_statistics(self, batch: int) -> None:
        """Batch norm needs two values of a channel."""
        for layer in self.layers.all:
            if isinstance(layer, Convolution) and layer.norm and batch * layer.shape[1] * layer.shape[2] < 2:
                raise UsageError(
                    f"a batch of one image has no statistics for the batch norm {layer.norm[:-1]!r}: use "
                    "--drop-last, or another --batch-size"
                )

    def release(self) -> None:
        super().release()
        self._plans.clear()
        self._lists = self._rooms = None
