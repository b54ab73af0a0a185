"""CIFAR ResNets of depth 6n+2 and any width, as one network or as R networks side by side.

The same class is both: with ``replicas=R`` every convolution has R groups, every batch norm R*C channels and the head
is a batched product, so R networks advance in one pass without sharing a single number. With ``replicas=1`` it is the
ordinary network. The parameters of the R networks are stacked along their first axis.

``batch_innermost`` swaps the convolutions for those of `repro.nets.kernels`, which skip pruned weights: activations
are [1, R*C, H, W*B] then, which batch norm and all else take as they are. It is for evaluation (`repro.nets.program` is
its training step).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from repro.errors import UsageError
except ImportError:  # this file alone, copied into another program, loads an exported ticket (README)
    UsageError = ValueError


class Head(nn.Module):
    """R linear classifiers: input [B, R*C], output [B, R, K]; weight [R*K, C] and bias [R*K]."""

    def __init__(self, channels: int, num_classes: int, replicas: int):
        super().__init__()
        self.replicas = replicas
        self.weight = nn.Parameter(torch.empty(replicas * num_classes, channels))
        self.bias = nn.Parameter(torch.empty(replicas * num_classes))

    def forward(self, features: Tensor) -> Tensor:
        if self.replicas == 1:
            return F.linear(features, self.weight, self.bias).unsqueeze(1)
        x_rbc = features.reshape(features.shape[0], self.replicas, -1).transpose(0, 1)
        w_rck = self.weight.view(self.replicas, -1, x_rbc.shape[2]).transpose(1, 2)
        return torch.baddbmm(self.bias.view(self.replicas, 1, -1), x_rbc, w_rck).transpose(0, 1)


class NormReLU(nn.BatchNorm2d):
    """Batch norm, plus a residual, rectified."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return F.relu(y if residual is None else y.add_(residual), inplace=True)


class Block(nn.Module):
    """Post-activation basic block; a projection shortcut (1x1 convolution and batch norm) where the shape changes."""

    def __init__(self, conv: Callable[..., nn.Conv2d], in_width: int, width: int, stride: int, replicas: int):
        super().__init__()
        self.conv1 = conv(in_width, width, 3, stride)
        self.bn1 = NormReLU(width * replicas)
        self.conv2 = conv(width, width, 3, 1)
        self.bn2 = NormReLU(width * replicas)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(conv(in_width, width, 1, stride), nn.BatchNorm2d(width * replicas))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        return self.bn2(self.conv2(y), self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for small images (protocol section 2).

    Arguments:
        depth: 6n+2; 20, 32 and 56 are the paper's.
        width: channels of the first stage (16 in the paper), doubled at each of the two strided stages.
        num_classes, in_chans: K and C of the images.
        replicas: R networks side by side; input [B, R*C, H, W], output logits [B, R, K]. For R = 1 the output of
            ``forward`` is [B, K], as timm expects.
        batch_innermost: input [1, R*C, H, W*B], square images, CPU, no gradients; the output is the same.

    Raises UsageError for a depth that is not 6n+2.
    """

    def __init__(self, depth: int = 20, *, width: int = 16, num_classes: int = 10, in_chans: int = 3,
                 replicas: int = 1, batch_innermost: bool = False):  # fmt: skip
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise UsageError(f"depth (={depth}) of a CIFAR ResNet must be 6n+2: try 8, 14, 20, 32 or 56")
        if width < 1:
            raise UsageError(f"width (={width}) of a CIFAR ResNet must be at least 1")
        self.replicas, self.batch_innermost = replicas, batch_innermost
        kind = nn.Conv2d
        if batch_innermost:
            from repro.nets.kernels import SparseConv2d as kind  # Numba takes a second to import

        def conv(in_width: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
            return kind(in_width * replicas, width * replicas, kernel, stride, kernel // 2, groups=replicas, bias=False)

        self.conv = conv(in_chans, width, 3, 1)
        self.bn = NormReLU(width * replicas)
        blocks, channels = [], width
        for stage in range(3):
            for position in range((depth - 2) // 6):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(Block(conv, channels, width * 2**stage, stride, replicas))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = Head(channels, num_classes, replicas)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        x = self.blocks(x)
        if self.batch_innermost:
            features = x.view(x.shape[1], x.shape[2] ** 2, -1).mean(1).t()
        else:
            features = x.mean((2, 3))
        logits = self.fc(features)
        return logits.squeeze(1) if self.replicas == 1 else logits
