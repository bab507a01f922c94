"""A folder that may only grow so large: what was not used for longest goes, but nothing in use.

In use is what a process holds a lock on; what it will use soon is spared, too, but goes before it.
The system lets go of a lock when its process ends, however it ends, so nothing has to be tidied up
after a crash.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from vqgan_train.system.errors import ShardError
from vqgan_train.system.files import PARTIAL

LOCK = "room.lock"
"""One process at a time removes files."""

SOON = "soon"
"""Beside a file: who holds a lock on it will use the file."""

TOUCH_EVERY_SECONDS = 60


class CacheFullError(ShardError):
    """There is no room, since all that is there is in use."""


class Hold:
    """Keeps a file in the cache for as long as it lives: a shared lock on it.

    Raises:
        FileNotFoundError: it has gone.
    """

    def __init__(self, path: Path) -> None:
        self._process = os.getpid()
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if os.fstat(self._descriptor).st_nlink == 0:  # it went between the two calls
                raise FileNotFoundError(path)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let go of it; again is no harm."""
        if self._descriptor >= 0:
            # Explicitly, since a loader process that was forked meanwhile has the descriptor, too;
            # and not by that one, whose copy is of the same lock.
            if self._process == os.getpid():
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


class DiskCache:
    """Files in folders of their own, so that each keeps its name.

    Args:
        folder: made if need be.
        max_bytes: what its files may take together.

    Raises:
        ShardError: the folder cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / LOCK), Hold(folder):  # not every file system has both
                pass
        except (OSError, NotImplementedError) as error:
            raise ShardError(
                f"Remote shards cannot be kept in {folder} ({error}). Set data.cache_dir to a "
                "folder on a disk of this machine."
            ) from error

    def make_room(self, *, urgent: bool = True) -> None:
        """Remove files until the others are within bounds, those that are being written included.

        Args:
            urgent: what is to be used soon goes, too, though last.

        Raises:
            CacheFullError: all that is left is in use.
        """
        if self._taken()[0] <= self.max_bytes:
            return
        with FileLock(self.folder / LOCK):
            for spare_soon in (True, False) if urgent else (True,):
                taken, files = self._taken()
                for _, size, path in sorted(files):
                    if taken > self.max_bytes and _remove_unless_in_use(path, spare_soon):
                        taken -= size
        if taken > self.max_bytes:
            raise CacheFullError(
                f"{self.folder} holds {taken / 1e9:.3g} GB that are all in use, more than "
                f"data.cache_gb={self.max_bytes / 1e9:g} allows. Raise data.cache_gb, or lower "
                "data.shuffle_shards: a window's shards have to fit, and should fit twice; "
                "validation shards stay, too."
            )

    def _taken(self) -> tuple[int, list[tuple[float, int, Path]]]:
        """Bytes in all, and of each file when it was last used, its size and path."""
        files = []
        for path in (*self.folder.glob("*/*.tar"), *self.folder.glob(f"*/*{PARTIAL}")):
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        return sum(size for _, size, _ in files), files


def touch(path: Path) -> None:
    """Remember that a file is used now.

    Raises:
        FileNotFoundError: it has gone.
    """
    if time.time() - path.stat().st_mtime > TOUCH_EVERY_SECONDS:
        os.utime(path)


def hold_soon(path: Path) -> Hold:
    """Have a file spared, as long as nobody needs its room now; it may go, or not be there yet."""
    mark = path.with_name(SOON)
    mark.touch()
    return Hold(mark)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        _unlock_and_close(descriptor)
    return False


def _unlock_and_close(descriptor: int) -> None:
    # A loader process that was forked meanwhile has the descriptor, too: closing would not unlock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _remove_unless_in_use(path: Path, spare_soon: bool) -> bool:
    if spare_soon and _is_held(path.with_name(SOON)):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # in use, or on a file system that cannot tell
        return False
    finally:
        _unlock_and_close(descriptor)
    return True
