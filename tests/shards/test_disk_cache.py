"""Pins of cached files, in the moments in which other processes come in between."""

import fcntl
import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vqgan_train.shards.remote.disk_cache import (
    SMALL_CACHE,
    CacheFullError,
    CachePin,
    DiskCache,
)


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


def test_listing_many_files_takes_a_hundredth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(SMALL_CACHE + 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "000.tar").write_bytes(b"")
    cache = DiskCache(tmp_path, 6000)
    now = 0.0
    original = Path.glob

    def slow_glob(folder: Path, pattern: str) -> Any:
        nonlocal now
        now += 0.1
        return original(folder, pattern)

    monkeypatch.setattr(Path, "glob", slow_glob)
    monkeypatch.setattr("time.monotonic", lambda: now)
    listed = 0
    for _ in range(1000):
        before = now
        cache.make_room_if_due()
        listed += now > before
        now = before + 0.3
    assert listed == pytest.approx(1000 * 0.3 / 20.2, abs=1.5)  # 0.2 s each, then 20 s of rest


def test_a_growth_that_nobody_can_make_room_for_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shard = tmp_path / "a" / "000.tar"
    shard.write_bytes(bytes(100))
    cache = DiskCache(tmp_path, 50)
    for _ in range(2):
        with CachePin(shard), pytest.raises(CacheFullError):
            cache.make_room()
    cache.make_room()
    assert not shard.exists()
