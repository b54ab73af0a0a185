"""What the engines are compared with: the script a researcher would write, and the published library for sparse CPUs.

The script is eager PyTorch in float32, with a DataLoader over PIL images, torchvision's transforms and torch.optim.SGD.
SparseProp (Nikdan et al., ICML 2023; PyPI `sparseprop`) gives modules that skip weights which are zero. Its script has
our batches, which cost less than PIL's, so that nothing but its modules is measured.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from repro.data import Batcher, ImageSet
from repro.nets import layout_of
from repro.recipes.training import Training


class Pictures(Dataset):
    """Images uint8 [N, H, W, C] and labels [N], one PIL image at a time, as torchvision's data sets give them."""

    def __init__(self, images: np.ndarray, labels: Sequence[int], mean, std, *, augment: bool):
        size = images.shape[1]
        crop = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()] if augment else []
        self.transform = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(mean, std)])
        self.images, self.labels = images.squeeze(3) if images.shape[3] == 1 else images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def loaded(data: ImageSet, training: Training, *, workers: int = 0, pinned: bool = False) -> Iterator:
    """Endless batches of a DataLoader. workers: its processes; 0 where there is one core for everything."""
    pictures = Pictures(data.images.numpy(), data.labels.tolist(), data.mean, data.std, augment=training.augment)
    loader = DataLoader(
        pictures,
        training.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
    )
    while True:
        yield from loader


def gathered(data: ImageSet, training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of images gathered, cropped and flipped by index, as our engines have them."""
    batcher = Batcher(data.images, data.mean, data.std, augment=training.augment)
    rng, count, size = np.random.default_rng(0), len(data.images), training.batch_size
    while True:
        order = torch.from_numpy(rng.permutation(count))
        offsets = tuple(map(torch.from_numpy, batcher.draw(rng, count))) if training.augment else None
        for first in range(0, count - size + 1, size):
            rows = slice(first, first + size)
            images = batcher.gather(order[rows], offsets and tuple(part[rows] for part in offsets))
            yield batcher.normalise(images).permute(0, 3, 1, 2).contiguous(), data.labels[order[rows]]


class Script:
    """Trains one network on batches of normalised images [B, C, H, W] and labels [B], on and on."""

    def __init__(self, network: nn.Module, batches: Iterator, training: Training, device: str = "cpu"):
        self.batches, self.device, self.network = batches, device, network.to(device).train()
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov,
        )
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(training.milestones), gamma=0.1)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One update."""
        images, labels = (a.to(self.device, non_blocking=True) for a in (images, labels))
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()
        self.scheduler.step()

    def fit(self, steps: int) -> None:
        for _ in range(steps):
            self.step(*next(self.batches))


def sparseprop_script(network: nn.Module, mask: Tensor | None, data: ImageSet, training: Training) -> Script:
    """A `Script` whose layers SparseProp has replaced where it finds its own faster, by a trial of each.

    Arguments:
        mask: bool [num_prunable] in the order of `repro.nets.layout_of`, or None for a dense network.

    SparseProp keeps layers dense of which less than four fifths are pruned: their masks are applied after each update.
    So is a layer of which nothing is left, with which it crashes.
    """
    from sparseprop.utils import swap_modules_with_sparse

    torch.set_flush_denormal(True)  # else pruned networks train many times slower, which is not the library's doing
    layout, masks, empty = layout_of(network), {}, []
    for entry in layout.prunable if mask is not None else ():
        masks[entry.name] = mask[entry.offset : entry.offset + entry.size].view(entry.shape)
        network.get_parameter(entry.name).data.mul_(masks[entry.name])
        if not masks[entry.name].any():
            empty.append(entry.name.removesuffix(".weight"))
    batches = gathered(data, training)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each layer
        network = swap_modules_with_sparse(network, tuple(next(batches)[0].shape), skip_modules=",".join(empty))
    script = Script(network, batches, training)
    left = [(p, masks[name]) for name, p in network.named_parameters() if name in masks]

    @torch.no_grad()
    def apply_masks(*_) -> None:
        for parameter, part in left:
            parameter.mul_(part)

    script.optimizer.register_step_post_hook(apply_masks)
    return script
