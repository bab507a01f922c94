"""A step of Slurm as Lightning sees it."""

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

FIRST_PORT, NUM_PORTS = 15_000, 10_000
LARGEST_STEP = 100


class SlurmStep(ClusterEnvironment):
    """Ranks that srun has started.

    Unlike Lightning's own environment for Slurm it looks at the step, not at the job that the step
    is in, takes any way to ask for a number of tasks, and leaves signals alone.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """Nothing is left to be started."""
        return True

    @property
    def main_address(self) -> str:
        """MASTER_ADDR, or the name of the step's first node."""
        nodes = os.environ["SLURM_STEP_NODELIST"]
        first = SLURMEnvironment.resolve_root_node_address(nodes)
        return os.environ.setdefault("MASTER_ADDR", first)

    @property
    def main_port(self) -> int:
        """MASTER_PORT, or one that two steps of a job, or of two, hardly share."""
        job, step = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = FIRST_PORT + (LARGEST_STEP * job + step) % NUM_PORTS
        return int(os.environ.setdefault("MASTER_PORT", str(port)))

    @staticmethod
    def detect() -> bool:
        """It is chosen by whoever builds the trainer."""
        return False

    def world_size(self) -> int:
        """All tasks of the step."""
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def set_world_size(self, size: int) -> None:
        """Slurm has decided."""

    def global_rank(self) -> int:
        """The task's number."""
        return int(os.environ["SLURM_PROCID"])

    def set_global_rank(self, rank: int) -> None:
        """Slurm has decided."""

    def local_rank(self) -> int:
        """The task's number on its node."""
        return int(os.environ["SLURM_LOCALID"])

    def node_rank(self) -> int:
        """The node's number."""
        return int(os.environ["SLURM_NODEID"])
