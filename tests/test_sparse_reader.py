"""Which networks the sparse engine can have, and what it says of others."""

from pathlib import Path

import pytest
import torch

from repro import engines
from repro.engines.sparse import unsupported
from repro.errors import UsageError
from repro.nets import create

NETWORKS = f"{Path(__file__).parent / 'feedforward.py'}:"


@pytest.mark.parametrize(
    "network, phrase",
    [
        (NETWORKS + "Transposed", "a ConvTranspose2d ('up')"),
        (NETWORKS + "depthwise", "a Conv2d ('1') with groups"),
        (NETWORKS + "smooth", "a GELU ('1')"),
        (NETWORKS + "Twice", "a Conv2d ('conv'), whose weights are used twice"),
        (NETWORKS + "Branching", "a forward pass that depends on its images"),
        (NETWORKS + "Unread", "a ReLU ('relu'), whose result nobody reads"),
        (NETWORKS + "Aside", "the function max_pool2d, whose result nobody reads"),
        (NETWORKS + "StaysInEvaluation", "a BatchNorm2d ('bn') that stays in evaluation mode"),
        (NETWORKS + "subclass", "a Leaky ('1')"),
        (NETWORKS + "Keywords", "code that is not understood"),
        (NETWORKS + "hooked", "a Conv2d ('0') with hooks"),
    ],
)
def test_a_layer_it_cannot_have_is_named(network, phrase):
    assert unsupported(create(network, num_classes=5, in_chans=1), 8, 1).startswith(phrase)
    with pytest.raises(UsageError, match="use --engine serial"):
        engines.create(
            "sparse", network, replicas=1, num_classes=5, in_chans=1, image_size=8, device=torch.device("cpu")
        )


@pytest.mark.parametrize(
    "name, size",
    [
        ("cifar_resnet20", 32),
        ("resnet10t", 32),
        ("resnet18", 32),
        ("lowres_resnet18", 32),
        ("conv2_s8", 8),
        ("lenet300_s8", 8),
        ("conv6", 32),
        ("cifar_vgg11", 32),
        ("cifar_vgg16", 32),
    ],
)
def test_networks_of_the_zoo_that_it_can_have(name, size):
    assert unsupported(create(name, num_classes=10, in_chans=3), size, 3) is None


def test_reading_a_network_leaves_it_as_it_was():
    network = create("cifar_resnet8_w4", num_classes=5, in_chans=1).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert unsupported(network, 8, 1) is None and not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
