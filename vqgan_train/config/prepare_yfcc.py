"""Settings of `python -m vqgan_train.prepare_yfcc`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require_at_least


@dataclass(kw_only=True, slots=True)
class PrepareYfccConfig:
    """Records of YFCC100M's OpenAI subset with their images, and the shards that they become."""

    records: Any
    """Parquet, or metadata_*.jsonl.gz. Path, glob or brace pattern, or a list of those."""

    images: str | None
    """Folder of the zip files, data/, that belong to jsonl. null: parquet, which has the images."""

    output: str
    """Folder for the shards; new, empty, or that of the same command before."""

    samples_per_shard: int
    """Records that make a shard; each file of records begins a new one."""

    num_workers: int
    """Processes that read and decode. 0: this one alone."""

    def __post_init__(self) -> None:
        self.records = as_list(self.records)
        require_at_least(1, samples_per_shard=self.samples_per_shard)
        require_at_least(0, num_workers=self.num_workers)
