"""Writing artifacts: killed, refused, out of space, two at once."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from repro import store
from repro.errors import RunError
from tests.command_line import HANG

ROOT = Path(__file__).parents[1]
CELL = {"kind": "imp", "recipe": {"lr": 1.0, "steps": 80}, "inputs": {}, "defaults": {}}
# What the processes below start with: write(path, n) writes an artifact of 8 n bytes that do not compress.
PRELUDE = """
import os, resource, sys, time
from pathlib import Path
import numpy as np
from repro import store
from repro.errors import RunError
CELL = {"kind": "imp", "recipe": {"lr": 1.0, "steps": 80}, "inputs": {}, "defaults": {}}
path = sys.argv[1]
def write(path, n):
    weights = np.random.default_rng(n).normal(size=n)
    return store.write(path, **CELL, arrays={"weights": weights}, table={"n": [n]}, provenance={})
def ready():
    print("ready", flush=True)
    time.sleep(600)
"""


def start(script: str, *arguments, before: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*before, sys.executable, "-W", "error", "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, err) == (0, "")
    return out.strip()


def killed_when_ready(script: str, *arguments) -> None:
    process = start(script, *arguments)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def write(path, n=3) -> str:
    return store.write(path, **CELL, arrays={"weights": np.arange(n)}, table={"n": [n]}, provenance={})


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_kill_while_writing_leaves_the_old_artifact(tmp_path, moment):
    path = tmp_path / "x.h5"
    write(path)
    killed_when_ready(f"os.{moment} = lambda *_: ready()\nwrite(path, 5000)", path)
    leftover = [file for file in tmp_path.iterdir() if file != path]
    assert [file.suffix for file in leftover] == [".tmp"] and leftover[0].stat().st_size > 5000
    assert store.read(path)["weights"].tolist() == [0, 1, 2]
    with store.writer_lock(path):
        write(path, 4)
    assert store.read(path)["weights"].tolist() == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_kill_at_any_moment_leaves_a_whole_artifact(tmp_path):
    path = tmp_path / "x.h5"
    write(path)
    for delay in np.linspace(0.01, 0.25, 5):
        process = start(
            "write(path, 2000)\nprint('go', flush=True)\nfor i in range(100000): write(path, 2000 + i % 50)", path
        )
        assert process.stdout.readline() == "go\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
        artifact = store.read(path)
        assert len(artifact["weights"]) == artifact.table()["n"][0]
    assert len(artifact["weights"]) >= 2000


def test_a_reader_keeps_what_it_opened(tmp_path):
    path = tmp_path / "x.h5"
    write(path, 3)
    old = store.read(path)
    write(path, 4)
    assert len(old["weights"]) == 3 and len(store.read(path)["weights"]) == 4


def test_second_writer_is_told_and_a_killed_one_frees_the_lock(tmp_path):
    path = tmp_path / "new" / "x.h5"
    process = start("with store.writer_lock(path): ready()", path)
    assert process.stdout.readline() == "ready\n"
    message = rf"x.h5 is being written by process {process.pid} on .+: wait for it or choose another --out"
    with pytest.raises(RunError, match=message), store.writer_lock(path):
        pass
    process.kill()
    process.communicate()
    with store.writer_lock(path):
        with pytest.raises(RunError, match=f"process {os.getpid()} on"), store.writer_lock(path):
            pass
        write(path)
    assert [file.name for file in path.parent.iterdir()] == ["x.h5"]


def test_many_writers_take_turns(tmp_path):
    """Between its last read and its write nobody else may add to the counter."""
    script = """
done = 0
while done < 25:
    try:
        with store.writer_lock(path):
            n = int(Path(path).read_text())
            time.sleep(0.001)
            Path(path).write_text(str(n + 1))
            done += 1
    except RunError:
        time.sleep(0.001)
"""
    path = tmp_path / "counter"
    path.write_text("0", encoding="utf-8")
    for process in [start(script, path) for _ in range(3)]:
        finish(process)
    assert path.read_text(encoding="utf-8") == "75"


WRITE_TOO_MUCH = """
write(path, 1000)
{limit}
for step in (lambda: write(path, 200_000), lambda: store.WorkFolder(path, **CELL).save("a", {{"w": np.ones(200_000)}})):
    try:
        step()
    except RunError as error:
        print(error)
print(len(store.read(path)["weights"]), sorted(os.listdir(os.path.dirname(path))))
"""


def test_write_beyond_the_limit_of_file_size(tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    artifact, work, left = finish(start(WRITE_TOO_MUCH.format(limit=limit), tmp_path / "x.h5")).splitlines()
    reason = os.strerror(errno.EFBIG).lower()
    assert artifact == f"cannot write {tmp_path}/x.h5 ({reason}): choose another --out and run the same command again"
    assert work.startswith(f"cannot write {tmp_path}/x.h5.work/a.h5 ({reason})")
    assert left == "1000 ['x.h5', 'x.h5.work']"
    assert [file.name for file in (tmp_path / "x.h5.work").iterdir()] == ["lineage.json"]


def test_full_disk(tmp_path):
    """On a real file system of 256 kB, mounted where this process alone sees it."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare program, with which a small disk could be mounted")
    own_mounts = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--map-root-user", "--mount")
    disk = ("sh", "-c", f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}" && exec "$@"', "sh")
    if trial := subprocess.run([*own_mounts, *disk, "true"], capture_output=True, text=True).stderr:
        pytest.skip(f"no small disk can be mounted here: {trial.strip()}")
    process = start(WRITE_TOO_MUCH.format(limit=""), tmp_path / "x.h5", before=(*own_mounts, *disk))
    artifact, work, left = finish(process).splitlines()
    sentence = "free some space and run the same command again; finished levels are kept"
    assert artifact == f"no space left on device while writing {tmp_path}/x.h5: {sentence}"
    assert work == f"no space left on device while writing {tmp_path}/x.h5.work/a.h5: {sentence}"
    assert left == "1000 ['x.h5', 'x.h5.work']"


def test_no_permission(tmp_path):
    path = tmp_path / "closed" / "x.h5"
    script = """
write(path, 1000)  # imports everything, which another user may not be able to
os.chdir(os.path.dirname(path))  # a relative path, because pytest's folders are closed to others as a whole
os.chmod(".", 0o555)
path = "x.h5"
if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
def lock():
    with store.writer_lock(path): pass
for step in (lambda: write(path, 10), lock, lambda: store.WorkFolder(path, **CELL)):
    try:
        step()
    except RunError as error:
        print(error)
"""
    lines = finish(start(script, path)).splitlines()
    for line, name in zip(lines, ["x.h5", "x.h5", "x.h5.work/lineage.json"], strict=True):
        assert line.startswith(f"no permission to write {name}: choose another --out or allow writing in ")
    path.parent.chmod(0o755)
    assert len(store.read(path)["weights"]) == 1000


def test_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for step in (write, lambda path: store.writer_lock(path).__enter__(), lambda path: store.WorkFolder(path, **CELL)):
        with pytest.raises(RunError, match=r"cannot write .*file/x.* \((file exists|not a directory)\): choose"):
            step(tmp_path / "file" / "x.h5")


# provenance, and what an import costs


def test_provenance(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_IMAGE_DIGEST", "sha256:abc")
    given = {"device": "cpu", "threads": 1, "seed": 3, "started": 86400.0, "wall_seconds": 1.23456, "engine": "fused"}
    record = store.provenance(**given)
    assert json.loads(json.dumps(record)) == record
    assert record["started"] == "1970-01-02T00:00:00+00:00" and record["finished"] > "2024" and record["seed"] == 3
    assert record["packages"]["numpy"] == np.__version__ and record["python"] == sys.version.split()[0]
    assert record["engine"] == "fused" and record["image_digest"] == "sha256:abc" and record["wall_seconds"] == 1.235
    assert str(tmp_path) not in json.dumps(store.provenance(**given))


def test_reading_loads_neither_torch_nor_pandas_and_needs_no_git(tmp_path):
    script = """
os.environ["PATH"] = "/nonexistent"
os.environ.pop("REPRO_REVISION", None)  # an image was told
record = store.provenance(device="cpu", threads=1, seed=0, started=0.0, wall_seconds=0.0)
store.write(path, **CELL, arrays={"a": np.ones(3)}, table={"n": [1]}, provenance=record)
print(store.read(path).provenance["git_revision"], {"torch", "pandas"} & set(sys.modules))
"""
    assert finish(start(script, tmp_path / "x.h5")) == "None set()"
