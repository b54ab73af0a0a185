"""Schedules, warm-up of the rate, label smoothing and epochs, against torch's own schedulers, loss and SGD."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from repro import engines, warmup
from repro.data import Batcher
from repro.errors import UsageError
from repro.experiment import Warmup
from repro.nets import create, initialise, layout_of
from repro.plan.options import recipe_of as planned
from repro.plan.steps import Step
from repro.protocol import own
from repro.recipes.artifacts import ADDED, training_fields, training_of
from repro.recipes.training import Training
from repro.store import identity, read
from repro.study.own_figure import require_options
from repro.train.loop import Job, train
from repro.train.random_streams import stream
from tests import plain_imp
from tests.command_line import CPU, complaint, repro
from tests.test_own_work import run

STEPS = 24
BASE = Training(steps=STEPS, batch_size=16, lr=0.7, milestones=(), augment=False, precision="fp64")
PLAIN = {
    "step": lambda o, w: MultiStepLR(o, [12 - w, 18 - w], gamma=0.1),
    "cosine": lambda o, w: CosineAnnealingLR(o, T_max=STEPS - w),
    "linear": lambda o, w: LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=STEPS - w),
    "constant": lambda o, w: ConstantLR(o, factor=1.0),
}


def recipe_of(schedule: str, warmup: int = 0, **fields) -> Training:
    milestones = (12, 18) if schedule == "step" else ()
    return replace(BASE, schedule=schedule, milestones=milestones, warmup_steps=warmup, **fields)


def torchs_rates(schedule: str, warmup: int, lr: float) -> list[float]:
    """By torch's own schedulers. Its LinearLR cannot begin at 0."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = PLAIN[schedule](optimizer, warmup)
    if warmup:
        rising = LinearLR(optimizer, start_factor=1e-12, total_iters=warmup)
        scheduler = SequentialLR(optimizer, [rising, scheduler], milestones=[warmup])
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("schedule", PLAIN)
def test_rates_are_those_of_torchs_schedulers(schedule, warmup):
    found = [recipe_of(schedule, warmup).lr_at(step) for step in range(STEPS)]
    assert found == pytest.approx(torchs_rates(schedule, warmup, BASE.lr), rel=1e-12, abs=1e-11)
    assert max(found) == BASE.lr  # the peak is reached


def test_rates_by_hand():
    linear = Training(steps=6, batch_size=1, lr=0.8, schedule="linear", warmup_steps=2)
    assert [linear.lr_at(k) for k in range(6)] == pytest.approx([0, 0.4, 0.8, 0.6, 0.4, 0.2])
    cosine = Training(steps=4, batch_size=1, lr=2.0, schedule="cosine")
    assert [cosine.lr_at(k) for k in range(4)] == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    early = Training(steps=6, batch_size=1, lr=1.0, milestones=(1,), warmup_steps=4)  # falls while it rises
    assert [early.lr_at(k) for k in range(6)] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])


def test_a_job_with_a_warm_up_of_its_own_rises_as_by_the_recipe():
    """The networks of the warm-up study sweep over what other trainings have in their recipe."""
    for schedule in PLAIN:
        swept, fixed = (Job(None, np.arange(3), 0, STEPS, 0, 0, warmup=w) for w in (5, 0))
        found = [swept.rate(recipe_of(schedule), k) for k in range(STEPS)]
        assert found == [fixed.rate(recipe_of(schedule, 5), k) for k in range(STEPS)]


@pytest.mark.parametrize("engine", ["serial", "graph", "sparse"])
@pytest.mark.parametrize("schedule, smoothing", [("cosine", 0.2), ("linear", 0.0), ("step", 0.9)])
def test_training_equals_plain_pytorch(engine, schedule, smoothing):
    """torch's optimizer, loss and rates, from step 3 on: the clock runs from step 0."""
    recipe, n, begin = recipe_of(schedule, 5, label_smoothing=smoothing, lr=0.1), 80, 3
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (n, 8, 8, 2), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 5, n))
    plain = plain_imp.PlainResNet(8, 4, 2, 5)
    ours = initialise(create("cifar_resnet8_w4", num_classes=5, in_chans=2), torch.Generator().manual_seed(1))
    vector = layout_of(ours).flatten(ours).double()
    names = [entry.name for entry in layout_of(plain).entries]
    plain.load_state_dict(dict(zip(names, layout_of(ours).state_dict(vector).values())), strict=False)
    plain = plain.double()

    def cohort_of(jobs):
        how = dict(num_classes=5, in_chans=2, image_size=8, device=torch.device("cpu"), precision="fp64")
        return engines.create(engine, "cifar_resnet8_w4", replicas=len(jobs), **how)

    batcher = Batcher(images, (0.4, 0.5), (0.2, 0.3), augment=False)
    losses = []
    state = train(
        [Job(vector, np.arange(n), begin, STEPS, seed=2, replicate=1)],
        recipe,
        cohort_of=cohort_of,
        batcher=batcher,
        labels=labels,
        watch=lambda step, rows, found: losses.extend(found[:, 0].tolist()),
    )
    pixels = batcher.normalise(batcher.gather(torch.arange(n)), torch.float64).permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(plain.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=1e-4)
    rates, wanted = torchs_rates(schedule, 5, recipe.lr), []
    for step in range(begin, STEPS):
        order = stream(2, 1, "order", step // 5).permutation(n)
        rows = torch.from_numpy(order[step % 5 * 16 : step % 5 * 16 + 16])
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(pixels[rows]), labels[rows], label_smoothing=smoothing)
        loss.backward()
        wanted.append(loss.item())
        optimizer.step()
    assert losses == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(state.vectors[0], layout_of(plain).flatten(plain), rtol=1e-8, atol=1e-10)


def test_defaults_leave_no_trace_in_a_recipe():
    plain = training_fields(BASE)
    assert not plain.keys() & set(ADDED)
    assert identity("pretrain", plain, {}, {}) == identity(
        "pretrain", training_fields(recipe_of("step")) | plain, {}, {}
    )
    for other in (recipe_of("cosine"), recipe_of("constant", 3), recipe_of("step", label_smoothing=0.1)):
        fields = training_fields(other)
        assert fields.keys() - plain.keys() and training_of(fields) == other
    assert training_of({**plain}) == BASE


def test_a_plan_tells_other_schedules_apart():
    """Of a recipe that says nothing of them, as of artifacts made before there were any."""
    p = own("digits", steps=10, schedule="cosine", label_smoothing=0.1)
    assert p.training.milestones == () and p.scoring.training.schedule == "step"
    default = own("digits", steps=10)

    def differing(recipe, here):
        step = Step(target=None, command=("imp",), needs=(), wanted=frozenset(), recipe=here, protocol=default)
        return {field for field, *_ in step.differing(recipe)}

    old, new = training_fields(default.training), training_fields(p.training)
    known = {name: value for name, value in planned(default, default.training).items() if name not in old}
    assert differing(known | old, planned(default, default.training)) == set()
    assert differing(known | new, planned(default, default.training)) == {"schedule", "label_smoothing", "milestones"}
    assert differing(known | new, planned(p, p.training)) == set()


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin': choose step, cosine, linear, constant"),
        ({"schedule": "linear", "milestones": (5,)}, r"milestones \(=\(5,\)\) are of schedule 'step': leave them out"),
        ({"warmup_steps": STEPS}, rf"warm-up steps \(={STEPS}\) must be at least 0 and below the {STEPS} steps"),
        ({"warmup_steps": -1}, r"warm-up steps \(=-1\) must be at least 0"),
        ({"label_smoothing": 1.0}, r"label smoothing \(=1.0\) must be at least 0 and below 1: try 0.1"),
        ({"label_smoothing": float("nan")}, r"label smoothing \(=nan\) must be"),
    ],
)
def test_values_that_cannot_be(fields, sentence):
    with pytest.raises(UsageError, match=sentence):
        replace(BASE, **fields)


NET = ("--network", "cifar_resnet8_w4", "--batch-size", 64)
BY = ("--schedule", "cosine", "--warmup-steps", 3, "--label-smoothing", 0.2)


def test_every_stage_trains_by_the_recipe(tmp_path):
    """With one data order, imp's dense level and a child of its own order are the training to the end in one piece."""
    common = (*NET, *CPU, "--steps", 8, "--replicates", 1)
    out = {name: tmp_path / f"{name}.h5" for name in ("start", "end", "other", "imp", "barrier", "gradients", "scores")}
    repro("pretrain", "--dataset", "digits", *common, *BY, "-t", 0, "--out", out["start"])
    repro("pretrain", "--dataset", "digits", *common, *BY, "-t", 8, "--out", out["end"])
    repro("pretrain", "--dataset", "digits", *common, *BY[:-2], "-t", 8, "--out", out["other"])
    repro("imp", out["start"], "--levels", 0, *CPU, "--out", out["imp"])
    repro("barrier", out["start"], "--children", 1, *CPU, "--out", out["barrier"])
    repro("gradients", "--dataset", "digits", *common, *BY, "-t", 8, "--every", 8, "--out", out["gradients"])
    repro("score", "--dataset", "digits", *common, *BY, "--networks", 1, "--out", out["scores"])
    whole = read(out["end"])["replicate_0/weights"]
    assert np.array_equal(read(out["imp"])["replicate_0/level_0/weights"], whole)
    assert np.array_equal(read(out["barrier"])["replicate_0/child_0/weights"], whole)
    assert np.array_equal(read(out["gradients"])["replicate_0/step_8/weights"], whole)
    assert not np.array_equal(read(out["other"])["replicate_0/weights"], whole)
    for artifact in map(read, out.values()):
        assert artifact.recipe["schedule"] == "cosine" and artifact.recipe["warmup_steps"] == 3
    assert read(out["scores"]).recipe["label_smoothing"] == 0.2


def test_the_warm_up_study_takes_a_schedule(tmp_path):
    command = ("warmup", "--dataset", "cifar100", *NET, "--out", tmp_path / "w.h5", "--lr", 0.1)
    said = repro(*command, "--schedule", "cosine", "--warmup-steps", "2", code=2).stderr
    assert "has no warm-up: give --steps\n" in said  # and no milestones
    command = ("warmup", "--dataset", "digits", *NET, *CPU, "--steps", 6, "--replicates", 1, "--out", tmp_path / "w.h5")
    repro(*command, "--schedule", "constant", "--warmup-steps", "2,3")
    assert read(tmp_path / "w.h5").recipe["schedule"] == "constant"
    assert "warmup_steps" not in read(tmp_path / "w.h5").recipe


def steps_of(said: str) -> int:
    return int(re.search(r"^  steps: (\d+)$", said, re.MULTILINE)[1])


def test_epochs_are_passes_over_the_training_images(tmp_path):
    dry = ("-t", 1, "--replicates", 1, "--dry-run", "--out", tmp_path / "p.h5")
    digits = ("pretrain", "--dataset", "digits", "--network", "cifar_resnet8_w4", "--epochs", 3, *dry)
    assert steps_of(repro(*digits, "--batch-size", 64).stdout) == 3 * (1437 // 64)
    assert steps_of(repro(*digits, "--batch-size", 64, "--keep-last").stdout) == 3 * math.ceil(1437 / 64)
    for half, count in (("train", 7), ("test", 2)):
        for name in "ab":
            (tmp_path / "few" / half / name).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / "few" / half / name / f"{k}.png")
    folder = ("pretrain", "--dataset", "folder:few", "--data-dir", tmp_path, "--network", "cifar_resnet8_w4", *dry)
    said = repro(*folder, "--batch-size", 4, "--epochs", 5, "--warmup-steps", 12, "--milestones", "").stdout
    assert steps_of(said) == 5 * math.ceil(14 / 4) and "  warmup_steps: 12" in said


FIGURE = """
from repro.experiment import Scoring
from repro.plan import Barrier, Cell, Gradients, Subset
from repro.protocol import own
from repro.recipes.training import Training

PROTOCOL = own(
    "digits", network="cifar_resnet8_w2", init="network", steps=8, batch_size=64, t_star=4, subset_size=64, levels=0,
    replicates=1, children=1, schedule="cosine", warmup_steps=3, label_smoothing=0.1,
    scoring=Scoring("cifar_resnet8_w2", Training(steps=4, batch_size=64, lr=0.1, schedule="linear"), networks=1),
)
CLAIMS = ()

def needed(p):
    cell = Cell("all_tstar", p, 4)
    return [cell, Cell("easy", p, 2, Subset("easy", 64)), Barrier(cell), Gradients(p)]
"""


def test_a_figure_of_ones_own_is_trained_as_its_protocol_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fig.py").write_text(FIGURE, encoding="utf-8")
    repro("plan", "fig.py", "--make", "fig.mk")
    run("make -f fig.mk")
    assert "nothing to do" in repro("plan", "fig.py").stdout
    made = {path.stem: read(path).recipe for path in (tmp_path / "results/fig/digits").glob("*.h5")}
    trained = {name: recipe for name, recipe in made.items() if not name.startswith(("subset", "scores"))}
    assert len(trained) == 6
    for name, recipe in trained.items():
        shown = [recipe.get(field) for field in ("schedule", "warmup_steps", "label_smoothing", "milestones")]
        assert shown == ["cosine", 3, 0.1, []], name
        assert recipe.get("init") == (None if name.startswith("barrier") else "network")
    assert next(made[name] for name in made if name.startswith("scores"))["schedule"] == "linear"
    (tmp_path / "fig.py").write_text(FIGURE.replace("cosine", "constant"), encoding="utf-8")
    assert "schedule" in complaint("figure", "fig.py")


def test_a_warm_up_study_has_no_other_warm_up():
    p = own("digits", warmup=Warmup(Training(steps=9, batch_size=64, lr=0.1, warmup_steps=2), (3,), (64,)))
    with pytest.raises(UsageError, match="fig.py asks for warm-up warmup_steps 2 on digits, which is always 0: leave"):
        require_options(p, Path("fig.py"))
    with pytest.raises(UsageError, match=r"warm-up steps \(=2\) of the training: give them as steps of the sweep"):
        warmup("w.h5", dataset="digits", training=p.warmup.training, steps=(3,))


def test_milestones_beyond_the_end_are_told(tmp_path):
    """The protocol's stay where they are when the training is made shorter: the rate then never falls."""
    shorter = ("pretrain", "--dataset", "digits", "--replicates", 1, "-t", 2, "--steps", 264, *CPU)
    said = "warning: the rate does not fall at 330, because the schedule ends at step 264: give --milestones"
    assert said in repro(*shorter, "--out", tmp_path / "a.h5").stderr
    assert "rate does not fall" not in repro(*shorter, "--milestones", "132,198", "--out", tmp_path / "b.h5").stderr
