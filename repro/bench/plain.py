"""The baseline: the script a researcher would write, and no worse than that.

Eager PyTorch in float32, a DataLoader over PIL images with torchvision's transforms, masks by torch.nn.utils.prune,
torch.optim.SGD. The network is the one every engine trains.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from repro.nets import layout_of
from repro.train.schedule import Training


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


class Script:
    """Trains one network, on and on.

    Arguments:
        mask: bool [num_prunable] in the order of `repro.nets.layout_of`, or None for a dense network.
        workers: of the DataLoader; 0 where there is one core for everything.
    """

    def __init__(self, network: nn.Module, pictures: Pictures, training: Training, *, mask: Tensor | None = None,
                 device: str = "cpu", workers: int = 0):  # fmt: skip
        layout = layout_of(network)
        self.device, self.network = device, network.to(device).train()
        for entry in layout.prunable if mask is not None else ():
            part = mask[entry.offset : entry.offset + entry.size].view(entry.shape).to(device)
            prune.custom_from_mask(network.get_submodule(entry.name.removesuffix(".weight")), "weight", part)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=training.lr, momentum=training.momentum,
                                         weight_decay=training.weight_decay, nesterov=training.nesterov)  # fmt: skip
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(training.milestones), gamma=0.1)
        loader = DataLoader(pictures, training.batch_size, shuffle=True, drop_last=True, num_workers=workers,
                            persistent_workers=workers > 0, pin_memory=device == "cuda")  # fmt: skip
        self.batches = self._forever(loader)

    def _forever(self, loader: DataLoader) -> Iterator:
        while True:
            yield from loader

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One update from normalised images [B, C, H, W] and labels [B]."""
        images, labels = (a.to(self.device, non_blocking=True) for a in (images, labels))
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()
        self.scheduler.step()

    def fit(self, steps: int) -> None:
        for _ in range(steps):
            self.step(*next(self.batches))
