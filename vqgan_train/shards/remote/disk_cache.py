"""Cache folder with a size limit that evicts the least recently used files, but never pinned ones.

A process pins a file by a shared lock on it. The operating system releases the locks of a process
when it ends, even by a crash, so no pin is left behind. Files that are needed soon have a
low-priority pin: they are evicted last, and only for a download that is needed now.
"""

import fcntl
import math
import os
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from vqgan_train.system.errors import ShardError
from vqgan_train.system.files import PARTIAL
from vqgan_train.system.locks import file_lock

EVICTION_LOCK = "room.lock"
"""File that a process locks while it evicts."""

LISTING_FRACTION = 0.01
"""Part of a process's time that listing a cache of more than `SMALL_CACHE` files may take."""

SMALL_CACHE = 200

LOW_PRIORITY_FILE = "soon"
"""Marker beside a cached file; a lock on it means that the file is needed soon."""


class CacheFullError(ShardError):
    """The cache exceeds its limit, and pins protect all files that are left in it."""


class CachePin(AbstractContextManager["CachePin"]):
    """Pin that protects a file from eviction until the pin is released or garbage-collected.

    Raises:
        FileNotFoundError: the file does not exist any more; OSError: it cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        self._process = os.getpid()
        self._descriptor = -1  # for __del__, which is called even if the file cannot be opened
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if os.fstat(self._descriptor).st_nlink == 0:  # evicted between `open` and `flock`
                raise FileNotFoundError(path)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Remove the pin; further calls have no effect."""
        if self._descriptor >= 0:
            # Closing does not unlock while a loader process that was forked meanwhile has a copy
            # of the descriptor. That copy shares the lock, so only the owner may unlock.
            if self._process == os.getpid():
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


class DiskCache:
    """Cache of tar files, each in a folder of its own, so that each can keep its file name.

    Args:
        folder: created if missing.
        max_bytes: limit of the total size of the files.

    Raises:
        ShardError: the folder is not writable, or its file system has no locks.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._next_listing = -math.inf
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with CachePin(folder):  # some disks have no locks
                pass
        except OSError as error:
            raise ShardError(
                f"Remote shards cannot be cached in {folder} ({error}). Set cache_dir, in "
                "training data.cache_dir, to a folder on a disk of this machine."
            ) from error

    def make_room(self, *, urgent: bool = True) -> None:
        """Evict files until the total size, downloads in progress included, is within the limit.

        Args:
            urgent: whether files with a low-priority pin may be evicted, after all others.

        Raises:
            CacheFullError: the files that may not be evicted exceed the limit.
        """
        if self._disk_usage()[0] <= self.max_bytes:
            return
        with file_lock(self.folder / EVICTION_LOCK, "making room in the cache"):
            for spare_low_priority in (True, False) if urgent else (True,):
                total_bytes, files = self._disk_usage()
                for _, size, path in sorted(files):
                    if total_bytes > self.max_bytes and _evict(path, spare_low_priority):
                        total_bytes -= size
        if total_bytes > self.max_bytes:
            raise CacheFullError(
                f"{self.folder} holds {total_bytes / 1e9:.3g} GB that are all in use, more than "
                f"cache_gb={self.max_bytes / 1e9:g} allows. Raise cache_gb. In training, raise "
                "data.cache_gb or lower data.shuffle_shards: the cache has to hold all validation "
                "shards and the shards of one shuffle window, and should hold those of two windows."
            )

    def make_room_if_due(self, *, urgent: bool = True) -> None:
        """Call `make_room`, unless the last listing of many files was too short a time ago."""
        if time.monotonic() >= self._next_listing:
            self.make_room(urgent=urgent)

    def _disk_usage(self) -> tuple[int, list[tuple[float, int, Path]]]:
        """Return the total bytes, and (time of last use, size, path) of each file."""
        started_at = time.monotonic()
        files = []
        for path in (*self.folder.glob("*/*.tar"), *self.folder.glob(f"*/*{PARTIAL}")):
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        if len(files) > SMALL_CACHE:
            now = time.monotonic()
            self._next_listing = now + (now - started_at) / LISTING_FRACTION
        return sum(size for _, size, _ in files), files


def pin_low_priority(path: Path) -> CachePin:
    """Pin a file, which may not exist yet, with low priority: urgent downloads may evict it."""
    marker = path.with_name(LOW_PRIORITY_FILE)
    marker.touch()
    return CachePin(marker)


def _evict(path: Path, spare_low_priority: bool) -> bool:
    """Remove a file unless it is pinned, or pinned with low priority and spared; return success."""
    marker = path.with_name(LOW_PRIORITY_FILE)
    if spare_low_priority and not _lock_exclusively(marker, unlink=False):
        return False
    return _lock_exclusively(path, unlink=True)


def _lock_exclusively(path: Path, *, unlink: bool) -> bool:
    """Lock a file for a moment and remove it if asked; return False if it is pinned, else True."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if unlink:
            path.unlink(missing_ok=True)
    except OSError:  # pinned, or on a file system without locks
        return False
    finally:
        # Closing does not unlock while a forked loader process has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
    return True
