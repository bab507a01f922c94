"""Settings of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vqgan_train.config.checks import Frozen, as_list, require, require_at_least


class Sampling(Enum):
    """In which way training samples are drawn."""

    exactly_once = "exactly_once"
    with_replacement = "with_replacement"


@dataclass(kw_only=True, slots=True)
class DataConfig(Frozen):
    """WebDataset shards and what becomes of an image in them."""

    train_shards: Any
    """Path, glob or brace pattern of tar files, an address (https://, s3://, ...) or pipe:COMMAND
    with braces, or a list of those. null: the sample photos."""

    val_shards: Any
    """The same for validation. null: the sample photos."""

    batch_size: int
    """Images a device and batch."""

    num_workers: int
    """Loader processes a device. 0: load in the training process."""

    image_size: int
    """Side of the square that the model sees, in pixels; a multiple of the model's f."""

    resize: int
    """Length of the shorter side before cropping, in pixels."""

    random_crop: bool
    """Crop training images at random places instead of the centre."""

    random_flip: bool
    """Mirror half of the training images."""

    sampling: Sampling
    """exactly_once: each image once an epoch. with_replacement: every draw by itself."""

    source_weights: Any
    """with_replacement: how often each pattern of train_shards is drawn from, one number a pattern,
    in any unit. null: as its number of samples."""

    shuffle_shards: int | None
    """Shards whose samples are mixed at a time; so many, and as many more, are on disk of remote
    ones. null: all."""

    shard_lanes: int | None
    """Lanes that shards are dealt to, so that each machine reads only its share of remote ones:
    best batch_size x all devices / 8. shuffle_shards must be a multiple. null: every machine reads
    nearly all."""

    cache_dir: str | None
    """Folder on a disk of each machine for remote shards. null: ~/.cache/vqgan_train/shards."""

    cache_gb: float
    """What remote shards may take there, in 10^9 bytes."""

    stall_seconds: float
    """How long a remote source may send nothing, or next to nothing, before it is asked again."""

    attempts: int
    """How often a remote source is asked before its shard counts as dead, its samples as bad."""

    max_bad_fraction: float
    """Unreadable samples, as a fraction of all, at which the run stops. 0: at the first."""

    def __post_init__(self) -> None:
        for name in ("train_shards", "val_shards"):
            shards = getattr(self, name)
            object.__setattr__(self, name, None if shards is None else as_list(shards))
        require_at_least(1, data__batch_size=self.batch_size, data__image_size=self.image_size)
        require_at_least(0, data__num_workers=self.num_workers)
        require_at_least(1, data__attempts=self.attempts)
        self._check_order()
        require(self.cache_gb > 0, f"data.cache_gb is {self.cache_gb}; it must be more than 0.")
        require(
            self.stall_seconds > 0,
            f"data.stall_seconds is {self.stall_seconds}; it must be more than 0.",
        )
        require(
            self.resize >= self.image_size,
            f"data.resize is {self.resize}, smaller than data.image_size={self.image_size}: there "
            "would be nothing to crop from. Raise data.resize.",
        )
        require(
            0 <= self.max_bad_fraction < 1,
            f"data.max_bad_fraction is {self.max_bad_fraction}; it must be in [0, 1).",
        )
        require(
            (self.train_shards is None) == (self.val_shards is None),
            f"data.train_shards is {self.train_shards}, data.val_shards is {self.val_shards}: "
            "set both, or neither for the sample photos.",
        )

    def _check_lanes(self, lanes: int) -> None:
        require_at_least(1, data__shard_lanes=lanes)
        require(
            self.shuffle_shards is not None and self.shuffle_shards % lanes == 0,
            f"data.shard_lanes is {lanes}, data.shuffle_shards is {self.shuffle_shards}: each lane "
            "mixes as many shards as the others. Set data.shuffle_shards to a multiple of "
            f"{lanes}.",
        )
        require(
            self.sampling is Sampling.exactly_once,
            f"data.shard_lanes is {lanes}, but data.sampling=with_replacement draws from all "
            "shards. Set data.shard_lanes=null, or data.sampling=exactly_once.",
        )

    def _check_order(self) -> None:
        if self.shuffle_shards is not None:
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
