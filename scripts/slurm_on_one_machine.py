"""Start or stop Slurm on this machine, with two virtual nodes.

    python scripts/slurm_on_one_machine.py start FOLDER     # prints the line for the shell
    export SLURM_CONF=FOLDER/slurm.conf
    srun -N2 -n2 --kill-on-bad-exit=1 python -m vqgan_train trainer.devices=1
    python scripts/slurm_on_one_machine.py stop FOLDER

Needs root and Debian's packages `slurm-wlm` and `munge`. All files are in FOLDER; an installed
Slurm is not changed.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "squeue")
NODES = ("n1", "n2")
CPUS = 4  # a node, whatever the machine has
SECONDS_TO_COME_UP = 60
SECONDS_TO_GO = 20
PROCESSES = "processes.json"

CONFIGURATION = """\
ClusterName=one_machine
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
TaskProlog={folder}/task_prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=30
MinJobAge=600
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""

TASK_PROLOG = """\
#!/bin/sh
# On a cluster, ranks find the first node by its name. These nodes have none.
echo export MASTER_ADDR=127.0.0.1
"""


class SlurmError(ValueError):
    """Slurm cannot be started; the message gives the reason."""


def main() -> None:
    """Read the command line, then start or stop Slurm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("start", "stop"), help="what to do")
    parser.add_argument("folder", type=Path, help="folder for all files of this Slurm")
    arguments = parser.parse_args()
    try:
        if arguments.action == "start":
            print(f"export SLURM_CONF={start(arguments.folder)}")
        else:
            stop(arguments.folder)
    except SlurmError as error:
        sys.exit(f"Error: {error}")


def missing_here() -> str:
    """Return why Slurm cannot run on this machine; empty if it can."""
    absent = [command for command in COMMANDS if _path(command) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "it needs root"


def start(folder: Path) -> Path:
    """Start the daemons; return the configuration that Slurm's commands want as SLURM_CONF.

    Args:
        folder: folder for all files of this Slurm; created if missing.

    Raises:
        SlurmError: a program is missing, Slurm runs in this folder already, or a node fails.
    """
    missing = missing_here()
    if missing:
        raise SlurmError(missing)
    folder = folder.resolve()
    if (folder / PROCESSES).exists():
        raise SlurmError(f"{folder / PROCESSES} exists: Slurm runs there. Stop it first.")
    configuration = _write_configuration(folder)
    processes: dict[str, int] = {}
    try:
        _launch(folder, processes, "munged", *_munge_options(folder))
        _wait((folder / "munge" / "socket").exists, f"munged; see {folder}/munge/log")
        _launch(folder, processes, "slurmctld", "-D", "-c", "-f", str(configuration))
        for name in NODES:
            _launch(folder, processes, "slurmd", "-D", "-N", name, "-f", str(configuration))
        _wait(lambda: _idle_nodes(configuration) == len(NODES), f"the nodes; see {folder}/*.log")
    except SlurmError:
        stop(folder)
        raise
    return configuration


def stop(folder: Path) -> None:
    """Cancel all jobs, stop the daemons that `start` started, and wait until they have exited."""
    folder = folder.resolve()
    file = folder / PROCESSES
    if not file.exists():
        return
    numbers = [number for number in json.loads(file.read_text()).values() if _is_ours(number)]
    if numbers:
        _end_jobs(folder / "slurm.conf")
    for number in reversed(numbers):
        os.kill(number, signal.SIGTERM)
    try:
        _wait(lambda: not any(_is_ours(number) for number in numbers), "", SECONDS_TO_GO)
    except SlurmError:
        for number in filter(_is_ours, numbers):
            os.kill(number, signal.SIGKILL)
    file.unlink()


def _end_jobs(configuration: Path) -> None:
    """Kill all jobs and wait for their processes, which would otherwise outlive the daemons."""

    def answer(*command: str) -> str:
        environment = {**os.environ, "SLURM_CONF": str(configuration)}
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    answer("scancel", "--full", "--signal=KILL", "--state=RUNNING", "--user=root")
    answer("scancel", "--user=root")
    with contextlib.suppress(SlurmError):
        _wait(lambda: not answer("squeue", "--noheader"), "jobs' end", SECONDS_TO_GO)


def _write_configuration(folder: Path) -> Path:
    for name in ("munge", "state", *(f"spool_{node}" for node in NODES)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    prolog = folder / "task_prolog"
    prolog.write_text(TASK_PROLOG)
    prolog.chmod(0o755)
    controller_port, *node_ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={CPUS} RealMemory=1000 State=UNKNOWN"
        for name, port in zip(NODES, node_ports, strict=True)
    )
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, controller_port=controller_port, nodes=nodes, names=",".join(NODES)
        )
    )
    return configuration


def _munge_options(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    places = [f"--{option}={folder / 'munge' / name}" for option, name in files.items()]
    # Without --force, munged requires folders that only its user can write.
    return ["--foreground", "--force", "--num-threads=2", *places]


def _launch(folder: Path, processes: dict[str, int], command: str, *arguments: str) -> None:
    """Start a daemon in the background and record its process id at once."""
    with (folder / f"{command}.out").open("ab") as output:
        process = subprocess.Popen(
            [str(_path(command)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")},
        )
    process.returncode = 0  # keeps Python from warning that the process still runs
    processes[f"{command} {len(processes)}"] = process.pid
    (folder / PROCESSES).write_text(json.dumps(processes))


def _is_ours(number: int) -> bool:
    """Whether the process is one of the daemons and still runs; ids of ended ones are reused."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(number, os.WNOHANG)  # works only for children of this process
    try:
        status = Path(f"/proc/{number}/status").read_text()
        name = Path(f"/proc/{number}/comm").read_text().strip()
    except OSError:
        return False
    return name in COMMANDS and "State:\tZ" not in status


def _idle_nodes(configuration: Path) -> int:
    answer = subprocess.run(
        [str(_path("sinfo")), "--noheader", "--Node", "--states=idle", "--format=%N"],
        env={**os.environ, "SLURM_CONF": str(configuration)},
        capture_output=True,
        text=True,
    )
    return len(answer.stdout.split())


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.socket()) for _ in range(number)]
        for server in servers:
            server.bind(("127.0.0.1", 0))
        return [int(server.getsockname()[1]) for server in servers]


def _wait(holds: Callable[[], bool], what: str, seconds: float = SECONDS_TO_COME_UP) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SlurmError(f"After {seconds:.0f} s Slurm still waits for {what}.")
        time.sleep(0.2)


def _path(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


if __name__ == "__main__":
    main()
