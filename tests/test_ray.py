"""`repro run --ray` on a cluster of two nodes with pretended GPUs: devices, lost nodes, failures, Ctrl-C."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import pytest

from repro.run import job_log, ray_cluster
from tests import tiny_demo
from tests.command_line import HANG, ROOT, complaint, contents

pytest.importorskip("ray", reason="no ray: install it with `make .venv/.extras`")
MOST = min(resource.getrlimit(limit)[1] % 2**64 for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore::ResourceWarning"
    ),
    pytest.mark.skipif(MOST < 4096, reason=f"two Ray nodes need more files or processes than {MOST} (ulimit -n, -u)"),
]

STUB = """
import json, os, sys, time
log, word, seconds = sys.argv[2], sys.argv[4], float(sys.argv[5])
began, raylet = time.time(), int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1])
with open(log + ".attempts", "a") as file:
    file.write(f"{os.getpid()}\\n")
while word == "wait" and not os.path.exists(log + ".go"):
    time.sleep(0.02)
time.sleep(seconds)
with open(log, "a") as file:
    json.dump([raylet, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"], began, time.time()], file)
if word == "fail1":
    sys.exit("Error: the disk is full")
if word == "fail2":
    print("Error: no such recipe", file=sys.stderr)
    sys.exit(2)
"""  # argv: --log FILE --quiet WORD SECONDS
DRIVER = """
import json, sys
from pathlib import Path
from repro.run import ray_cluster
from repro.plan import Job, Step
address, folder, gpus, retries, jobs = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
made = []
for name, word, seconds, needs in json.loads(jobs):
    plain = dict(needs=(), wanted=frozenset(), recipe={}, protocol=None)
    step = Step(target=folder / f"{name}.h5", command=(word, str(seconds)), **plain)
    made.append(Job((step,), tuple(folder / f"{each}.h5" for each in needs)))
with ray_cluster.connected(address):
    say = lambda line: print(line, file=sys.stderr, flush=True)
    failed = ray_cluster.run(made, folder, share=ray_cluster.Share(gpus, 1), retries=retries, say=say,
                        program=(sys.executable, str(folder / "stub.py")))
print(json.dumps([str(each) for each in failed]))
"""


@pytest.fixture(scope="module")
def cluster(tiny_environment):
    """Two nodes of two pretended GPUs each; everything that Ray started is gone afterwards."""
    # a socket's path has 107 characters at most: pytest's own folders are too deep
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="r") as folder:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # hides GPUs from tests, and from Ray pretended ones
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # another program's memory is no matter of this test
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", tiny_environment["PYTHONPATH"])
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        made = Cluster(initialize_head=True, head_node_args=node)
        try:
            made.second = made.add_node(**node)
            yield made
        finally:
            processes = [p.process for n in made.list_all_nodes() for ps in n.all_processes.values() for p in ps]
            made.shutdown()
            assert all(process.poll() is not None for process in processes)


def drive(cluster, folder: Path, jobs: list, *, gpus: float = 1, retries: int = 0) -> subprocess.Popen:
    """Starts a program that runs stubs: (name, word, seconds, names of the jobs it needs)."""
    (folder / "stub.py").write_text(STUB, encoding="utf-8")
    words = (cluster.address, folder, gpus, retries, json.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
        env=environment,
    )


def finished(driver: subprocess.Popen) -> tuple[list[str], list[str]]:
    """(what failed, lines on stderr)"""
    stdout, stderr = driver.communicate(timeout=HANG)
    assert driver.returncode == 0, stderr
    return json.loads(stdout), stderr.splitlines()


def attempts(folder: Path, name: str) -> list[int]:
    """Processes that were started for it."""
    path = folder / f"{name}.log.attempts"
    return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []


def until(true) -> None:
    deadline = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def parents(pid: int) -> list[int]:
    """The processes that started it: a worker of Ray, and the raylet of the worker's node."""
    above = [pid]
    for _ in range(2):
        above.append(int(Path(f"/proc/{above[-1]}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]))
    return above[1:]


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_devices_are_never_shared(cluster, tmp_path):
    failed, lines = finished(drive(cluster, tmp_path, [(f"j{k}", "ok", 0.5, []) for k in range(8)]))
    assert not failed
    assert sum(line.startswith("done") for line in lines) == 8 and lines[-1].endswith("(8 of 8 ended)")
    spans = [json.loads((tmp_path / f"j{k}.log").read_text(encoding="utf-8")) for k in range(8)]
    assert {device for _, device, *_ in spans} <= {"0", "1"}  # one each, never none and never two
    assert {threads for _, _, threads, *_ in spans} == {"1"}
    assert len({raylet for raylet, *_ in spans}) == 2  # both nodes were at work
    for (node_a, device_a, _, *a), (node_b, device_b, _, *b) in combinations(spans, 2):
        if (node_a, device_a) == (node_b, device_b):
            assert a[0] >= b[1] or b[0] >= a[1]


def test_failures_stop_only_what_needs_them(cluster, tmp_path):
    jobs = [
        ("full", "fail1", 0, []),
        ("typo", "fail2", 0, []),
        ("good", "ok", 0, []),
        ("next", "ok", 0, ["good"]),
        ("child", "ok", 0, ["full", "good"]),
        ("grandchild", "ok", 0, ["child", "typo"]),
        ("killed", "wait", 0, []),
    ]
    driver = drive(cluster, tmp_path, jobs, retries=2)
    until(lambda: attempts(tmp_path, "killed"))
    [first] = attempts(tmp_path, "killed")
    os.kill(parents(first)[0], signal.SIGKILL)
    until(lambda: not exists(first))  # it dies with its worker
    (tmp_path / "killed.log.go").touch()
    failed, lines = finished(driver)
    assert failed == [
        f"full: the disk is full (log: {tmp_path}/full.log)",
        f"typo: no such recipe (log: {tmp_path}/typo.log)",
        "child: waiting for full",
        "grandchild: waiting for full; typo",
    ]
    counts = {name: len(attempts(tmp_path, name)) for name, *_ in jobs}
    assert counts == {"full": 3, "typo": 1, "good": 1, "next": 1, "child": 0, "grandchild": 0, "killed": 2}
    assert lines[-1].endswith("(7 of 7 ended)") and not any("Traceback" in line for line in lines)


def test_ctrl_c_ends_the_processes(cluster, tmp_path):
    driver = drive(cluster, tmp_path, [(f"j{k}", "wait", 0, []) for k in range(5)])
    until(lambda: sum(bool(attempts(tmp_path, f"j{k}")) for k in range(5)) == 4)
    started = [pid for k in range(5) for pid in attempts(tmp_path, f"j{k}")]
    driver.send_signal(signal.SIGINT)
    _, stderr = driver.communicate(timeout=HANG)
    assert driver.returncode and "KeyboardInterrupt" in stderr
    until(lambda: not any(map(exists, started)))
    assert sum(len(attempts(tmp_path, f"j{k}")) for k in range(5)) == 4  # the fifth was never started


def at_work_on(raylet: int, results: Path) -> dict[Path, int]:
    """Logs of the jobs that run on a node, with their processes."""
    found = {}
    for path in results.glob("*/*.log"):
        attempt = job_log.last_attempt(path)
        pid = int(attempt.owner.split()[1]) if attempt and attempt.state == "running" else 0
        if pid and exists(pid) and parents(pid)[1] == raylet:
            found[path] = pid
    return found


def test_a_lost_node_loses_nothing(cluster, tiny_environment, made_by_make, tmp_path):
    choice = ("--replicates", tiny_demo.REPLICATES, "--levels", tiny_demo.LEVELS, "--results", tmp_path)
    words = ("run", tiny_demo.FIGURE, *choice, "--ray", cluster.address, "--options", "--device cpu")
    driver = subprocess.Popen(
        [sys.executable, "-m", "repro", *map(str, words)],
        env=tiny_environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    raylet = cluster.second.all_processes["raylet"][0].process.pid

    def in_the_middle() -> dict[Path, int]:
        """Jobs of the second node that have kept a level; they are stopped, so that they stay there."""
        found = {path: pid for path, pid in at_work_on(raylet, tmp_path).items() if kept(path)}
        for pid in found.values():
            os.kill(pid, signal.SIGSTOP)
        return {path: pid for path, pid in found.items() if kept(path)}

    def kept(path: Path) -> bool:
        return any(path.with_suffix(".h5.work").glob("pieces-*.h5"))

    lost: dict[Path, int] = {}
    until(lambda: lost.update(in_the_middle()) or lost or driver.poll() is not None)
    there = lost | at_work_on(raylet, tmp_path)  # those that are not stopped may end by themselves before
    cluster.remove_node(cluster.second, allow_graceful=False)
    until(lambda: not any(map(exists, there.values())))
    stdout, stderr = driver.communicate(timeout=HANG)
    assert driver.returncode == 0 and lost, stderr
    assert "Traceback" not in stderr and "figure2-verdicts.md" in stdout
    logs = [path.read_text(encoding="utf-8") for path in lost]
    assert {text.count("# began") for text in logs} == {2}  # cut off, and begun again
    assert {text.count("# ended") for text in logs} == {1}
    others = [path.read_text(encoding="utf-8") for path in there.keys() - lost.keys()]
    assert {(text.count("# began"), text.count("# ended")) for text in others} <= {(1, 1), (2, 1), (2, 2)}
    assert any("reused" in text for text in logs), logs  # from the level that was kept
    assert (tmp_path / "figure2.csv").read_bytes() == (made_by_make / "figure2.csv").read_bytes()
    names = {path.relative_to(made_by_make) for path in made_by_make.glob("*/*.h5")}
    assert names == {path.relative_to(tmp_path) for path in tmp_path.glob("*/*.h5")}
    for name in names:
        assert contents(tmp_path / name) == contents(made_by_make / name)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere", "--ray nowhere is no address: give local, auto, HOST:PORT or ray://HOST:PORT"),
        ("ray://host", "--ray ray://host is no address"),
    ],
)
def test_what_is_no_address(tmp_path, address, said):
    assert said in complaint("run", "figure2", "--results", tmp_path, "--ray", address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_no_cluster_answers(tmp_path, monkeypatch, scheme):
    monkeypatch.setattr(ray_cluster, "ANSWER", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        said = complaint("run", "figure2", "--results", tmp_path, "--ray", address)
    assert said.startswith(f"--ray {address} does not answer as a Ray cluster")
    assert not list(tmp_path.iterdir())


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = complaint("run", "figure2", "--results", tmp_path, "--ray", "local")
    assert "make .venv/.extras" in said


def test_a_node_without_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no folder .*elsewhere: put it on a file system all nodes share"):
        ray_cluster._task()(["false"], str(tmp_path), str(tmp_path / "elsewhere"), "1")


@pytest.mark.parametrize(
    ("share", "count"),
    [
        (ray_cluster.Share(1, 1), 3),
        (ray_cluster.Share(0.25, 1), 10),
        (ray_cluster.Share(0.3, 1), 9),
        (ray_cluster.Share(0, 4), 2),
        (ray_cluster.Share(1, 8), 0),
    ],
)
def test_how_many_jobs_run_at_once(share, count):
    has = [(True, 6.0, 2.0), (True, 4.0, 1.0), (False, 64.0, 8.0)]
    nodes = [{"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}} for alive, cpus, gpus in has]
    assert share.at_once(nodes) == count
