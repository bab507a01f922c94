"""The next window's shards come while this one is read."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from vqgan_train.shards.remote.disk_cache import CacheFullError, Hold, hold_soon
from vqgan_train.shards.remote.store import RemoteShard, StoppedError
from vqgan_train.system.errors import DeadShardError, ShardError
from vqgan_train.training.data.pipeline import PlannedBatches, ShardDataset
from vqgan_train.training.data.plan import Draw, Order

SHARDS_AT_ONCE = 4
"""Downloads of a rank at the same time."""

ROOM_AGAIN_SECONDS = 1.0
ROOM_FOR_SURE_SECONDS = 30.0
"""So long a full cache may keep a window's shards from coming before it is too small."""


class Prefetcher:
    """Fetches and holds the shards of this window and of the next, in threads.

    Args:
        shards: all of them; those on this machine's own disks need nothing.
    """

    def __init__(self, shards: Sequence[object]) -> None:
        self._shards = shards
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._jobs: deque[int] = deque()
        self._needed: set[int] = set()
        self._upcoming: set[int] = set()
        self._holds: dict[int, Hold] = {}
        """Of this window's shards."""

        self._soon: dict[int, Hold] = {}
        """Of the next window's, and for a moment of the last one's: they go if room is needed."""

        self._full_since: float | None = None
        self._error: ShardError | None = None
        self._threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(SHARDS_AT_ONCE)
        ]
        for thread in self._threads:
            thread.start()

    def enter(self, needed: Sequence[int], upcoming: Sequence[int]) -> None:
        """Begin a window.

        Args:
            needed: numbers of its shards, in the order of need.
            upcoming: numbers of the next window's.
        """
        with self._changed:
            last, self._needed, self._upcoming = self._needed, set(needed), set(upcoming)
            for number in self._soon.keys() & self._needed:
                self._hold(number)
            for number in self._holds.keys() - self._needed:
                self._hold_soon(number)
                self._holds.pop(number).release()
            # Of windows smaller than the lag there may be more than one behind.
            self._forget(self._soon.keys() - last - self._upcoming)
            jobs = [n for n in needed if n not in self._holds]
            jobs += [n for n in upcoming if n not in self._soon and n not in self._needed]
            self._jobs = deque(n for n in jobs if self._is_remote(n))
            self._changed.notify_all()

    def leave_previous(self) -> None:
        """Let go of what neither this window nor the next needs."""
        with self._changed:
            self._forget(self._soon.keys() - self._upcoming)

    def require_room(self) -> None:
        """Say whether the cache is too small.

        Raises:
            ShardError: this window's shards do not fit into it.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End all transfers, and let go of everything."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1)  # one may be waiting for another process's download
        with self._changed:
            self._forget(self._soon.keys())
            for number in list(self._holds):
                self._holds.pop(number).release()

    def _is_remote(self, number: int) -> bool:
        return isinstance(self._shards[number], RemoteShard)

    def _remote(self, number: int) -> RemoteShard:
        shard = self._shards[number]
        assert isinstance(shard, RemoteShard)
        return shard

    def _hold(self, number: int) -> None:
        """Hold a shard; one that went meanwhile is fetched again."""
        shard = self._remote(number)
        with suppress(FileNotFoundError):
            self._holds[number] = Hold(shard.store.path(shard.address))

    def _hold_soon(self, number: int) -> None:
        shard = self._remote(number)
        self._soon[number] = hold_soon(shard.store.path(shard.address))

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            self._soon.pop(number).release()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._stop.is_set():
                    self._changed.wait()
                if self._stop.is_set():
                    return
                number = self._jobs.popleft()
            try:
                self._fetch(number)
            except StoppedError:
                return
            except DeadShardError:
                pass  # named where it was found; its samples are counted where they are read
            except CacheFullError as error:
                self._find_room(number, error)

    def _fetch(self, number: int) -> None:
        shard = self._remote(number)
        urgent = number in self._needed
        _, hold = shard.store.fetch_to_hold(shard.address, self._stop, urgent=urgent)
        with self._changed, hold:
            self._full_since = None
            if self._stop.is_set():
                return
            if number in self._needed:
                self._hold(number)
            elif number in self._upcoming:
                self._hold_soon(number)

    def _find_room(self, number: int, error: CacheFullError) -> None:
        """Try again later; say so if it stays like that and is needed now."""
        with self._changed:
            if number in self._needed:
                self._jobs.appendleft(number)
                self._wait_for_others(error)
            elif number in self._upcoming:
                self._jobs.append(number)
        self._stop.wait(ROOM_AGAIN_SECONDS)

    def _wait_for_others(self, error: CacheFullError) -> None:
        """Ranks on this machine that are a little behind hold their last window a little longer."""
        now = time.monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since > ROOM_FOR_SURE_SECONDS:
            self._error = error


class PrefetchedBatches(PlannedBatches):
    """A rank's batches of training, whose shards are on their way before they are drawn.

    Args:
        plan: the order of samples.
        data: the samples.
        lag: batches that are drawn here before they are read.
        position: see PlannedBatches, as all others.
        num_batches: likewise.
        batch_size: likewise.
        rank: likewise.
        world_size: likewise.
    """

    def __init__(
        self,
        plan: Order,
        data: ShardDataset,
        *,
        lag: int,
        position: int,
        num_batches: int,
        batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__(
            plan,
            position=position,
            num_batches=num_batches,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )
        self.data = data
        self.lag = lag

    def __iter__(self) -> Iterator[list[Draw]]:
        prefetcher = Prefetcher(self.data.shards)
        window, batches_in_it = range(0), 0
        try:
            for draws, position in zip(super().__iter__(), self._positions(), strict=True):
                if position not in window:
                    window, batches_in_it = self.plan.window(position), 0
                    following = self.plan.window(window.stop)
                    prefetcher.enter(self.shards_in(window), self.shards_in(following))
                elif batches_in_it == self.lag:
                    prefetcher.leave_previous()
                batches_in_it += 1
                prefetcher.require_room()
                yield draws
        finally:
            prefetcher.close()

    def shards_in(self, window: range) -> list[int]:
        """Numbers of the shards that this rank draws from in a window, in the order of need."""
        positions = np.arange(window.start, window.stop)
        drawn = positions - self.position
        mine = (drawn >= 0) & (drawn // self.batch_size % self.world_size == self.rank)
        numbers = self.data.shard_numbers(self.plan.samples(window)[mine])
        shards, first_needed = np.unique(numbers, return_index=True)
        return [int(shard) for shard in shards[np.argsort(first_needed)]]

    def _positions(self) -> Iterator[int]:
        """At which position each batch begins."""
        stride = self.batch_size * self.world_size
        first = self.position + self.rank * self.batch_size
        return iter(range(first, first + self.num_batches * stride, stride))
