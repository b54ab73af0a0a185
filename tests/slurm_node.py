"""A real Slurm of one node in a folder of its own, with two CPUs and two pretended GPUs, for tests."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.command_line import HANG

PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "sinfo", "squeue", "scancel", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def reason_not_to() -> str:
    """Why no Slurm can be brought up here; '' where one can."""
    if lacking := [program for program in PROGRAMS if not _program(program)]:
        return f"no {', '.join(lacking)} here: install slurm-wlm and munge"
    return "" if os.getuid() == 0 else "a Slurm of one's own has to be started by root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def slurm_node(folder: Path) -> Iterator[dict[str, str]]:
    """Brings the node up and gives the environment with which `srun` finds it; ends all daemons afterwards.

    Raises RuntimeError, with the ends of the daemons' logs, where the node is not idle after 20 seconds.
    """
    folder.chmod(0o755)  # munged wants a socket that everybody can reach
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 64
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, memory=memory, **ports), encoding="utf-8")
    (folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{name}\n" for name in ("null", "zero")))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = {"SLURM_CONF": str(configuration)}
    commands = (
        (
            "munged",
            "--foreground",
            "--force",
            "--socket",
            folder / "munge.socket",
            "--key-file",
            key,
            "--pid-file",
            folder / "munged.pid",
            "--log-file",
            folder / "munged.log",
            "--seed-file",
            folder / "munge.seed",
        ),
        ("slurmctld", "-D", "-c"),
        ("slurmd", "-D", "-c", "-N", host),
    )
    daemons = []
    try:
        for name, *arguments in commands:
            with open(folder / f"{name}.out", "wb") as out:
                daemons.append(
                    subprocess.Popen(
                        [_program(name), *arguments],
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                    )
                )
            if name == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        _wait(lambda: _run(environment, "sinfo", "--noheader", "--format=%T") == "idle", folder)
        yield environment
    finally:
        if len(daemons) == len(commands):  # else the steps of jobs would outlive the daemons
            _run(environment, "scancel", "--user", "root")
            _wait(lambda: not _run(environment, "squeue", "--noheader"), folder)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _run(environment: dict[str, str], *command: str) -> str:
    asked = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    return asked.stdout.strip()


def _wait(ready, folder: Path) -> None:
    deadline = time.monotonic() + HANG
    while not ready():
        if time.monotonic() > deadline:
            logs = [*folder.glob("*.log"), *folder.glob("*.out")]
            raise RuntimeError("\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs))
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
