"""What each figure needs at each scale: which cells, on which images, with how many replicates."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from paper_figures import NAMES as FIGURES
from paper_figures import figures_at, needed
from paper_figures.figure2 import needed as figure2
from repro import plan
from repro.protocol import CIFAR10, CINIC10, CPU, DAY, DIGITS, SCALES, SCORES
from repro.protocol import protocol as protocol_of
from repro.verify.claims import CLAIMS


def test_the_cells_of_figure_2():
    found = {cell.condition: (cell.name, cell.size, cell.t) for cell in figure2(CIFAR10)}
    assert found == {
        "all_t0": ("all-t0", 0, 0),
        "all_tstar_half": ("all-t200", 0, 200),
        "all_tstar": ("all-t400", 0, 400),
        "random": ("random3200-t200", 3200, 200),
        "easy": ("easy3200-t200", 3200, 200),
        "hard": ("hard3200-t200", 3200, 200),
    }
    assert [cell.size for cell in figure2(CINIC10)][3:] == [51200] * 3


def test_every_claim_names_a_figure():
    assert {claim.figure for claim in CLAIMS.values()} <= set(FIGURES)


def test_the_makefile_has_the_figures():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    assert f"FIGURES := {' '.join(FIGURES)}\n" in makefile


def cells_of(figure, protocol):
    """{(name of the cell): (replicates promised, levels)} of a figure's cells."""
    items = needed(figure, protocol)
    return {item.name: (item.promised, item.depth) for item in items if isinstance(item, plan.Cell)}


@pytest.mark.parametrize("protocol", [CIFAR10, CINIC10, DIGITS], ids=lambda p: p.dataset)
def test_figure_3_has_every_size_and_figure_2_within_it(protocol):
    half = protocol.t_star // 2
    sizes = {f"{kind}{m}-t{half}" for kind in ("random", "easy", "hard") for m in protocol.sizes}
    found = cells_of("figure3", protocol)
    assert set(found) == sizes | {f"all-t{t}" for t in (0, half, protocol.t_star)}
    assert cells_of("figure2", protocol).items() <= found.items() <= cells_of("appendix", protocol).items()


def test_figure_4_is_made_for_cifar10_and_shares_the_clean_runs():
    noisy = {name for name in cells_of("figure4", CIFAR10) if "noise" in name}
    expected = {f"all-noise{n}-t{t}" for n in (0.1, 0.5) for t in (200, 400)}
    assert noisy == expected | {f"{kind}2048-noise{n}-t200" for n in (0.1, 0.5) for kind in ("random", "easy")}
    assert set(cells_of("figure4", CIFAR10)) - noisy == {
        "all-t0",
        "all-t200",
        "all-t400",
        "random2048-t200",
        "easy2048-t200",
    }
    assert needed("figure4", CINIC10) == needed("figure6", CINIC10) == []


def test_figure_5_as_published_for_cinic10():
    """All data at 200, 400, 800; random and easy of three sizes at 200 and 400; LMC-score subsets at 400."""
    assert set(cells_of("figure5", CINIC10)) == {
        *(f"all-t{t}" for t in (200, 400, 800)),
        *(f"{kind}{m}-t{t}" for kind in ("random", "easy") for m in (12800, 25600, 51200) for t in (200, 400)),
        *(f"easy{m}-lmc4-t400" for m in (12800, 25600, 51200)),
    }
    barriers = [item for item in needed("figure5", CINIC10) if isinstance(item, plan.Barrier)]
    assert {item.cell.name for item in barriers} == set(cells_of("figure5", CINIC10))


def test_the_demo_never_promises_fewer_than_8_replicates_and_16_to_the_primary_arms():
    for drawn in FIGURES:
        for name, (replicates, _) in cells_of(drawn, DIGITS).items():
            primary = name in cells_of("figure2", DIGITS) or name in ("easy256-noise0.5-t10", "all-noise0.5-t20")
            assert replicates == (16 if primary else 8), name
    assert len({*cells_of("figure5", DIGITS)} - {"all-t0"}) >= 12  # fewer conditions give no verdict on Figure 5


def test_what_a_day_is_for():
    """All arms with the 8 replicates of a primary claim; at least the 12 conditions that Figure 5 asks for; the subset
    sizes and steps that claims 5, 8, 16, 22, 23 and 26 compare."""
    assert figures_at("day") == ("figure1", "figure2", "figure4", "figure5", "figure6")
    assert needed("figure3", DAY) == needed("appendix", DAY) == []
    assert protocol_of("cifar10") is CIFAR10 and protocol_of("cifar10", "day") is DAY and SCALES[-1] == "paper"
    assert (dataclasses.replace(DAY.training, precision="fp32"), DAY.t_star) == (CIFAR10.training, CIFAR10.t_star)
    scoring = dataclasses.replace(DAY.scoring, training=dataclasses.replace(DAY.scoring.training, precision="fp32"))
    assert scoring == CIFAR10.scoring and DAY.training.precision == DAY.scoring.training.precision == "bf16"
    for drawn in figures_at("day"):
        assert {replicates for replicates, _ in cells_of(drawn, DAY).values()} <= {8}, drawn
    assert cells_of("figure2", DAY).keys() == cells_of("figure2", CIFAR10).keys()
    assert cells_of("figure4", DAY).keys() == cells_of("figure4", CIFAR10).keys()
    assert set(needed("figure1", DAY)) <= {*needed("figure2", DAY), *needed("figure5", DAY)}  # costs nothing more
    barriers = {item.cell.name for item in needed("figure5", DAY) if isinstance(item, plan.Barrier)}
    pairs = {(m, t) for m in (3200, 12800) for t in (100, 200)} | {(2048, 200)}
    assert barriers == {
        "all-t100",
        "all-t200",
        "all-t400",
        "hard3200-t200",
        *(f"{kind}{m}-t{t}" for kind in ("random", "easy") for m, t in pairs),
    }
    shared = {name for name in cells_of("figure5", DAY) if "2048" in name or name == "hard3200-t200"}
    assert shared <= cells_of("figure2", DAY).keys() | cells_of("figure4", DAY).keys()
    assert DAY.warmup.steps == CIFAR10.warmup.steps and DAY.warmup.replicates == 8
    assert DAY.warmup.sizes == (CIFAR10.warmup.sizes[0], CIFAR10.warmup.sizes[-1])


def test_scores_alone(tmp_path):
    """The published scoring recipe with another network, and the three kinds of subsets on three sets of labels."""
    assert SCORES.scoring == dataclasses.replace(CIFAR10.scoring, network=SCORES.scoring.network)
    steps = plan.steps(needed("scores", SCORES), tmp_path)
    assert Counter(step.verb for step in steps) == {"score": 3, "select": 9}
    assert [needed("scores", p) for p in (DIGITS, CIFAR10, DAY)] == [[], [], []]
    assert all(needed(name, SCORES) == [] for name in FIGURES if name != "scores")


def test_figures_of_the_cpu_scale():
    """Figure 2: six arms of eight; Figure 5: 14 initialisations, eight parents each."""
    arms = needed("figure2", CPU)
    assert [cell.condition for cell in arms] == ["all_t0", "all_tstar_half", "all_tstar", "random", "easy", "hard"]
    assert all(cell.promised == 8 and cell.depth == 12 for cell in arms)
    assert all(cell.subset.is_balanced(CPU) and cell.size == 3200 and cell.t == 100 for cell in arms[3:])
    parents = [item.cell for item in needed("figure5", CPU) if isinstance(item, plan.Barrier)]
    assert len(parents) == 14 and {cell.promised for cell in parents} == {8}
    assert all(cell.promised == 8 for cell in parents if cell in arms)
    assert set(CPU.judging_levels) <= set(range(CPU.levels + 1)) and CPU.barrier_level in CPU.judging_levels
    assert figures_at("cpu") == tuple(name for name in FIGURES if name != "scores")
