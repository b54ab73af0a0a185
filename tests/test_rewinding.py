"""Rewinding of weights, of the learning rate, or of nothing: against plain PyTorch; and the example that draws them."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from paper_figures import figure2
from repro.data import Batcher, load
from repro.nets import create, initialise, layout_of
from repro.plan import Barrier, Branch, Cell, Subset, steps
from repro.protocol import CPU as CPU_SCALE
from repro.protocol import DIGITS
from repro.reading.networks import state_dict
from repro.recipes.pruning import Pruning
from repro.recipes.training import Training
from repro.stages import imp, pretrain, pruned_levels
from repro.stages.barriers.children import Parent, RewindPoint
from repro.store import read
from repro.study import own_figure
from repro.study.collect import collect
from repro.study.study import Study
from repro.train.job import Job
from repro.train.random_streams import torch_stream
from tests import plain_imp, simulated_evidence
from tests.command_line import CPU, ROOT, TINY, complaint, contents, repro

NETWORK, SEED, T, STEPS, LEVELS = "cifar_resnet8_w4", 11, 6, 20, 2
RECIPE = Training(steps=STEPS, batch_size=64, lr=0.3, milestones=(10, 16), augment=False, precision="fp64")


def rate(step):
    return 0.3 if step < 10 else 0.03 if step < 16 else 0.003


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def rewind_point(tmp_path_factory):
    path = tmp_path_factory.mktemp("point") / "w.h5"
    pretrain(path, dataset="digits", t=T, replicates=1, network=NETWORK, training=RECIPE, seed=SEED)
    return path


def by_hand(digits, rewind, finetune_steps=None):
    """(masks, weights after training) of each level of replicate 0, in plain PyTorch and float64."""
    whole = Batcher(digits.images, digits.mean, digits.std, augment=False).normalise(digits.images, torch.float64)
    x, index = whole.permute(0, 3, 1, 2).contiguous(), digits.split(0)[0].numpy()
    ours = initialise(create(NETWORK, num_classes=10, in_chans=1), torch_stream(SEED, 0, "init"))
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    values = layout_of(ours).state_dict(layout_of(ours).flatten(ours)).values()
    net.load_state_dict(dict(zip([e.name for e in layout_of(net).entries], values)), strict=False)
    masks = [torch.ones_like(w, dtype=torch.bool) for w in plain_imp.prunable(net)]
    common = dict(batch=64, seed=SEED, replicate=0)
    plain_imp.train(net, masks, x, digits.labels, index, start=0, stop=T, lr_at=rate, **common)
    point = {name: value.clone() for name, value in net.state_dict().items()}
    found, more = [], finetune_steps or STEPS - T
    for level in range(LEVELS + 1):
        start, stop, lr_at = T, STEPS, rate
        if rewind == "weights":
            net.load_state_dict(point)
        if rewind == "none" and level:
            start, stop, lr_at = STEPS + (level - 1) * more, STEPS + level * more, lambda step: 0.003
        plain_imp.train(net, masks, x, digits.labels, index, start=start, stop=stop, lr_at=lr_at, **common)
        vector = torch.cat([net.state_dict()[entry.name].flatten() for entry in layout_of(net).entries])
        found.append(([mask.clone() for mask in masks], vector.clone()))
        masks = plain_imp.prune(net, masks)
    return found


@pytest.mark.parametrize(
    "rewind, finetune_steps", [("weights", None), ("learning-rate", None), ("none", None), ("none", 5)]
)
def test_every_level_is_that_of_plain_pytorch(digits, rewind_point, tmp_path, rewind, finetune_steps):
    pruning = Pruning(rewind=rewind, finetune_steps=finetune_steps)
    imp(tmp_path / "imp.h5", rewind_point, levels=LEVELS, pruning=pruning)
    run = read(tmp_path / "imp.h5")
    for level, (masks, vector) in enumerate(by_hand(digits, rewind, finetune_steps)):
        flat = torch.cat([mask.flatten() for mask in masks])
        kept = np.unpackbits(run[f"replicate_0/level_{level}/mask"], count=len(flat)).astype(bool)
        assert np.array_equal(kept, flat.numpy()), level
        np.testing.assert_allclose(run[f"replicate_0/level_{level}/weights"], vector, rtol=1e-7, atol=1e-9)


def test_the_rate_after_the_schedule_is_its_last():
    job = Job(None, np.arange(3), STEPS, 2 * STEPS, 0, 0)
    assert [job.rate(RECIPE, step) for step in (9, 15, 16, 19, 20, 39)] == pytest.approx([0.3, 0.03] + [0.003] * 4)
    falls_at_the_end = Training(steps=10, batch_size=1, lr=1.0, milestones=(10,))
    assert job.rate(falls_at_the_end, 10) == 1.0


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The three ways on digits, by the command line, in the engine that a CPU takes."""
    folder = tmp_path_factory.mktemp("three")
    repro("pretrain", "--dataset", "digits", "-t", 4, *TINY, *CPU, "--out", folder / "w.h5")
    for way in ("weights", "learning-rate", "none"):
        words = ("--levels", 2, "--rewind", way, *CPU, "--out", folder / f"{way}.h5")
        repro("imp", folder / "w.h5", *words)
    return folder


def test_the_sparse_engine_takes_all_three_and_level_0_is_the_same(three):
    runs = {way: read(three / f"{way}.h5") for way in ("weights", "learning-rate", "none")}
    for way, run in runs.items():
        assert set(run.table().engine) == {"sparse"} and run.recipe.get("rewind", "weights") == way
        assert np.array_equal(run["replicate_1/level_0/weights"], runs["weights"]["replicate_1/level_0/weights"])
    last = [run["replicate_1/level_2/weights"] for run in runs.values()]
    assert not np.array_equal(last[0], last[1]) and not np.array_equal(last[1], last[2])
    assert len({run.identity for run in runs.values()}) == 3


def test_what_a_level_started_from(three, tmp_path):
    """The ticket, and what a barrier's child 0 and a branch begin with."""
    path = three / "learning-rate.h5"
    run = read(path)
    ticket = state_dict(path, 1, 2, "ticket")
    flat = torch.cat([tensor.flatten() for tensor in ticket.values()])
    mask = np.unpackbits(run["replicate_1/level_2/mask"], count=4964).astype(bool)
    expected = run["replicate_1/level_1/weights"].copy()
    expected[:4964] *= mask
    assert np.array_equal(flat, expected)
    first = torch.cat([tensor.flatten() for tensor in state_dict(path, 1, 0, "ticket").values()])
    assert np.array_equal(first, run["replicate_1/level_0/rewind_weights"])

    # a branch rewinds weights, whatever its run did: with its own masks, that is imp by the masks of the other run
    repro("branch", path, "--levels", 1, *CPU, "--out", tmp_path / "branch.h5")
    made, plain = read(tmp_path / "branch.h5"), read(three / "weights.h5")
    assert np.array_equal(made["replicate_0/level_1/weights"], plain["replicate_0/level_1/weights"])
    assert not {"rewind", "finetune_steps"} & made.recipe.keys()
    assert "rewinds nothing, so that its levels have no rewind point" in complaint(
        "barrier", three / "none.h5", "--level", 1, "--out", tmp_path / "b.h5"
    )


def test_children_start_where_their_level_did(three, digits, tmp_path):
    for way, name in (("learning-rate", "level_1/weights"), ("weights", "level_0/rewind_weights")):
        run = read(three / f"{way}.h5")
        start = Parent(RewindPoint(run), 1, 2, False, digits).start
        assert np.array_equal(start, run[f"replicate_1/{name}"])
    repro("barrier", three / "learning-rate.h5", "--level", 1, "--children", 1, *CPU, "--out", tmp_path / "b.h5")
    child = read(tmp_path / "b.h5")["replicate_0/child_1/weights"]
    mask = np.unpackbits(read(three / "learning-rate.h5")["replicate_0/level_1/mask"], count=4964).astype(bool)
    assert not child[:4964][~mask].any() and child[:4964][mask].all()


@pytest.mark.parametrize("way", ["learning-rate", "none"])
def test_a_run_that_grows_is_the_run_made_at_once(three, tmp_path, way):
    command = ("imp", three / "w.h5", "--rewind", way, *CPU, "--out", tmp_path / "grown.h5")
    repro(*command, "--levels", 1, "--replicates", 1)
    assert "computed 4, reused 2" in repro(*command, "--levels", 2).stdout
    assert contents(tmp_path / "grown.h5") == contents(three / f"{way}.h5")


@pytest.mark.parametrize("way, lost", [("weights", False), ("learning-rate", True)])
def test_after_a_level_that_diverged(rewind_point, tmp_path, monkeypatch, way, lost):
    """A mask of the rewind point and rewound weights need nothing of the level before; weights that go on do."""
    asked, kept = Pruning("snip", rewind=way), pruned_levels.Levels.kept

    def first_one_lost(self, network):
        arrays, row = kept(self, network)
        return arrays, row | {"diverged": row["level"] == 1}

    monkeypatch.setattr(pruned_levels.Levels, "kept", first_one_lost)
    imp(tmp_path / "imp.h5", rewind_point, levels=LEVELS, pruning=asked)
    run = read(tmp_path / "imp.h5")
    assert ("replicate_0/level_2/mask" not in run) == lost
    assert run.table().set_index("level").diverged.to_dict() == {0: False, 1: True, 2: lost}


def test_as_many_steps_as_the_others_have_are_the_same_run(three, tmp_path):
    words = ("imp", three / "w.h5", "--levels", 2, "--rewind", "none", *CPU, "--finetune-steps")
    repro(*words, 8, "--out", tmp_path / "same.h5")  # of 12 steps, from step 4 on
    repro(*words, 7, "--out", tmp_path / "other.h5")
    same, other, usual = (
        read(path).identity for path in (tmp_path / "same.h5", tmp_path / "other.h5", three / "none.h5")
    )
    assert same == usual != other
    assert contents(tmp_path / "same.h5") == contents(three / "none.h5")
    cells = [Cell("easy", DIGITS, 10, pruning=Pruning(rewind="none", finetune_steps=n)) for n in (430, 429)]
    fields = [step.recipe.get("finetune_steps") for step in steps(cells, tmp_path) if step.verb == "imp"]
    assert fields == [None, 429]


@pytest.mark.parametrize("schedule, rate", [("cosine", "1.2e-05"), ("linear", None), ("step", None)])
def test_a_rate_that_has_all_but_gone_is_told(tmp_path, schedule, rate):
    """At 200 steps the last rate is 0.2 (1 + cos(199π/200)) / 2 = 1.2e-5 by a cosine, 0.2 / 200 = 1e-3 by a line."""
    run = ("--dataset", "digits", "--network", "cifar_resnet8_w4", "--steps", 200, "--replicates", 1, "--lr", 0.2)
    repro("pretrain", *run, "--schedule", schedule, "-t", 0, *CPU, "--batch-size", 4, "--out", tmp_path / "w.h5")
    words = ("imp", tmp_path / "w.h5", "--levels", 1, "--dry-run", "--out", tmp_path / "imp.h5", "--rewind")
    assert not repro(*words, "learning-rate").stderr
    said = repro(*words, "none").stderr
    assert bool(said) == bool(rate)
    if rate:
        assert said.startswith(f"warning: --rewind none trains pruned levels at the schedule's last rate, {rate} of ")


def test_another_way_at_the_same_place_is_refused(three):
    said = complaint("imp", three / "w.h5", "--levels", 2, "--rewind", "none", *CPU, "--out", three / "weights.h5")
    assert "rewind is weights there and none here" in said


# --- in a plan --------------------------------------------------------------------------------------------------------


def test_cells_share_their_rewind_point_and_name_their_way(tmp_path):
    snip = Pruning("snip", batches=3, keep_dense=("fc", "conv*"), rewind="none", finetune_steps=9)
    cells = [Cell("easy", DIGITS, 10, Subset("easy", 256), pruning=pruning) for pruning in (Pruning(), snip)]
    items = [*cells, Barrier(cells[1]), Branch("shuffled", cells[1])]
    made = {step.target.stem: step for step in steps(items, tmp_path)}
    mark = "-pruning-snip-batches-3-keep_dense-conv_-fc-rewind-none-finetune_steps-9".replace("-pruning-snip", "-snip")
    assert set(made) == {
        "scores",
        "subset-easy256",
        "pretrain-easy256-t10",
        "imp-easy256-t10",
        f"imp-easy256-t10{mark}",
        f"barrier-easy256-t10{mark}",
        f"branch-easy256-t10{mark}-shuffled",
    }
    plain, other = made["imp-easy256-t10"], made[f"imp-easy256-t10{mark}"]
    assert " ".join(other.command).startswith(
        f"imp {tmp_path}/digits/pretrain-easy256-t10.h5 --levels 14 --replicates 16 --prune-fraction 0.2 "
        "--pruning snip --batches 3 --keep-dense conv*,fc --rewind none --finetune-steps 9 --out"
    )
    assert not {"--pruning", "--rewind"} & set(plain.command)
    assert other.images == 16 * (430 + 14 * 9) * 64 and plain.images == 16 * 15 * 430 * 64
    assert plain.differing({**plain.recipe, "rewind": "none"}) == [("rewind", "none", "weights")]
    assert plain.differing({k: v for k, v in plain.recipe.items() if k not in Pruning().fields}) == []
    assert {field for field, *_ in other.differing(plain.recipe)} == {
        "pruning",
        "prune_at",
        "batches",
        "keep_dense",
        "rewind",
        "finetune_steps",
    }


FIGURE = """
from repro.plan import Cell, Pruning
from repro.protocol import own

PROTOCOL = own("digits", network="cifar_resnet8_w4", steps=8, t_star=4, levels=1, replicates=2, sweep_levels=(1,))

def needed(p):
    return [Cell("all_tstar", p, 4, pruning=way) for way in (Pruning(), Pruning("snip", rewind="learning-rate"))]
"""


def test_a_cell_that_is_pruned_otherwise_is_a_condition_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FIGURE)
    study = Study("mine.py")
    made = steps(study.items(), study.results)
    assert [step.verb for step in made] == ["pretrain", "imp", "imp"]
    for step in made:
        repro(*step.command, *CPU)
    assert "nothing to do" in repro("plan", "mine.py").stdout
    runs = collect(study.items(), study.results).runs.set_index("condition")
    for mark in ("", "-snip-rewind-learning-rate"):
        made = read(f"results/mine/digits/imp-all-t4{mark}.h5").table()
        assert runs.loc[f"all_tstar{mark}", "acc"].tolist() == made.acc.tolist()
    assert len(runs) == 8 and len(runs.loc["all_tstar"]) == 4  # no claim counts the others among these


# --- the example ------------------------------------------------------------------------------------------------------

EXAMPLE = ROOT / "examples/rewinding.py"
WAYS = {"weights": "", "learning-rate": "-rewind-learning-rate", "none": "-rewind-none"}


def test_the_example_needs_figure_2_in_each_way(tmp_path):
    figure = own_figure.read(str(EXAMPLE))
    digits, cpu = figure.protocols
    names = [item.name for item in figure.needed(digits)]
    six = ["all-t0", "all-t10", "all-t20", "random256-t10", "easy256-t10", "hard256-t10"]
    assert names == [f"{name}{mark}" for mark in WAYS.values() for name in six]
    assert (cpu.dataset, cpu.replicates, cpu.training, cpu.levels) == ("cifar10@16", 4, CPU_SCALE.training, 12)
    made = steps(figure.needed(cpu), tmp_path)
    imps = [" ".join(step.command) for step in made if step.verb == "imp"]
    assert len(imps) == 12 and sum("--rewind learning-rate" in words for words in imps) == 6
    assert not any("--rewind none" in words for words in imps)
    # beside Figure 2's runs of the scale, which have these names and recipes, the new ones alone are missing
    own = {step.target: step for step in steps(figure2.needed(CPU_SCALE), tmp_path)}
    shared = [step for step in made if step.target in own]
    assert {step.target.stem for step in made} - {step.target.stem for step in shared} == {
        f"imp-{name}-rewind-learning-rate"
        for name in ("all-t0", "all-t100", "all-t200", "random3200-t100", "easy3200-t100", "hard3200-t100")
    }
    for step in shared:
        assert step.wanted <= own[step.target].wanted and step.recipe == own[step.target].recipe


def test_the_example_draws_what_was_run():
    figure = own_figure.read(str(EXAMPLE))
    evidence = simulated_evidence.simulate(figure.protocols, seed=1)
    runs = evidence.runs
    parts = [
        runs.assign(condition=runs.condition + mark, acc=runs.acc - 0.01 * k) for k, mark in enumerate(WAYS.values())
    ]
    object.__setattr__(evidence, "runs", pd.concat(parts, ignore_index=True))
    drawn, table = figure.draw(evidence, list(figure.protocols))
    panels = [axes for axes in drawn.axes if axes.axison]
    titles = [axes.get_title() for axes in panels]
    assert [re.search("rewound: (.*)", title)[1] for title in titles] == [*WAYS, "weights", "learning-rate"]
    for axes, (p, way) in zip(panels, [*((figure.protocols[0], w) for w in WAYS), (figure.protocols[1], "weights")]):
        rows = evidence.runs[(evidence.runs.dataset == p.dataset) & (evidence.runs.noise == 0)]
        rows = rows[
            (rows.condition == f"easy{WAYS[way]}") & (rows["size"] == p.subset_size) & (rows.t == p.t_star // 2)
        ]
        means = 100 * rows.groupby("level").acc.mean()
        (line,) = [line for line in axes.get_lines() if line.get_label().startswith("easiest")]
        np.testing.assert_allclose(line.get_ydata(), means, atol=1e-9)
    assert set(table.rewound) == set(WAYS) and set(table.condition) >= {"easy", "all_tstar"}
    for row in (panels[:3], panels[3:]):
        ((low, high),) = {axes.get_ylim() for axes in row}
        lines = np.concatenate([line.get_ydata() for axes in row for line in axes.get_lines()])
        assert low <= np.nanmin(lines) and np.nanmax(lines) <= high
