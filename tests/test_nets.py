"""The networks: the published counts, the initialisation, timm."""

import hashlib
import math

import pytest
import torch
import torch.fx
from torch import nn

from repro.errors import UsageError
from repro.nets import create, initialise, layout_of
from repro.nets.zoo import timm  # importing the zoo registers our networks
from tests import plain_imp


@pytest.mark.parametrize(
    "depth, classes, conv_layers, conv, prunable, trainable",
    [(20, 10, 21, 270256, 270896, 272474), (32, 100, 33, 463792, 470192, 472756), (56, 10, 57, 850864, 851504, 855770)],
)
def test_published_counts(depth, classes, conv_layers, conv, prunable, trainable):
    net = create(f"cifar_resnet{depth}", num_classes=classes, in_chans=3)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    layout = layout_of(net)
    assert (len(layers), sum(m.weight.numel() for m in layers)) == (conv_layers, conv)
    assert (layout.num_prunable, layout.num_parameters) == (prunable, trainable)


@pytest.mark.parametrize(
    "name, digest",
    [
        ("cifar_resnet20", "85bb45428c0b085503d071ae84f2b460648ba320b6afa06f87a7193d811ce0d7"),
        ("cifar_resnet8_w4", "3d43ce9c44950818feab5c2db5072a23a471ccdce13bb4987f5900a0e9d280c2"),
    ],
)
def test_layouts_are_those_of_artifacts_made_before(name, digest):
    layout = layout_of(create(name, num_classes=10, in_chans=3, image_size=32))
    assert not layout.idle and layout.num_trained == layout.num_parameters
    entries = [(entry.name, entry.shape, entry.offset) for entry in layout.entries]
    ends = [layout.num_prunable, layout.num_parameters, layout.size]
    assert hashlib.sha256(repr(entries + ends).encode()).hexdigest() == digest


def test_forward_equals_plain_pytorch():
    ours = create("cifar_resnet14_w6", num_classes=7, in_chans=3).double()
    plain = plain_imp.PlainResNet(14, 6, 3, 7).double()
    initialise(ours, torch.Generator().manual_seed(0))
    vector = layout_of(ours).flatten(ours)
    plain.load_state_dict(layout_of(plain).state_dict(vector), strict=False)
    x = torch.randn(5, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-12, atol=1e-12)


def test_initialisation_follows_the_published_distributions():
    net = initialise(create("cifar_resnet20_w64", num_classes=10, in_chans=3), torch.Generator().manual_seed(0))
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in, n = module.weight[0].numel(), module.weight.numel()
            expected = (2 / fan_in) ** 0.5
            assert abs(module.weight.std().item() - expected) < 5 * expected / (2 * n) ** 0.5
    norm = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert norm.min() >= 0 and norm.max() < 1 and abs(norm.mean() - 0.5) < 5 / (12 * len(norm)) ** 0.5
    assert all((m.bias == 0).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert 0 < net.fc.bias.abs().max() <= 1 / net.fc.weight.shape[1] ** 0.5


@pytest.mark.parametrize("name", ["cifar_resnet8_w2", "lowres_resnet18", "resnetv2_50"])
def test_initialisation_depends_on_its_generator_alone(name):
    def vector():
        net = initialise(create(name, num_classes=10, in_chans=3), torch.Generator().manual_seed(5))
        return layout_of(net).flatten(net)[: layout_of(net).num_prunable]

    torch.manual_seed(1)
    first = vector()
    torch.manual_seed(2)
    assert torch.equal(first, vector())


def test_a_flat_vector_holds_the_whole_network():
    net = initialise(create("cifar_resnet8_w2", num_classes=3, in_chans=1), torch.Generator().manual_seed(0)).eval()
    net.bn.running_mean.fill_(0.25)
    twin = create("cifar_resnet8_w2", num_classes=3, in_chans=1).eval()
    missing = twin.load_state_dict(layout_of(net).state_dict(layout_of(net).flatten(net)), strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net(x), twin(x))


def test_timm_knows_our_networks():
    net = timm.create_model("cifar_resnet20", width=8, num_classes=3)
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert layout_of(timm.create_model("cifar_resnet20")).num_prunable == 270896


def test_a_network_from_timm_can_be_trained_as_it_comes():
    """Its classifier is PyTorch's own layer, initialised by PyTorch."""
    stale = [torch.full((10, 64), float("nan")) for _ in range(8)]  # what uninitialised memory may hold
    del stale
    net = timm.create_model("cifar_resnet20")
    assert type(net.fc) is nn.Linear and all(p.isfinite().all() for p in net.parameters())
    assert 0 < net.fc.weight.abs().max() <= 64**-0.5
    x, y = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
    assert nn.functional.cross_entropy(net(x), y).item() == pytest.approx(math.log(10), abs=0.5)


def test_other_tools_can_read_the_network():
    """Plain layers alone, and a forward pass that torch.fx can trace."""
    net = create("cifar_resnet8_w2", num_classes=3, in_chans=1).eval()
    kinds = {type(module) for module in net.modules() if not list(module.children())}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Sequential}  # an empty Sequential passes its input on
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.fx.symbolic_trace(net)(x), net(x))
    names = set(net.state_dict())
    assert {"conv.weight", "bn.running_var", "blocks.1.shortcut.0.weight", "fc.weight", "fc.bias"} <= names
    assert net.fc.weight.shape == (3, 8)


def test_the_scoring_networks_keep_the_resolution():
    net = create("lowres_resnet18", num_classes=10, in_chans=3)
    assert net.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)
    assert isinstance(net.maxpool, nn.Identity)


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar_resnet21", "depth .=21. of a CIFAR ResNet must be 6n.2"),
        ("cifar_resnet20_w0", "width .=0."),
        ("no_such_net", "unknown network 'no_such_net'"),
    ],
)
def test_unknown_networks_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        create(name, num_classes=10, in_chans=3)


@pytest.mark.parametrize(
    "name, chans, size, conv, total",
    [
        ("lenet300", 1, 28, 0, 266_200),
        ("conv2", 3, 32, 38_592, 4_300_992),
        ("conv4", 3, 32, 259_776, 2_425_024),
        ("conv6", 3, 32, 1_144_512, 2_261_184),
        ("conv4_s8", 1, 8, 258_624, 258_624 + 512 * 256 + 256 * 256 + 2560),
    ],
)
def test_networks_of_the_lottery_ticket_papers_have_their_published_size(name, chans, size, conv, total):
    """Frankle and Carbin 2019, Figure 2: 266K; in convolutions 38K of 4.3M, 260K of 2.4M, 1.1M."""
    net = create(name, num_classes=10, in_chans=chans)
    weights = [m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert (sum(weights), layout_of(net).num_prunable) == (conv, total)
    assert net(torch.zeros(2, chans, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name, convolutions", [("cifar_vgg11", 8), ("cifar_vgg16", 13)])
def test_vgg_has_its_layers(name, convolutions):
    net = create(name, num_classes=10, in_chans=3)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == convolutions
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_images_that_pools_cannot_halve_are_refused():
    with pytest.raises(UsageError, match="a side that 8 divides, not 20"):
        create("conv6_s20", num_classes=10, in_chans=3)
