"""Layers of a network as the engine knows them.

Three kinds of layer are enough for feed-forward networks. A `Convolution` makes X out of an activation; a linear layer
is one whose kernel is as large as its images. A `Join` makes an activation: the sum of one or two terms, each an X
with its batch norm or bias, or an activation; rectified or not. A `Pool` makes an activation by windows.
"""

from dataclasses import dataclass, field

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
