"""Settings of `python -m vqgan_train.prepare_cc3m` and `.prepare_yfcc_links`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least

SMALLEST_SIDE = 256
"""Pixels that the model sees: scaling below that would lose what training needs."""


@dataclass(kw_only=True, slots=True)
class LinksConfig:
    """Lists of links, and how img2dataset downloads them."""

    links: Any
    """CC3M: its TSV. YFCC: metadata_*.jsonl.gz. Path, glob or brace pattern, or a list of those."""

    output: str
    """Folder for lists, shards and report; new, empty, or that of the same command before."""

    samples_per_shard: int
    """Links that make a shard; those that are dead leave it smaller."""

    shorter_side: int | None
    """Larger images are scaled down to this shorter side, in pixels. null: they keep their size."""

    processes: int
    """Processes of img2dataset."""

    threads: int
    """Downloads at once in each process."""

    timeout_seconds: int
    """How long a server may take."""

    retries: int
    """Further tries at a link that failed."""

    min_success_fraction: float
    """Images had, as a fraction of links, below which the network is taken to be at fault."""

    environment: str | None
    """Virtual environment that has img2dataset. null: one is made in the cache, once."""

    def __post_init__(self) -> None:
        self.links = as_list(self.links)
        require_at_least(
            1,
            samples_per_shard=self.samples_per_shard,
            processes=self.processes,
            threads=self.threads,
            timeout_seconds=self.timeout_seconds,
        )
        require_at_least(0, retries=self.retries)
        require(
            self.shorter_side is None or self.shorter_side >= SMALLEST_SIDE,
            f"shorter_side is {self.shorter_side}; it must be at least {SMALLEST_SIDE}, or null.",
        )
        require(
            0 <= self.min_success_fraction <= 1,
            f"min_success_fraction is {self.min_success_fraction}; it must be in [0, 1].",
        )
