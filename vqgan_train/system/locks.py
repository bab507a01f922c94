"""Locks between processes, by files; a process that ends, even by SIGKILL, leaves none locked."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Error numbers of a file system that has no locks, such as Lustre mounted without `-o flock`."""

POLL_SECONDS = 0.1
SAY_SECONDS = 5.0
"""Time after which a wait is logged."""


@contextmanager
def file_lock(
    path: Path, work: str, *, timeout: float = float("inf"), say_after: float = SAY_SECONDS
) -> Iterator[bool]:
    """Hold a file's exclusive lock inside the block, after waiting for its holder.

    The file is created if missing, and removed at the end. Yields whether the file system has
    locks; without them, nothing is locked, and nobody waits.

    Args:
        path: the file; its folder exists.
        work: what the holder does, for the message about waiting.
        timeout: seconds to wait.
        say_after: seconds of waiting after which that is logged.

    Raises:
        TimeoutError: another process still holds the lock after `timeout`.
        OSError: the file cannot be opened.
    """
    started_at, is_said = time.monotonic(), False
    while (descriptor := _try_lock(path)) is None:
        waited = time.monotonic() - started_at
        if waited >= timeout:
            raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
        if waited >= say_after and not is_said:
            is_said = True
            log.info("Waiting for another process that is %s (it holds %s).", work, path)
        time.sleep(POLL_SECONDS)
    try:
        yield descriptor >= 0
    finally:
        with suppress(FileNotFoundError):
            path.unlink()  # before unlocking: whoever locks it next sees that it is gone
        if descriptor >= 0:
            # Closing does not unlock while a forked loader process has a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Return the descriptor of the locked file, -1 if there are no locks, None if it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # else its last holder removed it after it was opened
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(descriptor)
        if error.errno in NO_LOCKS:
            return -1
        raise
    os.close(descriptor)
    return None
