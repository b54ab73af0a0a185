"""Points on the line between two networks in plain PyTorch: the oracle of the barriers."""

import torch
import torch.nn.functional as F

from repro.nets import create, layout_of
from tests import plain_imp

NETWORK = "cifar_resnet8_w4"


def plain(vector):
    """A stored vector in a plain PyTorch network of float64."""
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    values = layout_of(create(NETWORK, num_classes=10, in_chans=1)).state_dict(torch.as_tensor(vector)).values()
    net.load_state_dict(dict(zip([entry.name for entry in layout_of(net).entries], values)), strict=False)
    return net


def on_the_line(a, b, alpha, x, data, replicate, *, recalibrated=False):
    """(losses, wrong) on training and test images of the network at alpha, in plain PyTorch."""
    net = plain(alpha * b + (1 - alpha) * a)
    train, test = data.split(replicate)
    if recalibrated:
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None
        net.train()
        with torch.no_grad():
            [net(x[rows]) for rows in train.split(1000)]
    net.eval()
    found = {}
    for name, rows in (("train", train), ("test", test)):
        with torch.no_grad():
            logits = net(x[rows])
        found[f"{name}_loss"] = F.cross_entropy(logits, data.labels[rows], reduction="none").numpy()
        found[f"{name}_wrong"] = (logits.argmax(1) != data.labels[rows]).numpy()
    return found
