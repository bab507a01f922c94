"""Which part of the work is this process's, by the variables of torchrun or Slurm."""

from collections.abc import Mapping
from typing import NamedTuple

from vqgan_train.tokens.errors import TokenError


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
