"""The prototypes against PyTorch in float64: on a GPU, or on a CPU by Triton's interpreter (TRITON_INTERPRET=1)."""

import copy
import json

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.batch_norm import norm_add
from benchmarks.gpu.convolution import convolve, turned, weight_gradient
from benchmarks.gpu.shadow_weights import ShadowedNetwork, views
from repro.engines import Sgd
from repro.nets import create, initialise

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # relative, in the L2 norm: several times their rounding


def differences(device: str, *, tiny: bool) -> dict[str, tuple[float, float]]:
    """(relative difference, its limit) by what was compared."""
    torch.manual_seed(0)
    return norms(device, tiny) | convolutions(device, tiny) | training(device, tiny)


def norms(device: str, tiny: bool) -> dict[str, tuple[float, float]]:
    """Output, gradients and statistics of batch norm with and without residual and rectifier."""
    found = {}
    shape = (3, 16, 5, 5) if tiny else (32, 64, 16, 16)
    for dtype, limit in LIMITS.items():
        for residual in (False, True):
            for relu in (False, True):
                values = (torch.randn(shape, device=device) * 2 + 3 for _ in range(3))
                x, z, g = (value.to(dtype, memory_format=torch.channels_last) for value in values)
                norm = nn.BatchNorm2d(shape[1], device=device)
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
                nn.init.normal_(norm.running_mean)
                exact = copy.deepcopy(norm).double()
                mine, wide = ([t.to(kind).detach().requires_grad_() for t in (x, z)] for kind in (dtype, torch.float64))
                y = norm_add(norm, mine[0], mine[1] if residual else None, relu=relu)
                wanted = exact(wide[0]) + (wide[1] if residual else 0)
                wanted = wanted * (y > 0) if relu else wanted  # of rectifiers near 0 the same are on
                y.backward(g)
                wanted.backward(g.double())
                pairs = [(y, wanted), (mine[0].grad, wide[0].grad)]
                pairs += [(norm.weight.grad, exact.weight.grad), (norm.bias.grad, exact.bias.grad)]
                pairs += [(norm.running_mean, exact.running_mean), (norm.running_var, exact.running_var)]
                pairs += [(mine[1].grad, wide[1].grad)] * residual
                name = f"batch norm{' + residual' * residual}{' + ReLU' * relu}, {str(dtype).removeprefix('torch.')}"
                found[name] = max(_apart(*pair) for pair in pairs), limit
    return found


def convolutions(device: str, tiny: bool) -> dict[str, tuple[float, float]]:
    """Outputs and gradients of convolutions of two networks."""
    found = {}
    dtype = torch.float32 if tiny else torch.bfloat16  # the interpreter's products of bfloat16 are wrong
    shapes = ((16, 16, 1, 6), (16, 32, 2, 5)) if tiny else ((16, 16, 1, 32), (16, 32, 2, 32), (64, 64, 1, 8))
    size = dict(rows=32) if tiny else {}
    for source, target, stride, side in shapes:
        x = torch.randn(2, 3, side, side, source, device=device).to(dtype)
        weights = (torch.randn(2, 9, source, target, device=device) / 12).to(dtype)
        y = convolve(x, weights, stride, **size)
        g = torch.randn_like(y)
        results = {"output": y, "weights": weight_gradient(x, g, stride, splits=4, **size)}
        if stride == 1:
            results["input"] = convolve(g, turned(weights), **size)
        exact = {name: [] for name in results}
        for image, kernel, error in zip(x.double(), weights.double(), g.double()):
            image = image.permute(0, 3, 1, 2).requires_grad_()
            kernel = kernel.view(3, 3, source, target).permute(3, 2, 0, 1).requires_grad_()
            wanted = F.conv2d(image, kernel, stride=stride, padding=1)
            wanted.backward(error.permute(0, 3, 1, 2))
            exact["output"].append(wanted.permute(0, 2, 3, 1))
            exact["weights"].append(kernel.grad.permute(2, 3, 1, 0).reshape(9, source, target))
            if stride == 1:
                exact["input"].append(image.grad.permute(0, 2, 3, 1))
        for name, result in results.items():
            what = f"convolution {source} to {target}, stride {stride}: {name}"
            found[what] = _apart(result, torch.stack(exact[name])), LIMITS[dtype]
    return found


def training(device: str, tiny: bool) -> dict[str, tuple[float, float]]:
    """Weights after some steps of a small ResNet with shadows in float32, masked, against PyTorch's SGD in float64."""
    found = {}
    sgd, rate = Sgd(0.9, 1e-2, True), 0.01
    shape = (2, 4, 3, 8, 8) if tiny else (3, 64, 3, 32, 32)
    images, labels = torch.randn(shape, device=device), torch.randint(0, 10, shape[:2], device=device)
    for fused in (False, True):
        net = initialise(create("cifar_resnet8_w4", num_classes=10, in_chans=3), torch.Generator().manual_seed(0))
        exact, mine = (
            copy.deepcopy(net).to(device).double(),
            ShadowedNetwork(net.to(device), fused=fused, dtype=torch.float32),
        )
        mine.mask.copy_(torch.rand(mine.mask.shape, device=device) < 0.5)
        everything = [*mine.shadowed, *mine.plain]
        kept = dict(zip(map(id, everything), views(mine.mask, everything)))
        optimizer = torch.optim.SGD(exact.parameters(), rate, sgd.momentum, 0, sgd.weight_decay, sgd.nesterov)
        for image, label in zip(images, labels):
            mine.step(
                F.cross_entropy(mine(image.contiguous(memory_format=torch.channels_last)), label),
                torch.tensor(rate, device=device),
                sgd,
            )
            optimizer.zero_grad()
            F.cross_entropy(exact(image.double()), label).backward()
            optimizer.step()
            with torch.no_grad():
                for theirs, ours in zip(exact.parameters(), mine.module.parameters()):
                    theirs.mul_(kept[id(ours)])
        pairs = zip(mine.module.parameters(), exact.parameters())
        apart = max(_apart(ours, theirs) for ours, theirs in pairs)
        found[f"some steps with shadow weights{', fused norms' * fused}"] = apart, 1e-3  # rounding is amplified
    return found


def _apart(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach().double()
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


if __name__ == "__main__":
    print(json.dumps(differences("cpu", tiny=True)))
