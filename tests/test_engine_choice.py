"""Which engine trains a network: by density, width, image size, precision and device, and what is refused."""

import os

import pytest
import torch

from repro.engines import choice, choose, create
from repro.errors import UsageError

SHAPE = dict(image_size=32, in_chans=3, num_classes=10)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def obstacle(monkeypatch):
    """Plants what the sparse engine cannot have, by network; and a CPU with instructions for bfloat16."""
    found = {}
    monkeypatch.setattr(choice, "_obstacle", lambda network, **_: found.get(network))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: found.get("bf16", True))
    choice.say_once.cache_clear()
    return found


@pytest.mark.parametrize(
    "network, size, density, device, precision, engine",
    [
        ("cifar_resnet14_w4", 8, 1.0, CPU, "fp32", "sparse"),
        ("cifar_resnet14_w8", 16, 1.0, CPU, "fp32", "sparse"),
        ("cifar_resnet20", 32, 1.0, CPU, "fp32", "serial"),
        ("cifar_resnet20", 32, 0.64, CPU, "fp32", "serial"),
        ("cifar_resnet20", 32, 0.6, CPU, "fp32", "sparse"),
        ("cifar_resnet20", 32, 0.3, CPU, "bf16", "serial"),
        ("cifar_resnet20", 32, 0.2, CPU, "bf16", "sparse"),
        ("cifar_resnet20", 32, 0.1, CPU, "fp64", "sparse"),
        ("cifar_resnet20", 16, 1.0, CPU, "fp32", "sparse"),
        ("cifar_resnet20_w15", 32, 1.0, CPU, "fp32", "sparse"),
        ("cifar_resnet20", 32, 0.1, CUDA, "fp32", "graph"),
        ("resnet18", 8, 1.0, CUDA, "bf16", "graph"),
    ],
)
def test_auto_chooses_by_rule(network, size, density, device, precision, engine, obstacle):
    shape = {**SHAPE, "image_size": size}
    assert choose("auto", network, **shape, density=density, device=device, precision=precision) == engine
    assert choose("serial", network, **shape, density=density, device=device, precision=precision) == "serial"


def test_dense_bf16_needs_instructions_for_it(obstacle):
    obstacle["bf16"] = False
    assert choose("auto", "cifar_resnet20", **SHAPE, density=1.0, device=CPU, precision="bf16") == "sparse"


def test_a_layer_that_sparse_has_not_is_named_once(obstacle, capsys):
    obstacle["mine"] = "a ConvTranspose2d ('up1')"
    for _ in range(3):
        assert choose("auto", "mine", **SHAPE, density=0.1, device=CPU, precision="fp32") == "serial"
    assert capsys.readouterr().err == (
        "mine has a ConvTranspose2d ('up1'), which engine sparse cannot train: it is trained by engine serial\n"
    )
    with pytest.raises(
        UsageError, match=r"cannot train 'mine', which has a ConvTranspose2d \('up1'\): use --engine serial"
    ):
        choose("sparse", "mine", **SHAPE, density=0.1, device=CPU, precision="fp32")
    with pytest.raises(UsageError, match="--engine sparse needs a CPU, not cuda: use --engine graph"):
        choose("sparse", "cifar_resnet20", **SHAPE, density=0.1, device=CUDA, precision="fp32")


def test_sparse_computes_in_float32_where_bf16_is_asked_for():
    how = dict(SHAPE, replicas=1, device=CPU)
    found = {
        precision: create("sparse", "cifar_resnet8_w4", **how, precision=precision).state.dtype
        for precision in ("fp32", "bf16", "fp64")
    }
    assert found == {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
    assert create("sparse", "cifar_resnet8_w4", **how, precision="bf16").precision == "fp32"
    assert create("serial", "cifar_resnet8_w4", **how, precision="bf16").precision == "bf16"


def test_gpus_are_hidden_from_tests_that_are_not_for_them():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and not torch.cuda.is_available()
    assert torch.cuda.device_count() == 0
