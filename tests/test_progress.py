"""The progress line: its numbers against sums by hand, its forms on a terminal and in a pipe, and no work forgotten."""

import fcntl
import itertools
import os
import pty
import struct
import termios
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from repro.data import Passes
from repro.recipes.training import Training
from repro.stages import progress
from repro.stages.progress import FORWARD, Ticker, images_of, place
from repro.store.work import Running, spoken
from repro.train import loop
from repro.train.loop import Job
from tests.command_line import CPU, TINY, repro

RECIPE = Training(steps=100, batch_size=10, lr=0.1, drop_last=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until its ``now`` is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def job(size, start=0, stop=100, **options):
    return Job(None, np.arange(size), start, stop, 0, 0, **options)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("options", [{}, {"start": 7, "stop": 61}, {"warmup": 13, "then": np.arange(47)}])
def test_images_of_a_job_are_those_of_its_batches(drop_last, options):
    training = Training(steps=100, batch_size=10, lr=0.1, drop_last=drop_last)
    each = job(34, **options)
    for stop in (each.start, 13, 14, 50, each.stop):
        count = 0
        for step in range(each.start, stop):
            size = 47 if options.get("warmup", 100) <= step else 34
            rows = Passes(size, 10, drop_last).locate(step)[1]
            count += rows.stop - rows.start
        assert images_of(training, each, stop) == count


def test_a_line_every_half_minute_of_the_last_half_minute(clock, capsys):
    """A cohort of 2 networks with 5,000 images a step: 40 steps to go, then 30,000 images to measure."""
    tick = Ticker("imp all-t20")
    tick.expect({"a": 250_000 + FORWARD * 15_000, "b": 250_000 + FORWARD * 15_000, "c": 1_000_000})
    tick.begin("level 3 of 10 (2 networks)", [job(40), job(40)], RECIPE, done=300_000)
    clock.now += 5  # for compiling, which is no measure of a rate
    for step in range(61, 81):  # 2,500 images a second
        clock.now += 2
        tick(step, 5_000)
    first, *others = capsys.readouterr().err.splitlines()
    assert not others  # after 31 s: 65,000 images, and 1,510,000 - 365,000 left, which is 458 s
    assert first == "imp all-t20: level 3 of 10 (2 networks), epoch 19 of 25, 2,500 images/s, 8 min left"
    for step in range(81, 101):  # 5,000 a second
        clock.now += 1
        tick(step, 5_000)
    clock.now += 30  # the rate of long ago does not count, nor do images of another kind
    tick.measured(0)
    clock.now += 10
    tick.measured(30_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # 23 steps in 30 s; 1,510,000 - 480,000 images left, which is 269 s
    assert lines[0].endswith("(2 networks), epoch 24 of 25, 3,833 images/s, 5 min left")
    assert lines[1].endswith("(2 networks), measuring")
    assert ", measuring, 3,000 images/s, " in str(tick.state(clock.now))
    tick.finish(["a", "b"])
    clock.now += 1
    assert tick.done == pytest.approx(0, abs=1e-6) and tick.pending == {"c": 1_000_000}
    tick.finish(["c"])
    assert str(tick.state(clock.now)).endswith(", 0 s left")


def test_nothing_is_said_before_it_is_measured(clock):
    tick = Ticker("pretrain w")
    tick.expect({"a": 100.0})
    tick.begin("network 1 of 1", [job(40)], RECIPE)
    tick(0, 0)
    assert str(tick.state(clock.now)) == "pretrain w: network 1 of 1, epoch 0 of 25"
    tick.begin("networks 1-2 of 2", [job(40), job(50)], RECIPE)  # with different passes there are no epochs
    tick(7, 0)
    assert str(tick.state(clock.now)) == "pretrain w: networks 1-2 of 2, step 7 of 100"


def test_a_state_at_most_every_second_for_whoever_asks(clock, tmp_path):
    artifact, folder = tmp_path / "imp.h5", tmp_path / "imp.h5.work"
    tick = Ticker("imp imp", artifact)
    tick.expect({"a": 1e4})
    tick.begin("level 3 of 10", [job(40)], RECIPE)
    for step in range(1, 8):
        clock.now += 0.6
        tick(step, 100)
        if step == 3:
            assert not folder.exists()  # it makes none
            folder.mkdir()
        told = Running.read(artifact, tick.process)
        assert (told and told.step) == {4: 4, 5: 4, 6: 6, 7: 6}.get(step)
    assert str(told) == "imp imp: level 3 of 10, epoch 2 of 25, 167 images/s, 57 s left"
    assert told.images == pytest.approx(600 / 3.6) and told.left == pytest.approx(9400 / (600 / 3.6))
    assert Running.read(artifact, "process 1 on elsewhere") is None  # of an attempt before
    assert [path.name for path in folder.iterdir()] == ["progress.json"]
    for text in ("", "[]", "{}", '{"process": "p"}', '{"process": "p", "step": "x"}'):
        (folder / "progress.json").write_text(text)
        assert Running.read(artifact, "p") is None


def test_a_terminal_has_one_line_of_its_width(clock, monkeypatch):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with progress.ticker("imp all-t20") as tick:
            tick.expect({"a": 1e6})
            tick.begin("level 3 of 10 (2 networks)", [job(40)], RECIPE)
            for step in range(4):
                tick(step, 100)
                clock.now += 0.4
    said = b""
    while True:
        try:
            said += os.read(master, 10_000)
        except OSError:  # its last holder has closed the terminal, and everything that was written is read
            break
    os.close(master)
    said = said.decode()
    cleared, *lines, last = said.split("\r\x1b[K")
    assert cleared == last == "" and "\n" not in said
    assert lines == ["imp all-t20: level 3 of 10 (2 networks),"[:39]]


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (99, "99 s"),
        (101, "2 min"),
        (5999, "100 min"),
        (6001, "1.7 h"),
        (7200, "2 h"),
        (215_999, "60 h"),
        (216_001, "3 days"),
    ],
)
def test_times_are_rounded_up(seconds, text):
    assert spoken(seconds) == text


def test_places():
    assert place("network", 8, 8, 24) == "networks 9-16 of 24" and place("line", 2, 1, 3) == "line 3 of 3"


@pytest.fixture
def tickers(monkeypatch):
    """(ticker, work expected, work done) of every command; a terminal that nobody sees."""
    seen = []
    expect, count, begin = Ticker.expect, Ticker._count, Ticker.begin

    def entry(tick):
        if not any(tick is each.tick for each in seen):
            seen.append(SimpleNamespace(tick=tick, expected=0.0, done=0.0, resumed=0.0))
        return next(each for each in seen if each.tick is tick)

    def expecting(tick, work):
        entry(tick).expected += sum(work.values())
        expect(tick, work)

    def beginning(tick, *arguments):
        begin(tick, *arguments)
        entry(tick).resumed += tick.done

    def counting(tick, step, images, work):
        entry(tick).done += images * work
        count(tick, step, images, work)
        str(tick.state(tick.shown))

    monkeypatch.setattr(Ticker, "expect", expecting)
    monkeypatch.setattr(Ticker, "begin", beginning)
    monkeypatch.setattr(Ticker, "_count", counting)
    return seen


def test_every_command_does_the_work_it_expects(tickers, tmp_path):
    """And a short one says nothing."""
    few, rewind, run = (tmp_path / f"{name}.h5" for name in ("few", "rewind", "imp"))
    one = (*TINY, "--replicates", 1)
    repro("select", "--kind", "random", "--size", 80, "--dataset", "digits", "--replicates", 2, "--out", few)
    for out, *words in (
        ("s", "score", "--dataset", "digits", *one, "--steps", 2, "--milestones", "", "--networks", 1),
        ("rewind", "pretrain", "--subset", few, "-t", 4, *TINY),
        ("imp", "imp", rewind, "--levels", 1),
        ("x", "branch", run, "--mask", "shuffled", "--replicates", 1),
        ("b", "barrier", rewind, "--children", 1, "--batch-norm", "both", "--replicates", 1),
        ("l", "barrier", run, "--successive", "--batch-norm", "recalibrated", "--replicates", 1),
        ("w", "warmup", "--subset", few, *one, "--keep-last", "--warmup-steps", 3),
        ("g", "gradients", "--subset", few, "-t", 7, *one, "--every", 3, "--batches", 2),
    ):
        assert repro(*words, "--out", tmp_path / f"{out}.h5").stderr == ""
    assert len(tickers) == 8
    for each in tickers:  # folds differ by one image, and the last batch of the shorter is filled up
        assert each.tick.pending == {} and each.done == pytest.approx(each.expected, rel=1e-3), each.tick.title
        assert each.tick.done <= 1e-3 * each.expected


def test_a_checkpoint_is_work_that_is_done(tickers, tmp_path, monkeypatch):
    words = ("pretrain", "--dataset", "digits", "-t", 12, *TINY, *CPU, "--out", tmp_path / "w.h5")

    def interrupted(*arguments, checkpoint, train=loop.train, **options):
        def save(state):
            checkpoint(state)
            raise KeyboardInterrupt

        return train(*arguments, checkpoint=save, **{**options, "checkpoint_seconds": 4.5})

    with monkeypatch.context() as patch:
        patch.setattr(import_module("repro.stages.trainer"), "train", interrupted)
        ticks = itertools.count().__next__  # one with every step
        patch.setattr("repro.train.loop.MOST_STEPS", 1)
        patch.setattr(import_module("repro.train.job"), "time", SimpleNamespace(monotonic=ticks))
        repro(*words, code=130)
    repro(*words)
    before, after = tickers
    assert after.resumed == 2 * 5 * 64 and before.done == 2 * 5 * 64
    assert after.done + after.resumed == pytest.approx(after.expected, rel=1e-3)
