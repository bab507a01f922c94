"""Lightning's view of a Slurm step: address, port and ranks."""

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

FIRST_PORT, NUM_PORTS = 15_000, 10_000
STEPS_PER_JOB = 100
"""Distance between the ports of consecutive jobs, whose steps use the ports between."""


class SlurmStep(ClusterEnvironment):
    """Ranks that srun started.

    Lightning's own `SLURMEnvironment` reads the variables of the job, but one job can have several
    steps. It also refuses tasks that were not requested by --ntasks-per-node, and installs signal
    handlers, which would replace ours.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """True, because srun started all ranks."""
        return True

    @property
    def main_address(self) -> str:
        """MASTER_ADDR, or the host name of the step's first node."""
        nodes = os.environ["SLURM_STEP_NODELIST"]
        first = SLURMEnvironment.resolve_root_node_address(nodes)
        return os.environ.setdefault("MASTER_ADDR", first)

    @property
    def main_port(self) -> int:
        """MASTER_PORT, or a port derived from job and step id, so that steps rarely share it."""
        job, step = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = FIRST_PORT + (STEPS_PER_JOB * job + step) % NUM_PORTS
        return int(os.environ.setdefault("MASTER_PORT", str(port)))

    @staticmethod
    def detect() -> bool:
        """Return False, because training/setup/trainer.py chooses this environment itself."""
        return False

    def world_size(self) -> int:
        """Return the number of tasks in the step."""
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def set_world_size(self, size: int) -> None:
        """Do nothing: Slurm sets it."""

    def global_rank(self) -> int:
        """Return the number of this task."""
        return int(os.environ["SLURM_PROCID"])

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: Slurm sets it."""

    def local_rank(self) -> int:
        """Return the number of this task on its node."""
        return int(os.environ["SLURM_LOCALID"])

    def node_rank(self) -> int:
        """Return the number of this node in the step."""
        return int(os.environ["SLURM_NODEID"])
