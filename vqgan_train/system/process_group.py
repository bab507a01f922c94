"""Which errors mean that another rank is gone."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed

from vqgan_train.system.errors import LostRankError, TokenError
from vqgan_train.system.processes import Share

GONE = re.compile(
    r"[Cc]onnection (was |is )?(closed|reset|refused)|[Bb]roken pipe|[Rr]emote process|peer"
)
"""What gloo and NCCL say; of torch's own classes only some of it comes in."""


def is_of_lost_rank(error: Exception) -> bool:
    """Whether an error is what this rank noticed of another's end."""
    is_from_torch = isinstance(error, torch.distributed.DistError)
    return is_from_torch or (type(error) is RuntimeError and bool(GONE.search(str(error))))


PATIENCE = timedelta(days=1)
"""Longest wait of a process for the others, whose images may be larger."""

NOTICED_CHARACTERS = 120
"""Of what gloo says."""


@contextmanager
def joined(share: Share) -> Iterator[None]:
    """Join the other processes inside of the block, if there are any.

    Raises:
        TokenError: nothing says where they meet.
        LostRankError: one of them has ended before the block did.
    """
    if share.ranks == 1:
        yield
        return
    missing = {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()
    if missing:
        raise TokenError(
            f"This is process {share.rank} of {share.ranks}, and {' and '.join(sorted(missing))} "
            "of the environment do not say where they meet. Start them with torchrun, or set both: "
            "the first process's machine and a free port of it."
        )
    try:
        # Not NCCL: what is sent is on the CPU, and once.
        torch.distributed.init_process_group(
            "gloo", rank=share.rank, world_size=share.ranks, timeout=PATIENCE
        )
        yield
    except Exception as error:
        if not is_of_lost_rank(error):
            raise
        raise LostRankError(
            f"Another process of the {share.ranks} is gone, so this one ends, too. Why it went is "
            "said by that process; one that was killed says nothing (out of memory?). Nothing was "
            f"written. What this one noticed: {str(error)[:NOTICED_CHARACTERS]}"
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def gathered(found: Any, share: Share) -> list[Any]:
    """Bring something small of every process to the first, in their order; the others get []."""
    if share.ranks == 1:
        return [found]
    everything: list[Any] | None = [None] * share.ranks if share.rank == 0 else None
    torch.distributed.gather_object(found, everything)
    return everything or []


def add_over_ranks(numbers: torch.Tensor, share: Share) -> None:
    """Add the tensors of all processes, in place, in each of them."""
    if share.ranks > 1:
        torch.distributed.all_reduce(numbers)


def everywhere(own: Any, share: Share) -> list[Any]:
    """Bring something small of every process to all of them, in their order."""
    if share.ranks == 1:
        return [own]
    found: list[Any] = [None] * share.ranks
    torch.distributed.all_gather_object(found, own)
    return found
