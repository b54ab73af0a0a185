"""Fixtures shared by all tests: one torch thread, no denormals, and the real data where it is at hand."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from repro.plan import measure, price
from tests import tiny_demo

os.environ.setdefault("OMP_NUM_THREADS", "1")  # which stages follow, here and in processes of their own
torch.set_num_threads(1)
torch.set_flush_denormal(True)
# A shell's background jobs ignore Ctrl-C, and what they start does, too: the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Hides GPUs, from processes that tests start, too: tests compare bits with a CPU's. `-m gpu` sees them."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: `make test-gpu` on a machine that has one")


@pytest.fixture(autouse=True)
def short_predictions(monkeypatch):
    """A plan's prediction of its time may be as poor as it likes: the measurement for a good one takes 20 s."""
    assert measure.CALIBRATION == 20.0
    monkeypatch.setattr(measure, "CALIBRATION", 1.0)


@pytest.fixture
def nothing_is_measured(monkeypatch):
    """For tests that plan often; tests/test_cost.py has the arithmetic of a prediction."""
    monkeypatch.setattr(price, "calibrate", lambda *_: price.Speed(400.0, 400.0, 1200.0, 5.0, "CPU"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder that holds cifar-10-batches-py and cinic-10-sample; the test is skipped where there is none."""
    root = Path(os.environ.get("REPRO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no real CIFAR-10 in {root}: set REPRO_TEST_DATA to the folder that holds cifar-10-batches-py")
    return root


@pytest.fixture(scope="session")
def tiny_environment(tmp_path_factory) -> dict[str, str]:
    """Environment of processes for which the demo is tiny; see `tests.tiny_demo`."""
    return tiny_demo.environment(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def made_by_make(tmp_path_factory, tiny_environment) -> Path:
    """Results of a whole demo figure (`tiny_demo.FIGURE`) by plain make, for other ways of making it to equal."""
    folder = tmp_path_factory.mktemp("made-by-make")
    command = tiny_demo.make_command(folder / "venv", folder / "results", "-j2")
    made = subprocess.run(command, env=tiny_environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "results"
