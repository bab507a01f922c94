"""Where things are kept that can be made again: shard indices, LPIPS weights, sample photos."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

PARTIAL = ".partial"
"""Ending of files that are being written; a process that is killed leaves them."""

PROBE_BYTES = 2**16
"""Written by `try_writing`: more than a disk that is full has left in some corner."""


def cache_folder(name: str) -> Path:
    """The folder for one kind of thing, under $XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqgan_train" / name


def file_sha256(path: Path) -> str:
    """64 hexadecimal digits that name a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """Let one process of a machine fill a cache, while the others wait to find it filled."""
    file = cache_folder(name).with_suffix(".lock")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:  # what cannot be written is filled by nobody
        yield
        return
    try:
        yield
    finally:
        lock.release()


def try_writing(folder: Path) -> None:
    """Write a small file into a folder, which is made if need be, and remove it again.

    Permissions, quotas and read-only disks say best themselves whether they let anyone write.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{secrets.token_hex(4)}{PARTIAL}"
    try:
        with probe.open("xb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # network disks look for room no sooner
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that is there whole or not at all, in a folder that is made if need be.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's, which only its owner may read: runs and caches are shared on a cluster.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
