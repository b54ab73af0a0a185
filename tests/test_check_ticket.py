"""check-ticket on tickets that plain PyTorch made, rightly and with the faults that others shipped."""

import copy
import math
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

from repro.reading.check_ticket import FAILS, HOLDS, UNTOLD, check_ticket
from tests.command_line import complaint, repro

PRUNED = ("0.weight", "3.weight")
T, FRACTION = 5, 0.2
IMAGES = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(40) % 4


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 4))


def trained(state: dict, steps: int, masks: dict | None = None, *, hold: bool = True) -> dict:
    """The state after SGD with momentum, the masks applied after every step or, wrongly, before the first alone."""
    net = network()
    net.load_state_dict(state)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(IMAGES), LABELS).backward()
        optimizer.step()
        for name, mask in (masks or {}).items():
            if hold:
                net.get_parameter(name).data *= mask
    return copy.deepcopy(net.state_dict())


def smallest_pruned(weights: dict, count: int) -> dict:
    """Masks that leave out the ``count`` smallest of all weights, by sorting them."""
    ranked = sorted((abs(w), name, k) for name in PRUNED for k, w in enumerate(weights[name].flatten().tolist()))
    gone = {(name, k) for _, name, k in ranked[:count]}
    return {
        name: torch.tensor([(name, k) not in gone for k in range(weights[name].numel())]).view(weights[name].shape)
        for name in PRUNED
    }


def times(state: dict, masks: dict) -> dict:
    return {name: value * masks[name] if name in masks else value for name, value in state.items()}


START = copy.deepcopy(network().state_dict())
REWIND = trained(START, T)
PREVIOUS = trained(REWIND, 20)
COUNT = sum(PREVIOUS[name].numel() for name in PRUNED)  # 27 + 192
MASK = smallest_pruned(PREVIOUS, math.ceil(FRACTION * COUNT) + 1)
TICKET = times(REWIND, MASK)
TRAINED = trained(TICKET, 20, MASK)
SECOND = smallest_pruned(TRAINED, 45 + math.ceil(FRACTION * 174) + 1)  # of level 2: the 45 are 0 there
RIGHT = {"start": START, "rewind": REWIND, "previous": PREVIOUS, "mask": MASK, "ticket": TICKET, "trained": TRAINED}
NOTHING = {"start": None, "rewind": None, "previous": None, "mask": None, "ticket": None, "trained": None}
QUESTIONS = ("density", "held", "another state", "step t", "weights start from", "biases", "smallest")


def by_torch(state: dict, masks: dict = MASK, kept_apart: dict | None = None) -> dict:
    """A state dict of torch.nn.utils.prune: weight_orig (from another state, if given) and weight_mask."""
    net = network()
    net.load_state_dict(state)
    for name, mask in masks.items():
        prune.custom_from_mask(net[int(name[0])], "weight", mask)
        if kept_apart:
            net[int(name[0])].weight_orig.data = kept_apart[name].clone()
    return net.state_dict()


def check(tmp_path, contents: dict, **given) -> dict:
    """{word of the question: (verdict, found)}, of files with these contents."""
    for role, content in contents.items():
        if content is not None:
            torch.save(content, tmp_path / f"{role}.pt")
    files = {role: tmp_path / f"{role}.pt" for role, content in contents.items() if content is not None}
    _, checks = check_ticket(**files, **given)
    return {word: (c.verdict, c.found) for word in QUESTIONS for c in checks if word in c.question}


def renamed(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def beside(state: dict) -> dict:
    return {"state_dict": state, "masks": {name: mask.float() for name, mask in MASK.items()}}


def with_buffers(state: dict) -> dict:
    """Of layers that multiply by a buffer called mask."""
    return {**state, **{name.replace("weight", "mask"): mask.float() for name, mask in MASK.items()}}


def labelled(state: dict) -> dict:
    return {"labels": torch.eye(3), "batch": {"y": torch.ones(2, 2)}, "state_dict": state}


def of_all_parameters(masks: dict) -> dict:
    return {name: masks.get(name, torch.ones_like(value)) for name, value in network().named_parameters()}


WRITTEN = {
    "plain": RIGHT,
    "mask_as_numbers": {**RIGHT, "mask": {name: mask.float() for name, mask in MASK.items()}},
    "torch_prune": {**RIGHT, "mask": None, "ticket": by_torch(REWIND), "trained": by_torch(TRAINED)},
    "with_other_tensors": {**RIGHT, "mask": None}
    | {
        role: {"done": torch.tensor(True), "rng": torch.zeros(9).byte(), "model": by_torch(state)}
        for role, state in (("ticket", REWIND), ("trained", TRAINED))
    },
    "wrapped": {role: renamed("module._orig_mod.", content) for role, content in RIGHT.items()},
    "lightning": {role: {"state_dict": renamed("model.", c), "epoch": 1} for role, c in RIGHT.items()}
    | {"rewind": {"state_dict": renamed("model.", REWIND), "global_step": T}, "mask": MASK},
    "open_lth": {**RIGHT, "mask": {name.replace(".", "___"): m for name, m in renamed("mask_", MASK).items()}},
    "zeros": {**RIGHT, "mask": None, "trained": None},
    "masks_beside": {**RIGHT, "mask": None, "ticket": beside(REWIND), "trained": beside(TRAINED)},
    "buffers": {**RIGHT, "mask": None, "ticket": with_buffers(REWIND), "trained": with_buffers(TRAINED)},
    "buffers_alone": {**RIGHT, "mask": with_buffers({})},
    "ones_for_all": {**RIGHT, "mask": of_all_parameters(MASK)},
    "labels_beside": {**RIGHT, "mask": None, "ticket": labelled(TICKET), "trained": labelled(TRAINED)},
    "attention": {**RIGHT, "mask": None, "ticket": {**TICKET, "0.attn_mask": torch.full((2, 2), -100.0)}},
    "zeros_of_the_ticket": {**RIGHT, "mask": None},
    "half": {**RIGHT, "rewind": {n: v.half() if v.is_floating_point() else v for n, v in REWIND.items()}},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_right_ticket_holds_whoever_wrote_it(name, tmp_path):
    said = f"{100 * (COUNT - math.ceil(FRACTION * COUNT) - 1) / COUNT:.1f}%"
    found = check(tmp_path, WRITTEN[name], t=T, density=said)
    untold = {"held"} if name == "zeros" else set()
    assert {word: verdict for word, (verdict, _) in found.items()} == {
        word: UNTOLD if word in untold else HOLDS for word in QUESTIONS
    }
    assert found["smallest"][1].startswith("45 of 219 are pruned, ceil(0.2 × 219) + 1 = 45")
    assert "batch norm counted 5" in found["step t"][1]


def test_a_second_level_and_files_of_safetensors(tmp_path):
    left = sum(int(mask.sum()) for mask in MASK.values())  # 174: another 35 + 1 go
    weights = {name: torch.where(MASK[name], TRAINED[name], torch.inf) for name in PRUNED}
    mask = smallest_pruned(weights, math.ceil(FRACTION * left) + 1)
    second = {name: mask[name] & MASK[name] for name in PRUNED}
    for role, content in {"mask": second, "previous": TRAINED}.items():
        safetensors.torch.save_file({n: v.contiguous() for n, v in content.items()}, tmp_path / f"{role}.safetensors")
    _, checks = check_ticket(**{role: tmp_path / f"{role}.safetensors" for role in ("mask", "previous")})
    assert checks[-1].verdict == HOLDS and checks[-1].found == "36 of 174 are pruned, ceil(0.2 × 174) + 1 = 36"


def layerwise() -> dict:
    net = network()
    net.load_state_dict(PREVIOUS)
    for module in (net[0], net[3]):
        prune.l1_unstructured(module, "weight", 0.2)
    return {"0.weight": net[0].weight_mask, "3.weight": net[3].weight_mask}


def by_share() -> dict:
    net = network()
    net.load_state_dict(PREVIOUS)
    prune.global_unstructured([(net[0], "weight"), (net[3], "weight")], prune.L1Unstructured, amount=0.2)
    return {"0.weight": net[0].weight_mask, "3.weight": net[3].weight_mask}


def in_tensors(*counts: int) -> dict:
    """Masks without the smallest of each tensor, as many as is said."""
    ranked = {name: [-1.0, *sorted(PREVIOUS[name].abs().flatten().tolist())] for name in PRUNED}
    return {name: PREVIOUS[name].abs() > ranked[name][count] for name, count in zip(PRUNED, counts)}


def by_chance() -> dict:
    """Masks that keep as many weights as the right ones, any."""
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    flat = torch.cat([MASK[name].flatten() for name in PRUNED])[order]
    return {"0.weight": flat[:27].view(3, 1, 3, 3), "3.weight": flat[27:].view(4, 48)}


def inverted(masks: dict) -> dict:
    return {name: ~mask for name, mask in masks.items()}


def swapped() -> dict:
    """The largest weight that is left and the first that is pruned change places."""
    masks = {name: mask.clone() for name, mask in MASK.items()}
    flat = masks["3.weight"].view(-1)
    largest, pruned = int(PREVIOUS["3.weight"].abs().argmax()), int((~flat).nonzero()[0])
    flat[largest], flat[pruned] = False, True
    return masks


FAULTS = {  # what is wrong, and the check that fails, by its words
    "momentum": (
        {"trained": trained(TICKET, 3, MASK, hold=False)},
        {},
        {"held": r"45 of 45 pruned weights are not 0, up to 0\.\d+, in 0.weight, 3.weight"},
    ),
    "never_rewound": (  # the reset of Lightning's callback reached the product alone, which is computed anew
        {"mask": None, "ticket": by_torch(REWIND, MASK, PREVIOUS), "trained": None},
        {},
        {"weights start from": r"174 of 174 kept weights differ: they are those of .*previous.pt, .* not rewound"},
    ),
    "to_the_start": (
        {"ticket": times(START, MASK)},
        {},
        {
            "weights start from": r"174 of 174 kept weights differ: they are those of .*start.pt, .* rewound to step 0",
            "biases": "6 of 6 tensors differ",
        },
    ),
    "to_another_step": (
        {"ticket": times(trained(START, T + 1), MASK)},
        {},
        {"weights start from": r"174 of 174 kept weights differ, by up to 0\.\d+$", "biases": "tensors differ"},
    ),
    "weights_alone": (
        {"ticket": {**PREVIOUS, **{name: TICKET[name] for name in PRUNED}}},
        {},
        {"biases": "6 of 6 tensors differ: 0.bias, 1.weight, 1.bias, 1.running_mean and 2 more"},
    ),
    "not_masked": ({"ticket": REWIND}, {}, {"weights start from": "45 pruned weights of .*ticket.pt are not 0"}),
    "kept_by_reference": (
        {"rewind": PREVIOUS, "start": None},
        {},
        {
            "another state": "rewind.pt has the weights of .*previous.pt: it was kept by reference",
            "step t": "counted 25; t is 5",
            "weights start from": "kept weights differ",
            "biases": "tensors differ",
        },
    ),
    "nothing_before": (
        {"rewind": START, "ticket": times(START, MASK)},
        {},
        {"another state": "2 of 2 tensors of weights and 6 of 6 others of .*rewind.pt are those of .*start.pt$"},
    ),
    "not_the_start": (
        {},
        {"t": 0},
        {
            "another state": "0 of 2 .* and 0 of 6 others .*, not 0.weight, 3.weight, 0.bias, .*; t is 0",
            "step t": "counted 5; t is 0",
        },
    ),
    "step": ({}, {"t": 6}, {"step t": "its batch norm counted 5; t is 6"}),
    "global_step": (
        {"rewind": {"state_dict": REWIND, "global_step": 7}},
        {},
        {"step t": "its batch norm counted 5; its global_step is 7; t is 5"},
    ),
    "density": ({}, {"density": "80%"}, {"density": "79.4521 % of the weights are kept, 80 % is said"}),
    "k": (
        {"mask": smallest_pruned(PREVIOUS, 46), "ticket": None, "trained": None},
        {},
        {"smallest": r"46 of 219 are pruned, .* = 45; they are the smallest of the whole network, in another number"},
    ),
    "layerwise": (
        {"mask": layerwise(), "ticket": None, "trained": None},
        {},
        {"smallest": "43 of 219 are pruned, .* the smallest of each tensor: it was pruned layer by layer, not"},
    ),
    "of_the_rewind_point": (
        {"mask": smallest_pruned(REWIND, 45), "ticket": None, "trained": None},
        {},
        {"smallest": "the smallest of .*rewind.pt, not of --previous, the trained network"},
    ),
    "not_by_magnitude": (
        {"mask": swapped(), "ticket": None, "trained": None},
        {},
        {"smallest": "45 of 219 are pruned, .* = 45; 1 of them are not among the smallest"},
    ),
    "came_back": (
        {"previous": times(PREVIOUS, smallest_pruned(PREVIOUS, 60)), "ticket": None, "trained": None},
        {},
        {"smallest": "15 weights are kept that were pruned in --previous"},
    ),
    "of_another_level": (
        {"trained": trained(times(REWIND, SECOND), 20, SECOND)},
        {},
        {"held": "all 45 pruned weights are 0, but 36 of 174 kept weights are 0: it is of another mask"},
    ),
    "its_own_mask_is_another": (
        {"trained": by_torch(TRAINED, SECOND)},
        {},
        {"held": "the masks in .*trained.pt differ from it in 36 weights"},
    ),
    "moved_without_a_mask": (
        {"mask": None, "trained": trained(TICKET, 3, MASK, hold=False)},
        {},
        {"held": "45 of 45 pruned weights are not 0"},
    ),
    "batch_norm_alone_is_trained": (
        {"rewind": {**REWIND, **{name: START[name] for name in PRUNED}}, "ticket": None},
        {"t": 0},
        {"another state": "2 of 2 .* and 0 of 6 others .*, not 0.bias, 1.weight, .*; t is 0", "step t": "5; t is 0"},
    ),
    "random": (
        {"mask": by_chance(), "ticket": times(REWIND, by_chance()), "trained": None},
        {},
        {"smallest": r"45 of 219 are pruned, .* = 45; \d+ of them are not among the smallest$"},
    ),
    "upside_down": (
        {"mask": inverted(MASK), "ticket": None, "trained": None},
        {},
        {"smallest": "the mask is upside down, 1 for pruned weights: the smallest are kept"},
    ),
    "upside_down_later": (
        {"mask": inverted(SECOND), "previous": TRAINED, "ticket": None, "trained": None},
        {},
        {"smallest": "the mask is upside down"},
    ),
    "dense_and_another_number": (
        {"mask": in_tensors(0, 23), "ticket": None, "trained": None},
        {},
        {"smallest": "23 of 192 are pruned, .* = 40, in all tensors but 0.weight, where nothing is pruned; .* number"},
    ),
    "unlike_shares": (
        {"mask": in_tensors(13, 19), "ticket": None, "trained": None},
        {},
        {"smallest": r"32 of 219 are pruned, .* = 45; \d+ of them are not among the smallest$"},
    ),
    "of_the_same_level": (
        {"previous": TRAINED},
        {},
        {"smallest": "0 of 174 are pruned, .* = 36; its zeros are those of the mask, of the same level"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_others_shipped_are_found(name, tmp_path):
    changed, said, expected = FAULTS[name]
    found = check(tmp_path, {**RIGHT, **changed}, **{"t": T, "density": "79.5%", **said})
    if "density" not in expected:  # the mask may keep another number
        found.pop("density")
    assert {word for word, (verdict, _) in found.items() if verdict == FAILS} == set(expected)
    for word, pattern in expected.items():
        assert re.search(pattern, found[word][1]), found[word][1]


def small_ones(weights: torch.Tensor, count: int) -> torch.Tensor:
    """The same with its smallest below what half precision holds, but 0."""
    smallest = weights.abs().flatten().sort().values[(weights == 0).sum() + count]
    return torch.where(weights.abs() < smallest, weights * 1e-8, weights)


A = torch.randn(10, 10, generator=torch.Generator().manual_seed(2))
LARGE = small_ones(torch.randn(60, 500, generator=torch.Generator().manual_seed(1)) * 0.05, 100)
LARGE_MASK = {"0.weight": LARGE.abs() > LARGE.abs().flatten().sort().values[6000]}  # 6,001 go
RULES = {  # a mask, the network that was pruned, and what is said of them
    "count_of_torch": (by_share(), PREVIOUS, HOLDS, "44 of 219 are pruned, round(0.2 × 219), as torch.nn.utils.prune"),
    "dense": (in_tensors(0, 40), PREVIOUS, HOLDS, "40 of 192 are pruned, ceil(0.2 × 192) + 1 = 40, in all tensors but"),
    "dense_and_lost_none": (  # b is kept dense, c has only large weights
        {"a.weight": A.abs() > A.abs().flatten().sort().values[22], "b.weight": A > -9, "c.weight": A[:1] > -9},
        {"a.weight": A, "b.weight": A / 100, "c.weight": torch.full((1, 10), 9.0)},
        HOLDS,
        "23 of 110 are pruned, ceil(0.2 × 110) + 1 = 23, in all tensors but b.weight, where nothing is pruned",
    ),
    "too_few": (
        {"a.weight": torch.tensor([[True, False]])},
        {"a.weight": torch.tensor([[2.0, 1.0]])},
        FAILS,
        "no weights would be left: 2 remain and one level removes 2",
    ),
    "bfloat16": (LARGE_MASK, {"0.weight": LARGE.bfloat16()}, HOLDS, "6,001 of 30,000 are pruned, ceil("),
    "half": (LARGE_MASK, {"0.weight": LARGE.half()}, HOLDS, "6,001 of 30,000 are pruned, ceil("),
    "half_of_level_2": (
        {"0.weight": SECOND["3.weight"]},
        {"0.weight": small_ones(TRAINED["3.weight"], 15).half()},
        UNTOLD,
        "in half precision small weights are 0, as pruned ones: give the masks of that level",
    ),
    "a_zero_is_kept": (  # it was not pruned before: among 174 it is the smallest
        SECOND,
        {**TRAINED, "3.weight": torch.where(TRAINED["3.weight"] == TRAINED["3.weight"].max(), 0, TRAINED["3.weight"])},
        FAILS,
        "36 of 174 are pruned, ceil(0.2 × 174) + 1 = 36; 1 of them are not among the smallest",
    ),
    "random_in_half": (
        {"0.weight": torch.rand(60, 500, generator=torch.Generator().manual_seed(1)) > 0.2},
        {"0.weight": LARGE.half()},
        FAILS,
        "of them are not among the smallest",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_the_rule_of_pruning(name, tmp_path):
    mask, previous, verdict, words = RULES[name]
    found = check(tmp_path, {"mask": mask, "previous": previous})["smallest"]
    assert found[0] == verdict and words in found[1], found


def test_a_state_that_is_put_back_in_part_is_not_said_to_hold(tmp_path):
    part = {**REWIND, "0.weight": START["0.weight"]}
    verdict, told = check(tmp_path, {**NOTHING, "mask": MASK, "rewind": part, "start": START}, t=T)["another state"]
    assert verdict == UNTOLD and told.startswith("1 of 2 tensors of weights and 0 of 6 others"), told
    assert told.endswith("(0.weight): they were not trained, or not put back")
    weights = {**START, **{name: REWIND[name] for name in PRUNED}}
    verdict, told = check(tmp_path, {**NOTHING, "mask": MASK, "rewind": weights, "start": START}, t=T)["another state"]
    assert verdict == UNTOLD and told.startswith("0 of 2 tensors of weights and 6 of 6 others"), told
    found = check(tmp_path, {**RIGHT, "rewind": START, "ticket": times(START, MASK)}, t=0)
    assert found["another state"][0] == HOLDS and "6 of 6 others" in found["another state"][1]


def test_what_stands_in_a_file_and_what_its_program_makes_of_it(tmp_path):
    moved = trained(TICKET, 3, MASK, hold=False)
    verdict, told = check(tmp_path, {**RIGHT, "trained": beside(moved)})["held"]
    assert verdict == UNTOLD and told.startswith("45 of 45 pruned weights are not 0"), told
    assert told.endswith("masks stand beside them: give the weights times the masks, if its program multiplies them")
    one = TRAINED["3.weight"].clone()
    one.view(-1)[MASK["3.weight"].flatten().nonzero()[0]] = 0
    verdict, told = check(tmp_path, {**RIGHT, "trained": {**TRAINED, "3.weight": one}})["held"]
    assert (verdict, told) == (UNTOLD, "1 of 174 kept weights are 0, too: by chance, or it is of another mask")
    whole = {**REWIND, "1.bias": torch.zeros(3, dtype=torch.int64)}
    assert check(tmp_path, {**RIGHT, "rewind": whole})["biases"] == (FAILS, "1 of 6 tensors differ: 1.bias")


def test_the_density_without_tensors_that_are_kept_dense(tmp_path):
    head = in_tensors(0, 40)  # 152 of 192, 179 of 219
    for said, verdict in (("79.2%", HOLDS), ("81.7%", HOLDS), ("80%", FAILS)):
        found = check(tmp_path, {"mask": head}, density=said)["density"]
        told = "81.7352 % of the weights are kept; 79.1667 % of the weights are kept, in all tensors but 0.weight"
        assert found[0] == verdict and found[1].startswith(told), found
    torch.save(of_all_parameters(MASK), tmp_path / "mask.pt")
    described, _ = check_ticket(mask=tmp_path / "mask.pt")
    assert described.endswith("79.45 %; masks of ones for biases and batch norm (4 tensors) are left out")


def test_what_files_cannot_tell_is_said(tmp_path):
    found = check(tmp_path, {"trained": TRAINED})
    assert {verdict for verdict, _ in found.values()} == {UNTOLD}
    assert found["weights start from"][1] == "give --ticket and --rewind"
    assert "was taken from the zeros" in found["held"][1] and found["smallest"][1] == "give --previous"
    uncounted = {name: value for name, value in REWIND.items() if "num_batches" not in name}
    found = check(tmp_path, {**RIGHT, "rewind": uncounted}, t=T)
    assert found["step t"] == (UNTOLD, f"{tmp_path}/rewind.pt says no step (no num_batches_tracked, no global_step)")
    zero = {name: value * 0 if "num_batches" in name else value for name, value in REWIND.items()}
    said = "rewind.pt says no step (its num_batches_tracked are 0: who wrote it did not count steps)"
    assert check(tmp_path, {**RIGHT, "rewind": zero}, t=T)["step t"] == (UNTOLD, f"{tmp_path}/{said}")
    assert "counted 5: give -t" in check(tmp_path, RIGHT)["step t"][1]


UNTRAINED = "--trained has the weights of --ticket: it is not trained, or the same file was given twice"
TWICE = {  # files of equal contents, and what the checks of some words say
    "mask_and_trained": (
        {**NOTHING, "mask": TICKET, "trained": TICKET},
        {"held": (UNTOLD, "--mask is the zeros of the same weights as --trained: give a file of masks")},
    ),
    "trained_and_ticket": (
        {**RIGHT, "trained": TICKET},
        {"held": (FAILS, UNTRAINED), "another state": (HOLDS, "0 of 2"), "weights start from": (HOLDS, "all 174")},
    ),
    "trained_and_ticket_alone": (
        {**NOTHING, "trained": TICKET, "ticket": TICKET, "rewind": REWIND},
        {"held": (FAILS, UNTRAINED), "another state": (UNTOLD, "give --start"), "weights start from": (HOLDS, "all")},
    ),
    "all_three": ({**NOTHING, "mask": TICKET, "trained": TICKET, "ticket": TICKET}, {"held": (FAILS, UNTRAINED)}),
    "ticket_and_trained": (
        {**RIGHT, "ticket": TRAINED},
        {
            "held": (FAILS, "--trained has the weights of --ticket: --ticket was saved after training, or the same"),
            "weights start from": (FAILS, "174 of 174 kept weights differ"),
        },
    ),
    "rewind_and_ticket": (
        {**RIGHT, "rewind": TICKET},
        {
            "weights start from": (UNTOLD, "--rewind has the weights of --ticket, zeros too: give the dense"),
            "biases": (UNTOLD, "--rewind has the weights of --ticket"),
            "held": (HOLDS, "all 45"),
        },
    ),
    "level_0": (  # nothing is pruned: the ticket is the rewind point
        {**RIGHT, "mask": {name: mask | True for name, mask in MASK.items()}, "ticket": REWIND, "previous": None},
        {"weights start from": (HOLDS, "all 219 kept weights"), "biases": (HOLDS, "0 of 6")},
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_file_that_is_given_twice_shows_nothing(name, tmp_path):
    contents, expected = TWICE[name]
    found = check(tmp_path, contents, t=T)
    for word, (verdict, begin) in expected.items():
        assert found[word][0] == verdict and found[word][1].startswith(begin), found[word]


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it was run')",)


def test_the_command_says_it_and_its_status_is_that_of_the_checks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for role, content in RIGHT.items():
        torch.save(content, f"{role}.pt")
    files = [word for role in RIGHT for word in (f"--{role}", f"{role}.pt")]
    said = repro("check-ticket", *files, "-t", T, "--density", "79.5%").stdout.splitlines()
    assert said[0] == "mask.pt keeps 174 of 219 weights in 2 tensors, 79.45 %"
    assert [line.split()[0] for line in said[1:]] == [HOLDS] * 7
    assert "FAILS   the density" in repro("check-ticket", *files, "--density", "80%", code=1).stdout

    torch.save({"state_dict": TRAINED, "options": Evil()}, "evil.pt")
    assert repro("check-ticket", "--mask", "mask.pt", "--trained", "evil.pt").stdout.count(HOLDS) == 1
    torch.save([1, 2], "list.pt")
    torch.save({"0.weight": torch.ones(3, 1, 3, 3), "3.weight": torch.full((4, 48), 0.5)}, "gray.pt")
    torch.save({**TRAINED, "0.weight": torch.ones(3, 1, 5, 5)}, "other.pt")
    torch.save({"a.weight": torch.rand(2, 2), "b.weight": torch.rand(2, 2)}, "names.pt")
    torch.save({**TRAINED, "0.weight": torch.full((3, 1, 3, 3), math.nan)}, "nan.pt")
    torch.save({name: mask & False for name, mask in MASK.items()}, "none.pt")
    torch.save(inverted(MASK), "inverted.pt")
    np.savez("masks.npz", **{name: mask.numpy() for name, mask in MASK.items()})
    (tmp_path / "note.pt").write_text("hello")
    for words, sentence in {
        "": "no file tells a mask: give --mask, or --trained or --ticket, whose zeros are one",
        "--rewind rewind.pt": "no file tells a mask",
        "--mask absent.pt": "absent.pt does not exist: check the path",
        "--mask note.pt": "note.pt is a text file, not a file of torch.save",
        "--mask list.pt": "list.pt holds a list, no weights of a network: give a state dict",
        "--mask inverted.pt --trained trained.pt": r"the mask of inverted.pt is upside down \(trained.pt is 0",
        "--mask masks.npz": "masks.npz is an archive of NumPy arrays, not a file of torch.save: write",
        "--mask none.pt": "none.pt keeps no weight: give a mask with some ones",
        "--mask mask.pt --trained other.pt": r"other.pt has 0.weight of shape \(3, 1, 5, 5\), the mask \(3, 1, 3, 3\)",
        "--mask mask.pt --trained names.pt": r"names.pt has no tensor 0.weight of .*: give files of one network",
        "--mask mask.pt --trained nan.pt": "nan.pt holds NaN or infinity in 0.weight: give a checkpoint that did not",
        "--mask mask.pt --density 80": r"--density \(='80'\) must be a percentage from 0% to 100%, like 13.4%",
        "--mask mask.pt --density 0.64": r"--density \(='0.64'\) must be a percentage from 0% to 100%, write 64%$",
        "--mask mask.pt --density 0.640": ".* write 64.0%$",
        "--mask mask.pt --density nan%": r"--density \(='nan%'\) must be a percentage",
        "--mask mask.pt -t -3": r"-t \(=-3\) must be 0 \(the start\) or more",
        "--mask mask.pt --prune-fraction 1.5": r"prune fraction \(=1.5\) must be above 0 and below 1",
    }.items():
        assert re.match(sentence, told := complaint("check-ticket", *words.split())), told
    assert "holds values beside 0 and 1" not in repro("check-ticket", "--mask", "gray.pt").stdout


def test_a_prune_mask_of_other_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**by_torch(TRAINED), "3.weight_mask": torch.full((4, 48), 0.5)}, "a.pt")
    assert complaint("check-ticket", "--trained", "a.pt").startswith(
        "a.pt holds values beside 0 and 1 in the mask of 3"
    )
