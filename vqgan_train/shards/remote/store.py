"""Download remote shards into the disk cache, index them, and remember which are unavailable.

A dead shard is one whose download was refused, or failed for longer than the store's patience. A
mark in its folder of the cache keeps this machine from trying again for some minutes: `dead` if the
failure is final, `away` if it may pass. Opening the shard anew removes the mark.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vqgan_train.shards.index import (
    UNREADABLE_INDEX,
    ShardIndex,
    index_shard,
    read_index,
    write_index,
)
from vqgan_train.shards.remote.disk_cache import CacheFullError, CachePin, DiskCache
from vqgan_train.shards.remote.marks import (
    AWAY,
    DEAD,
    mark_and_raise,
    raise_if_marked,
    remove_marks,
)
from vqgan_train.shards.remote.retries import Retries
from vqgan_train.shards.remote.transfer import FinalTransferError, TransferError, fetch_file
from vqgan_train.system.addresses import file_name, redact
from vqgan_train.system.errors import DeadShardError, ShardError
from vqgan_train.system.files import PARTIAL, cache_folder
from vqgan_train.system.locks import file_lock

log = logging.getLogger(__name__)

PARALLEL_DOWNLOADS = 4
"""Shards that a process downloads at the same time."""

SAY_LOCKED_SECONDS = 60.0
"""Time after which waiting for another process's download is logged."""

GUARD_INTERVAL_SECONDS = 1.0
CACHE_FULL_POLL_SECONDS = 0.5

MAX_EVICTIONS_BEFORE_READ = 3
"""How often a shard may be evicted between its download and a read before the read fails."""


class StoppedError(Exception):
    """A download was cancelled because the shard is not needed any more."""


class ShardStore:
    """Cache of remote shards for all processes of a machine; an address must keep its content.

    Args:
        folder: folder of the cache, on a disk of this machine.
        max_bytes: limit of the cache's size.
        stall_seconds: time for which a source may send nothing.
        attempts: least number of failed downloads after which a shard is dead.
        patience_seconds: time for which downloads are tried again that fail in a way that may pass.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        stall_seconds: float,
        attempts: int,
        patience_seconds: float = 0,
    ) -> None:
        self.cache = DiskCache(folder, max_bytes)
        self.stall_seconds = stall_seconds
        self.attempts = attempts
        self.patience_seconds = patience_seconds
        self._failing_since: dict[str, float] = {}
        """Time of the first failure of each source since its last success."""
        self._indices: dict[str, ShardIndex] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled with each of thousands of samples; a loader process opens the store only once.
        cache = self.cache
        return _store_of_process, (
            cache.folder, cache.max_bytes, self.stall_seconds, self.attempts, self.patience_seconds,
        )  # fmt: skip

    def retries(self) -> Retries:
        """Return the budget of one download."""
        return Retries(self.attempts, self.patience_seconds)

    def fetch(
        self, address: str, stop: threading.Event | None = None, *, urgent: bool = True
    ) -> ShardIndex:
        """Download a shard unless it is cached; return its index. The file may be evicted later.

        Args:
            address: pipe:COMMAND, or an address that fsspec opens.
            stop: cancels the download when it is set.
            urgent: whether files with a low-priority pin may be evicted for the shard.

        Raises:
            DeadShardError: the shard is unavailable, or cannot be written to the cache.
            CacheFullError: all files in the cache are in use.
            StoppedError: `stop` was set.
        """
        index = self._indices.get(address)
        if index is not None:
            try:
                os.utime(index.path)  # the least recently used files are evicted first
            except FileNotFoundError:
                self._indices.pop(address, None)
            else:
                return index
        folder = self.entry_folder(address)
        try:
            folder.mkdir(exist_ok=True)
            index = self._load_cached(address)
            if index is None:
                index = self._download_alone(address, stop or threading.Event(), urgent)
        except OSError as error:  # of the cache's disk; failed downloads are DeadShardErrors
            raise DeadShardError(
                f"{redact(address)} cannot be cached in {self.cache.folder}: {error}"
            ) from error
        self._indices[address] = index
        return index

    def fetch_and_pin(
        self, address: str, stop: threading.Event, *, urgent: bool = True
    ) -> tuple[ShardIndex, CachePin]:
        """Fetch a shard and pin it; arguments and errors are those of `fetch`."""
        while True:
            index = self.fetch(address, stop, urgent=urgent)
            try:
                return index, CachePin(index.path)
            except FileNotFoundError:  # evicted in between
                continue

    def entry_folder(self, address: str) -> Path:
        """Return the folder in the cache with all files about an address."""
        return self.cache.folder / hashlib.sha256(address.encode()).hexdigest()[:24]

    def shard_path(self, address: str) -> Path:
        """Return the path that the shard has when it is cached."""
        return self.entry_folder(address) / file_name(address)

    def forget_dead(self, addresses: Iterable[str]) -> None:
        """Remove the marks of dead shards, because their sources may work again."""
        for address in addresses:
            remove_marks(self.entry_folder(address))

    def _load_cached(self, address: str) -> ShardIndex | None:
        shard = self.shard_path(address)
        try:
            os.utime(shard)
            return read_index(self.entry_folder(address) / "index.npz", shard)
        except FileNotFoundError:
            return None
        except UNREADABLE_INDEX as error:
            log.warning("The index of %s is unreadable (%s); it is made again.", shard, error)
        try:
            return index_shard(shard)
        except ShardError:
            shard.unlink(missing_ok=True)
            return None

    def _download_alone(self, address: str, stop: threading.Event, urgent: bool) -> ShardIndex:
        """Download a shard, unless another process has done so or found it dead meanwhile."""
        lock = self.entry_folder(address) / "lock"
        work = f"downloading {redact(address)}"
        with file_lock(lock, work, say_after=SAY_LOCKED_SECONDS):
            index = self._load_cached(address)
            if index is not None:
                return index
            was_dead = raise_if_marked(self.entry_folder(address))
            retries = Retries(1, 0) if was_dead else self.retries()
            return self._download(address, stop, urgent, retries)

    def _download(
        self, address: str, stop: threading.Event, urgent: bool, retries: Retries
    ) -> ShardIndex:
        """Download a shard with retries; mark it as dead, and raise, if that fails."""
        damaged_size, mark = -1, AWAY
        while True:
            try:
                index = self._try_download(address, stop, urgent)
            except CacheFullError:
                raise
            except (TransferError, ShardError) as error:
                # Libraries quote the address, whose query may be secret.
                reason = redact(str(error).replace(address, redact(address)))
                is_final = isinstance(error, FinalTransferError | ShardError)
                mark = DEAD if is_final else AWAY
                pause = self._pause_after(error, address, retries)
            else:
                # If a second download repeats the damage, it is the source's: use other samples.
                is_last = retries.attempt >= retries.attempts
                if not index.problem or index.num_bytes == damaged_size or is_last:
                    return self._publish(address, index)
                reason, damaged_size, pause = index.problem, index.num_bytes, retries.next_pause()
            if pause < 0:
                message = (
                    f"{redact(address)} is unavailable after attempt {retries.attempt}: {reason}"
                )
                log.warning("DEAD SHARD: %s", message)
                mark_and_raise(self.entry_folder(address), mark, message)
            if retries.attempt == 2 and retries.patience_seconds:
                log.warning(
                    "%s did not arrive and is tried again for up to %g s: %s",
                    *(redact(address), retries.patience_seconds, reason),
                )
            stop.wait(pause)

    def _pause_after(self, error: Exception, address: str, retries: Retries) -> float:
        """Return the pause before the next attempt, or -1 if there is none."""
        if isinstance(error, FinalTransferError):
            return -1
        if not isinstance(error, TransferError):  # whole, but no shard: time seldom helps
            return -1 if retries.attempt >= retries.attempts else retries.next_pause()
        since = self._failing_since.setdefault(_source(address), time.monotonic())
        return retries.next_pause(error.retry_after, since)

    def _try_download(self, address: str, stop: threading.Event, urgent: bool) -> ShardIndex:
        """Download a shard to its partial file and index it."""
        shard = self.shard_path(address)
        partial = shard.with_name(f"{shard.name}{PARTIAL}")
        partial.touch()  # an earlier attempt may have left its first part
        with CachePin(partial):
            guard = self._download_guard(partial, stop, urgent)
            fetch_file(address, partial, self.stall_seconds, guard)
            self._failing_since.pop(_source(address), None)
            index = index_shard(partial)
            self.cache.make_room_if_due(urgent=urgent)
        return index

    def _download_guard(
        self, partial: Path, stop: threading.Event, urgent: bool
    ) -> Callable[[], None]:
        """Return a callback that ends a cancelled or oversized download, and makes room for it."""
        checked_at = time.monotonic()

        def check() -> None:
            nonlocal checked_at
            if stop.is_set():
                partial.unlink(missing_ok=True)
                raise StoppedError
            if time.monotonic() - checked_at < GUARD_INTERVAL_SECONDS:
                return
            checked_at = time.monotonic()
            if partial.exists() and partial.stat().st_size > self.cache.max_bytes / 2:
                partial.unlink()
                raise FinalTransferError("it is larger than half of cache_gb, or endless")
            self.cache.make_room_if_due(urgent=urgent)

        return check

    def _publish(self, address: str, index: ShardIndex) -> ShardIndex:
        """Move a complete download to its final name, and return its index."""
        published = replace(index, path=self.shard_path(address))
        if published.problem:
            log.warning("%s: %s", redact(address), published.problem)
        # The index first, so that every process that sees the shard finds its index.
        write_index(published, self.entry_folder(address) / "index.npz")
        index.path.replace(published.path)
        return published


@cache
def _store_of_process(*arguments: Any) -> ShardStore:
    return ShardStore(*arguments)


def open_store(
    shards: Sequence[Path | str],
    cache_dir: str | None,
    cache_gb: float,
    stall_seconds: float,
    attempts: int,
    patience_seconds: float,
) -> ShardStore | None:
    """Open the store for a command's remote shards; return None if all shards are local.

    Args:
        shards: paths of local shards, addresses of remote ones.
        cache_dir: folder on a disk of this machine. None: a folder in the user's cache.
        cache_gb: largest size of that folder in 10^9 bytes.
        stall_seconds: time without data after which a download fails.
        attempts: least number of tries of a failing download.
        patience_seconds: time for which a download is tried again if its failure may pass.
    """
    if all(isinstance(shard, Path) for shard in shards):
        return None
    folder = Path(cache_dir).expanduser() if cache_dir else cache_folder("shards")
    return ShardStore(folder, int(cache_gb * 1e9), stall_seconds, attempts, patience_seconds)


def _source(address: str) -> str:
    """Return what addresses of one server have in common: the part before the third slash."""
    return "/".join(address.split("/")[:3])


@cache
def _warn_of_surplus(address: str, found: int, counted: int) -> None:
    """Warn once per process that a shard has samples beyond those counted, which are not used."""
    log.warning(
        "%s holds %d samples, but %d were counted before the download; the other %d are not used.",
        redact(address),
        found,
        counted,
        found - counted,
    )


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """Shard that is fetched when a sample is read; it is otherwise used like a `ShardIndex`."""

    address: str
    """pipe:COMMAND, or an address that fsspec opens."""

    num_samples: int
    """Number counted before the download; positions in the sample order depend on it."""

    store: ShardStore

    @property
    def name(self) -> str:
        """File name without folder."""
        return file_name(self.address)

    @property
    def path(self) -> Path:
        """Path that the file has while it is cached."""
        return self.store.shard_path(self.address)

    def identity(self) -> bytes:
        """Return bytes of file name and number of samples; -1 replaces a local shard's size."""
        name = os.fsencode(self.name)
        return np.array((len(name), -1, self.num_samples), dtype="<i8").tobytes() + name

    def is_dead(self) -> bool:
        """Return whether the cache of this machine marks the shard as dead."""
        folder = self.store.entry_folder(self.address)
        return any((folder / mark).exists() for mark in (DEAD, AWAY))

    def is_away(self) -> bool:
        """Return whether the shard is dead for a reason that may pass."""
        return (self.store.entry_folder(self.address) / AWAY).exists()

    def read(self, number: int) -> dict[str, Any]:
        """Read one sample's fields: see `ShardIndex.read`.

        Raises:
            DeadShardError: the sample is unavailable for any reason; a run continues without it.
        """
        for _ in range(MAX_EVICTIONS_BEFORE_READ):
            index = self._fetch()
            if index.num_samples > self.num_samples:
                _warn_of_surplus(self.address, index.num_samples, self.num_samples)
            if number >= index.num_samples:
                raise DeadShardError(
                    f"it holds {index.num_samples} samples, but {self.num_samples} were counted "
                    "before the download"
                )
            try:
                return index.read(number)
            except FileNotFoundError:  # evicted for another process
                continue
            except (ShardError, OSError) as error:
                raise DeadShardError(f"{redact(self.address)} cannot be read: {error}") from error
        raise DeadShardError(
            f"{redact(self.address)} was evicted from the cache before it was read, "
            f"{MAX_EVICTIONS_BEFORE_READ} times. Raise cache_gb (in training: data.cache_gb)."
        )

    def _fetch(self) -> ShardIndex:
        """Fetch the shard; if the cache is full, retry for `stall_seconds` before giving up."""
        deadline = time.monotonic() + self.store.stall_seconds
        while True:
            try:
                return self.store.fetch(self.address)
            except CacheFullError as error:
                if time.monotonic() > deadline:
                    raise DeadShardError(str(error)) from error
                time.sleep(CACHE_FULL_POLL_SECONDS)
