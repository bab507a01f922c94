"""Exchange small objects between a command's processes, and notice when one of them exits."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed

from vqgan_train.system.errors import LostRankError, UserError
from vqgan_train.system.launch import ProcessRank

CONNECTION_LOST = re.compile(
    r"[Cc]onnection (was |is )?(closed|reset|refused)|[Bb]roken pipe|[Rr]emote process|peer"
)
"""Words of gloo's and NCCL's errors, of which torch turns only some into classes of its own."""

PROCESS_GROUP_TIMEOUT = timedelta(days=1)
"""Longest wait of a process for the others, whose images may be larger."""

MAX_SHOWN_CHARACTERS = 120
"""Characters of gloo's message that are shown."""


def is_of_lost_rank(error: Exception) -> bool:
    """Say whether an error means that another rank has exited."""
    is_from_torch = isinstance(error, torch.distributed.DistError)
    is_from_backend = type(error) is RuntimeError and CONNECTION_LOST.search(str(error)) is not None
    return is_from_torch or is_from_backend


@contextmanager
def process_group(
    process: ProcessRank, environment: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Connect with the other processes inside the block; a single process connects with none.

    Raises:
        UserError: MASTER_ADDR or MASTER_PORT is not set.
        LostRankError: another process exited before the block ended.
    """
    if process.world_size == 1:
        yield
        return
    missing = {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()
    if missing:
        raise UserError(
            f"This is process {process.rank} of {process.world_size}, but "
            f"{' and '.join(sorted(missing))} of the environment do not say where they meet. Start "
            "them with torchrun, or set both: the first process's machine and a free port of it."
        )
    try:
        # gloo, because all tensors that are exchanged are on the CPU.
        torch.distributed.init_process_group(
            "gloo",
            rank=process.rank,
            world_size=process.world_size,
            timeout=PROCESS_GROUP_TIMEOUT,
        )
        yield
    except Exception as error:
        if not is_of_lost_rank(error):
            raise
        raise LostRankError(
            f"One of the {process.world_size} processes exited, so this one exits, too, and writes "
            "nothing. See the message of the process that exited first; if there is none, it was "
            f"killed, perhaps for want of memory. Error here: {str(error)[:MAX_SHOWN_CHARACTERS]}"
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def gather_to_first(value: Any, process: ProcessRank) -> list[Any]:
    """Gather a small object of each process, in order of rank, in the first; others get []."""
    if process.world_size == 1:
        return [value]
    values: list[Any] | None = [None] * process.world_size if process.rank == 0 else None
    torch.distributed.gather_object(value, values)
    return values or []


def all_gather_objects(value: Any, process: ProcessRank) -> list[Any]:
    """Gather a small object of each process, in order of rank, in all of them."""
    if process.world_size == 1:
        return [value]
    values: list[Any] = [None] * process.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(numbers: torch.Tensor, process: ProcessRank) -> None:
    """Replace a tensor on the CPU by its sum over all processes, in place."""
    if process.world_size > 1:
        torch.distributed.all_reduce(numbers)
