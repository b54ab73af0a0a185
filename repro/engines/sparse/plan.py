"""Where everything lies, and what is done in which order: a network's layers as tables for the compiled code.

The arena is one array for all activations of a batch and their gradients: [blocks of L images][channel][y][x][L] each.
Arrays that are never needed at the same time share their place. An activation that a single convolution reads is not
kept at all: its rows are made again from X, just before they are read.
"""

from dataclasses import dataclass

import numpy as np

from repro.engines.sparse.lanes import L
from repro.engines.sparse.layers import Convolution, Layers, Order, Pool, plane, settle
from repro.nets import Layout

STREAM_ABOVE = 24 * 2**20  # bytes: X of a larger arena would not stay in a third-level cache, so it is written past it


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


@dataclass
class Plan:
    """Tables of one network for batches of a size.

    constants: float64 [convolutions, 2], eps and momentum of the batch norms. size: numbers in the arena. spare,
    spare_gradient: places of a block of an activation that is not kept, and of a gradient of X. wide: most channels.
    output: the activation with the logits. runs: numbers in the list of runs.
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


def make_plan(layers: Layers, layout: Layout, batch: int, itemsize: int, *, training: bool) -> Plan:
    """The plan for batches of ``batch`` images; without ``training``, of the forward pass alone."""
    return _Tables(Order(layers, batch, training=training), layout).plan(itemsize)


class _Tables:
    def __init__(self, order: Order, layout: Layout):
        self.order, self.layers = order, order.layers
        self.offset = {entry.name: entry.offset for entry in layout.entries} | {"": -1}

    def plan(self, itemsize: int) -> Plan:
        """Everything in its place."""
        shapes = [layer.shape for layer in self.layers.all]
        spare = max(
            [s[0] * plane(s) for p, s in enumerate(shapes) if p in self.order.activations and self.order.passing(p)],
            default=0,
        )
        spare_gradient = max(s[0] * plane(s) for p, s in enumerate(shapes) if p in self.order.convolutions)
        size = settle(self.order.buffers)
        total = size + spare + spare_gradient * self.order.training + 16 * L
        passes, backs, runs = self._passes()
        convolutions = np.zeros(len(self.order.convolutions), CONVOLUTION)
        for place, n in self.order.convolutions.items():
            self._fill(convolutions[n], self._convolution(place, backs[n], streamed=total * itemsize > STREAM_ABOVE))
        activations = np.zeros(len(self.order.activations), ACTIVATION)
        for place, n in self.order.activations.items():
            self._fill(activations[n], self._activation(place, size))
        layers = [self.layers.all[place] for place in self.order.convolutions]
        return Plan(
            passes,
            convolutions,
            activations,
            self._rows(self.order.forward),
            self._rows(self.order.backward),
            np.array([(layer.eps, layer.momentum) for layer in layers]),
            total,
            size,
            size + spare,
            max(shape[0] for shape in shapes),
            self.order.activations[self.layers.output],
            runs,
        )

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
        layer, x, at = self.layers.all[place], self.order.x[place], self.order.activations
        (channels, rows, columns), norm = layer.shape, layer.norm
        fields = {"x": x.at, "x_block": x.block, "source": at[layer.source], "streamed": streamed}
        fields |= {"channels": channels, "rows": rows, "columns": columns, "plane": plane(layer.shape)}
        fields |= {"sy": layer.stride[0], "py": layer.padding[0], "ky": layer.kernel[0]}
        fields |= {"back": backs[0], "classes": backs[1], "activation": at[self.order.join_of(place)]}
        names = {"gamma": layer.gamma, "beta": layer.beta, "bias": layer.bias}
        names |= {"mean": norm and f"{norm}running_mean", "var": norm and f"{norm}running_var"}
        return fields | {field: self.offset[name] for field, name in names.items()}

    def _activation(self, place: int, spare: int) -> dict:
        layer = self.layers.all[place]
        kept = self.order.kept.get(place)
        fields = dict(zip(("channels", "height", "width"), layer.shape)) | {"plane": plane(layer.shape), "source": -1}
        fields |= {"place": kept.at if kept else spare, "block": kept.block if kept else 0, "y": -1, "x": -1}
        if place in self.order.gradient:
            fields |= {"gradient": self.order.gradient[place].at, "gradient_block": self.order.gradient[place].block}
        if isinstance(layer, Pool):
            fields |= _window(layer)
            return fields | {"source": self.order.activations[layer.source], "kind": layer.kind, "lead": layer.lead}
        fields["rectified"] = layer.rectified
        for name, term in zip("xy", layer.terms):
            buffer = (self.order.x if term.convolution else self.order.kept)[term.layer]
            row = self.order.convolutions[term.layer] if term.convolution else len(self.order.convolutions)
            fields |= {name: buffer.at, f"{name}_block": buffer.block, f"{name}_stats": row}
        return fields

    def _passes(self) -> tuple[np.ndarray, list[tuple[int, int]], int]:
        """The forward passes, one a convolution, then the backward ones; (first, how many) of each convolution; how
        many runs of taps there can be."""
        rows, backs = [], []
        layers = [self.layers.all[place] for place in self.order.convolutions]
        for layer in layers:
            (channels, height, width), source = layer.shape, self.layers.all[layer.source].shape
            fields = {"channels": channels, "plane": plane(layer.shape), "rows": height, "columns": width}
            fields |= {"down": width * L, "step": L, "height": source[1], "width": source[2]}
            rows.append(fields | _window(layer))
        for layer in layers:
            backs.append((len(rows), layer.stride[0] * layer.stride[1]))
            shape = self.layers.all[layer.source].shape
            rows += [_backward_pass(layer, shape, rest) for rest in np.ndindex(layer.stride)]
        table = np.zeros(len(rows), PASS)
        runs = 0
        for row, fields in zip(table, rows):
            self._fill(row, fields | {"first": runs})
            runs += fields["channels"] * fields["ky"] * fields["kx"] + 1
        return table, backs, runs


def _window(layer: Convolution | Pool) -> dict[str, int]:
    """Kernel, stride and padding as fields: ky, kx, sy …"""
    pairs = zip("ksp", (layer.kernel, layer.stride, layer.padding))
    return {f"{name}{axis}": size for name, pair in pairs for axis, size in zip("yx", pair)}


def kernel_of_class(kernel: int, stride: int, padding: int, rest: int) -> tuple[int, int]:
    """(first, how many) of the kernel's rows, ``stride`` apart, that reach target rows y with y mod stride = rest."""
    first = (rest + padding) % stride
    return first, max(0, -(-(kernel - first) // stride))


def _backward_pass(layer: Convolution, source: tuple[int, int, int], rest: tuple[int, int]) -> dict:
    """Row u of the target is row u * stride + rest of the input; its taps are those for which rest + padding - ky is a
    multiple of the stride, in descending order of ky."""
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
