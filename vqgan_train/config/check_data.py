"""Settings of `python -m vqgan_train.check_data`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least


class Images(Enum):
    """How closely to look at images."""

    headers = "headers"
    decode = "decode"


@dataclass(kw_only=True, slots=True)
class CheckDataConfig:
    """Shards, and what they are wanted for."""

    shards: Any
    """Path, glob or brace pattern of tar files, or a list of those."""

    images: Images
    """headers: formats and sizes. decode: also finds images that break off, as training does."""

    output: str | None
    """JSON file for the report. null: none."""

    num_workers: int
    """Processes that read shards. 0: this one."""

    image_size: int
    """Side of the square that the model sees, in pixels."""

    ranks: int
    """Devices that are to train together."""

    batch_size: int
    """Images a device and batch."""

    def __post_init__(self) -> None:
        require(self.shards is not None, "shards is null; name at least one tar file.")
        self.shards = as_list(self.shards)
        require_at_least(0, num_workers=self.num_workers)
        require_at_least(
            1, image_size=self.image_size, ranks=self.ranks, batch_size=self.batch_size
        )
