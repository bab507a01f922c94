"""Every sample once an epoch, from a few shards at a time: the plan for shards that are far away.

An epoch's shards are permuted and cut into windows; a window's samples are permuted. Only the
shards of one window, and of the next, have to be on this machine. Everything else is as in plan.py.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vqgan_train.data.plan import Order

SHARDS, SAMPLES = 0x5AAD, 0x5A3B
"""Keep the permutations of shards and of samples apart, and from all other random numbers of a
seed. Last in a key, since numpy ends keys with zeros: (seed, epoch) is (seed, epoch, 0)."""


class WindowPlan(Order):
    """Every sample once an epoch, each window's shards mixed.

    Args:
        counts: samples in each shard.
        seed: chooses the permutations.
        shuffle_shards: shards in a window; the last of an epoch may have fewer.
    """

    def __init__(self, counts: Sequence[int], seed: int, shuffle_shards: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.shuffle_shards = shuffle_shards
        self.num_samples = int(self.counts.sum())
        self._firsts = np.cumsum(self.counts) - self.counts
        # This window, the next, and those a batch at their border goes back to.
        self._epoch = lru_cache(maxsize=2)(self._permute_shards)
        self._window = lru_cache(maxsize=3)(self._permute_samples)

    @property
    def name(self) -> str:
        """The order depends on the size of windows."""
        return f"exactly_once, shuffled over {self.shuffle_shards} shards"

    def window(self, position: int) -> range:
        """The positions of one group of shards. A group without samples has none."""
        epoch, place = divmod(position, self.num_samples)
        _, borders = self._epoch(epoch)
        number = int(np.searchsorted(borders, place, side="right")) - 1
        first = epoch * self.num_samples
        return range(first + int(borders[number]), first + int(borders[number + 1]))

    def samples(self, window: range) -> NDArray[np.int64]:
        """A permutation of the samples of the window's shards."""
        return self._window(window.start)

    def time(self, position: int) -> int:
        """The epoch."""
        return position // self.num_samples

    def _permute_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """An epoch's shards in order, and the places at which windows begin, and the last ends."""
        order = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        ends = np.cumsum(self.counts[order])
        borders = np.concatenate(([0], ends[self.shuffle_shards - 1 :: self.shuffle_shards]))
        return order, borders if borders[-1] == self.num_samples else np.append(borders, ends[-1])

    def _permute_samples(self, start: int) -> NDArray[np.int64]:
        epoch, place = divmod(start, self.num_samples)
        order, borders = self._epoch(epoch)
        number = int(np.searchsorted(borders, place, side="right")) - 1
        shards = order[number * self.shuffle_shards :][: self.shuffle_shards]
        samples = np.concatenate(
            [np.arange(self._firsts[s], self._firsts[s] + self.counts[s]) for s in shards]
        )
        return np.random.default_rng((self.seed, epoch, number, SAMPLES)).permutation(samples)
