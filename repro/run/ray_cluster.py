"""Jobs as Ray tasks: Ray places them, binds their devices, and starts them again when a node is lost.

Each task starts its job as a process of its own, which dies with it. The artifacts alone say what is done.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repro.errors import RunError, UsageError
from repro.plan.jobs import Job

ANSWER = 5.0  # seconds in which a cluster has to answer
LOOK = 1.0  # seconds between looks at the logs and at tasks that ended
FAREWELL = 15.0  # seconds that processes have to end by themselves after Ctrl-C
PROGRAM = (sys.executable, "-m", "repro")


@dataclass(frozen=True)
class Share:
    """What each job gets of a node: a number of GPUs from 0 to 1, and of CPUs."""

    gpus: float
    cpus: int

    def __str__(self) -> str:
        return f"{self.gpus:g} GPU and {self.cpus} CPU"

    def at_once(self, nodes: list[dict]) -> int:
        """Jobs that run at once on these nodes (`ray.nodes()`)."""
        return sum(self._on(node["Resources"]) for node in nodes if node["Alive"])

    def _on(self, has: dict[str, float]) -> int:
        count = int(has.get("CPU", 0) // self.cpus)
        if self.gpus:  # a job's share lies on one GPU
            count = min(count, int(has.get("GPU", 0)) * math.floor(1 / self.gpus + 1e-9))
        return count


@dataclass(frozen=True)
class Failed:
    """A job that failed, or was not started because jobs that it needs failed; ``waits`` has their names."""

    job: Job
    sentence: str
    waits: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.waits:
            return f"{self.job.name}: waiting for {'; '.join(self.waits)}"
        return f"{self.job.name}: {self.sentence} (log: {self.job.log})"


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray, started here and stopped at the end for 'local', joined for 'auto', HOST:PORT or ray://HOST:PORT.

    Raises UsageError when the package is missing or no cluster answers there within seconds.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # will be Ray's default; without it Ray warns
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray's messages on failed tasks would go to stdout
    if address not in ("local", "auto"):
        _require_answer(address)
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs the package ray: install it with `make .venv/.extras`") from None
    here = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if address == "auto" and "Could not find any" in str(error):
            raise UsageError(
                "--ray auto found no Ray cluster on this machine: start one with `ray start --head`, "
                "or give --ray local or HOST:PORT"
            ) from error
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise UsageError(
            f"--ray {address} cannot be used ({reason}): use the cluster's version of Ray and Python, set "
            "RAY_AUTH_MODE=token if it wants a token, and run this on one of its nodes or give "
            "ray://HOST:10001"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raises UsageError unless a gRPC server answers. Ray itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray {address} is no address: give local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        import grpc
    except ImportError:
        raise UsageError("--ray needs the packages ray and grpcio: install them with `make .venv/.extras`") from None
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER)
        except grpc.FutureTimeoutError:
            raise UsageError(
                f"--ray {address} does not answer as a Ray cluster: check that it runs and that its port "
                "can be reached from here, or give --ray local"
            ) from None


def share(gpus: float | None, cpus: int) -> Share:
    """What each job gets of the connected cluster. ``gpus`` None is 1 where the cluster has GPUs, else 0."""
    import ray

    return Share(gpus if gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0), cpus)


def at_once(share: Share) -> int:
    """Jobs that the connected cluster runs at once."""
    import ray

    return share.at_once(ray.nodes())


def require_place(share: Share, places: int) -> None:
    """Raises UsageError when not even one job can run, since Ray would wait for a node that never comes."""
    if not places:
        raise UsageError(f"this machine does not have {share} for a job: give fewer --cpus, or --gpus 0")


def run(
    jobs: list[Job],
    folder: Path,
    *,
    options: tuple[str, ...] = (),
    share: Share,
    retries: int = 3,
    say: Callable[[str], None],
    program: tuple[str, ...] = PROGRAM,
) -> list[Failed]:
    """Runs the jobs (each after those it needs) on the connected cluster and returns those that failed or had to wait.

    Arguments:
        folder: of the artifacts. It and the program have to be on a file system that all nodes share.
        options: for every command.
        retries: how often a job is started again after it lost its worker or node, or failed with status 1 or by a
            signal. After a mistake of the user (status 2) it is not.
        say: gets a line for each start and each end.
        program: what is started with `--log FILE --quiet` and the job's words.
    """
    import ray

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {folder} ({error.strerror.lower()}): give another --results folder") from error
    task = ray.remote(_task())
    settings = {
        "num_gpus": share.gpus,
        "num_cpus": share.cpus,
        "max_retries": retries,
        "retry_exceptions": [subprocess.CalledProcessError],
    }
    refs: dict[Path, object] = {}
    for job in jobs:
        command = [*program, "--log", str(job.log), "--quiet", *job.words(options)]
        needs = [refs[path] for path in job.needs]
        refs[job.target] = task.options(**settings, name=job.name).remote(
            command, os.getcwd(), str(folder.absolute()), str(share.cpus), *needs
        )
    try:
        return _follow(jobs, refs, say)
    except BaseException:  # Ctrl-C too: each process gets one of its own, and queued jobs never start
        for ref in refs.values():
            ray.cancel(ref)
        ray.wait(list(refs.values()), num_returns=len(refs), timeout=FAREWELL)
        raise


def _task() -> Callable:
    """The task. It is a local function, so that Ray sends its code and workers need not find this module."""

    def work(command: list[str], here: str, folder: str, threads: str, *done: None) -> None:
        import ctypes
        import os
        import platform
        import signal
        import subprocess
        import tempfile

        if not os.path.isdir(folder) or not os.path.isdir(here):
            lost = folder if os.path.isdir(here) else here
            raise FileNotFoundError(f"{platform.node()} has no folder {lost}: put it on a file system all nodes share")
        libc, worker = ctypes.CDLL(None), os.getpid()

        def bound() -> None:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the process dies with its worker
            if os.getppid() != worker:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in all that it starts

        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        nothing, errors = subprocess.DEVNULL, tempfile.TemporaryFile()
        process = subprocess.Popen(
            command,
            cwd=here,
            env=environment,
            stdin=nothing,
            stdout=nothing,
            stderr=errors,
            start_new_session=True,
            preexec_fn=bound,
        )
        try:
            status = process.wait(timeout=10**9)  # with a timeout it is a loop, which a cancelled task can leave
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("Error: ") if lines else f"ended with status {status} without a word"
        if status == 1 or status < 0:
            raise subprocess.CalledProcessError(status, command, stderr=said)  # which Ray tries again
        if status:
            raise ValueError(said)

    return work


def _follow(jobs: list[Job], refs: dict[Path, object], say: Callable[[str], None]) -> list[Failed]:
    """Tells of each start and each end until all jobs have ended."""
    import ray

    seen, ended = {}, {}
    pending = {job.target: job for job in jobs}
    while pending:
        ready, _ = ray.wait([refs[path] for path in pending], num_returns=len(pending), timeout=LOOK)
        for job in [job for job in pending.values() if refs[job.target] in ready]:
            if any(path in pending for path in job.needs):
                continue  # told at the next look, after the jobs that it waits for
            del pending[job.target]
            failed = ended[job.target] = _failure(job, refs[job.target], [ended[path] for path in job.needs])
            word = "waiting" if failed and failed.waits else "failed" if failed else "done"
            say(f"{word} {failed if failed else job.name} ({len(ended)} of {len(jobs)} ended)")
        for job in pending.values():
            if not any(path in pending for path in job.needs) and (owner := _owner(job)) not in (
                None,
                seen.get(job.target),
            ):
                say(f"started {job.name} ({owner}, log: {job.log})")
                seen[job.target] = owner
    return [failed for job in jobs if (failed := ended[job.target])]


def _owner(job: Job) -> str | None:
    """The process at work on a job, or None."""
    from repro.run import job_log

    attempt = job_log.last_attempt(job.log)
    return attempt.owner if attempt and attempt.state == "running" else None


def _failure(job: Job, ref, needed: list[Failed | None]) -> Failed | None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    if any(needed):
        causes = (name for each in needed if each for name in each.waits or (each.job.name,))
        return Failed(job, "", tuple(dict.fromkeys(causes)))
    try:
        ray.get(ref)
        return None
    except RayTaskError as error:
        return Failed(job, getattr(error.cause, "stderr", None) or str(error.cause))
    except RayError as error:
        return Failed(job, f"its worker or node was lost too often ({type(error).__name__})")
