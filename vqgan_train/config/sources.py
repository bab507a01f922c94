"""Settings of training, encode and evaluate: how images are read, and remote shards."""

from __future__ import annotations

from dataclasses import dataclass

from vqgan_train.config.checks import require, require_at_least


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """How images are read, how many may be bad, and the cache of remote shards."""

    exif_rotate: bool
    """Turn images as the orientation in their EXIF says, as phones store photos. false: as the
    original, which trained on them as they are stored."""

    image_field: str | None
    """Field of the image in samples of shards that have several, such as jpg or 0.image.jpg. null:
    the first image."""

    max_bad_fraction: float
    """The command or run stops if more than this fraction of the images so far cannot be decoded,
    or of the shards cannot be read. Fewer than 100 images or shards count as 100. 0: stop at the
    first."""

    cache_dir: str | None
    """Folder for downloaded shards, on each machine. null: ~/.cache/vqgan_train/shards."""

    cache_gb: float
    """Maximum size of the downloaded shards in cache_dir, in 10^9 bytes."""

    stall_seconds: float
    """Seconds after which a download that receives no data, or next to none, is tried again."""

    attempts: int
    """Least number of tries of a download that fails in a way that may pass."""

    patience_seconds: float
    """Seconds for which such a download is tried again, however many tries that takes; then the
    shard counts as dead, and its samples as unreadable."""

    def check_source(self, group: str = "") -> None:
        """Refuse values that are out of range; the `__post_init__` of subclasses calls this.

        Args:
            group: the settings' group in messages, with a dot: `data.`.

        Raises:
            UserError: a value is out of range.
        """
        require(
            0 <= self.max_bad_fraction < 1,
            f"{group}max_bad_fraction is {self.max_bad_fraction}; it must be in [0, 1).",
        )
        for name in ("cache_gb", "stall_seconds"):
            value = getattr(self, name)
            require(value > 0, f"{group}{name} is {value}; it must be more than 0.")
        require_at_least(0, **{f"{group}patience_seconds": self.patience_seconds})
        require_at_least(1, **{f"{group}attempts": self.attempts})
