"""Download the shards of the next shuffle window while the current one is read."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
from torch.utils.data import Sampler

from vqgan_train.shards.remote.disk_cache import CacheFullError, CachePin, pin_low_priority
from vqgan_train.shards.remote.opening import Shard
from vqgan_train.shards.remote.store import PARALLEL_DOWNLOADS, RemoteShard, StoppedError
from vqgan_train.system.errors import DeadShardError, ShardError
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import PlannedBatches, ShardDataset

CACHE_FULL_RETRY_SECONDS = 1.0

CACHE_FULL_TIMEOUT_SECONDS = 30.0
"""Time to wait for cache space before the run stops with an error. Other ranks of this machine may
be a little behind, and then pin the shards of their window for a moment longer."""


class Prefetcher:
    """Threads that download and pin the shards of the current window and of the next one.

    Args:
        shards: all shards, where a shard's index is its number; local ones are ignored.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = {
            n: shard for n, shard in enumerate(shards) if isinstance(shard, RemoteShard)
        }
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()
        self._current: set[int] = set()
        self._upcoming: set[int] = set()
        self._pins: dict[int, CachePin] = {}
        """Pins of the current window's shards."""

        self._low_priority_pins: dict[int, CachePin] = {}
        """Pins of the next window's shards, and of the previous one's until they are released."""

        self._full_since: float | None = None
        self._error: ShardError | None = None
        self._threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(PARALLEL_DOWNLOADS)
        ]
        for thread in self._threads:
            thread.start()

    def start_window(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        """Let the threads download and pin a window's shards, and then the next window's.

        The previous window's pins stay, at low priority, until `release_previous_window`.

        Args:
            current: numbers of the window's shards, in the order in which they are read.
            upcoming: numbers of the next window's shards.
        """
        with self._changed:
            previous, self._current, self._upcoming = self._current, set(current), set(upcoming)
            for number in self._low_priority_pins.keys() & self._current:
                self._pin(number)
            for number in self._pins.keys() - self._current:
                self._low_priority_pins[number] = pin_low_priority(self._shards[number].path)
                self._pins.pop(number).release()
            # After windows of few batches, those before the previous one may still have pins.
            self._release(self._low_priority_pins.keys() - previous - self._upcoming)
            queue = [n for n in current if n not in self._pins]
            queue += [
                n for n in upcoming if n not in self._low_priority_pins and n not in self._current
            ]
            self._queue = deque(n for n in queue if n in self._shards)
            self._changed.notify_all()

    def release_previous_window(self) -> None:
        """Release the pins that only the previous window needed."""
        with self._changed:
            self._release(self._low_priority_pins.keys() - self._upcoming)

    def require_space(self) -> None:
        """Check that the current window's shards found room in the cache.

        Raises:
            ShardError: they found none for more than CACHE_FULL_TIMEOUT_SECONDS.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop all downloads and release all pins."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1)  # a thread may be waiting for another process's download
        with self._changed:
            self._release(self._low_priority_pins.keys())
            for number in list(self._pins):
                self._pins.pop(number).release()

    def _pin(self, number: int) -> None:
        """Pin a shard; if it was evicted meanwhile, it stays unpinned and is downloaded again."""
        with suppress(FileNotFoundError):
            self._pins[number] = CachePin(self._shards[number].path)

    def _release(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            self._low_priority_pins.pop(number).release()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stop.is_set():
                    self._changed.wait()
                if self._stop.is_set():
                    return
                number = self._queue.popleft()
            try:
                self._fetch(number)
            except StoppedError:
                return
            except DeadShardError:
                pass  # the store has logged it, and its samples are counted where they are read
            except CacheFullError as error:
                self._retry_later(number, error)

    def _fetch(self, number: int) -> None:
        shard = self._shards[number]
        urgent = number in self._current
        _, pin = shard.store.fetch_and_pin(shard.address, self._stop, urgent=urgent)
        with self._changed, pin:
            self._full_since = None
            if self._stop.is_set():
                return
            if number in self._current:
                self._pin(number)
            elif number in self._upcoming:
                self._low_priority_pins[number] = pin_low_priority(shard.path)

    def _retry_later(self, number: int, error: CacheFullError) -> None:
        """Queue a shard again after the cache was full; at a timeout, `require_space` raises."""
        with self._changed:
            if number in self._current:
                self._queue.appendleft(number)
                now = time.monotonic()
                self._full_since = self._full_since or now
                if now - self._full_since > CACHE_FULL_TIMEOUT_SECONDS:
                    self._error = error
            elif number in self._upcoming:
                self._queue.append(number)
        self._stop.wait(CACHE_FULL_RETRY_SECONDS)


class PrefetchedBatches(Sampler[list[SampleRef]]):
    """Planned batches; iterating over them downloads the shards of this window and of the next.

    Args:
        batches: the rank's batches.
        data: data set that the batches refer to.
        lag: number of batches that the loader requests ahead of reading; for so many batches of a
            window, the previous window stays pinned.
    """

    def __init__(self, batches: PlannedBatches, data: ShardDataset, *, lag: int) -> None:
        self.batches = batches
        self.data = data
        self.lag = lag

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[SampleRef]]:
        order = self.batches.order
        prefetcher = Prefetcher(self.data.shards)
        window, batches_in_window = range(0), 0
        try:
            for refs, position in zip(self.batches, self.batches.positions(), strict=True):
                if position not in window:
                    window, batches_in_window = order.window(position), 0
                    next_window = order.window(window.stop)
                    prefetcher.start_window(self.shards_in(window), self.shards_in(next_window))
                elif batches_in_window == self.lag:
                    prefetcher.release_previous_window()
                batches_in_window += 1
                prefetcher.require_space()
                yield refs
        finally:
            prefetcher.close()

    def shards_in(self, window: range) -> list[int]:
        """Return the numbers of a window's shards that this rank reads, in the order of reading."""
        offsets = self.batches.positions_in(window) - window.start
        numbers = self.data.shard_numbers(self.batches.order.samples(window)[offsets])
        shards, first_uses = np.unique(numbers, return_index=True)
        return [int(shard) for shard in shards[np.argsort(first_uses)]]
