"""The rank of a process, and the world size that launcher and settings agree on."""

import pytest

from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import (
    ProcessRank,
    find_launch,
    find_process_rank,
    rank_of,
    resolve_world_size,
)


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
    """Variables in the script itself, or in a shell of salloc."""
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
def test_auto_takes_what_was_started_and_equal_settings_are_accepted(
    environment: dict[str, str], devices: int | str, nodes: int | str, settled: tuple[int, int]
) -> None:
    assert resolve_world_size(environment, devices, nodes, available_devices=4) == settled


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message"),
    [
        (torchrun(1, 2), 4, 1, "torchrun has started 2 processes on 1 node.* make 4 on 1"),
        (torchrun(1, 2), 4, 1, "start it with --nnodes=1 --nproc-per-node=4"),
        (torchrun(2, 4), "auto", 1, "4 processes on 2 node.*trainer.num_nodes=1 make 2 on 1"),
        (torchrun(2, 3), "auto", "auto", "3 processes on 2 nodes, which is uneven"),
        (srun(2, 2), 2, 1, "srun has started 2 processes on 2 node.*make 2 on 1"),
        (srun(2, 2), 8, 2, "make 16 on 2.*ask for --nodes=2 --ntasks-per-node=8"),
        (srun(1, 2), 1, 1, "srun has started 2 processes"),
        ({}, 2, 2, "trainer.num_nodes=2, but this is 1 process on 1 node.*Start 4 with srun"),
        (srun(1, 1), 8, 2, "trainer.num_nodes=2, but this is 1 process"),
        (sbatch(2, 16), "auto", "auto", "2 node.* and 16 task.* train on 4 device.*Write srun"),
        (sbatch(1, 8), 1, "auto", "8 task.*train on 1 device"),
    ],
)
def test_settings_that_contradict_the_launcher_are_refused_with_both_numbers(
    environment: dict[str, str], devices: int | str, nodes: int | str, message: str
) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        resolve_world_size(environment, devices, nodes, available_devices=4)


def test_a_rank_is_read_from_its_launchers_variables() -> None:
    assert rank_of({}) == 0
    assert rank_of({"LOCAL_RANK": "3"}) == 3
    assert rank_of(torchrun(2, 4, rank=2)) == 2
    assert rank_of(srun(2, 4, rank=3)) == 3
    assert rank_of(sbatch(2, 4)) == 0
    assert rank_of(srun(2, 2, rank=0) | torchrun(2, 8, rank=5)) == 5
    assert find_launch(srun(1, 1)) is None


# Commands that only share work, without settings of their own.


def test_without_a_launcher_a_process_is_alone() -> None:
    assert find_process_rank({}) == ProcessRank(0, 1, 0)


def test_commands_read_the_variables_of_torchrun_and_srun() -> None:
    expected = ProcessRank(5, 8, 1)
    assert find_process_rank({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == expected
    assert find_process_rank(torchrun(2, 8, rank=5) | {"LOCAL_RANK": "1"}) == expected
    assert find_process_rank(srun(2, 8, rank=5) | {"SLURM_LOCALID": "1"}) == expected
    inside = srun(2, 2, rank=1) | torchrun(1, 2)  # torchrun started by srun
    assert find_process_rank(inside) == ProcessRank(0, 2, 0)


def test_a_script_of_sbatch_is_alone_whatever_tasks_it_may_start() -> None:
    assert find_process_rank(sbatch(2, 8)) == ProcessRank(0, 1, 0)


@pytest.mark.parametrize("rank", ["8", "-1", "first"])
def test_an_impossible_rank_is_refused(rank: str) -> None:
    with pytest.raises(UserError, match="RANK"):
        find_process_rank({"RANK": rank, "WORLD_SIZE": "8"})


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_select_every_name_once(world_size: int) -> None:
    names = [f"{number:03d}" for number in range(1, 6)]
    selected = [ProcessRank(rank, world_size, 0).select(names) for rank in range(world_size)]
    assert sorted(name for own in selected for name in own) == names
    assert max(map(len, selected)) - min(map(len, selected)) <= 1
