"""Order of samples drawn with replacement from weighted sources.

Each window of positions has its own random numbers, so this order, too, is a pure function of seed
and position. It has no epochs: after N draws from N samples, weighted by size, about 37 % of the
samples have not been seen.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.orders import SampleOrder

BLOCK = 4096
"""Positions per window if `shuffle_shards` is None."""

DRAWS = 0xD2A3
"""Last element of seeds, which keeps these random numbers independent of others."""


class WeightedSampling(SampleOrder):
    """Draws with replacement: a source by its weight, then any of its samples.

    Args:
        counts: number of samples in each shard; the shards of a source are adjacent.
        sources: number of shards of each source.
        weights: weight of each source, in any unit. None: number of its samples.
        seed: seed of the draws.
        shuffle_shards: number of shards from which the samples of a window are drawn. These shards
            are drawn, too, in such a way that each sample keeps its probability. None: all shards.

    Raises:
        ShardError: a source with a positive weight has no samples.
    """

    def __init__(
        self,
        counts: Sequence[int],
        sources: Sequence[int],
        weights: Sequence[float] | None,
        seed: int,
        shuffle_shards: int | None,
    ) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.shuffle_shards = shuffle_shards
        self._firsts = np.cumsum(self.counts) - self.counts
        self._probabilities = _shard_probabilities(self.counts, sources, weights)
        shares = np.add.reduceat(self._probabilities, np.cumsum([0, *sources[:-1]]))
        self._shares = ", ".join(f"{share:.6g}" for share in shares)
        # A window has as many positions as its shards have samples on average.
        mean = self.counts.sum() / len(self.counts)
        self._length = BLOCK if shuffle_shards is None else max(1, round(shuffle_shards * mean))
        self._window = lru_cache(maxsize=3)(self._draw_window)

    @property
    def name(self) -> str:
        """Name of the order with the sources' shares and the size of windows."""
        over = "all" if self.shuffle_shards is None else self.shuffle_shards
        return f"with_replacement, sources {self._shares}, from {over} shards at a time"

    def window(self, position: int) -> range:
        """Return the positions of a window; all windows have the same length."""
        first = position - position % self._length
        return range(first, first + self._length)

    def samples(self, window: range) -> NDArray[np.int64]:
        """Return the sample numbers that are drawn in a window."""
        return self._window(window.start // self._length)

    def epoch_at(self, position: int) -> int:
        """Return the position, so that a repeated sample gets a new augmentation."""
        return position

    def _draw_window(self, number: int) -> NDArray[np.int64]:
        random = np.random.Generator(
            np.random.Philox(np.random.SeedSequence((self.seed, number, DRAWS)))
        )
        if self.shuffle_shards is None:
            shards = random.choice(len(self.counts), self._length, p=self._probabilities)
        else:
            available = random.choice(len(self.counts), self.shuffle_shards, p=self._probabilities)
            shards = random.choice(available, self._length)
        return self._firsts[shards] + random.integers(0, self.counts[shards])


def _shard_probabilities(
    counts: NDArray[np.int64], sources: Sequence[int], weights: Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the probability of each shard, (shards,): its source's share, split by samples."""
    assert sum(sources) == len(counts), "each shard belongs to one source"
    source_of_shard = np.repeat(np.arange(len(sources)), sources)
    sizes = np.bincount(source_of_shard, counts, len(sources))
    shares = sizes if weights is None else np.asarray(weights, dtype=np.float64)
    empty = np.flatnonzero((shares > 0) & (sizes == 0))
    if len(empty):
        raise ShardError(
            f"Source {empty[0] + 1} of data.train_shards has a weight of {shares[empty[0]]:g} in "
            "data.source_weights, but no samples. Set its weight to 0, or remove the source."
        )
    per_sample = np.divide(shares / shares.sum(), sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return per_sample[source_of_shard] * counts
