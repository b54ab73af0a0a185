"""Layers of a network as the engine knows them, and the order in which they are carried out.

Three kinds of layer are enough for feed-forward networks. A `Convolution` makes X out of an activation; a linear layer
is one whose kernel is as large as its images. A `Join` makes an activation: the sum of one or two terms, each an X
with its batch norm or bias, or an activation; rectified or not. A `Pool` makes an activation by windows.

The gradient of an activation is the sum of what its readers give, the last reader first. The first reader completes it:
in the same pass over memory the sum is rectified, and the sums that the batch norm before it needs are taken.
"""

from dataclasses import dataclass, field

from repro.engines.sparse.lanes import L

Shape = tuple[int, int, int]
"""Channels, height, width."""
MEAN, MAX = 0, 1


@dataclass
class Convolution:
    """X = the convolution of the activation ``source``. Names are those of parameters and buffers; '' is none.

    kernel, stride, padding: (vertical, horizontal). norm: prefix of the batch norm's names, 'bn1.'.
    """

    name: str
    source: int
    shape: Shape
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    weight: str
    bias: str = ""
    norm: str = ""
    gamma: str = ""
    beta: str = ""
    eps: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class Term:
    """X of a convolution with its batch norm or bias (``layer`` is its number), or an activation (its number)."""

    layer: int
    convolution: bool


@dataclass
class Join:
    """Activation: the sum of ``terms``."""

    shape: Shape
    terms: list[Term]
    rectified: bool


@dataclass
class Pool:
    """Activation: means or maxima over windows of the activation ``source``; ``lead`` channels of zeros come first."""

    source: int
    shape: Shape
    kind: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    lead: int = 0


@dataclass
class Layers:
    """All layers in the order of the forward pass; activations and convolutions are numbered by their place in it.

    Place 0 is the images, as a `Join` without terms. ``output`` is the activation that holds the logits.
    """

    all: list[Convolution | Join | Pool] = field(default_factory=list)
    output: int = -1

    def readers(self, activation: int) -> list[int]:
        """Places of the layers that read an activation, in the order of the forward pass."""
        found = []
        for place, layer in enumerate(self.all):
            if isinstance(layer, Join):
                found += [place] * any(not t.convolution and t.layer == activation for t in layer.terms)
            elif layer.source == activation:
                found.append(place)
        return found


SKEW = 5  # pixels between planes: at powers of two they would all fall into the same lines of a cache
CONVOLVE, MAKE, PULL = range(3)
"""What a step does: a convolution; a join, or the completion of a gradient; a pool."""


@dataclass
class Buffer:
    """An array for all blocks of a batch, needed from moment ``first`` to ``last``. `settle` chooses its place."""

    size: int
    block: int
    first: int
    last: int
    at: int = -1


def plane(shape: tuple[int, int, int]) -> int:
    """Distance of two channels in the arena."""
    return (shape[1] * shape[2] + SKEW) * L


class Order:
    """Steps of one network for batches of ``batch`` images; without ``training``, of the forward pass alone.

    ``forward``, ``backward``: steps as the fields of `repro.engines.sparse.plan.STEP`, with buffers for places.
    ``x``, ``kept``, ``gradient``: buffers of the convolutions' X, of the activations that are kept, of their gradients,
    by place of the layer. ``convolutions``, ``activations``: their numbers, by place.
    """

    def __init__(self, layers: Layers, batch: int, *, training: bool):
        self.layers, self.blocks, self.training = layers, -(-batch // L), training
        places = list(enumerate(layers.all))
        self.convolutions = {p: n for n, p in enumerate(p for p, layer in places if isinstance(layer, Convolution))}
        self.activations = {p: n for n, p in enumerate(p for p, layer in places if not isinstance(layer, Convolution))}
        self.readers = {p: layers.readers(p) for p in self.activations}
        self.buffers: list[Buffer] = []
        self.moment = 0
        self.x: dict[int, Buffer] = {}
        self.kept: dict[int, Buffer] = {}
        self.gradient: dict[int, Buffer] = {}
        self.made = {0}
        self.steps: list[dict] = []
        self.forward = self._forward()
        self.steps = []
        self.backward = self._backward() if training else []

    # --- the order of things --------------------------------------------------------------------------------

    def _buffer(self, place: int) -> Buffer:
        """A new array in the shape of a layer."""
        shape = self.layers.all[place].shape
        block = shape[0] * plane(shape)
        buffer = Buffer(self.blocks * block, block, self.moment, self.moment)
        self.buffers.append(buffer)
        return buffer

    def _want(self, *buffers: Buffer | None) -> None:
        for buffer in buffers:
            if buffer is not None:
                buffer.last = max(buffer.last, self.moment)

    def _step(self, what: int, which: int, **fields) -> None:
        self.steps.append({"what": what, "which": which} | fields)
        self.moment += 1

    def passing(self, place: int) -> bool:
        """Whether an activation is not kept, because a single convolution reads it and makes its rows on the way."""
        alone = len(self.readers[place]) == 1 and isinstance(self.layers.all[self.readers[place][0]], Convolution)
        return alone and isinstance(self.layers.all[place], Join) and place not in (0, self.layers.output)

    def _terms(self, place: int) -> list[Buffer]:
        """The buffers of a join's terms."""
        return [(self.x if t.convolution else self.kept)[t.layer] for t in self.layers.all[place].terms]

    def _make(self, place: int) -> None:
        """Give an activation its buffer. The activations that it sums are made first."""
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
        """Complete a gradient that lacks only the rectifier and its sums."""
        found = self.gradient[place]
        shared = any(found is other for p, other in self.gradient.items() if p != place)
        into = self._buffer(place) if shared else found
        self._want(found, into, self.kept.get(place), self._first(place))
        self.gradient[place] = into
        self._step(MAKE, self.activations[place], beside=found, into=into, final=1)

    def _contribute(self, place: int, gradient: Buffer) -> None:
        """Add a join's gradient to that of an activation that is one of its terms."""
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
        join = self.join_of(place)
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

    def join_of(self, place: int) -> int:
        """The join that an X is a term of."""
        joins = [(p, layer) for p, layer in enumerate(self.layers.all) if isinstance(layer, Join)]
        return next(p for p, layer in joins if any(t.convolution and t.layer == place for t in layer.terms))

    def _into(self, what: int, place: int, source: int, reuse: Buffer | None, *, final: bool) -> None:
        """Add what a layer's backward pass gives to the gradient of its source, in place of its X where sizes allow."""
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

    def _first(self, place: int) -> Buffer | None:
        """The X of a join's first term, which the sums of its gradient are taken with."""
        term = self.layers.all[place].terms[0]
        return self.x[term.layer] if term.convolution else None


def settle(buffers: list[Buffer]) -> int:
    """Give each buffer the lowest place that is free while it is needed. Returns the size of the arena."""
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: (b.first, -b.size)):
        size, at = buffer.size + SKEW * L, 0
        for other in sorted(
            (b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=lambda b: b.at
        ):
            if other.at < at + size and at < other.at + other.size + SKEW * L:
                at = other.at + other.size + SKEW * L
        buffer.at = at
        placed.append(buffer)
        total = max(total, at + size)
    return total
