"""What the machine refuses: a full disk, no permission, no GPU, damaged data, Ctrl-C. Nothing finished is lost."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from tests.command_line import CPU, HANG, ROOT, TINY, complaint, contents, repro, start

PRETRAIN = ("pretrain", "--dataset", "digits", "-t", 4, *TINY)


@pytest.fixture(scope="module")
def rewind(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewind") / "rewind.h5"
    repro(*PRETRAIN, "--out", path)
    return path


def process(script: str, *arguments, before: tuple[str, ...] = ()) -> list[str]:
    """The lines on stdout of a Python process in which `main` runs the command line; its stderr must be empty."""
    prelude = "import os, sys\nfrom click.testing import CliRunner\nfrom repro.cli import main\n"
    command = [*before, sys.executable, "-c", prelude + script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


FILL_AND_FREE = """
import subprocess
command = ["imp", sys.argv[1], "--levels", "6", "--device", "cpu", "--out", sys.argv[2] + "/imp.h5"]
full = CliRunner().invoke(main, command)
print(full.exit_code, full.stderr.strip())
print(os.listdir(sys.argv[2]), len([n for n in os.listdir(sys.argv[2] + "/imp.h5.work") if n.startswith("pieces")]))
subprocess.run(["mount", "-o", "remount,size=8m", sys.argv[2]], check=True)
print(CliRunner().invoke(main, command).stdout.splitlines()[0])
import shutil; shutil.copy(sys.argv[2] + "/imp.h5", sys.argv[3])
"""


@pytest.mark.heavy
def test_a_full_disk_keeps_finished_levels(rewind, tmp_path):
    """On a real file system of 256 kB, mounted where that process alone sees it, and enlarged after the failure."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare program, with which a small disk could be mounted")
    disk, copy = tmp_path / "disk", tmp_path / "copy.h5"
    disk.mkdir()
    own_mounts = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--map-root-user", "--mount")
    small = (*own_mounts, "sh", "-c", f'mount -t tmpfs -o size=256k tmpfs "{disk}" && exec "$@"', "sh")
    resize = ("mount", "-o", "remount,size=256k", disk)
    if trial := subprocess.run([*small, *resize], capture_output=True, text=True).stderr:
        pytest.skip(f"no small disk can be mounted and resized here: {trial.strip()}")
    full, left, again = process(FILL_AND_FREE, rewind, disk, copy, before=small)
    found = re.match(
        rf"1 Error: no space left on device while writing {disk}/imp.h5.work/pieces-0000(\d).h5: free some "
        "space and run the same command again; finished levels are kept",
        full,
    )
    levels = int(found[1])
    assert left == f"['imp.h5.work'] {levels}" and 1 <= levels <= 5
    assert again == f"{disk}/imp.h5: computed {14 - 2 * levels}, reused {2 * levels}"
    repro("imp", rewind, "--levels", 6, *CPU, "--out", tmp_path / "imp.h5")
    assert contents(copy) == contents(tmp_path / "imp.h5")


WITHOUT_PERMISSION = """
# Before the user changes: another one may not read the program.
import repro.stages, repro.reading.query, repro.plan.price, paper_figures.figure2
from repro.data import load; load("digits")
os.chdir(sys.argv[1])  # relative paths from here, because pytest's folders are closed to others as a whole
os.chmod(".", 0o555)
if os.getuid() == 0:
    os.setuid(65534)
for words in sys.argv[2:]:
    result = CliRunner().invoke(main, words.split())
    print(result.exit_code, result.stderr.strip() or result.exception or result.stdout)
"""


@pytest.mark.heavy
def test_no_permission_to_write(rewind, tmp_path):
    shutil.copy(rewind, tmp_path / "rewind.h5")
    command = " ".join(map(str, PRETRAIN))
    said = process(
        WITHOUT_PERMISSION,
        tmp_path,
        f"{command} --out p.h5",
        "imp rewind.h5 --levels 1 --out i.h5",
        "export rewind.h5 --out table.csv",
        "plan figure2 --results . --make figure2.mk",
    )
    names = ("p.h5", "i.h5", "table.csv", "figure2.mk")
    for line, name in zip(said, names, strict=True):
        assert line == f"1 Error: no permission to write {name}: choose another --out or allow writing in ."
    assert os.listdir(tmp_path) == ["rewind.h5"]


@pytest.mark.parametrize(
    "command",
    [PRETRAIN, ("select", "--kind", "random", "--dataset", "digits", "--size", 9), ("imp", "{rewind}", "--levels", 0)],
    ids=lambda command: command[0],
)
def test_out_below_a_file(command, rewind, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = [str(word).format(rewind=rewind) for word in command]
    said = complaint(*words, "--out", tmp_path / "file" / "x.h5", code=1)
    assert re.match(rf"cannot write {tmp_path}/file/x.h5 \((file exists|not a directory)\): choose another --out", said)


def test_places_where_nothing_can_be_written(rewind, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    below = tmp_path / "file" / "x"
    assert f"cannot write {below} (" in complaint("export", rewind, "--out", below, code=1)
    assert f"cannot write {below} (" in complaint("plan", "figure2", "--results", tmp_path, "--make", below, code=1)
    os.mkfifo(tmp_path / "pipe")
    said = complaint("export", rewind, "--out", tmp_path / "pipe")
    assert said == f"--out {tmp_path}/pipe is no ordinary file: choose another --out"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_no_gpu(more, tmp_path):
    said = complaint(*PRETRAIN, "--device", "cuda", "--out", tmp_path / "x.h5", *more)
    assert said == "--device cuda, but PyTorch sees no CUDA device here: use --device cpu or auto"
    assert "Invalid value for '--device': 'tpu'" in complaint(*PRETRAIN, "--device", "tpu", "--out", tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_cifar_that_is_not_there(tmp_path):
    out = ("--out", tmp_path / "scores.h5")
    said = complaint("score", "--dataset", "cifar10", "--data-dir", tmp_path / "nowhere", *out)
    place = tmp_path / "nowhere"
    assert said.startswith(f"no cifar10 in {place} (looked for {place}/cifar-10-batches-py): run again with --download")
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half an archive")
    said = complaint("score", "--dataset", "cifar10", "--data-dir", tmp_path, *out)
    md5 = "c58f30108f718f92721af3b95e74349a"
    assert said == (
        f"{archive} is damaged or not the published archive (expected MD5 {md5}): "
        "move it away and run again with --download"
    )
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_a_cifar_batch_with_a_wrong_checksum(data_root, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (data_root / folder.name).iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "data_batch_1").unlink()
    (folder / "data_batch_1").write_bytes(b"another batch")
    said = complaint(
        "select",
        "--kind",
        "random",
        "--dataset",
        "cifar10",
        "--size",
        100,
        "--data-dir",
        tmp_path,
        "--out",
        tmp_path / "random.h5",
    )
    assert re.fullmatch(
        rf"{folder}/data_batch_1 is damaged or not the published file \(MD5 \w+, expected \w+\): "
        rf"move {folder} away and run again with --download",
        said,
    )
    assert not (tmp_path / "random.h5").exists()


@pytest.mark.parametrize("stage", ["score", "select", "pretrain", "imp", "warmup", "gradients", "barrier"])
def test_ctrl_c_in_every_stage(stage, rewind, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    module, function = ("select", "choose") if stage == "select" else ("trainer", "train")
    monkeypatch.setattr(import_module(f"repro.stages.{module}"), function, interrupted)
    command = {
        "score": ("score", "--dataset", "digits", *TINY),
        "pretrain": PRETRAIN,
        "imp": ("imp", rewind),
        "select": ("select", "--kind", "random", "--dataset", "digits", "--size", 9),
        "warmup": ("warmup", "--dataset", "digits", "--warmup-steps", 3, *TINY),
        "barrier": ("barrier", rewind),
        "gradients": ("gradients", "--dataset", "digits", "-t", 3, "--every", 1, *TINY),
    }[stage]
    said = complaint(*command, "--out", tmp_path / "x.h5", code=130)
    assert said == "interrupted: what was finished is kept; the same command (without --force) takes it up"
    assert not list(tmp_path.iterdir())


def test_an_error_of_our_own_is_not_hidden(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(import_module("repro.stages.trainer"), "train", broken)
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        repro(*PRETRAIN, "--out", tmp_path / "x.h5")


def test_a_reader_that_goes_away(rewind):
    """As in `repro ls | head -1`."""
    shown = start("ls", "--results", rewind.parent)
    shown.stdout.close()
    with shown.stderr:
        assert shown.stderr.read() == "" and shown.wait() in (0, 1)


def test_verify_without_any_run_says_that_they_are_missing(tmp_path):
    said = complaint("verify", "figure2", "--results", tmp_path, code=3)
    assert said == f"{tmp_path} has no run of figure2: make them with `make figure2 SCALE=demo RESULTS={tmp_path}`"
