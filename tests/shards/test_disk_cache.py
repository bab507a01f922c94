"""Pins of cached files, in the moments in which other processes come in between."""

import fcntl
import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vqgan_train.shards.remote.disk_cache import CachePin


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "000.tar"
    path.write_bytes(b"shard")
    return path


def is_pinned(path: Path) -> bool:
    """Whether anyone has a lock on a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_pin_that_a_forked_process_releases_stays_pinned_by_its_parent(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = CachePin(shard)
    parents = os.dup(pin._descriptor)  # a fork leaves the same lock with two descriptors
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        pin.release()
    assert is_pinned(shard)
    os.close(parents)
    assert not is_pinned(shard)


def test_a_file_that_is_evicted_before_it_is_locked_is_not_pinned(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, descriptors = fcntl.flock, []

    def remove_and_lock(descriptor: int, operation: int) -> Any:
        shard.unlink(missing_ok=True)
        descriptors.append(descriptor)
        return lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with pytest.raises(FileNotFoundError, match=r"000\.tar") as gone:
        CachePin(shard)
    # At once, and not when the error that refers to it is forgotten.
    assert gone.traceback
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])


def test_a_file_that_is_not_there_is_an_error_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(FileNotFoundError):
        CachePin(tmp_path / "000.tar")
    gc.collect()
    assert not ignored
