"""The rank of this process, and how torchrun or Slurm's srun started it with others."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from vqgan_train.system.errors import UserError

Environment = Mapping[str, str]
T = TypeVar("T")


class ProcessRank(NamedTuple):
    """One of several processes that share a command's work."""

    rank: int
    """Number of this process, from 0 to `world_size` - 1."""

    world_size: int
    """Number of processes on all machines."""

    local_rank: int
    """Number of this process among those on its machine; decides which GPU it takes."""

    def select(self, items: list[T]) -> list[T]:
        """Return every `world_size`-th item, starting at `rank`."""
        return items[self.rank :: self.world_size]

    def title(self, work: str) -> str:
        """Return the title of a progress bar; it names the process if there are several."""
        process = f", process {self.rank} of {self.world_size}"
        return work + (process if self.world_size > 1 else "")


TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
"""Environment variables of rank, world size and local rank.

Of Slurm's world sizes, SLURM_STEP_NUM_TASKS is read, which only srun sets. sbatch sets SLURM_NTASKS
even for the batch script, which is not a rank.
"""


def find_process_rank(environment: Environment) -> ProcessRank:
    """Return the rank of this process among all; without a launcher it is the only process.

    torchrun's variables may also be set by hand: encode and decode need only RANK and WORLD_SIZE.

    Raises:
        UserError: the variables are no numbers, or the rank is not below the world size.
    """
    for variables in (TORCHRUN_VARIABLES, SRUN_VARIABLES):
        if set(variables[:2]) <= environment.keys():
            return _read_rank(environment, variables)
    return ProcessRank(0, 1, 0)


def _read_rank(environment: Environment, variables: tuple[str, str, str]) -> ProcessRank:
    values = {name: environment.get(name, "0") for name in variables}
    if not all(value.isdecimal() for value in values.values()):
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise UserError(
            f"The environment has {given}; they must be numbers. Unset them to run one process."
        )
    process = ProcessRank(*map(int, values.values()))
    if process.rank >= process.world_size:
        raise UserError(
            f"The environment has {variables[0]}={process.rank}, which must be less than "
            f"{variables[1]}={process.world_size}. Correct them, or unset them to run one process."
        )
    return process


class Launch(NamedTuple):
    """How torchrun or srun has started the ranks of a training run."""

    launcher: str
    """`torchrun` or `srun`."""

    nodes: int
    """Number of machines."""

    process: ProcessRank
    """This process among the ranks."""

    @property
    def devices(self) -> int:
        """Number of processes per node, rounded down."""
        return self.process.world_size // self.nodes


def find_launch(environment: Environment) -> Launch | None:
    """Return how torchrun or srun started this process; None if neither did.

    A Slurm step of one task also gives None: it may be the shell of an interactive job.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        process = _read_rank(environment, TORCHRUN_VARIABLES)
        return Launch("torchrun", int(environment["GROUP_WORLD_SIZE"]), process)
    if environment.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return None
    process = _read_rank(environment, SRUN_VARIABLES)
    return Launch("srun", int(environment["SLURM_STEP_NUM_NODES"]), process)


def rank_of(environment: Environment) -> int:
    """Return the rank of this process in its training run; 0 if it is the only one."""
    launch = find_launch(environment)
    if launch is not None:
        return launch.process.rank
    return int(environment.get("LOCAL_RANK", "0"))  # set where the first rank starts the others


def resolve_world_size(
    environment: Environment, devices: int | str, nodes: int | str, available_devices: int
) -> tuple[int, int]:
    """Decide how many devices per node and how many nodes a training run has.

    Args:
        environment: environment variables of this process.
        devices: configured devices per node, or `auto`.
        nodes: configured nodes, or `auto`.
        available_devices: devices per node for `auto` if no launcher started ranks.

    Returns:
        Devices per node, nodes.

    Raises:
        UserError: torchrun, srun or Slurm started another or an uneven number of processes.
    """
    launch = find_launch(environment)
    if launch is None:
        num_devices = available_devices if devices == "auto" else int(devices)
        num_nodes = 1 if nodes == "auto" else int(nodes)
        _require_one_node(environment, num_devices, num_nodes)
        return num_devices, num_nodes
    num_devices = launch.devices if devices == "auto" else int(devices)
    num_nodes = launch.nodes if nodes == "auto" else int(nodes)
    processes = launch.process.world_size
    if processes % launch.nodes != 0:
        raise UserError(
            f"{launch.launcher} has started {processes} processes on {launch.nodes} nodes, which "
            "is uneven. Start the same number on each node."
        )
    if (num_devices, num_nodes) != (launch.devices, launch.nodes):
        advice = (
            f"start it with --nnodes={num_nodes} --nproc-per-node={num_devices}"
            if launch.launcher == "torchrun"
            else f"ask for --nodes={num_nodes} --ntasks-per-node={num_devices}"
        )
        raise UserError(
            f"{launch.launcher} has started {processes} processes on {launch.nodes} node(s), but "
            f"trainer.devices={devices} per node and trainer.num_nodes={nodes} make "
            f"{num_devices * num_nodes} on {num_nodes}. Set both to auto, which takes what "
            f"{launch.launcher} has started; or {advice}."
        )
    return num_devices, num_nodes


def _require_one_node(environment: Environment, devices: int, nodes: int) -> None:
    """Check that a run without a launcher needs one node only, where it starts its own ranks."""
    if nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes}, but this is 1 process on 1 node, and it cannot start "
            f"processes on other nodes. Start {nodes * devices} with srun or torchrun "
            "(docs/launching.md), or set trainer.num_nodes=1."
        )
    if "SLURM_JOB_ID" not in environment or "SLURM_STEP_ID" in environment:
        return
    allocated_nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if allocated_nodes > 1 or tasks not in (1, devices):
        raise UserError(
            f"The Slurm job has {allocated_nodes} node(s) and {tasks} task(s), but without srun "
            f"this is 1 process, which would train on {devices} device(s) of 1 node. Write srun "
            "in front of the command, or ask for --nodes=1 --ntasks=1."
        )
