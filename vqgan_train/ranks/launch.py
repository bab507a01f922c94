"""Who started this process, how many like it there are, and which of them it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Environment = Mapping[str, str]


class LaunchError(ValueError):
    """What was started and what the settings ask for contradict each other."""


class LostRankError(ValueError):
    """Another rank of the run has ended."""


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


def settle_world(
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
