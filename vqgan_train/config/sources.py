"""Settings of commands that go through images once: what may be bad, and remote shards."""

from __future__ import annotations

from dataclasses import dataclass

from vqgan_train.config.checks import require, require_at_least


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """How much of a source may be bad, and where remote shards are kept meanwhile."""

    max_bad_fraction: float
    """Images that cannot be decoded, as a fraction of all, at which the command stops. 0: at the
    first. And so of shards of which nothing is left."""

    cache_dir: str | None
    """Folder on a disk of each machine for remote shards. null: ~/.cache/vqgan_train/shards."""

    cache_gb: float
    """What remote shards may take there, in 10^9 bytes."""

    stall_seconds: float
    """How long a remote source may send nothing, or next to nothing, before it is asked again."""

    attempts: int
    """How often a remote source is asked before the command stops."""

    def check_source(self) -> None:
        """Refuse what is impossible; for `__post_init__`.

        Raises:
            ConfigError: something is.
        """
        require(
            0 <= self.max_bad_fraction < 1,
            f"max_bad_fraction is {self.max_bad_fraction}; it must be in [0, 1).",
        )
        require(self.cache_gb > 0, f"cache_gb is {self.cache_gb}; it must be more than 0.")
        require(
            self.stall_seconds > 0,
            f"stall_seconds is {self.stall_seconds}; it must be more than 0.",
        )
        require_at_least(1, attempts=self.attempts)
