"""From a figure to steps: each artifact once, inputs first, nothing that is complete, and what it costs."""

import dataclasses

import pytest
import torch

import paper_figures
from paper_figures import NAMES as FIGURES
from paper_figures import needed
from paper_figures.figure2 import needed as figure2
from repro import plan, store
from repro.errors import UsageError
from repro.nets import create
from repro.plan import jobs as planned
from repro.plan import price
from repro.protocol import CIFAR10, DIGITS, datasets_at
from repro.study.collect import collect
from repro.verify.checks import CONTROLS
from repro.verify.judge import looks
from repro.verify.outcomes import Evidence
from tests.command_line import complaint, repro

pytestmark = pytest.mark.usefixtures("nothing_is_measured")
PROTOCOL = dataclasses.replace(DIGITS, replicates=2, levels=3, t_star=20, subset_size=256, seed=1, prune_fraction=0.1)
KINDS = {"select": "subset"}


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def pretend(step: plan.Step, *, less: int = 0, **recipe) -> None:
    """An artifact that has everything the step asks for, less some pieces, or another recipe."""
    inputs = {str(role): store.read(path) for role, path in enumerate(step.needs)}
    pieces = sorted(step.wanted)[: len(step.wanted) - less]
    store.write(
        step.target,
        kind=KINDS.get(step.verb, step.verb),
        recipe={**step.recipe, **recipe},
        inputs=inputs,
        arrays={},
        table={"piece": pieces},
        provenance={},
        defaults={},
    )


def todo(steps):
    return [step.target.stem for step in steps if step.missing()]


@pytest.mark.parametrize("control", [None, *CONTROLS])
@pytest.mark.parametrize("scale", ["demo", "small", "cpu", "day", "paper"])
def test_every_artifact_is_made_once_and_after_its_inputs(scale, control, results):
    for protocol in datasets_at(scale):
        steps = plan.steps(figure2(protocol, control) + figure2(protocol), results)
        made = [step.target for step in steps]
        assert len(set(made)) == len(made)
        for position, step in enumerate(steps):
            assert set(step.needs) <= set(made[:position])
            assert {str(path) for path in step.needs} <= set(step.command) and str(step.target) == step.command[-1]
        shared = control in (None, "swap-easy-hard")
        assert len(made) == 16 + {True: 0, False: 1 if control == "shuffle-mask" else 6}[shared]


def test_the_larger_of_two_wishes_is_made(results):
    small, large = plan.Cell("all_t0", PROTOCOL, 0, levels=1), plan.Cell("all_t0", PROTOCOL, 0, replicates=3)
    for items in ([small, large], [large, small]):
        imp = plan.steps(items, results)[-1]
        assert imp.wanted == {f"replicate_{r}/level_{level}" for r in range(3) for level in range(4)}


def test_controls_change_what_they_should(results):
    def commands(control):
        steps = plan.steps(figure2(PROTOCOL, control), results)
        return {step.target.stem: " ".join(step.command) for step in steps}

    plain, permuted, shuffled = (commands(control) for control in (None, "permute-scores", "shuffle-mask"))
    assert {name for name in permuted if "permuted" in name} == {
        f"{kind}-{which}256-permuted{t}"
        for which in ("easy", "hard")
        for kind, t in (("subset", ""), ("pretrain", "-t10"), ("imp", "-t10"))
    }
    assert [name for name, command in permuted.items() if "--permute-scores" in command] == [
        "subset-easy256-permuted",
        "subset-hard256-permuted",
    ]
    assert {name: permuted[name] for name in plain if name in permuted}.items() <= plain.items()
    [extra] = set(shuffled) - set(plain)
    assert extra == "branch-all-t20-shuffled"
    assert shuffled[extra].startswith(f"branch {results}/digits/imp-all-t20.h5 --mask shuffled --levels 1,2,3 ")
    swapped = {cell.condition: cell.subset and cell.subset.kind for cell in figure2(PROTOCOL, "swap-easy-hard")}
    assert (swapped["easy"], swapped["hard"]) == ("hard", "easy") and commands("swap-easy-hard") == plain
    with pytest.raises(UsageError, match="unknown control 'magic'"):
        needed("figure2", PROTOCOL, "magic")
    with pytest.raises(UsageError, match="unknown control 'swap-easy-hard' of figure3: choose .*, with figure2"):
        needed("figure3", PROTOCOL, "swap-easy-hard")
    for asked in (paper_figures.figure, lambda name: needed(name, PROTOCOL)):
        with pytest.raises(UsageError, match="unknown figure 'figure9': choose figure1, figure2"):
            asked("figure9")


def test_commands_are_those_of_the_program(results):
    """Every planned command is understood, and its options say what the protocol says."""
    from repro.cli import main

    p = dataclasses.replace(PROTOCOL, more_replicates=None, warmup=dataclasses.replace(DIGITS.warmup, replicates=2))
    items = [item for figure in FIGURES for item in needed(figure, p)]
    for step in plan.steps([*items, *figure2(p, "permute-scores"), *figure2(p, "shuffle-mask")], results):
        with main.commands[step.verb].make_context(step.verb, list(step.command[1:])) as context:
            given = context.params
        assert given["replicates"] == 2 and str(given["out"]) == str(step.target)
        assert {str(path) for path in step.needs} <= set(step.command)
        expected = {"seed": 1, "prune_fraction": 0.1, "scale": "demo"}
        assert {name: value for name in expected if (value := given.get(name)) is not None}.items() <= expected.items()


def test_what_is_complete_is_not_made_again(results):
    steps = plan.steps(figure2(PROTOCOL), results)
    assert todo(steps) == [step.target.stem for step in steps]
    for step in steps:
        pretend(step)
    assert todo(steps) == []
    assert planned.rules([], program=("repro",)) == ".SILENT:\n.PHONY: all \nall: \n\t@:\n"
    by_name = {step.target.stem: step for step in steps}
    more_levels = todo(plan.steps(figure2(plan.resize(PROTOCOL, levels=4)), results))
    assert more_levels == [name for name in by_name if name.startswith("imp")]
    assert len(todo(plan.steps(figure2(plan.resize(PROTOCOL, replicates=3)), results))) == len(steps)
    another_seed = todo(plan.steps(figure2(plan.resize(PROTOCOL, seed=7)), results))
    assert set(by_name) - set(another_seed) == {"subset-easy256", "subset-hard256"}  # they have none, but new scores

    pretend(by_name["imp-all-t20"], less=1)
    by_name["subset-hard256"].target.write_bytes(b"damaged")
    assert sorted(todo(steps)) == sorted(["imp-all-t20", "subset-hard256", "pretrain-hard256-t10"])
    pretend(by_name["subset-hard256"])
    pretend(by_name["imp-all-t20"])
    for field, value in (("milestones", [1]), ("weight_decay", 0.5), ("augment", True), ("precision", "bf16")):
        pretend(by_name["pretrain-all-t0"], **{field: value})
        assert todo(steps)[0] == "pretrain-all-t0", field
        assert "imp-all-t0" in todo(steps)  # its input is another one now


def test_a_figure_is_not_drawn_from_another_experiment(results):
    for step in plan.steps(figure2(PROTOCOL), results):
        pretend(step, **({"lr": 0.25} if step.target.stem == "imp-random256-t10" else {}))
    with pytest.raises(UsageError, match="imp-random256-t10.h5 is of another experiment: lr is 0.25 there and 1.0 he"):
        collect(figure2(PROTOCOL)[3:], results)
    with pytest.raises(UsageError, match="seed is 1 there and 7 here; choose another --results folder"):
        collect(figure2(plan.resize(PROTOCOL, seed=7)), results)


def test_what_an_artifact_was_made_from_is_looked_at_too(results):
    """An imp recipe does not say which images were pre-trained on: its inputs do."""
    for step in plan.steps(figure2(PROTOCOL), results):
        pretend(step, **({"subset": "hard"} if step.target.stem == "subset-easy256" else {}))
    easy = [cell for cell in figure2(PROTOCOL) if cell.condition == "easy"]
    with pytest.raises(
        UsageError, match="imp-easy256-t10.h5 is of another experiment: subset of subset-easy256 is hard"
    ):
        collect(easy, results)


@pytest.mark.parametrize(
    ("item", "field", "other"),
    [
        (lambda: plan.Barrier(plan.Cell("all_tstar", PROTOCOL, 20)), "alphas", [0.0, 0.5, 1.0]),
        (lambda: plan.Gradients(PROTOCOL), "batches", 4),
        (lambda: plan.Gradients(PROTOCOL), "t", 20),
        (lambda: plan.Chosen(PROTOCOL, plan.Subset("easy", 256)), "score", "margin"),
        (lambda: plan.Chosen(PROTOCOL, plan.Subset("random", 256), 0.1), "label_noise", 0.5),
        (lambda: plan.Cell("all_tstar", PROTOCOL, 20, noise=0.1, levels=0), "label_noise", 0.0),
        (lambda: plan.Branch("shuffled", plan.Cell("all_tstar", PROTOCOL, 20)), "mask", "random"),
    ],
)
def test_a_complete_artifact_of_another_recipe_is_not_taken(item, field, other, results):
    steps = plan.steps([item()], results)
    for step in steps:
        pretend(step)
    assert todo(steps) == []
    owner = next(step for step in reversed(steps) if field in step.recipe)
    pretend(owner, **{field: other})
    assert owner.target.stem in todo(steps)


def test_growth_is_read_from_what_the_artifacts_record(results):
    """Complete with 2 and with 3 replicates before it had 4, and each may have been judged; one replicate may not."""

    def made(replicates):
        item = plan.Chosen(plan.resize(PROTOCOL, replicates=replicates), plan.Subset("random", 80))
        (step,) = plan.steps([item], results)
        repro(*step.command)
        return collect([item], results).growth

    found = [made(n) for n in (1, 2, 3, 4)]
    assert [len(table) for table in found] == [0, 0, 1, 2]
    assert found[-1].to_numpy().tolist() == [["digits", "subset-random80", n, 4] for n in (2, 3)]
    assert len(made(2)) == 0  # the first two of four replicates are what was judged first
    assert looks(Evidence(growth=found[2]), plan.resize(PROTOCOL, replicates=3)).startswith("second look, not declared")
    declared = dataclasses.replace(plan.resize(PROTOCOL, replicates=3), second_look=3)
    assert looks(Evidence(growth=found[2]), declared).startswith("second look at n = 3 after n = 2, declared")


def test_fewer_levels_are_shown_at_fewer_levels():
    assert plan.resize(CIFAR10, levels=9).sweep_levels == (8,)
    assert plan.resize(CIFAR10, levels=3).sweep_levels == (3,) and plan.resize(CIFAR10, levels=3).barrier_level == 3
    everybody = plan.resize(DIGITS, replicates=9)
    assert all(item.promised == 9 for item in needed("appendix", everybody) if isinstance(item, plan.Cell))
    assert everybody.warmup.replicates == 9


def test_figures_that_a_data_set_or_a_scale_does_not_have(results):
    said = complaint("plan", "figure3", "--scale", "day", "--results", results)
    assert said == "there is no figure3 at day scale: choose figure1, figure2, figure4, figure5, figure6 or all"
    assert complaint("plan", "scores", "--results", results).startswith("there is no scores at demo scale: choose fig")
    assert complaint("figure", "figure2", "--scale", "scores").endswith("at scores scale: choose scores or all")
    said = complaint("figure", "figure6", "--scale", "paper", "--dataset", "cifar100", "--results", results)
    assert said == "the paper has no figure6 on cifar100: leave --dataset out"
    assert (
        "cifar100" in repro("plan", "figure3", "--scale", "paper", "--dataset", "cifar100", "--results", results).stdout
    )


def test_verify_is_not_complete_while_an_artifact_is_missing(results, monkeypatch):
    """Though no claim needs it: status 3, and the first missing artifact is named."""
    steps = plan.steps([plan.Barrier(plan.Cell("all_tstar", PROTOCOL, 20))], results)
    assert steps[-1].lacks() == steps[-1].wanted
    for step in steps:
        pretend(step)
    assert steps[-1].lacks() == frozenset()
    pretend(steps[-1], less=2)
    assert len(steps[-1].lacks()) == 2


def test_cost(results):
    shown = repro("plan", "figure2", "--results", results, "--replicates", 8, "--levels", 12).stdout
    scores, pretrained, levels = 5 * 40, 5 * 8, 6 * 8 * 13
    before = DIGITS.t_star + 4 * (DIGITS.t_star // 2)  # steps of pre-training of a replicate, over the conditions
    after = 6 * DIGITS.training.steps - before
    images = 64 * (scores * DIGITS.scoring.training.steps + 8 * before + 8 * 13 * after)
    assert f"in all {scores + pretrained + levels:,} trainings, {images:,} images" in shown
    steps = plan.steps(figure2(dataclasses.replace(DIGITS, replicates=8, levels=12)), results)
    assert price.total_flops(steps) == images * price.flops_per_image(DIGITS.network, DIGITS)
    said = complaint("plan", "figure2", "--results", results / "my results", "--make", results / "x.mk")
    assert said.startswith("make cannot have ' ' in the path")

    paper = ("plan", "figure2", "--scale", "paper", "--dataset", "cifar10", "--results", results)
    shown = repro(*paper, "--jobs", 4).stdout
    assert "hours here with 4 processes at once" in shown and "400 images/s dense" in shown
    refused = repro(*paper, "--make", results / "x.mk", code=2)
    assert (
        "this would take about 2," in refused.stderr and "hours here: add YES=1 (or --yes) to do it" in refused.stderr
    )
    assert repro(*paper, "--make", results / "x.mk", "--yes").stdout == refused.stdout


@pytest.mark.parametrize("protocol", [DIGITS, CIFAR10], ids=lambda p: p.network)
def test_flops_are_six_per_multiply_and_add(protocol):
    """Forward and backward; multiplications counted layer by layer from the shapes that pass through a real network."""
    network = create(protocol.network, num_classes=10, in_chans=protocol.in_chans).eval()
    counted = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, _, y: counted.append(m.weight.numel() * y.shape[2] * y.shape[3]))
    with torch.no_grad():
        network(torch.zeros(1, protocol.in_chans, protocol.image_size, protocol.image_size))
    counted.append(network.fc.weight.numel())
    assert price.flops_per_image(protocol.network, protocol) == 6 * sum(counted)
