import pytest

from vqgan_train.system.errors import TokenError
from vqgan_train.system.processes import Share, share_of_process

SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


def test_nothing_said_means_alone() -> None:
    assert share_of_process({}) == Share(0, 1, 0)


def test_torchrun_and_srun_say_who_this_is() -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert share_of_process(torchrun) == share_of_process(SLURM) == Share(5, 8, 1)
    inside = {**SLURM, "RANK": "0", "WORLD_SIZE": "2"}  # torchrun started by srun
    assert share_of_process(inside) == Share(0, 2, 0)


def test_a_script_of_sbatch_is_alone_whatever_tasks_it_may_start() -> None:
    script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert share_of_process(script) == Share(0, 1, 0)


@pytest.mark.parametrize("rank", ["8", "-1", "first"])
def test_an_impossible_rank_is_refused(rank: str) -> None:
    with pytest.raises(TokenError, match="RANK"):
        share_of_process({"RANK": rank, "WORLD_SIZE": "8"})


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_shares_are_everything_once(ranks: int) -> None:
    names = [f"{number:03d}" for number in range(1, 6)]
    shares = [Share(rank, ranks, 0).of(names) for rank in range(ranks)]
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
