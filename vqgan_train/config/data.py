"""Settings of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """WebDataset shards and what becomes of an image in them."""

    train_shards: Any
    """Path, glob or brace pattern of tar files, or a list of those. null: the sample photos."""

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

    max_bad_fraction: float
    """Unreadable samples, as a fraction of all, at which the run stops. 0: at the first."""

    def __post_init__(self) -> None:
        self.train_shards = None if self.train_shards is None else as_list(self.train_shards)
        self.val_shards = None if self.val_shards is None else as_list(self.val_shards)
        require_at_least(1, data__batch_size=self.batch_size, data__image_size=self.image_size)
        require_at_least(0, data__num_workers=self.num_workers)
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
