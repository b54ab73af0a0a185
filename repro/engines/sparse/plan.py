"""Where everything lies, and what is done in which order: a network's layers as tables for the compiled code.

The arena is one array for all activations of a batch and their gradients: [blocks of L images][channel][y][x][L] each.
What is never wanted at the same time shares its place. An activation that a single convolution reads is not kept at
all: its rows are made again from X, just before they are read.
"""

from dataclasses import dataclass

import numpy as np

from repro.engines.sparse.lanes import L
from repro.engines.sparse.layers import Convolution, Join, Layers, Pool
from repro.nets import Layout

SKEW = 5  # pixels between planes: at powers of two they would all fall into the same lines of a cache
STREAM_ABOVE = 24 * 2**20  # bytes of an arena: then X does not stay in a third-level cache, and is written past it


def _table(names: str) -> np.dtype:
    return np.dtype([(name, np.int64) for name in names.split()])


PASS = _table("channels plane start rows columns down step height width sy sx py px ky kx first")
"""A sum over taps (`repro.engines.sparse.gather`). Of the target: channels, distance of planes, start, rows, columns
and their distances. Of the source: height and width. Stride, padding, kernel; place in the list of runs."""
CONVOLUTION = _table(
    "x x_block source rows columns plane channels sy py ky streamed back classes gamma beta bias mean var activation"
)
"""Its X; the activation that it reads; its backward passes; offsets of its numbers in a network's vector, -1 for none;
the activation that X is a term of. Its forward pass has its own number."""
ACTIVATION = _table(
    "place block channels plane height width rectified source kind ky kx sy sx py px lead "
    "x x_block x_stats y y_block y_stats gradient gradient_block"
)
"""Where it lies (block 0: it is made anew for each block of images). A pool's source and window. A join's terms x and y
with the rows of their statistics, y -1 for none. Where its gradient lies."""
STEP = _table("what which make into into_block beside beside_block more more_block final")
"""One operation. make: the source is made on the way. Backward: where the gradient of the source goes (-1: nowhere),
what is added to it (-1: nothing), and whether that completes it."""
CONVOLVE, MAKE, PULL = range(3)


@dataclass
class Plan:
    """Tables of one network for batches of a size.

    constants: float64 [convolutions, 2], eps and momentum of the batch norms. size: numbers in the arena. spare,
    spare_gradient: places of a block of an activation that is not kept, and of a gradient of X. wide: most channels. runs: numbers in the
    list of runs.
    """

    passes: np.ndarray
    convolutions: np.ndarray
    activations: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    constants: np.ndarray
    size: int
    spare: int
    spare_gradient: int
    wide: int
    output: int
    runs: int


@dataclass
class _Buffer:
    """An array of all blocks of a batch, wanted from a moment to another. ``at`` is known at the end."""

    size: int
    block: int
    first: int
    last: int
    at: int = -1


def plane(shape: tuple[int, int, int]) -> int:
    """Distance of two channels in the arena."""
    return (shape[1] * shape[2] + SKEW) * L


def make_plan(layers: Layers, layout: Layout, batch: int, itemsize: int, *, training: bool) -> Plan:
    """The plan for batches of ``batch`` images; without ``training``, of the forward pass alone."""
    return _Planner(layers, layout, batch, training).plan(itemsize)


class _Planner:
    def __init__(self, layers: Layers, layout: Layout, batch: int, training: bool):
        self.layers, self.blocks, self.training = layers, -(-batch // L), training
        self.offset = {entry.name: entry.offset for entry in layout.entries} | {"": -1}
        places = list(enumerate(layers.all))
        self.convolutions = {p: n for n, p in enumerate(p for p, layer in places if isinstance(layer, Convolution))}
        self.activations = {p: n for n, p in enumerate(p for p, layer in places if not isinstance(layer, Convolution))}
        self.readers = {p: layers.readers(p) for p in self.activations}
        self.buffers: list[_Buffer] = []
        self.moment = 0
        self.x: dict[int, _Buffer] = {}
        self.kept: dict[int, _Buffer] = {}
        self.gradient: dict[int, _Buffer] = {}
        self.made = {0}
        self.steps: list[dict] = []
        self.forward = self._forward()
        self.steps = []
        self.backward = self._backward() if training else []

    # --- the order of things --------------------------------------------------------------------------------

    def _buffer(self, place: int) -> _Buffer:
        """A new array in the shape of a layer."""
        shape = self.layers.all[place].shape
        block = shape[0] * plane(shape)
        buffer = _Buffer(self.blocks * block, block, self.moment, self.moment)
        self.buffers.append(buffer)
        return buffer

    def _want(self, *buffers: _Buffer | None) -> None:
        for buffer in buffers:
            if buffer is not None:
                buffer.last = max(buffer.last, self.moment)

    def _step(self, what: int, which: int, **fields) -> None:
        self.steps.append({"what": what, "which": which} | fields)
        self.moment += 1

    def passing(self, place: int) -> bool:
        """Whether an activation is not kept: one convolution reads it."""
        alone = len(self.readers[place]) == 1 and isinstance(self.layers.all[self.readers[place][0]], Convolution)
        return alone and isinstance(self.layers.all[place], Join) and place not in (0, self.layers.output)

    def _terms(self, place: int) -> list[_Buffer]:
        """What a join is made of."""
        return [(self.x if t.convolution else self.kept)[t.layer] for t in self.layers.all[place].terms]

    def _make(self, place: int) -> None:
        """Room for an activation that is about to be made; everything it is made of is there."""
        for term in self.layers.all[place].terms:
            if not term.convolution and term.layer not in self.made:
                self._make_now(term.layer)
        if not self.passing(place):
            self.kept[place] = self._buffer(place)
        self.made.add(place)

    def _make_now(self, place: int) -> None:
        if place not in self.made:
            self._make(place)
            self._want(*self._terms(place))
            self._step(MAKE, self.activations[place])

    def _forward(self) -> list[dict]:
        self.kept[0] = self._buffer(0)
        for place, layer in enumerate(self.layers.all):
            if isinstance(layer, Convolution):
                make = layer.source not in self.made
                if make:
                    self._make(layer.source)
                self.x[place] = self._buffer(place)
                self._want(self.kept.get(layer.source), *(self._terms(layer.source) if make else ()))
                self._step(CONVOLVE, self.convolutions[place], make=make)
            elif isinstance(layer, Pool):
                self._make_now(layer.source)
                self.kept[place] = self._buffer(place)
                self.made.add(place)
                self._want(self.kept[layer.source])
                self._step(PULL, self.activations[place])
        self._make_now(self.layers.output)
        return self.steps

    def _backward(self) -> list[dict]:
        self.gradient[self.layers.output] = self._buffer(self.layers.output)
        self._want(self.kept[self.layers.output])
        self.moment += 1  # the loss
        complete: set[int] = set()
        for place in range(len(self.layers.all) - 1, 0, -1):
            layer = self.layers.all[place]
            if place in self.activations and place not in self.gradient:
                raise AssertionError("an activation that nobody reads")
            if isinstance(layer, Join):
                if place not in complete:
                    self._finish(place)
                for term in layer.terms:
                    if not term.convolution:
                        self._contribute(term.layer, self.gradient[place])
            elif isinstance(layer, Pool):
                self._into(PULL, place, layer.source, None, final=False)
            else:
                self._convolution_back(place, layer, complete)
        return self.steps

    def _finish(self, place: int) -> None:
        """Complete a gradient that is there but for the rectifier and its sums."""
        found = self.gradient[place]
        shared = any(found is other for p, other in self.gradient.items() if p != place)
        into = self._buffer(place) if shared else found
        self._want(found, into, self.kept.get(place), self._first(place))
        self.gradient[place] = into
        self._step(MAKE, self.activations[place], beside=found, into=into, final=1)

    def _contribute(self, place: int, gradient: _Buffer) -> None:
        """A gradient that goes on to an activation unchanged."""
        if place == 0:
            return
        if place not in self.gradient:
            self.gradient[place] = gradient
            return
        into = self._buffer(place)
        self._want(self.gradient[place], gradient, into)
        self._step(MAKE, self.activations[place], beside=self.gradient[place], more=gradient, into=into, final=0)
        self.gradient[place] = into

    def _convolution_back(self, place: int, layer: Convolution, complete: set[int]) -> None:
        source = layer.source
        join = next(p for p in self.readers_of_x(place))
        self._want(self.gradient[join], self.x[place], self.kept.get(source))
        if self.passing(source):
            self._want(*self._terms(source))
        if source == 0:
            self._step(CONVOLVE, self.convolutions[place], make=0)
            return
        final = self.readers[source][0] == place and isinstance(self.layers.all[source], Join)
        if final:
            complete.add(source)
        same = self.layers.all[source].shape[1:] == layer.shape[1:] and layer.stride == (1, 1)
        reuse = self.x[place] if same and self.layers.all[source].shape[0] <= layer.shape[0] else None
        self._into(CONVOLVE, place, source, reuse, final=final)

    def readers_of_x(self, place: int) -> list[int]:
        """The join that an X is a term of."""
        joins = [(p, layer) for p, layer in enumerate(self.layers.all) if isinstance(layer, Join)]
        return [p for p, layer in joins if any(t.convolution and t.layer == place for t in layer.terms)]

    def _into(self, what: int, place: int, source: int, reuse: _Buffer | None, *, final: bool) -> None:
        """A layer's backward pass adds to the gradient of what it read: in the place of its X, where that can be."""
        if source == 0:
            self._want(self.gradient.get(place))
            return
        numbers = self.convolutions if what == CONVOLVE else self.activations
        beside = self.gradient.get(source)
        own = beside is not None and sum(beside is other for other in self.gradient.values()) == 1
        into = beside if own else reuse or self._buffer(source)
        self._want(beside, into, self.gradient.get(place), self.kept.get(place), self.kept.get(source))
        if final:
            self._want(self._first(source))
        self.gradient[source] = into
        make = what == CONVOLVE and self.passing(source)
        self._step(what, numbers[place], make=make, beside=beside, into=into, final=int(final))

    def _first(self, place: int) -> _Buffer | None:
        """The X that a join's sums are taken with."""
        term = self.layers.all[place].terms[0]
        return self.x[term.layer] if term.convolution else None

    # --- the tables -----------------------------------------------------------------------------------------

    def plan(self, itemsize: int) -> Plan:
        """Everything in its place."""
        shapes = [layer.shape for layer in self.layers.all]
        spare = max([s[0] * plane(s) for p, s in enumerate(shapes) if p in self.activations and self.passing(p)], default=0)
        spare_gradient = max(s[0] * plane(s) for p, s in enumerate(shapes) if p in self.convolutions)
        size = _settle(self.buffers)
        total = size + spare + spare_gradient * self.training + 16 * L
        passes, backs, runs = self._passes()
        convolutions = np.zeros(len(self.convolutions), CONVOLUTION)
        for place, n in self.convolutions.items():
            self._fill(convolutions[n], self._convolution(place, backs[n], streamed=total * itemsize > STREAM_ABOVE))
        activations = np.zeros(len(self.activations), ACTIVATION)
        for place, n in self.activations.items():
            self._fill(activations[n], self._activation(place, size))
        layers = [self.layers.all[place] for place in self.convolutions]
        return Plan(
            passes, convolutions, activations, self._rows(self.forward), self._rows(self.backward),
            np.array([(layer.eps, layer.momentum) for layer in layers]), total, size, size + spare,
            max(shape[0] for shape in shapes), self.activations[self.layers.output], runs,
        )  # fmt: skip

    def _fill(self, row: np.ndarray, fields: dict) -> None:
        for name, value in fields.items():
            row[name] = value

    def _rows(self, steps: list[dict]) -> np.ndarray:
        rows = np.zeros(len(steps), STEP)
        for row, step in zip(rows, steps):
            for name in ("beside", "more", "into"):
                buffer = step.pop(name, None)
                row[name], row[f"{name}_block"] = (-1, 0) if buffer is None else (buffer.at, buffer.block)
            self._fill(row, step)
        return rows

    def _convolution(self, place: int, backs: tuple[int, int], *, streamed: bool) -> dict:
        layer = self.layers.all[place]
        (join,) = self.readers_of_x(place)
        return {
            "x": self.x[place].at, "x_block": self.x[place].block, "source": self.activations[layer.source],
            "rows": layer.shape[1], "columns": layer.shape[2], "plane": plane(layer.shape), "channels": layer.shape[0],
            "sy": layer.stride[0], "py": layer.padding[0], "ky": layer.kernel[0], "streamed": streamed,
            "back": backs[0], "classes": backs[1], "gamma": self.offset[layer.gamma], "beta": self.offset[layer.beta],
            "bias": self.offset[layer.bias], "mean": self.offset[layer.norm and f"{layer.norm}running_mean"],
            "var": self.offset[layer.norm and f"{layer.norm}running_var"], "activation": self.activations[join],
        }  # fmt: skip

    def _activation(self, place: int, spare: int) -> dict:
        layer = self.layers.all[place]
        kept = self.kept.get(place)
        fields = dict(zip(("channels", "height", "width"), layer.shape)) | {"plane": plane(layer.shape), "source": -1}
        fields |= {"place": kept.at if kept else spare, "block": kept.block if kept else 0, "y": -1, "x": -1}
        if place in self.gradient:
            fields |= {"gradient": self.gradient[place].at, "gradient_block": self.gradient[place].block}
        if isinstance(layer, Pool):
            pairs = zip(("k", "s", "p"), (layer.kernel, layer.stride, layer.padding))
            fields |= {f"{name}{axis}": pair[n] for name, pair in pairs for n, axis in enumerate("yx")}
            return fields | {"source": self.activations[layer.source], "kind": layer.kind, "lead": layer.lead}
        fields["rectified"] = layer.rectified
        for name, term in zip("xy", layer.terms):
            buffer = (self.x if term.convolution else self.kept)[term.layer]
            row = self.convolutions[term.layer] if term.convolution else len(self.convolutions)
            fields |= {name: buffer.at, f"{name}_block": buffer.block, f"{name}_stats": row}
        return fields

    def _passes(self) -> tuple[np.ndarray, list[tuple[int, int]], int]:
        """The forward passes, one a convolution, then the backward ones; (first, how many) of each convolution; how
        many runs of taps there can be."""
        rows, backs = [], []
        layers = [self.layers.all[place] for place in self.convolutions]
        for layer in layers:
            (channels, height, width), source = layer.shape, self.layers.all[layer.source].shape
            rows.append({
                "channels": channels, "plane": plane(layer.shape), "rows": height, "columns": width, "down": width * L,
                "step": L, "height": source[1], "width": source[2], "sy": layer.stride[0], "sx": layer.stride[1],
                "py": layer.padding[0], "px": layer.padding[1], "ky": layer.kernel[0], "kx": layer.kernel[1],
            })  # fmt: skip
        for layer in layers:
            backs.append((len(rows), layer.stride[0] * layer.stride[1]))
            for rest in np.ndindex(layer.stride):
                rows.append(_backward_pass(layer, self.layers.all[layer.source].shape, rest))
        table = np.zeros(len(rows), PASS)
        runs = 0
        for row, fields in zip(table, rows):
            self._fill(row, fields | {"first": runs})
            runs += fields["channels"] * fields["ky"] * fields["kx"] + 1
        return table, backs, runs


def kernel_of_class(kernel: int, stride: int, padding: int, rest: int) -> tuple[int, int]:
    """(first, how many) of the kernel's rows that reach the target rows y with y mod stride = rest, in steps of stride."""
    first = (rest + padding) % stride
    return first, max(0, -(-(kernel - first) // stride))


def _backward_pass(layer: Convolution, source: tuple[int, int, int], rest: tuple[int, int]) -> dict:
    """Row u of the target is row u * stride + rest of the input; its taps are those with (rest + padding - ky) a multiple
    of the stride, in descending order of ky."""
    channels, height, width = source
    fields = {"channels": channels, "plane": plane(source), "start": (rest[0] * width + rest[1]) * L, "sy": 1, "sx": 1}
    fields |= {"down": layer.stride[0] * width * L, "step": layer.stride[1] * L}
    fields |= {"height": layer.shape[1], "width": layer.shape[2]}
    for axis, name, size in ((0, "y", height), (1, "x", width)):
        stride, padding = layer.stride[axis], layer.padding[axis]
        first, count = kernel_of_class(layer.kernel[axis], stride, padding, rest[axis])
        fields[f"k{name}"] = count
        fields[f"p{name}"] = count - 1 - (rest[axis] + padding - first) // stride
        fields["rows" if axis == 0 else "columns"] = max(0, -(-(size - rest[axis]) // stride))
    return fields


def _settle(buffers: list[_Buffer]) -> int:
    """Give each buffer the first place that no other has while it is wanted; the size of all."""
    placed: list[_Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: (b.first, -b.size)):
        size, at = buffer.size + SKEW * L, 0
        for other in sorted((b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=lambda b: b.at):
            if other.at < at + size and at < other.at + other.size + SKEW * L:
                at = other.at + other.size + SKEW * L
        buffer.at = at
        placed.append(buffer)
        total = max(total, at + size)
    return total
