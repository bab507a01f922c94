"""Cache folder with a size limit that evicts the least recently used files, but never pinned ones.

A process pins a file by a shared lock on it. The operating system releases the locks of a process
when it ends, even by a crash, so no pin is left behind. Files that are needed soon have a
low-priority pin: they are evicted last, and only for a download that is needed now.
"""

import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from vqgan_train.system.errors import ShardError
from vqgan_train.system.files import PARTIAL
from vqgan_train.system.locks import file_lock

EVICTION_LOCK = "room.lock"
"""File that a process locks while it evicts."""

GROWTH_FILE = "growth"
"""File to which every process appends, as int64, the bytes that it has added to the cache."""

GROWTH = struct.Struct("<q")

REPORTED_FRACTION = 1e-3
"""Part of the limit by which a download grows before its growth is appended."""

TARGET_FRACTION = 0.95
"""Part of the limit to which unused files are evicted, so that the files are seldom listed."""

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
        self._lock = threading.Lock()
        self._total_bytes: int | None = None
        """Size of all files when `_growth_read` was the size of the growth file."""
        self._growth_read = 0
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
        if self._estimate() <= self.max_bytes:
            return
        with file_lock(self.folder / EVICTION_LOCK, "making room in the cache"):
            total_bytes, files = self._list_files()
            if total_bytes <= self.max_bytes:  # another process has evicted some meanwhile
                return
            left = _evict_files(files, total_bytes, self.max_bytes * TARGET_FRACTION, True)
            if urgent and left > self.max_bytes:
                total_bytes, files = self._list_files()
                left = _evict_files(files, total_bytes, self.max_bytes, False)
            with self._lock:
                self._total_bytes = (self._total_bytes or 0) - (total_bytes - left)
            total_bytes = left
        if total_bytes > self.max_bytes:
            raise CacheFullError(
                f"{self.folder} holds {total_bytes / 1e9:.3g} GB that are all in use, more than "
                f"cache_gb={self.max_bytes / 1e9:g} allows. Raise cache_gb. In training, raise "
                "data.cache_gb or lower data.shuffle_shards: the cache has to hold all validation "
                "shards and the shards of one shuffle window, and should hold those of two windows."
            )

    def report_growth(self, reported: int, size: int, *, is_last: bool = False) -> int:
        """Tell all processes that a download has grown; return the size that they know of.

        Args:
            reported: the size at the last call, as it was returned; 0 at first.
            size: bytes that the download has now.
            is_last: whether it is complete; else little growth is told later.
        """
        if not is_last and abs(size - reported) < self.max_bytes * REPORTED_FRACTION:
            return reported
        with (self.folder / GROWTH_FILE).open("ab", buffering=0) as file:
            file.write(GROWTH.pack(size - reported))
        return size

    def _estimate(self) -> int:
        """Return the total bytes by the last listing and the growth that was told since."""
        with self._lock:
            if self._total_bytes is not None:
                with suppress(FileNotFoundError), (self.folder / GROWTH_FILE).open("rb") as file:
                    file.seek(self._growth_read)
                    told = file.read()
                    self._growth_read += len(told)
                    self._total_bytes += sum(size for (size,) in GROWTH.iter_unpack(told))
                return self._total_bytes
        return self._list_files()[0]

    def _list_files(self) -> tuple[int, list[tuple[float, int, Path]]]:
        """Return the total bytes, and (time of last use, size, path) of each file."""
        growth = self.folder / GROWTH_FILE
        growth_read = growth.stat().st_size if growth.exists() else 0
        files = []
        for path in (*self.folder.glob("*/*.tar"), *self.folder.glob(f"*/*{PARTIAL}")):
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        with self._lock:
            self._growth_read = growth_read
            self._total_bytes = sum(size for _, size, _ in files)
            return self._total_bytes, files


def pin_low_priority(path: Path) -> CachePin:
    """Pin a file, which may not exist yet, with low priority: urgent downloads may evict it."""
    marker = path.with_name(LOW_PRIORITY_FILE)
    marker.touch()
    return CachePin(marker)


def _evict_files(
    files: Sequence[tuple[float, int, Path]], total_bytes: int, target: float, spare: bool
) -> int:
    """Evict the files that were not used for longest; return the total bytes that are left.

    Args:
        files: (time of last use, size, path) of each file.
        total_bytes: size of all files.
        target: total at which nothing more is evicted.
        spare: whether files with a low-priority pin stay.
    """
    for _, size, path in sorted(files):
        if total_bytes > target and _evict(path, spare):
            total_bytes -= size
    return total_bytes


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
