"""Settings of the training and validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vqgan_train.config.checks import Frozen, as_list, require, require_at_least
from vqgan_train.config.sources import SourceConfig
from vqgan_train.system.errors import as_typed

MAX_PATIENCE_SECONDS = 1200
"""Longest wait for a source, within the 30 minutes that torch's ranks wait for one another."""


class Sampling(Enum):
    """Way to draw training samples.

    exactly_once: every image once per epoch. with_replacement: every draw is independent.
    """

    exactly_once = "exactly_once"
    with_replacement = "with_replacement"


@dataclass(kw_only=True, slots=True)
class DataConfig(Frozen, SourceConfig):
    """WebDataset shards, and the preprocessing of their images."""

    train_shards: Any
    """Tar files: path, glob or brace pattern; address (https://, s3://, ...) or pipe:COMMAND, both
    with or without braces; or a list of these. null: the sample photos."""

    val_shards: Any
    """Validation shards, given like train_shards. null: the sample photos."""

    batch_size: int
    """Images per device and batch."""

    num_workers: int
    """Loader processes per device, and as many again for validation, which sleep between two
    validations. 0: load in the training process."""

    image_size: int
    """Side of the model's square images, in pixels; a multiple of its downsampling factor."""

    resize: int
    """Length to which the shorter side is scaled before cropping, in pixels."""

    random_crop: bool
    """Crop training images at a random position instead of the centre."""

    random_flip: bool
    """Mirror each training image with probability 1/2."""

    sampling: Sampling

    source_weights: Any
    """Relative frequency of each pattern of train_shards, for sampling=with_replacement: one number
    per pattern, in any unit. null: proportional to the numbers of samples."""

    shuffle_shards: int | None
    """Number of shards whose samples are shuffled together; twice as many remote ones are on disk.
    null: all shards."""

    shard_lanes: int | None
    """Number of groups (lanes) into which shards are dealt, so that each machine downloads only its
    share of remote shards; best is batch_size x number of all devices / 8. shuffle_shards must be a
    multiple of it. null: no groups, so every machine downloads nearly all shards."""

    def __post_init__(self) -> None:
        for name in ("train_shards", "val_shards"):
            shards = getattr(self, name)
            object.__setattr__(self, name, None if shards is None else as_list(shards))
        require_at_least(1, data__batch_size=self.batch_size, data__image_size=self.image_size)
        require_at_least(0, data__num_workers=self.num_workers)
        self.check_source("data.")
        require(
            self.patience_seconds <= MAX_PATIENCE_SECONDS,
            f"data.patience_seconds is {self.patience_seconds}; it must be at most "
            f"{MAX_PATIENCE_SECONDS}: ranks wait 30 minutes for one whose shard is away.",
        )
        self._check_order()
        require(
            self.resize >= self.image_size,
            f"data.resize is {self.resize}, smaller than data.image_size={self.image_size}: there "
            "would be nothing to crop from. Raise data.resize.",
        )
        require(
            (self.train_shards is None) == (self.val_shards is None),
            f"data.train_shards is {as_typed(self.train_shards)}, data.val_shards is "
            f"{as_typed(self.val_shards)}: set both, or neither for the sample photos.",
        )

    def _check_lanes(self, lanes: int) -> None:
        require_at_least(1, data__shard_lanes=lanes)
        require(
            self.shuffle_shards is not None and self.shuffle_shards % lanes == 0,
            f"data.shard_lanes is {lanes}, but data.shuffle_shards is "
            f"{as_typed(self.shuffle_shards)}. Set "
            f"data.shuffle_shards to a multiple of {lanes}: the lanes share these shards equally.",
        )
        require(
            self.sampling is Sampling.exactly_once,
            f"data.shard_lanes is {lanes}, but data.sampling=with_replacement draws from all "
            "shards. Set data.shard_lanes=null, or data.sampling=exactly_once.",
        )

    def _check_order(self) -> None:
        require_at_least(1, data__shuffle_shards=self.shuffle_shards)
        if self.shard_lanes is not None:
            self._check_lanes(self.shard_lanes)
        weights = self.source_weights
        if weights is None:
            return
        require(
            self.sampling is Sampling.with_replacement,
            "data.source_weights is set, but data.sampling=exactly_once draws every image equally "
            "often. Set data.sampling=with_replacement, or data.source_weights=null.",
        )
        is_list = isinstance(weights, Sequence) and not isinstance(weights, str)
        numbers = [w for w in weights if isinstance(w, int | float)] if is_list else []
        require(
            is_list
            and len(numbers) == len(weights) == len(self.train_shards or [])
            and all(0 <= number < float("inf") for number in numbers)
            and sum(numbers) > 0,
            f"data.source_weights is {weights}; it must be a list of numbers, 0 or more, one for "
            f"each of the {len(self.train_shards or [])} patterns in data.train_shards.",
        )
