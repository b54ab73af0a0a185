"""Fixtures shared by all tests: one torch thread, no denormals, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder that holds cifar-10-batches-py and cinic-10-sample; the test is skipped where there is none."""
    root = Path(os.environ.get("REPRO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no real CIFAR-10 in {root}: set REPRO_TEST_DATA to the folder that holds cifar-10-batches-py")
    return root
