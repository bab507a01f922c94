"""What was started and what is set: taken over, or refused with both numbers."""

import pytest

from vqgan_train.system.errors import LaunchError
from vqgan_train.system.processes import find_launch, rank_of, resolve_world_size


def torchrun(nodes: int, processes: int, rank: int = 0) -> dict[str, str]:
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "GROUP_WORLD_SIZE": str(nodes),
        "WORLD_SIZE": str(processes),
        "RANK": str(rank),
        "LOCAL_RANK": "0",
    }


def srun(nodes: int, tasks: int, rank: int = 0) -> dict[str, str]:
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks)}
    return {**sbatch(nodes, tasks), **step, "SLURM_STEP_NUM_NODES": str(nodes)} | {
        "SLURM_PROCID": str(rank)
    }


def sbatch(nodes: int, tasks: int) -> dict[str, str]:
    """As in the script itself, or in a shell of salloc."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(tasks),
        "SLURM_PROCID": "0",
    }


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "settled"),
    [
        ({}, "auto", "auto", (4, 1)),
        ({}, 2, 1, (2, 1)),
        ({"LOCAL_RANK": "1"}, 2, "auto", (2, 1)),
        (torchrun(1, 2), "auto", "auto", (2, 1)),
        (torchrun(2, 16), 8, 2, (8, 2)),
        (torchrun(2, 16), "auto", 2, (8, 2)),
        (srun(2, 16), "auto", "auto", (8, 2)),
        (srun(2, 2), 1, 2, (1, 2)),
        (srun(2, 2) | torchrun(2, 8), "auto", "auto", (4, 2)),
        (sbatch(1, 1), "auto", "auto", (4, 1)),
        (sbatch(1, 2), 2, 1, (2, 1)),
        (srun(1, 1), 2, 1, (2, 1)),  # srun --pty bash
        (srun(1, 1) | {"LOCAL_RANK": "1"}, 2, 1, (2, 1)),  # started by the first rank there
    ],
)
def test_what_was_started_is_taken(
    environment: dict[str, str], devices: int | str, nodes: int | str, settled: tuple[int, int]
) -> None:
    assert resolve_world_size(environment, devices, nodes, devices_here=4) == settled


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message"),
    [
        (torchrun(1, 2), 4, 1, "torchrun has started 2 processes on 1 node.* make 4 on 1"),
        (torchrun(1, 2), 4, 1, "start it with --nnodes=1 --nproc-per-node=4"),
        (torchrun(2, 4), "auto", 1, "4 processes on 2 node.*trainer.num_nodes=1 make 2 on 1"),
        (torchrun(2, 3), "auto", "auto", "3 processes on 2 node.*the same number on each node"),
        (srun(2, 2), 2, 1, "srun has started 2 processes on 2 node.*make 2 on 1"),
        (srun(2, 2), 8, 2, "make 16 on 2.*ask for --nodes=2 --ntasks-per-node=8"),
        (srun(1, 2), 1, 1, "srun has started 2 processes"),
        ({}, 2, 2, "trainer.num_nodes=2, but this is 1 process on 1 node.*Start 4 with srun"),
        (srun(1, 1), 8, 2, "trainer.num_nodes=2, but this is 1 process"),
        (sbatch(2, 16), "auto", "auto", "2 node.* and 16 task.* train on 4 device.*Write srun"),
        (sbatch(1, 8), 1, "auto", "8 task.*train on 1 device"),
    ],
)
def test_a_contradiction_is_refused_with_both_numbers(
    environment: dict[str, str], devices: int | str, nodes: int | str, message: str
) -> None:
    with pytest.raises(LaunchError, match=f"(?s){message}"):
        resolve_world_size(environment, devices, nodes, devices_here=4)


def test_ranks_are_counted_by_who_started_them() -> None:
    assert rank_of({}) == 0
    assert rank_of({"LOCAL_RANK": "3"}) == 3
    assert rank_of(torchrun(2, 4, rank=2)) == 2
    assert rank_of(srun(2, 4, rank=3)) == 3
    assert rank_of(sbatch(2, 4)) == 0
    assert rank_of(srun(2, 2, rank=0) | torchrun(2, 8, rank=5)) == 5
    assert find_launch(srun(1, 1)) is None
