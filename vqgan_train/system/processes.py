"""How a process ended, in a number: what schedulers and scripts go by."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vqgan_train.system.errors import LaunchError, TokenError

USER_ERROR = 2
"""The settings, the data or the machine are at fault; the message says what to change."""

LOST_RANK = 70
"""Another rank of the run has ended; that one says why."""

TIME_IS_UP = 75
"""run.max_hours: the state is saved, and the same command goes on."""

SIGNAL_BASE = 128
"""A process that a signal ended exits with this plus the signal's number, as shells count."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""What schedulers send before they end a job, and Ctrl-C: the state is saved."""

INTERRUPTED = SIGNAL_BASE + signal.SIGINT

STOPPED = (TIME_IS_UP, *(SIGNAL_BASE + number for number in STOP_SIGNALS))
"""Codes of a run that saved its state because it was told to stop."""


def in_words(code: int) -> str:
    """What an exit code, or of Python's subprocess the negative number of a signal, means."""
    number = -code if code < 0 else code - SIGNAL_BASE
    if number in {one.value for one in signal.Signals}:
        return signal.Signals(number).name
    return f"exit code {code}"


_IMPORTED_AT = time.monotonic()
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def process_seconds() -> float:
    """Seconds since this process was started; where Linux does not tell, since the first import."""
    try:
        # Field 22 is the start, in clock ticks since the boot; the second may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.monotonic() - _IMPORTED_AT
    return uptime - int(fields[19]) / _CLOCK_TICKS


Environment = Mapping[str, str]


class Launch(NamedTuple):
    """Processes that torchrun or srun has started for this run, all of them ranks."""

    by: str
    """`torchrun` or `srun`."""

    nodes: int
    processes: int
    """Over all nodes."""

    advice: str
    """How to start another number."""

    @property
    def devices(self) -> int:
        """Processes a node."""
        return self.processes // self.nodes


TORCHRUN_ADVICE = "start it with --nnodes={nodes} --nproc-per-node={devices}"
SRUN_ADVICE = "ask for --nodes={nodes} --ntasks-per-node={devices}"


def rank_of(environment: Environment) -> int:
    """This process's rank among those of the run; 0 if it is alone."""
    launched = find_launch(environment)
    if launched is not None:
        return int(environment["RANK" if launched.by == "torchrun" else "SLURM_PROCID"])
    return int(environment.get("LOCAL_RANK", "0"))  # of a process that the first rank has started


def find_launch(environment: Environment) -> Launch | None:
    """What torchrun or srun has started; None if this process starts the other ranks itself.

    A step of one task counts as None: it may be the shell of somebody who works interactively.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        nodes, processes = (int(environment[name]) for name in ("GROUP_WORLD_SIZE", "WORLD_SIZE"))
        return Launch("torchrun", nodes, processes, TORCHRUN_ADVICE)
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1:
        return None
    return Launch("srun", int(environment["SLURM_STEP_NUM_NODES"]), tasks, SRUN_ADVICE)


def resolve_world_size(
    environment: Environment, devices: int | str, nodes: int | str, devices_here: int
) -> tuple[int, int]:
    """Decide how many processes a node and how many nodes the run has.

    Args:
        environment: of this process.
        devices: as set, a node; or auto.
        nodes: as set; or auto.
        devices_here: what auto devices are if nobody has started ranks.

    Returns:
        Devices a node, nodes.

    Raises:
        LaunchError: something else was started than what is set.
    """
    launch = find_launch(environment)
    if launch is None:
        own_devices = devices_here if devices == "auto" else int(devices)
        own_nodes = 1 if nodes == "auto" else int(nodes)
        _require_one_node(environment, own_devices, own_nodes)
        return own_devices, own_nodes
    uneven = launch.processes % launch.nodes != 0
    wanted_devices = launch.devices if devices == "auto" else int(devices)
    wanted_nodes = launch.nodes if nodes == "auto" else int(nodes)
    if uneven or (wanted_devices, wanted_nodes) != (launch.devices, launch.nodes):
        advice = launch.advice.format(nodes=wanted_nodes, devices=wanted_devices)
        raise LaunchError(
            f"{launch.by} has started {launch.processes} processes on {launch.nodes} node(s), but "
            f"trainer.devices={devices} a node and trainer.num_nodes={nodes} make "
            f"{wanted_devices * wanted_nodes} on {wanted_nodes}. Leave both at auto, which takes "
            f"what {launch.by} has started, the same number on each node; or {advice}."
        )
    return wanted_devices, wanted_nodes


def _require_one_node(environment: Environment, devices: int, nodes: int) -> None:
    """Check that a run that nobody has started ranks for can start them itself, on this node."""
    if nodes > 1:
        raise LaunchError(
            f"trainer.num_nodes={nodes}, but this is 1 process on 1 node, and it cannot start "
            f"others elsewhere. Start {nodes * devices} with srun or torchrun "
            "(docs/launching.md), or set trainer.num_nodes=1."
        )
    if "SLURM_JOB_ID" not in environment or "SLURM_STEP_ID" in environment:
        return
    allocated_nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if allocated_nodes > 1 or tasks not in (1, devices):
        raise LaunchError(
            f"The Slurm job has {allocated_nodes} node(s) and {tasks} task(s), but without srun "
            f"this is 1 process, which would train on {devices} device(s) of 1 node. Write srun "
            "in front of the command, or ask for --nodes=1 --ntasks=1."
        )


class Share(NamedTuple):
    """One of several processes that do not talk to each other."""

    rank: int
    """This one, from 0 on."""

    ranks: int
    local_rank: int
    """Among those on this machine: which of its devices it takes."""

    def of(self, names: list[str]) -> list[str]:
        """Every so many-th, so that neighbours go to different processes."""
        return names[self.rank :: self.ranks]

    def has(self, number: int) -> bool:
        """Whether a thing of this number, from 0 on, is this process's."""
        return number % self.ranks == self.rank


def share_of_process(environment: Mapping[str, str]) -> Share:
    """Find out which of how many processes this is; alone where nothing says so.

    Raises:
        TokenError: the variables say something impossible.
    """
    if {"RANK", "WORLD_SIZE"} <= environment.keys():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    # A script of sbatch has the variables of its tasks too, but is none: only srun makes steps.
    elif {"SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS"} <= environment.keys():
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    else:
        return Share(0, 1, 0)
    said = {name: environment.get(name, "0") for name in names}
    if not all(value.isdecimal() for value in said.values()):
        raise TokenError(f"{said} of the environment are no numbers. Unset them to work alone.")
    rank, ranks, local_rank = map(int, said.values())
    if rank >= ranks:
        raise TokenError(
            f"{names[0]}={rank} of the environment is none of {names[1]}={ranks} processes, which "
            "count from 0."
        )
    return Share(rank, ranks, local_rank)
