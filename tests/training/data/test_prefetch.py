"""Which shards are held when, and how long a full cache is borne."""

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import wait_until

from vqgan_train.shards.remote.disk_cache import SOON, CacheFullError, _is_held
from vqgan_train.shards.remote.store import RemoteShard
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data import prefetch
from vqgan_train.training.data.orders import WindowedShuffle
from vqgan_train.training.data.prefetch import PrefetchedBatches, Prefetcher


class Store:
    """Shards that are here at once, after the cache was full a few times."""

    def __init__(self, folder: Path, *, times_full: int = 0) -> None:
        self.folder = folder
        self.times_full = times_full

    def path(self, address: str) -> Path:
        return self.folder / address / "shard.tar"

    def fetch_to_hold(
        self, address: str, stop: threading.Event, *, urgent: bool
    ) -> tuple[None, nullcontext[None]]:
        """Make the shard. Nothing is held here: what is held, the prefetcher holds."""
        if self.times_full:
            self.times_full -= 1
            raise CacheFullError("all in use")
        self.path(address).parent.mkdir(exist_ok=True)
        self.path(address).touch()
        return None, nullcontext()


def make_shards(store: Store, count: int) -> list[RemoteShard]:
    return [RemoteShard(str(number), 4, store) for number in range(count)]  # type: ignore[arg-type]


def test_a_window_is_let_go_of_a_few_batches_into_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = WindowedShuffle([4] * 3, seed=0, shuffle_shards=1)
    data: Any = SimpleNamespace(
        shards=make_shards(store, 3), shard_numbers=lambda samples: np.asarray(samples) // 4
    )
    share = {"position": 0, "num_batches": 12, "batch_size": 1, "rank": 0, "world_size": 1}
    batches = iter(PrefetchedBatches(plan, data, lag=2, **share))
    first = store.path(str(next(batches)[0].sample // 4))
    wait_until(lambda: first.exists() and _is_held(first))
    for _ in range(3):
        next(batches)
    assert _is_held(first)
    kept = []
    for _ in range(4):  # the next window
        next(batches)
        kept.append(_is_held(first.with_name(SOON)))
    assert kept == [True, True, False, False], "loaders may still read it for two batches"
    assert not _is_held(first)
    batches.close()  # type: ignore[attr-defined]


def test_a_cache_that_is_full_for_a_moment_is_borne(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "ROOM_AGAIN_SECONDS", 0.01)
    store = Store(tmp_path, times_full=5)
    prefetcher = Prefetcher(make_shards(store, 1))
    prefetcher.enter([0], [])
    path = store.path("0")
    wait_until(lambda: path.exists() and _is_held(path))
    prefetcher.require_room()
    prefetcher.close()


def test_a_cache_that_stays_full_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(monotonic=lambda: now))
    prefetcher = Prefetcher([])
    prefetcher._wait_for_others(CacheFullError("all in use"))
    now += prefetch.ROOM_FOR_SURE_SECONDS
    prefetcher._wait_for_others(CacheFullError("all in use"))
    prefetcher.require_room()
    now += 1
    prefetcher._wait_for_others(CacheFullError("all in use"))
    with pytest.raises(ShardError, match="all in use"):
        prefetcher.require_room()
    prefetcher.close()
