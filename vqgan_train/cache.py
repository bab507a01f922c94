"""Where things are kept that can be made again: shard indices, LPIPS weights, sample photos."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock


def cache_folder(name: str) -> Path:
    """The folder for one kind of thing, under $XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqgan_train" / name


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


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that is there whole or not at all, in a folder that is made if need be.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        try:
            yield partial
            partial.close()
            Path(partial.name).replace(path)
        finally:
            Path(partial.name).unlink(missing_ok=True)
