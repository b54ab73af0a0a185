"""Batches cut out of an image set that lies on the device: random crop, flip, normalisation.

The published augmentation is a random crop after zero padding by a border of 4 pixels and a horizontal flip with
probability 1/2 (protocol section 6). The zeros are black pixels: padding comes before normalisation.
"""

from collections.abc import Sequence

import numpy as np
import torch

from repro.errors import UsageError

Offsets = tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor, np.ndarray | torch.Tensor]
"""(dy, dx, flip): the crop's first row and column in the padded image, and whether the crop is mirrored."""


class Batcher:
    """The images of a set as uint8 on a device, padded once when `augment`, from which batches are gathered.

    images: uint8 [N, H, W, C]. Not copied when they need neither padding nor another device.
    mean, std: one value a channel, of values in [0, 1].
    augment: whether `gather` will be given offsets.
    border: zero pixels added on every side before the crop, at most as many as an image has.
    device: where batches are wanted. The images lie there too if they take at most half of its free memory, else in
        main memory; `resident` tells. Only a resident batcher gathers without waiting for the host, so that it can be
        captured in a CUDA graph.

    Raises UsageError for a border wider than an image.
    """

    def __init__(
        self,
        images: torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        augment: bool,
        border: int = 4,
        device: torch.device | str = "cpu",
    ):
        count, self._height, self._width, self._channels = images.shape
        if augment and border > min(self._height, self._width):
            raise UsageError(
                f"border (={border}) is wider than the images of {self._height} x {self._width} pixels: "
                "choose a smaller --border, or --no-augment"
            )
        assert images.dtype == torch.uint8 and len(mean) == len(std) == self._channels
        self.device = torch.device(device)
        self._augment, self._pad = augment, border if augment else 0
        self._padded = (self._height + 2 * self._pad, self._width + 2 * self._pad)

        padded_bytes = count * self._padded[0] * self._padded[1] * self._channels
        self.resident = _fits(padded_bytes, self.device)
        home = self.device if self.resident else torch.device("cpu")
        if self._pad:
            images = torch.nn.functional.pad(images, (0, 0, *[border] * 4))
        self._images = images.contiguous().to(home)

        self._rows = torch.arange(self._height, device=home)
        self._cols = torch.arange(self._width, device=home)
        self._mirrored = self._cols.flip(0)
        # One scale and shift for each value of a row of pixels: with one for each channel the innermost loop would be
        # C long, and five times slower. Made here, since a CUDA graph cannot copy from the host.
        deviation = 255 * torch.tensor(std, dtype=torch.float64)
        scale = (1 / deviation).repeat(self._width).to(self.device)
        shift = (-255 * torch.tensor(mean, dtype=torch.float64) / deviation).repeat(self._width).to(self.device)
        self._affine = {dtype: (scale.to(dtype), shift.to(dtype)) for dtype in (torch.float32, torch.float64)}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self._height, self._width, self._channels

    def raw(self, dtype: torch.dtype) -> tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]:
        """What batches are made of, for engines that gather and normalise themselves.

        Returns uint8 [N, H + 2 border, W + 2 border, C], the border, and each channel's scale and shift in ``dtype``.
        """
        scale, shift = (each[: self._channels] for each in self._affine[dtype])
        return self._images, self._pad, scale.contiguous(), shift.contiguous()

    def draw(self, generator: np.random.Generator, n: int) -> Offsets:
        """Offsets for n examples: dy and dx int64 [n], uniform over 0 to twice the border, and flip bool [n], fair."""
        dy, dx = generator.integers(0, 2 * self._pad + 1, size=(2, n))
        return dy, dx, generator.integers(0, 2, size=n, dtype=bool)

    def gather(self, index: torch.Tensor, offsets: Offsets | None = None) -> torch.Tensor:
        """Images of an index of any shape: uint8 [*index.shape, H, W, C], on `device`.

        index: int64, rows of the image set.
        offsets: (dy, dx, flip), each in the shape of index; whole images, not mirrored, when None.
        """
        home = self._images.device
        index = index.to(home)
        height, width = self._padded
        if offsets is None:
            whole = self._images.index_select(0, index.reshape(-1))
            whole = whole[:, self._pad : height - self._pad, self._pad : width - self._pad]
            return whole.reshape(*index.shape, *whole.shape[1:]).to(self.device)
        assert self._augment, "offsets need a batcher with augment=True"

        dy, dx, flip = (torch.as_tensor(offset, device=home)[..., None] for offset in offsets)
        rows = index[..., None] * height + dy + self._rows
        cols = dx + torch.where(flip, self._mirrored, self._cols)
        pixels = rows[..., :, None] * width + cols[..., None, :]
        crops = self._images.view(-1, self._channels).index_select(0, pixels.reshape(-1))
        return crops.view(*pixels.shape, self._channels).to(self.device)

    def normalise(self, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(images / 255 - mean) / std in a floating dtype, for uint8 [..., H, W, C]; half types are rounded once."""
        arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
        scale, shift = self._affine[arithmetic]
        values = images.contiguous().to(arithmetic)
        rows = values.view(*values.shape[:-2], self._width * self._channels)
        torch.addcmul(shift, rows, scale, out=rows)  # in place: the page faults of a second tensor cost more than this
        return values.to(dtype)


def _fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes take at most half of the free memory; main memory already holds the images."""
    return device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2
