"""Batches are, bit for bit, what torchvision crops and flips, and normalised as in float64."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torchvision.transforms import functional as tv

from repro.data import Batcher

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def images(count: int, height: int, width: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def batcher(source: torch.Tensor, **options) -> Batcher:
    channels = source.shape[3]
    return Batcher(source, MEAN[:channels], STD[:channels], **options)


def torchvision_crop(image: torch.Tensor, dy: int, dx: int, flip: bool, border: int = 4) -> torch.Tensor:
    """RandomCrop(padding=border) and RandomHorizontalFlip with the draws given; image and result uint8 [H, W, C]."""
    planes = tv.crop(tv.pad(image.permute(2, 0, 1), border), int(dy), int(dx), *image.shape[:2])
    return (tv.hflip(planes) if flip else planes).permute(1, 2, 0)


@pytest.mark.parametrize("border", [0, 1, 2, 4])
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (5, 7, 3)], ids=str)
def test_every_crop_and_flip_equals_torchvisions(shape, border):
    source = images(3, *shape)
    places = np.arange(2 * border + 1)
    dy, dx, flip = (grid.flatten() for grid in np.meshgrid(places, places, [False, True]))
    index = torch.arange(len(dy)) % 3
    crops = batcher(source, augment=True, border=border).gather(index, (dy, dx, flip))
    assert crops.dtype == torch.uint8 and crops.shape == (2 * len(places) ** 2, *shape)
    for crop, image, *offset in zip(crops, source[index], dy, dx, flip, strict=True):
        assert torch.equal(crop, torchvision_crop(image, *offset, border))


def test_crop_equals_pils():
    source = images(1, 32, 32, 3)
    picture = Image.fromarray(source[0].numpy())
    for dy, dx, flip in [(0, 0, False), (4, 4, True), (8, 3, True), (1, 8, False)]:
        expected = tv.crop(tv.pad(picture, 4), dy, dx, 32, 32)
        expected = tv.hflip(expected) if flip else expected
        offsets = tuple(torch.tensor([value]) for value in (dy, dx, flip))
        crop = batcher(source, augment=True).gather(torch.tensor([0]), offsets)
        assert np.array_equal(crop[0].numpy(), np.asarray(expected))


def test_gather_keeps_the_shape_of_the_index():
    source = images(10, 6, 6, 3)
    augmenting = batcher(source, augment=True)
    index = torch.tensor([[3, 3, 9], [0, 7, 1]])
    offsets = tuple(draw.reshape(2, 3) for draw in augmenting.draw(np.random.default_rng(0), 6))
    crops = augmenting.gather(index, offsets)
    assert crops.shape == (2, 3, 6, 6, 3)
    for replica in range(2):
        for place in range(3):
            offset = [values[replica, place] for values in offsets]
            assert torch.equal(crops[replica, place], torchvision_crop(source[index[replica, place]], *offset))


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("index", [[2], [[4, 0], [0, 0], [1, 3]], []], ids=str)
def test_gather_without_offsets_gives_the_images(augment, index):
    source = images(5, 6, 6, 3)
    index = torch.tensor(index, dtype=torch.int64)
    assert torch.equal(batcher(source, augment=augment).gather(index), source[index])


def test_offsets_need_an_augmenting_batcher():
    with pytest.raises(AssertionError, match="augment=True"):
        batcher(images(1, 4, 4, 3), augment=False).gather(torch.tensor([0]), (np.zeros(1), np.zeros(1), np.zeros(1)))


def test_images_are_not_copied_without_need():
    source = images(5, 6, 6, 3)
    plain = batcher(source, augment=False)
    source[2] = 7
    assert (plain.gather(torch.tensor([2])) == 7).all() and plain.resident


@pytest.mark.parametrize("border", [0, 1, 4])
def test_draws_are_uniform_and_repeatable(border):
    augmenting, places = batcher(images(1, 8, 8, 1), augment=True, border=border), 2 * border + 1
    dy, dx, flip = augmenting.draw(np.random.default_rng(1), 16_200)
    assert dy.dtype == dx.dtype == np.int64 and flip.dtype == bool
    cells = np.bincount((dy * places + dx) * 2 + flip, minlength=2 * places**2)
    assert len(cells) == 2 * places**2 and chisquare(cells).pvalue > 0.01
    for draw, again in zip((dy, dx, flip), augmenting.draw(np.random.default_rng(1), 16_200), strict=True):
        assert np.array_equal(draw, again)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
def test_normalisation_of_every_value(dtype, bound):
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    result = batcher(values, augment=False).normalise(values, dtype)
    assert result.dtype == dtype and result.shape == values.shape
    expected = tv.normalize(values.permute(0, 3, 1, 2).double() / 255, MEAN, STD).permute(0, 2, 3, 1)
    assert (result.double() - expected).abs().max() < bound


def test_half_precision_is_rounded_once():
    source = images(4, 8, 8, 3)
    plain = batcher(source, augment=False)
    assert torch.equal(plain.normalise(source, torch.bfloat16), plain.normalise(source).to(torch.bfloat16))


def test_normalise_takes_any_memory_order():
    source = images(4, 8, 8, 3)
    plain = batcher(source, augment=False)
    transposed = source.transpose(1, 2)
    assert torch.equal(plain.normalise(transposed), plain.normalise(source).transpose(1, 2))


def test_padding_is_black_before_normalisation():
    augmenting = batcher(images(1, 8, 8, 3), augment=True)
    corner = augmenting.gather(torch.tensor([0]), (np.array([0]), np.array([0]), np.array([False])))[0, :4]
    assert (corner == 0).all()
    expected = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
    assert augmenting.normalise(corner, torch.float64)[0, 0].tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.gpu
def test_a_cuda_graph_replays_new_batches():
    source = images(50, 32, 32, 3)
    on_cpu, on_gpu = (batcher(source, augment=True, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.resident
    rng = np.random.default_rng(0)

    def batch():
        return [torch.from_numpy(values) for values in (rng.integers(0, 50, 16), *on_cpu.draw(rng, 16))]

    static = [values.cuda() for values in batch()]
    on_gpu.normalise(on_gpu.gather(static[0], tuple(static[1:])))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        crops = on_gpu.gather(static[0], tuple(static[1:]))
        on_gpu.normalise(crops)
    for _ in range(3):
        index, *offsets = batch()
        for place, values in zip(static, (index, *offsets), strict=True):
            place.copy_(values)
        graph.replay()
        assert torch.equal(crops.cpu(), on_cpu.gather(index, tuple(offsets)))
