"""End loader processes that cannot send their results, and explain their end to the user."""

import errno
import multiprocessing.queues
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vqgan_train.system.errors import UserError

SHARED_MEMORY = Path("/dev/shm")

CANNOT_SEND, SHARED_MEMORY_FULL, TOO_MANY_FILES = 71, 73, 74
"""Exit codes of a loader process that could not send a result, by reason."""

REASONS = {
    SHARED_MEMORY_FULL: "/dev/shm is full",
    TOO_MANY_FILES: "there are too many open files",
    CANNOT_SEND: "it could not send a result, see the message above",
}

DEAD_WORKER = "DataLoader worker"
"""Words of torch's messages about a loader process that has ended."""

CAUSE = re.compile(r"exit code (?P<code>\d+)|killed by signal: (?P<signal>[\w ]+)")

NO_FILES_LEFT = re.compile(r"Too many open files|items of ancdata")


def exit_if_unsendable() -> None:
    """Let this process exit when a result cannot be sent; the loader would wait for it for ever."""
    queue: Any = multiprocessing.queues.Queue
    queue._on_queue_feeder_error = staticmethod(_exit_with_reason)


def _exit_with_reason(error: Exception, _result: object) -> None:
    text, code = str(error), CANNOT_SEND
    if getattr(error, "errno", None) == errno.EMFILE or NO_FILES_LEFT.search(text):
        code = TOO_MANY_FILES
    elif getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text:
        code = SHARED_MEMORY_FULL
    sys.stderr.write(f"A loader process ends, because it cannot send its images: {text}\n")
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def explain_dead_workers(setting: str) -> Iterator[None]:
    """Raise a UserError in place of torch's error about a loader process that has ended.

    Args:
        setting: name of the setting that is the number of loader processes.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = f"{error.__cause__} {error}"  # torch puts the exit code into the first of the two
        if DEAD_WORKER not in text and not NO_FILES_LEFT.search(text):
            raise
        cause = CAUSE.search(text)
        reason = cause[0] if cause is not None else "its messages above may say why"
        code = int(cause["code"] or 0) if cause is not None else 0
        if NO_FILES_LEFT.search(text):
            code = TOO_MANY_FILES
        raise UserError(
            f"A loader process has ended ({REASONS.get(code, reason)}). {_advice(setting)}"
        ) from error


def require_shared_memory(num_bytes: int, setting: str) -> None:
    """Check that /dev/shm has room for the batches on their way from loader processes.

    Args:
        num_bytes: bytes of these batches.
        setting: name of the setting that is the number of loader processes.

    Raises:
        UserError: it has not.
    """
    free = _free_shared_memory()
    if free is not None and num_bytes > free:
        raise UserError(
            f"The batches that loader processes read ahead take {num_bytes / 1e6:.3g} MB, but "
            f"{SHARED_MEMORY} has {free / 1e6:.3g} MB left. {_advice(setting)}"
        )


def _free_shared_memory() -> int | None:
    """Return the free bytes of /dev/shm; None if there is none, as on a Mac."""
    with suppress(OSError):
        status = os.statvfs(SHARED_MEMORY)
        return status.f_bavail * status.f_frsize
    return None


def _advice(setting: str) -> str:
    free = _free_shared_memory()
    room = "" if free is None else f" ({free / 1e6:.3g} MB are free)"
    return (
        f"Loader processes pass images on in {SHARED_MEMORY}{room}: in a container, start it with "
        f"--shm-size=8g or --ipc=host. They need main memory and open files (ulimit -n), too. "
        f"Otherwise lower {setting}; {setting}=0 loads without such processes."
    )
