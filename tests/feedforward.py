"""Networks of every layer that the sparse engine has, and of layers that it has not: ``tests/feedforward.py:NAME``."""

import torch
import torch.nn.functional as F
from torch import nn


def convolutional(num_classes, in_chans):
    """Conv-4's shape: biases, maxima, three linear layers. For 8 x 8 images."""

    def block(inputs, width):
        return [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]

    return nn.Sequential(
        *block(in_chans, 4),
        nn.MaxPool2d(2),
        *block(4, 8),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 2 * 2, 20),
        nn.ReLU(),
        nn.Linear(20, 12),
        nn.ReLU(),
        nn.Linear(12, num_classes),
    )


def perceptron(num_classes, in_chans):
    """LeNet-300-100's shape. For 8 x 8 images."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_chans * 64, 30), nn.ReLU(), nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, num_classes)
    )


def vgg(num_classes, in_chans):
    layers, channels = [], in_chans
    for width in (4, 8):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2, 2)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class ParameterFreeShortcut(nn.Module):
    """A residual block whose shortcut is every other pixel, and channels of zeros (He et al. 2016, option A)."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(in_chans, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = F.relu(self.bn0(self.conv0(x)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.fc(F.adaptive_avg_pool2d(F.relu(y), 1).view(y.size(0), -1))


class OddWindows(nn.Module):
    """Kernels, strides and paddings that differ by axis, leave pixels out, or overlap; a sum without a rectifier."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.a, self.bn = nn.Conv2d(in_chans, 5, (5, 3), (2, 1), (2, 0)), nn.BatchNorm2d(5, eps=1e-3, momentum=0.3)
        self.b, self.c = nn.Conv2d(5, 6, 3, 3, 1), nn.Conv2d(5, 6, 1, 3, 0)
        self.d, self.fc = nn.Conv2d(6, 6, 3, padding=2), nn.Linear(6 * 3 * 3, num_classes)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.bn(self.a(x))), 3, 2, padding=1)
        x = F.avg_pool2d(self.d(self.b(x) + self.c(x)), 2, 1)
        return self.fc(F.relu(x).flatten(1))


class Stream(nn.Module):
    """A residual stream that is read several times, added to without a rectifier, and classified by a convolution."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8 if i else in_chans, 8, 3, padding=1) for i in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        x = self.norms[0](self.convs[0](x))
        y = x + self.norms[1](self.convs[1](torch.relu(x)))
        z = y + self.norms[2](self.convs[2](torch.relu(y))) + x
        return self.head(torch.relu(z + self.norms[3](self.convs[3](y)))).mean((2, 3))


class Frozen(nn.Module):
    """Weights that take no gradient, and some that nobody uses."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(in_chans, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc, self.unused = nn.Linear(4, num_classes), nn.Linear(7, 7)
        self.conv.weight.requires_grad = self.bn.weight.requires_grad = False

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class FrozenMiddle(nn.Module):
    """Trained layers before and behind frozen ones, and layers that nobody uses, one of them frozen as well."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.spare = nn.Conv2d(4, 4, 3)
        self.first, self.bn1 = nn.Conv2d(in_chans, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.middle, self.bn2 = nn.Conv2d(4, 8, 3, 2, 1, bias=False).requires_grad_(False), nn.BatchNorm2d(8)
        self.last, self.fc = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4, num_classes)
        self.spare_norm = nn.BatchNorm2d(4).requires_grad_(False)
        self.bn2.bias.requires_grad = self.fc.bias.requires_grad = self.first.bias.requires_grad = False

    def forward(self, x):
        x = torch.relu(self.bn1(self.first(x)))
        x = torch.relu(self.bn2(self.middle(x)))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


class Transposed(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.up, self.fc = nn.Conv2d(in_chans, 4, 3), nn.ConvTranspose2d(4, 4, 2), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.up(self.conv(x))).mean((2, 3)))


class Twice(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(in_chans, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.fc(torch.relu(self.conv(torch.relu(self.conv(x)))).mean((2, 3)))


class Branching(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_chans, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.conv(x)
        return self.fc((x if x.mean() > 0 else -x).mean((2, 3)))


def depthwise(num_classes, in_chans):
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, num_classes),
    )


def smooth(num_classes, in_chans):
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


class Unread(nn.Module):
    """A rectifier that works in place, and whose result nobody reads."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(in_chans, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.conv(x)
        self.relu(x)
        return self.fc(x.mean((2, 3)))


class Aside(nn.Module):
    """A branch that nobody reads."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_chans, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.conv(x)
        F.max_pool2d(x, 2)
        return self.fc(x.mean((2, 3)))


class StaysInEvaluation(nn.Module):
    """Batch norm by running statistics, in training too."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(in_chans, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, num_classes)

    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class Leaky(nn.ReLU):
    def forward(self, x):
        return F.leaky_relu(x)


def subclass(num_classes, in_chans):
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3), Leaky(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


class Keywords(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_chans, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(input=x)).mean((2, 3)))


def hooked(num_classes, in_chans):
    network = vgg(num_classes, in_chans)
    network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


def maximum(num_classes, in_chans):
    """Two convolutions of one pixel, and maxima of what they give. For 4 x 4 images."""
    layers = nn.Conv2d(in_chans, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))
