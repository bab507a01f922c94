"""Samples drawn with replacement, from sources that are weighted: some are seen often, some never.

A position's sample is drawn from random numbers that belong to its block of positions, so this,
too, is a pure function of seed and position, the same for any number of ranks and workers. There
are no epochs. After N draws of N samples, weighted by size, about 37 % have not been seen.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.plan import Order

BLOCK = 4096
"""Positions that share one start of the random numbers, where windows do not decide."""

DRAWS = 0xD2A3
"""Keeps these random numbers apart from others of the same seed."""


class WeightedPlan(Order):
    """Independent draws: a source by its weight, then any of its samples.

    Args:
        counts: samples in each shard.
        sources: shards of each source; the sources' shards follow one another.
        weights: of each source, in any unit; None: by its number of samples.
        seed: chooses the draws.
        shuffle_shards: shards that draws of one window come from. They are drawn themselves, so
            that over all windows each sample is as probable as without. None: all shards.

    Raises:
        ShardError: a source that has weight has no samples.
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
        # As many positions to a window as its shards have samples, on average.
        mean = self.counts.sum() / len(self.counts)
        self._length = BLOCK if shuffle_shards is None else max(1, round(shuffle_shards * mean))
        self._drawn = lru_cache(maxsize=3)(self._draw_window)

    @property
    def name(self) -> str:
        """The order depends on the sources' shares and on the size of windows."""
        over = "all" if self.shuffle_shards is None else self.shuffle_shards
        return f"with_replacement, sources {self._shares}, from {over} shards at a time"

    def window(self, position: int) -> range:
        """Windows are of one length."""
        first = position - position % self._length
        return range(first, first + self._length)

    def samples(self, window: range) -> NDArray[np.int64]:
        """The draws of one window."""
        return self._drawn(window.start // self._length)

    def time(self, position: int) -> int:
        """The position: a sample that comes again is cropped and mirrored anew."""
        return position

    def _draw_window(self, number: int) -> NDArray[np.int64]:
        random = np.random.Generator(
            np.random.Philox(np.random.SeedSequence((self.seed, number, DRAWS)))
        )
        if self.shuffle_shards is None:
            shards = random.choice(len(self.counts), self._length, p=self._probabilities)
        else:
            at_hand = random.choice(len(self.counts), self.shuffle_shards, p=self._probabilities)
            shards = random.choice(at_hand, self._length)
        return self._firsts[shards] + random.integers(0, self.counts[shards])


def _shard_probabilities(
    counts: NDArray[np.int64], sources: Sequence[int], weights: Sequence[float] | None
) -> NDArray[np.float64]:
    """(shards,) probability that a draw is from a shard: its source's share, split by size."""
    assert sum(sources) == len(counts), "each shard is of one source"
    source_of_shard = np.repeat(np.arange(len(sources)), sources)
    sizes = np.bincount(source_of_shard, counts, len(sources))
    shares = sizes if weights is None else np.asarray(weights, dtype=np.float64)
    empty = np.flatnonzero((shares > 0) & (sizes == 0))
    if len(empty):
        raise ShardError(
            f"Source {empty[0] + 1} of data.train_shards has a weight of {shares[empty[0]]:g} in "
            "data.source_weights, but no samples. Set its weight to 0, or leave it out."
        )
    of_samples = np.divide(shares / shares.sum(), sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return of_samples[source_of_shard] * counts
