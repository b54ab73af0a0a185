"""CIFAR ResNets of depth 6n+2 and any width, of PyTorch's own layers alone."""

import torch.nn.functional as F
from torch import Tensor, nn

try:
    from repro.errors import UsageError
except ImportError:  # this file alone, copied into another program, loads an exported ticket
    UsageError = ValueError


def _conv(in_width: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_width, width, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions and a residual, rectified after the sum.

    Where the shape changes, the shortcut is a projection: a 1x1 convolution and batch norm.
    """

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.conv1 = _conv(in_width, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(_conv(in_width, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for small images (protocol section 2): input [B, C, H, W], output logits [B, K].

    Arguments:
        depth: 6n+2; 20, 32 and 56 are the paper's.
        width: channels of the first stage (16 in the paper), doubled at each of the two strided stages.
        num_classes, in_chans: K and C of the images.

    Raises UsageError for a depth that is not 6n+2.
    """

    def __init__(self, depth: int = 20, *, width: int = 16, num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise UsageError(f"depth (={depth}) of a CIFAR ResNet must be 6n+2: try 8, 14, 20, 32 or 56")
        if width < 1:
            raise UsageError(f"width (={width}) of a CIFAR ResNet must be at least 1")
        self.conv = _conv(in_chans, width, 3, 1)
        self.bn = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage in range(3):
            for position in range((depth - 2) // 6):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        return self.fc(self.blocks(x).mean((2, 3)))
