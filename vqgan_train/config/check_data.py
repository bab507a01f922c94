"""Settings of `python -m vqgan_train.check_data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least


@dataclass(kw_only=True, slots=True)
class CheckDataConfig:
    """Shards to check before training."""

    shards: Any
    """Path, glob or brace pattern of tar files, or a list of those."""

    output: str | None
    """JSON file for the report. null: no file."""

    num_workers: int
    """Processes that read shards. 0: the main process."""

    image_size: int
    """Side of the model's images, in pixels; smaller images are reported."""

    def __post_init__(self) -> None:
        require(self.shards is not None, "shards is null; name at least one tar file.")
        self.shards = as_list(self.shards)
        require_at_least(0, num_workers=self.num_workers)
        require_at_least(1, image_size=self.image_size)
