"""Which errors mean that another rank is gone."""

import re

import torch.distributed

GONE = re.compile(
    r"[Cc]onnection (was |is )?(closed|reset|refused)|[Bb]roken pipe|[Rr]emote process|peer"
)
"""What gloo and NCCL say; of torch's own classes only some of it comes in."""


def is_of_lost_rank(error: Exception) -> bool:
    """Whether an error is what this rank noticed of another's end."""
    is_from_torch = isinstance(error, torch.distributed.DistError)
    return is_from_torch or (type(error) is RuntimeError and bool(GONE.search(str(error))))
