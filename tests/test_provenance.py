"""What an artifact remembers of where it was made: revision, image, GPU and driver."""

import hashlib
import shutil
import subprocess
from importlib import import_module

import pytest

from repro import store
from tests.command_line import ROOT

module = import_module("repro.store.provenance")
GIVEN = {"threads": 1, "seed": 0, "started": 0.0, "wall_seconds": 0.0}
OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22-I3)  Thu\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 11.4.0\n"
)


@pytest.fixture(autouse=True)
def ask_anew():
    module._revision.cache_clear()
    module._driver.cache_clear()
    yield
    module._revision.cache_clear()
    module._driver.cache_clear()


def of(**given) -> dict:
    return store.provenance(**{**GIVEN, "device": "cpu", **given})


def test_a_checkout_tells_its_revision_and_whether_it_was_changed(monkeypatch, tmp_path):
    if not shutil.which("git"):
        pytest.skip("no git program")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("REPRO_REVISION", "of-an-image")  # the checkout knows better

    def git(*words):
        who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        command = ["git", *who, "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "requirements.txt").write_text("click==8.5.1\n", encoding="utf-8")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    record = of()
    assert (record["git_revision"], record["git_dirty"]) == (git("rev-parse", "HEAD"), False)
    assert record["requirements_sha256"] == hashlib.sha256(b"click==8.5.1\n").hexdigest()
    (tmp_path / "notes.txt").write_text("what no result depends on", encoding="utf-8")
    module._revision.cache_clear()
    assert of()["git_dirty"] is False
    (tmp_path / "requirements.txt").write_text("click==8.5.0\n", encoding="utf-8")
    module._revision.cache_clear()
    assert of()["git_dirty"] is True


@pytest.mark.parametrize(
    ("told", "revision", "dirty"), [("ab12", "ab12", False), ("ab12-dirty", "ab12", True), ("", None, None)]
)
def test_an_image_was_told_its_revision(monkeypatch, tmp_path, told, revision, dirty):
    monkeypatch.setattr(module, "ROOT", tmp_path)  # no checkout
    monkeypatch.setenv("REPRO_REVISION", told)
    monkeypatch.setenv("REPRO_IMAGE_DIGEST", "sha256:1")
    monkeypatch.setenv("REPRO_IMAGE_BASE", "cuda@sha256:2")
    record = of()
    assert (record["git_revision"], record["git_dirty"]) == (revision, dirty)
    assert (record["image_digest"], record["image_base"]) == ("sha256:1", "cuda@sha256:2")


@pytest.mark.parametrize(("text", "driver"), [(OPEN_MODULE, "580.65.06"), (MODULE, "535.129.03")])
def test_a_gpu_run_names_the_gpu_and_its_driver(monkeypatch, text, driver):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"NVIDIA {device}")
    monkeypatch.setattr(module.Path, "read_text", lambda path, encoding: text)
    assert module._gpu("cuda:1") == {"gpu": "NVIDIA cuda:1", "driver": driver}
    assert module._gpu("cpu") == {"gpu": None, "driver": None}


def test_without_a_kernel_module_nvidia_smi_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / "absent")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module._driver() is None
    module._driver.cache_clear()
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 570.86.10\necho 570.86.10\n", encoding="utf-8")
    smi.chmod(0o755)
    assert module._driver() == "570.86.10"


def test_docker_files_keep_what_the_program_reads_from_them():
    """The names under which the image tells its digest, base and revision are the ones that are read."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8") + (ROOT / "container/build").read_text(encoding="utf-8")
    source = (ROOT / "repro/store/provenance.py").read_text(encoding="utf-8")
    for name in ("REPRO_IMAGE_DIGEST", "REPRO_IMAGE_BASE", "REPRO_REVISION"):
        assert f"{name}=" in text and f'"{name}"' in source
