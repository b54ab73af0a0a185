"""The wheel: it holds every file of the package, and its program runs where there is no repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.command_line import HANG, ROOT, TINY, repro

pytest.importorskip("build", reason="needs build: make .venv/.extras")
pytestmark = pytest.mark.heavy

PACKAGES = ("repro", "paper_figures")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", *PACKAGES)


def call(*command, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no build folder comes into the repository."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy / name)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=copy)
    (made,) = (copy / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The program in an environment of its own.

    The environment sees the packages that the tests run with, because a copy of torch alone would take minutes. Their
    folder is added by its path: then Python does not follow the editable install of the repository in it.
    """
    folder = tmp_path_factory.mktemp("installed")
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    own = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    path = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "packages.pth").write_text("\n".join(path or [sysconfig.get_path("purelib")]), encoding="utf-8")
    return folder / "venv/bin/repro"


def test_it_holds_every_file_of_the_package(wheel):
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    here = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == here and any(name.endswith(".csv") for name in held) and any(name.endswith(".css") for name in held)


def test_it_runs_outside_of_the_repository(installed, tmp_path):
    where = call(installed.parent / "python", "-c", "import repro; print(repro.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    assert "Usage: repro " in call(installed, "--help", cwd=tmp_path)
    assert call(installed, "verify", "--reference", cwd=tmp_path) == repro("verify", "--reference").stdout
    call(installed, "score", "--dataset", "digits", *TINY, "--networks", 2, "--out", "scores.h5", cwd=tmp_path)
    subset = ("--kind", "easy", "--size", 80, "--replicates", 2, "--scores", "scores.h5")
    call(installed, "select", *subset, "--out", "easy.h5", cwd=tmp_path)
    call(installed, "pretrain", "--subset", "easy.h5", "-t", 4, *TINY, "--out", "rewind.h5", cwd=tmp_path)
    said = call(installed, "imp", "rewind.h5", "--levels", 1, "--out", "imp.h5", cwd=tmp_path)
    assert said.startswith("imp.h5: computed 4, reused 0\n")
