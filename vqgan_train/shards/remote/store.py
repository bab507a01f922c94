"""Remote shards, brought whole into a cache on disk and indexed there; those that cannot be had."""

import hashlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vqgan_train.shards.index import (
    UNREADABLE_INDEX,
    ShardIndex,
    index_shard,
    read_index,
    read_sample,
    write_index,
)
from vqgan_train.shards.naming import PIPE
from vqgan_train.shards.remote.disk_cache import CacheFullError, DiskCache, Hold, touch
from vqgan_train.shards.remote.transfer import EndlessError, RefusedError, TransferError, fetch_file
from vqgan_train.system.errors import DeadShardError, ShardError
from vqgan_train.system.files import PARTIAL, write_atomically

log = logging.getLogger(__name__)

DEAD_FOR_SECONDS = 3600
"""How long the other ranks and workers take a source for dead without asking it themselves."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Between attempts; each pause is twice as long as the one before."""

ROOM_EVERY_SECONDS = 1.0

NAME_OF_TAR = re.compile(r"[^/\s'\"=?&]+\.tar\b")


class StoppedError(Exception):
    """A transfer was given up because nobody wants it any more."""


class ShardStore:
    """Fetches shards, at most once a machine. What lies under an address is taken not to change.

    Args:
        folder: of the cache, on a disk of this machine.
        max_bytes: what the shards in it may take.
        stall_seconds: how long to bear with a source that sends nothing.
        attempts: how often to try before a source is dead.
    """

    def __init__(self, folder: Path, max_bytes: int, stall_seconds: float, attempts: int) -> None:
        self.cache = DiskCache(folder, max_bytes)
        self.stall_seconds = stall_seconds
        self.attempts = attempts
        self._known: dict[str, ShardIndex] = {}

    def fetch(
        self, address: str, stop: threading.Event | None = None, *, urgent: bool = True
    ) -> ShardIndex:
        """Have a shard here, and where its samples are. It stays as long as there is room.

        Args:
            address: pipe:COMMAND, or what fsspec opens.
            stop: ends the transfer when it is set.
            urgent: it may take the room of what is to be used soon.

        Raises:
            DeadShardError: it cannot be had.
            CacheFullError: everything in the cache is in use.
            StoppedError: `stop` was set.
        """
        known = self._known.get(address)
        if known is not None:
            try:
                touch(known.path)
            except FileNotFoundError:
                self._known.pop(address, None)
            else:
                return known
        try:
            self.place(address).mkdir(exist_ok=True)
            with FileLock(self.place(address) / "lock"):
                stop = stop or threading.Event()
                index = self._kept(address) or self._download(address, stop, urgent)
        except OSError as error:  # of the cache's disk: transfers raise their own
            raise DeadShardError(f"{shown(address)} cannot be kept here: {error}") from error
        self._known[address] = index
        return index

    def fetch_to_hold(
        self, address: str, stop: threading.Event, *, urgent: bool = True
    ) -> tuple[ShardIndex, Hold]:
        """Have a shard here, and keep it as long as the hold lives.

        Raises:
            DeadShardError, CacheFullError, StoppedError: as `fetch` does.
        """
        while True:
            index = self.fetch(address, stop, urgent=urgent)
            try:
                return index, Hold(index.path)
            except FileNotFoundError:  # it went in between
                continue

    def path(self, address: str) -> Path:
        """Where the shard is, if it is here."""
        return self.place(address) / file_name(address)

    def forget_dead(self, addresses: Iterable[str]) -> None:
        """Ask dead sources anew: a run that begins may find them mended."""
        for address in addresses:
            (self.place(address) / "dead").unlink(missing_ok=True)

    def place(self, address: str) -> Path:
        """The folder in which everything about one address is."""
        return self.cache.folder / hashlib.sha256(address.encode()).hexdigest()[:24]

    def _kept(self, address: str) -> ShardIndex | None:
        shard = self.path(address)
        try:
            touch(shard)
            return read_index(self.place(address) / "index.npz", shard)
        except FileNotFoundError:
            return None
        except UNREADABLE_INDEX as error:
            log.warning("The index of %s is unreadable (%s) and made again.", shard, error)
            return self._index_again(shard)

    def _index_again(self, shard: Path) -> ShardIndex | None:
        try:
            return index_shard(shard)
        except ShardError:
            shard.unlink(missing_ok=True)
            return None

    def _download(self, address: str, stop: threading.Event, urgent: bool) -> ShardIndex:
        """Try until it is here; remember if it cannot be had."""
        self._raise_if_dead(address)
        reason, broken_at, attempt = "", -1, 0
        for attempt in range(self.attempts):
            if attempt:
                stop.wait(pause_seconds(attempt))
            try:
                index = self._transfer(address, stop, urgent)
            except CacheFullError:
                raise
            except (TransferError, ShardError) as error:
                # Libraries name what they asked for, signature and all.
                reason = str(error).replace(address, shown(address))
                if isinstance(error, EndlessError | RefusedError):
                    break
                continue
            # What is damaged in the same way twice is so at its source: its whole samples count.
            if not index.problem or index.num_bytes == broken_at or attempt + 1 == self.attempts:
                return self._keep(address, index)
            reason, broken_at = index.problem, index.num_bytes
        message = f"{shown(address)} cannot be had, attempt {attempt + 1}: {reason}"
        log.warning("DEAD SHARD: %s", message)
        with write_atomically(self.place(address) / "dead") as file:
            file.write(message.encode())
        raise DeadShardError(message)

    def is_dead(self, address: str) -> bool:
        """Whether some process of this machine found that it cannot be had, lately."""
        return (self.place(address) / "dead").exists()

    def _raise_if_dead(self, address: str) -> None:
        marker = self.place(address) / "dead"
        try:
            if time.time() - marker.stat().st_mtime < DEAD_FOR_SECONDS:
                raise DeadShardError(marker.read_text())
            marker.unlink()
        except FileNotFoundError:
            pass

    def _transfer(self, address: str, stop: threading.Event, urgent: bool) -> ShardIndex:
        """Make one attempt, whose file is left under its partial name."""
        partial = self.place(address) / f"{file_name(address)}{PARTIAL}"
        partial.write_bytes(b"")
        with Hold(partial):
            look = self._watchman(partial, stop, urgent)
            fetch_file(address, partial, self.stall_seconds, look)
            index = index_shard(partial)
            self.cache.make_room(urgent=urgent)
        return index

    def _watchman(self, partial: Path, stop: threading.Event, urgent: bool) -> Callable[[], None]:
        """What is looked after while bytes come: that somebody wants them, and that they fit."""
        looked_at = time.monotonic()

        def look() -> None:
            nonlocal looked_at
            if stop.is_set():
                partial.unlink(missing_ok=True)
                raise StoppedError
            if time.monotonic() - looked_at < ROOM_EVERY_SECONDS:
                return
            looked_at = time.monotonic()
            if partial.exists() and partial.stat().st_size > self.cache.max_bytes / 2:
                partial.unlink()
                raise EndlessError("it is larger than half of data.cache_gb, or has no end")
            self.cache.make_room(urgent=urgent)

        return look

    def _keep(self, address: str, index: ShardIndex) -> ShardIndex:
        """Give a shard its name, its index first: who sees the shard finds the index, too."""
        kept = replace(index, path=self.path(address))
        if kept.problem:
            log.warning("%s: %s", shown(address), kept.problem)
        write_index(kept, self.place(address) / "index.npz")
        index.path.replace(kept.path)
        return kept


def pause_seconds(attempt: int) -> float:
    """How long to wait before an attempt, counted from 0; not all ranks in the same moment."""
    longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    # Of the system's random numbers: Python's own belong to the run and its seed.
    return longest * random.SystemRandom().uniform(0.5, 1)


def file_name(address: str) -> str:
    """The shard's own name, under which its samples are reported."""
    names = NAME_OF_TAR.findall(address)
    return names[-1] if names else "shard.tar"


def shown(address: str) -> str:
    """An address as messages show it: without what may be a secret in it."""
    if address.startswith(PIPE):
        return f"{PIPE}{address.removeprefix(PIPE).split(maxsplit=1)[0]} ... {file_name(address)}"
    return re.sub(r"//[^/@]*@", "//", address.partition("?")[0])


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
