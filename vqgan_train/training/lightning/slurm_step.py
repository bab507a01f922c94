"""Address, port and ranks of a Slurm step (the tasks of one srun), for Lightning."""

import os
import signal

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

FIRST_PORT, NUM_PORTS = 15_000, 10_000
STEPS_PER_JOB = 100
"""Distance between the ports of consecutive jobs, whose steps use the ports between."""


class SlurmStep(SLURMEnvironment):
    """Ranks that srun started.

    Lightning's `SLURMEnvironment` reads the variables of the job, but one job can have several
    steps, so address, port and number of ranks come from the step here.
    """

    def __init__(self) -> None:
        # Not super().__init__, which refuses tasks that --ntasks-per-node did not request.
        self.auto_requeue = False  # else Lightning's signal handlers replace those of the run
        self.requeue_signal = signal.SIGUSR1  # unused, but Lightning requires one

    @property
    def main_address(self) -> str:
        """MASTER_ADDR, or the host name of the step's first node."""
        first = self.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        return os.environ.setdefault("MASTER_ADDR", first)

    @property
    def main_port(self) -> int:
        """MASTER_PORT, or a port derived from job and step id, so that steps rarely share it."""
        job, step = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = FIRST_PORT + (STEPS_PER_JOB * job + step) % NUM_PORTS
        return int(os.environ.setdefault("MASTER_PORT", str(port)))

    def world_size(self) -> int:
        """Return the number of tasks in the step."""
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Accept any number of devices; Lightning would compare it with the job, not the step."""
