"""Iterative magnitude pruning with rewinding in plain PyTorch: the oracle the engine is held equal to.

Nothing of the program is used but its random streams, which fix the data order. Float64, one network, no cleverness.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from repro.train.random_streams import stream


class PlainBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.project = None
        if stride != 1 or cin != cout:
            self.project = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.project is None else self.project(x)))


class PlainResNet(nn.Module):
    def __init__(self, depth, width, cin, classes):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(cin, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers, channels = [], width
        for stage in range(3):
            for i in range((depth - 2) // 6):
                stride = 2 if stage and not i else 1
                layers.append(PlainBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(channels, classes)

    def forward(self, x):
        x = self.layers(F.relu(self.bn(self.stem(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def prunable(net):
    return [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def train(net, masks, images, labels, subset, *, start, stop, lr_at, batch, seed, replicate, role=""):
    """SGD with a fresh momentum from step ``start`` to ``stop``; masked weights are zero at every forward pass."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
    steps_per_pass = len(subset) // batch
    net.train()
    for step in range(start, stop):
        order = stream(seed, replicate, role + "order", step // steps_per_pass).permutation(len(subset))
        first = step % steps_per_pass * batch
        rows = torch.as_tensor(subset[order[first : first + batch]])
        apply(net, masks)
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.param_groups[0]["lr"] = lr_at(step)
        optimizer.step()
    apply(net, masks)


def apply(net, masks):
    with torch.no_grad():
        for weight, mask in zip(prunable(net), masks):
            weight.mul_(mask)


def prune(net, masks):
    """Sort the surviving magnitudes; the k-th smallest, counted from zero, and all below it go: k+1 weights."""
    survivors = np.sort(np.concatenate([w.detach()[m].abs().numpy() for w, m in zip(prunable(net), masks)]))
    threshold = survivors[math.ceil(0.2 * len(survivors))]
    return [m & (w.detach().abs() > threshold) for w, m in zip(prunable(net), masks)]


def imp(net, images, labels, subset, full, *, t, steps, levels, lr_at, batch, seed, replicate):
    """Pre-train on ``subset`` for t steps, then train on ``full``, prune and rewind; (masks, state) of each level."""
    masks = [torch.ones_like(w, dtype=torch.bool) for w in prunable(net)]
    common = dict(lr_at=lr_at, batch=batch, seed=seed, replicate=replicate)
    train(net, masks, images, labels, subset, start=0, stop=t, **common)
    rewind_point = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    results = []
    for level in range(levels + 1):
        net.load_state_dict(rewind_point)
        train(net, masks, images, labels, full, start=t, stop=steps, **common)
        results.append((masks, {name: tensor.clone() for name, tensor in net.state_dict().items()}))
        masks = prune(net, masks)
    return results
