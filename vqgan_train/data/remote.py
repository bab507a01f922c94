"""Shards that are elsewhere, as the stream sees them: so many samples, read when wanted."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from vqgan_train.data.disk_cache import CacheFullError
from vqgan_train.data.index import ShardIndex
from vqgan_train.data.reading import read_sample
from vqgan_train.data.shard_store import ShardStore, file_name, shown
from vqgan_train.data.shards import DeadShardError, ShardError

log = logging.getLogger(__name__)

_NAMED: set[str] = set()

FETCHED_AGAIN = 3
"""How often a shard may leave the cache between its being fetched and read."""


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """A shard that is fetched when it is read."""

    address: str
    """pipe:COMMAND, or what fsspec opens."""

    num_samples: int
    """As promised before it was fetched: positions in the plan rest on it."""

    store: ShardStore

    @property
    def name(self) -> str:
        """The file's, without where it is."""
        return file_name(self.address)

    def is_available(self) -> bool:
        """Fetch it, to see whether it can be had."""
        try:
            self._fetch()
        except DeadShardError:
            return False
        return True

    def is_dead(self) -> bool:
        """Whether it was found not to be had, lately."""
        return self.store.is_dead(self.address)

    def read(self, place: int) -> dict[str, Any]:
        """Read one sample's fields: `__key__` and bytes under `jpg`, `txt`, `json`, ...

        Raises:
            DeadShardError: it cannot be had, for whatever reason: a run goes on without it.
        """
        for _ in range(FETCHED_AGAIN):
            index = self._fetch()
            if index.num_samples > self.num_samples:
                self._name_surplus(index.num_samples)
            if place >= index.num_samples:
                raise DeadShardError(
                    f"there are only {index.num_samples} of {self.num_samples} promised samples"
                )
            try:
                return read_sample(index, place)
            except FileNotFoundError:  # others needed the room
                continue
            except (ShardError, OSError) as error:
                raise DeadShardError(f"{shown(self.address)} cannot be read: {error}") from error
        raise DeadShardError(
            f"{shown(self.address)} leaves the cache before it is read. Raise data.cache_gb."
        )

    def _name_surplus(self, there: int) -> None:
        """Say it once in each process: only the promised ones have a place in the plan."""
        if self.address not in _NAMED:
            _NAMED.add(self.address)
            log.warning(
                "%s holds %d samples, %d more than it promised, which are not trained on.",
                shown(self.address),
                there,
                there - self.num_samples,
            )

    def _fetch(self) -> ShardIndex:
        """Fetch it; where all room is in use, wait a while for some."""
        give_up_at = time.monotonic() + self.store.stall_seconds
        while True:
            try:
                return self.store.fetch(self.address)
            except CacheFullError as error:
                if time.monotonic() > give_up_at:
                    raise DeadShardError(str(error)) from error
                time.sleep(0.5)
