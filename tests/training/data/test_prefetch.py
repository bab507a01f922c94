"""Pins of shards over windows, and waiting while the cache is full."""

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import wait_until

from vqgan_train.shards.remote.disk_cache import (
    LOW_PRIORITY_FILE,
    CacheFullError,
    _lock_exclusively,
)
from vqgan_train.shards.remote.store import RemoteShard
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data import prefetch
from vqgan_train.training.data.orders import WindowedShuffle
from vqgan_train.training.data.pipeline import PlannedBatches
from vqgan_train.training.data.prefetch import PrefetchedBatches, Prefetcher


class Store:
    """Shards that are here at once, after the cache was full a few times."""

    def __init__(self, folder: Path, *, times_full: int = 0) -> None:
        self.folder = folder
        self.times_full = times_full

    def shard_path(self, address: str) -> Path:
        return self.folder / address / "shard.tar"

    def fetch_and_pin(
        self, address: str, stop: threading.Event, *, urgent: bool
    ) -> tuple[None, nullcontext[None]]:
        """Make the shard. The prefetcher pins it by a pin of its own."""
        if self.times_full:
            self.times_full -= 1
            raise CacheFullError("all in use")
        self.shard_path(address).parent.mkdir(exist_ok=True)
        self.shard_path(address).touch()
        return None, nullcontext()


def is_pinned(path: Path) -> bool:
    return not _lock_exclusively(path, unlink=False)


def make_shards(store: Store, count: int) -> list[RemoteShard]:
    return [RemoteShard(str(number), 4, store) for number in range(count)]  # type: ignore[arg-type]


def test_a_window_is_let_go_of_a_few_batches_into_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = WindowedShuffle([4] * 3, seed=0, shuffle_shards=1)
    data: Any = SimpleNamespace(
        shards=make_shards(store, 3), shard_numbers=lambda samples: np.asarray(samples) // 4
    )
    planned = PlannedBatches(plan, position=0, num_batches=12, batch_size=1, rank=0, world_size=1)
    batches = iter(PrefetchedBatches(planned, data, lag=2))
    first = store.shard_path(str(next(batches)[0].sample // 4))
    wait_until(lambda: first.exists() and is_pinned(first))
    for _ in range(3):
        next(batches)
    assert is_pinned(first)
    kept = []
    for _ in range(4):  # the next window
        next(batches)
        kept.append(is_pinned(first.with_name(LOW_PRIORITY_FILE)))
    assert kept == [True, True, False, False], "loaders may still read it for two batches"
    assert not is_pinned(first)
    batches.close()  # type: ignore[attr-defined]


def test_a_cache_that_is_full_for_a_moment_is_borne(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "CACHE_FULL_RETRY_SECONDS", 0.01)
    store = Store(tmp_path, times_full=5)
    prefetcher = Prefetcher(make_shards(store, 1))
    prefetcher.start_window([0], [])
    path = store.shard_path("0")
    wait_until(lambda: path.exists() and is_pinned(path))
    prefetcher.require_space()
    prefetcher.close()


def test_a_cache_that_stays_full_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "CACHE_FULL_RETRY_SECONDS", 0.0)
    now = 100.0
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(monotonic=lambda: now))
    prefetcher = Prefetcher([])
    prefetcher._current = {0}
    prefetcher._retry_later(0, CacheFullError("all in use"))
    now += prefetch.CACHE_FULL_TIMEOUT_SECONDS
    prefetcher._retry_later(0, CacheFullError("all in use"))
    prefetcher.require_space()
    now += 1
    prefetcher._retry_later(0, CacheFullError("all in use"))
    with pytest.raises(ShardError, match="all in use"):
        prefetcher.require_space()
    prefetcher.close()
