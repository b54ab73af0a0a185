"""What a plan costs: counted images against what really passes through the networks, and time by closed forms."""

import dataclasses
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from paper_figures import figures_at, needed
from paper_figures.figure2 import needed as figure2
from repro import plan, protocol
from repro.engines.serial import SerialCohort
from repro.engines.sparse import SparseCohort
from repro.errors import UsageError
from repro.plan import measure as speed_module
from repro.plan import price
from repro.protocol import CIFAR10, DIGITS, SCORES, datasets_at
from repro.stages.trainer import Trainer
from repro.train import evaluate
from repro.train.loop import parts_of
from tests.command_line import complaint, repro

SPEED = price.Speed(dense=1000.0, sparse=4000.0, forward=8000.0, start=3.0, device="CPU")
RESULTS = Path("results")
ALL = plan.Cell("all_tstar", DIGITS, 20)


def step_of(item) -> plan.Step:
    return plan.steps([item], RESULTS)[-1]


@pytest.fixture
def tiny(monkeypatch):
    """A demo that takes seconds, with two replicates, which are two folds."""
    training = dataclasses.replace(DIGITS.training, steps=6, milestones=(4,))
    p = dataclasses.replace(
        DIGITS,
        network="cifar_resnet8_w4",
        training=training,
        t_star=2,
        replicates=2,
        more_replicates=None,
        levels=1,
        scoring=dataclasses.replace(DIGITS.scoring, network="cifar_resnet8_w4", networks=1, training=training),
    )
    monkeypatch.setitem(protocol._PROTOCOLS, ("digits", "demo"), p)
    return p


def test_the_images_that_networks_are_measured_on_are_counted(tiny, tmp_path, monkeypatch):
    """Against the images that the commands really pass forward, command by command."""
    seen = Counter()

    def counting(function):
        def counted(cohort, batcher, index, **options):
            seen[command] += sum(map(len, index))
            return function(cohort, batcher, index, **options)

        return counted

    monkeypatch.setattr(evaluate, "predict", counting(evaluate.predict))
    for engine in (SerialCohort, SparseCohort):
        monkeypatch.setattr(engine, "recalibrate", counting(engine.recalibrate))
    cell = plan.Cell("easy", tiny, 1, plan.Subset("easy", 256))
    steps = plan.steps([plan.Barrier(cell)], tmp_path)
    for step in steps:
        command = step.verb
        repro(*step.command)
    assert set(seen) == {"score", "pretrain", "imp", "barrier"} == {s.verb for s in steps if s.evaluated}
    for step in steps:
        assert seen[step.verb] == pytest.approx(step.evaluated, rel=2e-3), step.target  # folds differ by one
        sizes = []  # what is stored, before compression, array by array
        with h5py.File(step.target) as file:
            file.visititems(lambda name, item, to=sizes: to.append(0 if name.startswith("table/") else _bytes(item)))
        assert price.stored_bytes(step) == pytest.approx(sum(sizes), rel=2e-3), step.target
    path = (
        step_of(plan.Barrier(ALL)).evaluated
        - step_of(plan.Barrier(dataclasses.replace(cell, protocol=DIGITS))).evaluated
    )
    assert path == 16 * 3 * 8 * (
        3 * 1437 + 2 * 360
    )  # of 16 parents and 3 pairs, 8 more points each, twice and once more


def _bytes(item) -> int:
    return getattr(item, "nbytes", 0)  # a group has none


def test_density_is_the_mean_over_the_levels_that_are_trained(monkeypatch):
    kept = 1 - DIGITS.prune_fraction
    imp = step_of(ALL)
    assert imp.density == pytest.approx((1 - kept**15) / (15 * (1 - kept)))  # a geometric series
    assert {step_of(item).density for item in (plan.Barrier(ALL), plan.WarmupSweep(DIGITS))} == {1.0}
    shuffled = step_of(plan.Branch("shuffled", ALL))
    assert shuffled.density == pytest.approx(kept * (1 - kept**14) / (14 * (1 - kept)))
    deepest = {piece for piece in imp.wanted if piece.endswith(("/level_13", "/level_14"))}
    monkeypatch.setattr(plan.Step, "missing", lambda step, look: frozenset(deepest))
    [rest] = plan.unfinished([imp])
    assert rest.density == pytest.approx((kept**13 + kept**14) / 2)
    assert (rest.networks, rest.images, rest.evaluated) == (32, imp.images * 2 // 15, imp.evaluated * 2 // 15)


def test_seconds_are_linear_in_what_is_left_of_the_weights():
    step = dataclasses.replace(step_of(ALL), images=12_000, evaluated=16_000)
    for density, training in ((1.0, 12.0), (0.1, 3.0), (0.55, 7.5), (0.325, 5.25)):
        assert SPEED.seconds(dataclasses.replace(step, density=density)) == pytest.approx(training + 2.0)


def test_a_prediction_is_the_sum_over_steps_and_processes():
    """One network is measured, that with most of the FLOPs; others count by theirs; processes share the work."""
    asked = []

    def measure(network, p, device, together):
        asked.append((network, p, together))
        return SPEED

    steps = plan.steps(figure2(CIFAR10), RESULTS)
    scoring = [step for step in steps if step.verb == "score"]
    others = [step for step in steps if step.verb != "score"]
    ratio = price.flops_per_image("lowres_resnet18", CIFAR10) / price.flops_per_image("cifar_resnet20", CIFAR10)
    assert 13 < ratio < 14 and len(scoring) == 1
    expected = SPEED.seconds(scoring[0]) * ratio + sum(map(SPEED.seconds, others))
    started = len(plan.as_jobs(steps))
    found = price.predict(steps, jobs=1, measure=measure)
    assert asked == [("cifar_resnet20", CIFAR10, CIFAR10.replicates)]
    assert [found.work, found.clock] == pytest.approx([expected + 3.0 * started] * 2)
    two = price.predict(steps, jobs=2, measure=measure)
    assert two.work == pytest.approx(found.work) and found.work / 2 <= two.clock < 0.6 * found.work
    longest = [step for step in steps if step.target.stem in ("pretrain-easy3200-t200", "imp-easy3200-t200")]
    many = price.predict(steps, jobs=1000, measure=measure)  # nobody waits for a free place, but easy for its scores
    chain = 6.0 + SPEED.seconds(scoring[0]) * ratio + sum(map(SPEED.seconds, longest))
    assert many.clock == many.longest == found.longest == pytest.approx(chain)
    assert dict(many.chain) == {
        "cifar10/scores": pytest.approx(SPEED.seconds(scoring[0]) * ratio),
        "cifar10/imp-easy3200-t200": pytest.approx(SPEED.seconds(longest[1])),
    }
    assert many.efficiency == pytest.approx(found.work / (1000 * chain))
    assert price.predict(scoring, jobs=1, measure=measure).network == "lowres_resnet18"
    all_folds = max(map(len, parts_of(range(scoring[0].networks), 16)))
    assert asked[-1] == ("lowres_resnet18", CIFAR10, all_folds) and all_folds > 1


def test_three_processes_take_two_rounds_of_two():
    """The score sets of `make scores`: alike, and none waits for another."""
    steps = [step for step in plan.steps(needed("scores", SCORES), RESULTS) if step.verb == "score"]
    assert len(plan.as_jobs(steps)) == 3
    each = 3.0 + (9_984_000 / SPEED.dense + 500_000 / SPEED.forward)  # 10 networks, 7,800 steps of 128; 50,000 images
    for jobs, rounds in ((1, 3), (2, 2), (3, 1), (8, 1)):
        found = price.predict(steps, jobs=jobs, measure=lambda *_: SPEED)
        assert (found.work, found.clock) == (pytest.approx(3 * each), pytest.approx(rounds * each))


def test_what_is_said_of_a_prediction():
    steps = plan.steps(figure2(dataclasses.replace(DIGITS, replicates=4)), RESULTS)
    found = price.predict(steps, jobs=2, measure=lambda *_: SPEED)
    text = price.report("figure2", steps, steps, found)
    assert text.splitlines()[-1] == str(found) and "GPU-hours" not in text
    assert f"about {round(found.clock / 60)} minutes here with 2 processes at once" in text
    assert "1,000 images/s dense, 4,000 with 10% of the weights" in text
    same = dataclasses.replace(SPEED, sparse=1050.0)  # an engine that masks do not speed up
    assert "of the weights" not in str(price.predict(steps, jobs=1, measure=lambda *_: same))
    long = dataclasses.replace(found, clock=40 * 3600.0)
    assert "GPU-hours at 10 TFLOP/s" in price.report("figure2", steps, steps, long)
    with pytest.raises(UsageError, match=r"this would take about 40 hours here: add YES=1 \(or --yes\)"):
        price.require_sensible(long, yes=False)
    for prediction, yes in ((long, True), (found, False), (None, False), (dataclasses.replace(long, clock=9e3), False)):
        price.require_sensible(prediction, yes=yes)
    assert price.report("figure2", steps, []) == "figure2: all 16 artifacts are complete, nothing to do"


def test_only_what_takes_long_is_worth_measuring():
    demo = plan.steps([item for name in figures_at("demo") for item in needed(name, DIGITS)], RESULTS)
    assert price.worth_measuring(demo) and not price.worth_measuring(demo[:1]) and not price.worth_measuring([])
    assert price.worth_measuring(plan.steps(needed("scores", SCORES), RESULTS))


def test_a_given_speed_and_several_numbers_of_devices(tiny, tmp_path):
    """--speed measures nothing; the table has a line per number, and what limits them."""
    words = ("plan", "figure2", "--results", tmp_path, "--speed", "cifar_resnet8_w4=1000")
    steps = plan.steps(figure2(tiny), tmp_path)
    work = sum(step.images + step.evaluated / 3 for step in steps) / 1000 + 3.0 * len(plan.as_jobs(steps))
    one = repro(*words).stdout.splitlines()[-1]
    assert one.startswith(
        f"about {round(work / 60)} minutes with one process, at 1,000 images/s of cifar_resnet8_w4, as"
    )
    lines = repro(*words, "--jobs", "1,8").stdout.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("devices"))
    rows = [line.split() for line in lines[at + 1 : at + 3]]
    assert [row[0] for row in rows] == ["1", "8"] and rows[0][3] == "100%"
    assert [float(row[2]) for row in rows] == [pytest.approx(work / 3600, abs=0.005)] * 2
    assert "the longest chain of jobs that wait for each other takes 1 minutes" in lines[at + 4]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--jobs", "1,x"), r"jobs \(='1,x'\) must be numbers of processes from 1 on, like 8 or 1,8,64"),
        (("--jobs", "0"), r"jobs \(='0'\) must be"),
        (("--speed", "fast"), r"speed \(='fast'\) must be images a second above 0"),
        (("--speed", "nan"), r"speed \(='nan'\) must be"),
        (("--speed", "resnet18=5"), "the plan trains no resnet18: give the speed of one of cifar_resnet14_w4"),
        (("--jobs", "1,8", "--make", "x.mk"), "--make writes rules for one number of processes, not for --jobs 1,8"),
    ],
)
def test_mistakes(words, sentence, tmp_path):
    assert re.search(sentence, complaint("plan", "figure2", "--results", tmp_path, *words))


@pytest.mark.parametrize("seconds_a_round", [0.01, 0.4, 30.0])
def test_a_rate_is_images_by_time_and_keeps_to_its_time(seconds_a_round):
    now = 0.0

    def work(rounds):
        nonlocal now
        now += rounds * seconds_a_round
        return 50 * rounds

    assert speed_module._rate(work, 5.0, clock=lambda: now) == pytest.approx(50 / seconds_a_round)
    assert 5.0 <= now < 5.0 + max(2 * seconds_a_round, 1e-9)


def test_calibration_measures_with_the_programs_own_engine(tiny, monkeypatch):
    monkeypatch.setattr(speed_module, "_start_up", lambda: 1.5)
    speed = price.calibrate("cifar_resnet8_w4", tiny, seconds=0.1)
    assert speed.start == 1.5 and np.isfinite([speed.dense, speed.sparse, speed.forward]).all()
    assert speed.forward > speed.dense > 0  # a third of the work


def test_a_day_is_measured_with_the_cohort_that_runs(monkeypatch):
    """`make figure2 SCALE=day`: replicates of a level together, and it says so."""
    [p] = datasets_at("day")
    created, inner = [], Trainer._cohort

    def watched(self, replicas, engine):
        created.append((replicas, engine))
        return inner(self, replicas, engine)

    monkeypatch.setattr(Trainer, "_cohort", watched)
    monkeypatch.setattr(speed_module, "_start_up", lambda: 1.5)
    monkeypatch.setattr(speed_module, "IMAGES", 256)

    def small(network, protocol, *rest):
        training = dataclasses.replace(protocol.training, batch_size=8, precision="fp32")
        tiny = dataclasses.replace(protocol, network="cifar_resnet8_w4", image_size=8, training=training)
        return price.calibrate("cifar_resnet8_w4", tiny, *rest, seconds=0.1)

    steps = plan.steps(figure2(p), RESULTS)
    found = price.predict(steps, jobs=1, measure=small)
    assert set(created) == {(p.replicates, "sparse")} and p.replicates > 1
    assert f"was just measured ({p.replicates} networks at once by engine sparse: trains " in str(found)


def test_a_day_and_an_hour():
    """Images of ResNet-20, or as many FLOPs, at 250,000 a second: everything at day scale, Figure 2 at small."""
    unit = price.flops_per_image("cifar_resnet20", CIFAR10)
    for scale, figures, seconds in (("day", figures_at("day"), 86_400), ("small", ("figure2",), 3_600)):
        [p] = datasets_at(scale)
        steps = plan.steps([item for name in figures for item in needed(name, p)], RESULTS)
        images = sum(
            (step.images + step.evaluated / 3) * price.flops_per_image(step.network, p) / unit for step in steps
        )
        assert images / 250_000 < seconds, scale


def test_a_plan_that_fills_the_disk_or_the_memory_is_refused_beforehand(tmp_path, monkeypatch):
    """Of 16 artifacts, the largest twice for each process at once; by the formula that is held to the bytes above."""
    steps = plan.steps(figure2(DIGITS), RESULTS)
    sizes = sorted(price.stored_bytes(step) for step in steps)
    monkeypatch.setattr(price, "_available", lambda: 2 * price.PROCESS)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free[path])
    free = {tmp_path: SimpleNamespace(free=sum(sizes) + sum(sizes[-2:]))}
    results = tmp_path / "not" / "there"
    price.require_room(steps, results, 1, yes=False)
    with pytest.raises(UsageError, match=r"the runs need up to .* of disk in .*there, and .* are free there"):
        price.require_room(steps, results, 3, yes=False)
    with pytest.raises(UsageError, match=r"2 processes at once need 1\.\d* GB of memory at least, and 1\.22 GB are"):
        price.require_room(steps, results, 2, yes=False)
    price.require_room(steps, results, 3, yes=True)
    price.require_room([], results, 3, yes=False)
