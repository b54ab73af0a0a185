"""One training step of the sparse engine, written out: forward and backward of a CIFAR ResNet without autograd.

The networks are so small that recording a graph, and making a tensor for every result, took longer than the arithmetic.
Here the layers are a list with buffers of their own, made once for each batch size. Activations are [R*C, S, S, B], the
images of a batch innermost; gradients go to the flat buffers that the parameters' ``grad`` are views of. The numbers
are those of autograd, to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.nets import kernels
from repro.nets.resnet import CifarResNet


class _Convolution:
    def __init__(self, layer: nn.Conv2d, shape: tuple[int, int], batch: int):
        """shape: (channels, side) of the images."""
        self.replicas, kernel, stride = layer.groups, layer.kernel_size[0], layer.stride[0]
        channels, side = shape
        pad = kernel // 2
        width = side + 2 * pad
        columns, new_side = -(-width // stride), (width - kernel) // stride + 1
        self.weight = layer.weight.detach().view(self.replicas, -1, *layer.weight.shape[1:]).numpy()
        self.dweight = layer.weight.grad.view(self.replicas, -1).numpy()
        self.stride, self.pad = stride, pad
        line = stride * columns * batch
        self.geometry = (width * line, line, batch, stride)
        empty = layer.weight.new_empty
        self.padded = empty(channels, width, stride, columns, batch).zero_().numpy()
        self.dpadded = empty(channels, width, stride, columns, batch).zero_().numpy()
        self.shape = (layer.out_channels, new_side)
        self.out = empty(layer.out_channels, new_side, new_side, batch).numpy()
        self.dx = empty(channels, side, side, batch).numpy()
        self.scratch = kernels.scratch(layer.weight.detach()[: layer.out_channels // self.replicas])

    def forward(self, x):
        kernels.pad(x, self.padded, self.stride, self.pad)
        kernels.forward(self._flat(self.padded), self.weight, self._rows(self.out), self.geometry, *self.scratch)
        return self.out

    def backward(self, gradient, *, wants_input: bool = True):
        rows, (first, _, values, outputs) = self._rows(gradient), self.scratch
        kernels.backward_weight(rows, self._flat(self.padded), self.weight, self.dweight, self.geometry, *self.scratch)
        if not wants_input:
            return None
        self.dpadded.fill(0)
        kernels.backward_input(rows, self.weight, self._flat(self.dpadded), self.geometry, first, outputs, values)
        kernels.unpad(self.dpadded, self.dx, self.stride, self.pad)
        return self.dx

    def _flat(self, padded):
        return padded.reshape(self.replicas, -1)

    def _rows(self, images):
        """[R*O, S, S, B] as [R, O, S, S*B]."""
        return images.reshape(self.replicas, -1, images.shape[1], images.shape[2] * images.shape[3])


class _Norm:
    """Batch norm by batch statistics, with or without a residual, rectified or not."""

    def __init__(self, layer: nn.BatchNorm2d, shape: tuple[int, int], batch: int, *, rectify: bool = True):
        self.layer, self.rectify, self.eps, self.momentum = layer, rectify, layer.eps, layer.momentum
        self.weight, self.bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        self.dweight, self.dbias = layer.weight.grad.numpy(), layer.bias.grad.numpy()
        self.running = layer.running_mean.numpy(), layer.running_var.numpy()
        channels, side = shape
        empty = layer.weight.new_empty
        self.mean, self.var = empty(2, channels).numpy()
        self.out, self.dx, self.rectified = empty(3, channels, side, side, batch).numpy()
        self.none = empty(0, 0).numpy()

    def forward(self, x, residual=None):
        self.x = x.reshape(len(x), -1)
        more = self.none if residual is None else residual.reshape(len(x), -1)
        kernels.normalise(self.x, more, self.weight, self.bias, self.eps, self.rectify, self.out.reshape(len(x), -1),
                          self.mean, self.var, *self.running, self.momentum)  # fmt: skip
        return self.out

    def backward(self, gradient):
        """(gradient of x, gradient of the residual)."""
        flat = (array.reshape(len(array), -1) for array in (gradient, self.out, self.dx, self.rectified))
        gradient, out, dx, rectified = flat
        kernels.denormalise(gradient, self.x, out, self.weight, self.mean, self.var, self.eps, self.rectify, dx,
                            rectified, self.dweight, self.dbias)  # fmt: skip
        return self.dx, self.rectified


class _Block:
    def __init__(self, block: nn.Module, shape: tuple[int, int], batch: int):
        self.conv1 = _Convolution(block.conv1, shape, batch)
        self.shape = self.conv1.shape
        self.bn1 = _Norm(block.bn1, self.shape, batch)
        self.conv2 = _Convolution(block.conv2, self.shape, batch)
        self.bn2 = _Norm(block.bn2, self.shape, batch)
        self.shortcut = None
        if len(block.shortcut):
            self.shortcut = _Convolution(block.shortcut[0], shape, batch)
            self.norm = _Norm(block.shortcut[1], self.shape, batch, rectify=False)

    def forward(self, x):
        beside = self.norm.forward(self.shortcut.forward(x)) if self.shortcut else x
        return self.bn2.forward(self.conv2.forward(self.bn1.forward(self.conv1.forward(x))), beside)

    def backward(self, gradient):
        inner, beside = self.bn2.backward(gradient)
        dx = self.conv1.backward(self.bn1.backward(self.conv2.backward(inner))[0])
        dx += self.shortcut.backward(self.norm.backward(beside)[0]) if self.shortcut else beside
        return dx


class Program:
    """The training step of a `CifarResNet` with ``batch_innermost`` whose parameters' ``grad`` are there to be added to.

    Arguments:
        batch: B, images of each replica at a step.
        side: of the images, in pixels.
    """

    def __init__(self, network: CifarResNet, batch: int, side: int):
        self.replicas, self.fc = network.replicas, network.fc
        shape = (network.conv.in_channels, side)
        self.conv = _Convolution(network.conv, shape, batch)
        self.bn = _Norm(network.bn, self.conv.shape, batch)
        self.blocks, shape = [], self.conv.shape
        for block in network.blocks:
            self.blocks.append(_Block(block, shape, batch))
            shape = self.blocks[-1].shape
        self.last = (*shape, batch)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradients of the summed mean losses; (losses [R], logits [R, B, K]) of images [R, B, H, W, C]."""
        x = images.permute(0, 4, 2, 3, 1).flatten(0, 1).contiguous().numpy()
        x = self.bn.forward(self.conv.forward(x))
        for block in self.blocks:
            x = block.forward(x)
        losses, logits, gradient = self._head(torch.from_numpy(x), labels)
        gradient = gradient.numpy()
        for block in reversed(self.blocks):
            gradient = block.backward(gradient)
        self.conv.backward(self.bn.backward(gradient)[0], wants_input=False)
        return losses, logits

    def _head(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, logits, and the gradient of x: mean over pixels, linear classifier, cross-entropy."""
        channels, side, batch = self.last
        r = self.replicas
        with torch.no_grad():
            features = x.view(r, channels // r, side * side, batch).mean(2)  # [R, C, B]
            weight = self.fc.weight.view(r, -1, channels // r)
            logits = torch.baddbmm(self.fc.bias.view(r, -1, 1), weight, features).transpose(1, 2)
            logs = logits.log_softmax(2)
            losses = -logs.gather(2, labels[..., None]).squeeze(2).mean(1)
            error = (logs.exp() - F.one_hot(labels, logits.shape[2])).transpose(1, 2) / batch  # [R, K, B]
            self.fc.weight.grad.view(r, -1, channels // r).baddbmm_(error, features.transpose(1, 2))
            self.fc.bias.grad.view(r, -1).add_(error.sum(2))
            back = torch.bmm(weight.transpose(1, 2), error) / (side * side)  # [R, C, B]
            gradient = back.view(channels, 1, 1, batch).expand(channels, side, side, batch).contiguous()
        return losses, logits, gradient
