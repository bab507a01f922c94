"""Exchange small objects between a command's processes, and notice when one of them exits."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed

from vqgan_train.system.errors import LostRankError, UserError, first_line
from vqgan_train.system.launch import ProcessRank

CONNECTION_LOST = re.compile(
    r"[Cc]onnection (was |is )?(closed|reset|refused)|[Bb]roken pipe|[Rr]emote process|peer"
)
"""Words of gloo's and NCCL's connection errors, many of which torch raises as RuntimeError."""

UNMET = re.compile(
    r"EADDRINUSE|waiting for clients|client socket has (timed out|failed to connect)", re.IGNORECASE
)
"""Words of torch's errors when processes have not found each other at the start."""

PROCESS_GROUP_TIMEOUT = timedelta(days=1)
"""Longest wait of a process for the others, whose images may take longer."""

MAX_SHOWN_CHARACTERS = 300
"""Characters of the backend's message that are shown."""


@contextmanager
def explain_lost_ranks(message: str) -> Iterator[None]:
    """Raise LostRankError in place of an error of the connection to another rank.

    Args:
        message: text of the error. If the original error does not speak of a closed connection, it
            is added, because it may have another cause, such as a port in use.

    Raises:
        LostRankError: another rank has exited, or cannot be reached.
        UserError: the ranks did not find each other at the start.
    """
    try:
        yield
    except Exception as error:
        if UNMET.search(str(error)):
            raise UserError(_unmet_advice(str(error))) from error
        is_from_torch = isinstance(error, torch.distributed.DistError)
        is_closed = CONNECTION_LOST.search(str(error)) is not None
        if not is_from_torch and not (is_closed and type(error) is RuntimeError):
            raise
        shown = "" if is_closed else f" Error here: {first_line(error)[:MAX_SHOWN_CHARACTERS]}"
        raise LostRankError(message + shown) from error


def _unmet_advice(text: str) -> str:
    host, port = (os.environ.get(name, "unset") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if "EADDRINUSE" in text:
        return (
            f"Port {port} of this machine (MASTER_PORT) is in use by another program, perhaps "
            "another run. Set MASTER_PORT to a free one (torchrun: --master-port, or "
            "--rdzv-endpoint=localhost:0), or unset it."
        )
    return (
        f"The processes did not find each other at MASTER_ADDR={host}, MASTER_PORT={port} "
        f"({text.splitlines()[0][:MAX_SHOWN_CHARACTERS]}). Check that all were started, and that "
        "these reach the first process's machine and a free port of it."
    )


@contextmanager
def process_group(process: ProcessRank) -> Iterator[None]:
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
            f"This is process {process.rank} of {process.world_size}, but the environment lacks "
            f"{' and '.join(sorted(missing))}. Start all processes with torchrun, or set "
            "MASTER_ADDR to the first process's machine and MASTER_PORT to a free port of it."
        )
    try:
        with explain_lost_ranks(
            f"One of the {process.world_size} processes exited, so this one exits, too, and writes "
            "nothing. See the message of the process that exited first; if there is none, it was "
            "killed, perhaps for want of memory."
        ):
            # gloo, because all tensors that are exchanged are on the CPU.
            torch.distributed.init_process_group(
                "gloo",
                rank=process.rank,
                world_size=process.world_size,
                timeout=PROCESS_GROUP_TIMEOUT,
            )
            yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def gather_to_first(value: Any, process: ProcessRank) -> list[Any]:
    """Return the objects of all processes, by rank, in the first process; [] in the others."""
    if process.world_size == 1:
        return [value]
    values: list[Any] | None = [None] * process.world_size if process.rank == 0 else None
    torch.distributed.gather_object(value, values)
    return values or []


def all_gather_objects(value: Any, process: ProcessRank) -> list[Any]:
    """Return the objects of all processes, by rank, in every process."""
    if process.world_size == 1:
        return [value]
    values: list[Any] = [None] * process.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(numbers: torch.Tensor, process: ProcessRank) -> None:
    """Replace a tensor on the CPU by its sum over all processes, in place."""
    if process.world_size > 1:
        torch.distributed.all_reduce(numbers)
