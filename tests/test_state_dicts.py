"""Networks and masks in files of other programs: the same numbers, or refused with what was found."""

import argparse
import copy
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

from repro.errors import UsageError
from repro.nets import create, initialise, layout_of
from repro.stages.state_dicts import load_checkpoint, read_mask
from tests.command_line import repro

NAME = "cifar_resnet8_w4"
NET = initialise(create(NAME, num_classes=10, in_chans=1), torch.Generator().manual_seed(0))
LAYOUT, STATE = layout_of(NET), NET.state_dict()
VECTOR = LAYOUT.flatten(NET)
MASK = torch.rand(LAYOUT.num_prunable, generator=torch.Generator().manual_seed(1)) < 0.5
MASKS = {e.name: MASK[e.offset : e.offset + e.size].view(e.shape) for e in LAYOUT.prunable}


def renamed(prefix: str, state=STATE) -> dict:
    return {prefix + name: value for name, value in state.items()}


def pruned() -> nn.Module:
    net = copy.deepcopy(NET)
    for name, module in net.named_modules():
        if f"{name}.weight" in MASKS:
            prune.custom_from_mask(module, "weight", MASKS[f"{name}.weight"])
    return net


def open_lth() -> dict:
    return renamed("model.") | {f"mask_{name.replace('.', '___')}": mask.float() for name, mask in MASKS.items()}


class Options:
    pass


WRITTEN = {  # what other programs save, each of which holds the numbers of NET
    "plain": STATE,
    "data_parallel": nn.DataParallel(NET).state_dict(),
    "net": {"net": STATE, "acc": 91.2, "epoch": 3},
    "model_state_dict": {"model_state_dict": STATE, "optimizer_state_dict": {}, "rng": torch.zeros(9).byte()},
    "inner": {"checkpoint": {"model": STATE, "args": Options()}, "epoch": 3},
    "numpy_number": {"state_dict": STATE, "best": np.float64(91.2)},
    "namespace": {"state_dict": renamed("module."), "args": argparse.Namespace(lr=0.1), "arch": Path("x")},
    "compiled": renamed("_orig_mod."),
    "compiled_part": {re.sub(r"^blocks\.1\.", "blocks.1._orig_mod.", name): v for name, v in STATE.items()},
    "parallel_part": {re.sub(r"^blocks\.", "blocks.module.", name): value for name, value in STATE.items()},
    "compiled_parallel": {"model": renamed("module._orig_mod.")},
    "lightning": {"state_dict": renamed("model.") | {"loss.weight": torch.ones(10)}, "hyper_parameters": Options()},
    "lightning_average": {"state_dict": renamed("net.") | renamed("ema.module.", {n: v + 1 for n, v in STATE.items()})},
    "average": {"n_averaged": torch.tensor(4)} | renamed("module."),
    "average_beside": {"state_dict": STATE, "state_dict_ema": {name: value + 1 for name, value in STATE.items()}},
    "arrays": {name: value.numpy() for name, value in STATE.items()},
    "sparse": {name: value.to_sparse() if value.dim() == 4 else value for name, value in STATE.items()},
    "double": copy.deepcopy(NET).double().state_dict(),
    "parameters": {n: nn.Parameter(v) if v.is_floating_point() else v for n, v in STATE.items()},
}


LEGACY = WRITTEN.keys() - {"inner", "namespace", "lightning"}  # of which PyTorch does not tell what classes they need
FILES = [*((name, True) for name in WRITTEN), *((name, False) for name in sorted(LEGACY))]


@pytest.mark.parametrize("name, zipped", FILES)
def test_checkpoints_of_other_programs_have_the_same_numbers(name, zipped, tmp_path):
    torch.save(WRITTEN[name], tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_checkpoint(tmp_path / "a.pt", LAYOUT, NAME), VECTOR)


@pytest.mark.parametrize("state", [pruned().state_dict(), open_lth(), renamed("module.", open_lth())])
def test_pruned_weights_are_multiplied_by_their_masks(state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    wanted = VECTOR.clone()
    wanted[: LAYOUT.num_prunable] *= MASK
    assert torch.equal(load_checkpoint(tmp_path / "a.pt", LAYOUT, NAME), wanted)


def test_safetensors_have_the_same_numbers(tmp_path):
    safetensors.torch.save_file({k: v.contiguous() for k, v in renamed("model.").items()}, tmp_path / "a.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors", LAYOUT, NAME), VECTOR)


REFUSED = {
    "whole": (NET, "holds no state dict .*, but a whole CifarResNet: write torch.save"),
    "list": (list(NET.parameters()), "holds no state dict .*, but a list"),
    "numbers": ({"epoch": 3, "acc": torch.tensor(1.0)}, "holds no state dict .*, but a dict of epoch, acc"),
    "statistics": (dict(NET.named_parameters()), r"no tensor bn.running_mean of .* the \d+ that it has \(conv.weight,"),
    "other": ({"state_dict": nn.Linear(2, 2).state_dict()}, r"no tensor conv.weight .* has under state_dict \(weight,"),
    "two": ({"G": STATE, "D": STATE}, r"holds several that fit \(G, D\): save the one that is meant"),
    "two_parts": (renamed("student.") | renamed("teacher."), r"several networks \(student., teacher.\): save the one"),
    "integers": (STATE | {"fc.bias": torch.zeros(10, dtype=torch.int8)}, "has fc.bias as int8: give a checkpoint of"),
    "complex": (STATE | {"fc.bias": torch.zeros(10) + 0j}, "has fc.bias as complex64: give a checkpoint of real"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_found(name, tmp_path):
    content, said = REFUSED[name]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=said):
        load_checkpoint(tmp_path / "a.pt", LAYOUT, NAME)


OTHER_FILES = {
    "pointer.pt": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n",
        "is a Git LFS pointer, .*: fetch the file itself with",
    ),
    "page.pt": (b"<!DOCTYPE html><html>", "is a web page, .*: download the file itself"),
    "empty.pt": (b"", r"is empty \(0 bytes\)"),
    "text.pt": (b"hello", "is a text file, not a file of torch.save: write one"),
    "array.pt": (b"\x93NUMPY", "is a NumPy array, not a file of torch.save"),
    "artifact.pt": (b"lottery-data-diet artifact, format 1;", "is an artifact, not a file of torch.save"),
    "packed.pt": (b"\x1f\x8b\x08", "is a gzip file, not a file of torch.save: unpack it"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_it_is_said_what_a_file_is(name, tmp_path):
    content, said = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said) as refused:
        load_checkpoint(tmp_path / name, LAYOUT, NAME)
    assert "\x1b" not in str(refused.value)


def test_damaged_files_and_classes_that_are_not_run(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-300])
    torch.save({"net": STATE, "o": Options()}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name, said in (("a", "is damaged or incomplete"), ("b", "calls for .*Options, which is not run: write the")):
        with pytest.raises(UsageError, match=said) as refused:
            load_checkpoint(tmp_path / f"{name}.pt", LAYOUT, NAME)
        assert "\x1b" not in str(refused.value)


# --- networks whose state dicts are not their layouts -----------------------------------------------------------------

NETS = """
import torch
from torch import nn
class Tied(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(c, 4, 3, padding=1) for c in (in_chans, 4, 4))
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)
        self.fc = nn.Linear(4, num_classes)
    def forward(self, x):
        return self.fc(self.scale * self.b(torch.relu(self.a(torch.relu(self.stem(x))))).mean((2, 3)))
"""


def test_our_own_export_of_tied_weights_and_buffers_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETS, encoding="utf-8")
    repro(
        "pretrain",
        "--dataset",
        "digits",
        "--network",
        "net.py:Tied",
        "-t",
        2,
        "--steps",
        4,
        "--milestones",
        "",
        "--batch-size",
        64,
        "--replicates",
        2,
        "--out",
        "w.h5",
    )
    for r, end in ((0, "pt"), (1, "safetensors")):
        repro("export", "w.h5", "--replicate", r, "--part", "rewind", "--out", f"{r}.{end}")
    printed = repro("barrier", "0.pt", "1.safetensors", "--network", "net.py:Tied", "--dataset", "digits").stdout
    assert "nan" not in printed and len(printed.splitlines()) == 5
    net = create("net.py:Tied", num_classes=10, in_chans=1)
    layout, state = layout_of(net), torch.load("0.pt", weights_only=True)
    whole = load_checkpoint("0.pt", layout, "Tied", net)
    for name in ("a.weight", "b.weight"):  # safetensors' save_model keeps one name of each
        torch.save({n: v for n, v in state.items() if n != name}, "one.pt")
        assert torch.equal(load_checkpoint("one.pt", layout, "Tied", net), whole)
    torch.save(state | {"b.weight": state["a.weight"] + 1}, "two.pt")
    with pytest.raises(UsageError, match="two.pt has different numbers under the tied names a.weight and b.weight"):
        load_checkpoint("two.pt", layout, "Tied", net)


# --- masks ------------------------------------------------------------------------------------------------------------

MASK_FILES = {
    "plain": MASKS,
    "parallel": renamed("module.", MASKS),
    "lightning": {"masks": renamed("model.", {name: mask.float() for name, mask in MASKS.items()}), "sparsity": 0.5},
    "integers": {name: mask.int() for name, mask in MASKS.items()},
    "arrays": {name: mask.numpy() for name, mask in MASKS.items()},
    "pruned": {"state_dict": renamed("_orig_mod.", pruned().state_dict())},
    "open_lth": open_lth(),
}


@pytest.mark.parametrize("name", MASK_FILES)
def test_masks_of_other_programs(name, tmp_path):
    torch.save(MASK_FILES[name], tmp_path / "m.pt")
    assert torch.equal(read_mask(tmp_path / "m.pt", LAYOUT), MASK)


def test_a_mask_that_we_export_is_read_again(tmp_path):
    common = ("--dataset", "digits", "--network", NAME, "--steps", 4, "--milestones", "", "--batch-size", 64)
    repro("pretrain", *common, "-t", 1, "--replicates", 1, "--out", tmp_path / "w.h5")
    repro("imp", tmp_path / "w.h5", "--levels", 1, "--out", tmp_path / "imp.h5")
    for end in ("pt", "safetensors"):
        file = tmp_path / f"mask.{end}"
        repro("export", tmp_path / "imp.h5", "--replicate", 0, "--level", 1, "--part", "mask", "--out", file)
        command = ("branch", tmp_path / "imp.h5", "--levels", 1, "--mask", file, "--weights", "reinitialised")
        assert "computed 1" in repro(*command, "--out", tmp_path / f"{end}.h5").stdout
