"""Orders of training samples, each a pure function of seed and position.

Positions count the samples that all ranks together have trained on since the start of the run. A
global batch is a range of positions, and each rank reads its share of that range. So all ranks make
equally many steps, the order does not depend on the number of workers, and one position is enough
to resume. Epochs follow one another without a gap: with N samples, position p is number p % N in
the permutation of epoch p // N, and each epoch holds each sample once.

Here are the orders that permute all samples (`FullShuffle`), and the samples of a few shards at a
time (`WindowedShuffle`), so that not all shards need to be on disk at once. interleaved.py
gives each machine a share of the shards, and weighted.py draws with replacement.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError

FULL_SHUFFLE = "exactly_once, shuffled over all shards"
"""Name of `FullShuffle`, the order of old checkpoints that record none."""

SHARDS, SAMPLES = 0x5AAD, 0x5A3B
"""Last elements of seeds, which keep the permutations of shards and of samples independent. They
come last because numpy ignores trailing zeros: (seed, epoch) seeds like (seed, epoch, 0)."""


class SampleRef(NamedTuple):
    """Sample number and epoch, which together seed the sample's augmentation."""

    epoch: int
    """Epoch; for sampling with replacement, the position."""

    sample: int
    """Number of the sample among those of all shards."""


class SampleOrder(ABC):
    """Order of samples. Its positions are cut into windows, which read one set of shards each."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the order with its settings; stored in checkpoints and compared on resume."""

    @abstractmethod
    def window(self, position: int) -> range:
        """Return the positions of the window that contains a position."""

    @abstractmethod
    def samples(self, window: range) -> NDArray[np.int64]:
        """Return the (len(window),) sample numbers of a window that `window` returned."""

    @abstractmethod
    def epoch_at(self, position: int) -> int:
        """Return `SampleRef.epoch` of a position."""

    def sample_refs(self, position: int, count: int) -> list[SampleRef]:
        """List the samples at `count` positions, beginning at `position`."""
        refs = []
        for p in range(position, position + count):
            window = self.window(p)
            refs.append(SampleRef(self.epoch_at(p), int(self.samples(window)[p - window.start])))
        return refs


class EpochOrder(SampleOrder):
    """Order in which each epoch of `num_samples` positions holds each sample once."""

    num_samples: int

    def epoch_at(self, position: int) -> int:
        """Return the epoch."""
        return position // self.num_samples


def require_same_order(checkpoint_order: str, order: SampleOrder) -> None:
    """Check that a checkpoint's position has a meaning in this run's order.

    Args:
        checkpoint_order: name of the order in which the position was reached.
        order: order of this run.

    Raises:
        ShardError: the orders differ.
    """
    if checkpoint_order != order.name:
        raise ShardError(
            f"The checkpoint was trained on its data in another order ({checkpoint_order}; now it "
            f"is {order.name}), so its position has no meaning. Set data.sampling, "
            "data.shuffle_shards, data.shard_lanes and data.source_weights as they were, or start "
            "a run from the weights: model.init_from=CHECKPOINT."
        )


class FullShuffle(EpochOrder):
    """Full shuffle: each epoch permutes all samples.

    Args:
        num_samples: N, number of samples in all shards.
        seed: seed of the permutations.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._permutation = lru_cache(maxsize=1)(self._permute)

    @property
    def name(self) -> str:
        """Name of the order; it has no settings."""
        return FULL_SHUFFLE

    def window(self, position: int) -> range:
        """Return the positions of the epoch."""
        first = position - position % self.num_samples
        return range(first, first + self.num_samples)

    def samples(self, window: range) -> NDArray[np.int64]:
        """Return the permutation of an epoch."""
        return self._permutation(self.epoch_at(window.start))

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)


class WindowedShuffle(EpochOrder):
    """Windowed shuffle: each epoch permutes the shards, then the samples within each window.

    Args:
        counts: number of samples in each shard.
        seed: seed of the permutations.
        shuffle_shards: shards per window; the last window of an epoch may have fewer.
    """

    def __init__(self, counts: Sequence[int], seed: int, shuffle_shards: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.shuffle_shards = shuffle_shards
        self.num_samples = int(self.counts.sum())
        self._firsts = np.cumsum(self.counts) - self.counts
        # A batch at the end of an epoch reads from two epochs. Besides the current window, the
        # next one is asked for ahead, and a batch at a border goes back to the previous one.
        self._epoch = lru_cache(maxsize=2)(self._permute_shards)
        self._window = lru_cache(maxsize=3)(self._permute_samples)

    @property
    def name(self) -> str:
        """Name of the order with the size of its windows."""
        return f"exactly_once, shuffled over {self.shuffle_shards} shards"

    def window(self, position: int) -> range:
        """Return the positions of a window. Windows whose shards have no samples are skipped."""
        epoch, place = divmod(position, self.num_samples)
        _, borders = self._epoch(epoch)
        number = int(np.searchsorted(borders, place, side="right")) - 1
        first = epoch * self.num_samples
        return range(first + int(borders[number]), first + int(borders[number + 1]))

    def samples(self, window: range) -> NDArray[np.int64]:
        """Return the permuted samples of the window's shards."""
        return self._window(window.start)

    def _permute_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return an epoch's shards in order, and the borders of its windows, 0 and N included."""
        order = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        ends = np.cumsum(self.counts[order])
        borders = np.concatenate(([0], ends[self.shuffle_shards - 1 :: self.shuffle_shards]))
        return order, borders if borders[-1] == self.num_samples else np.append(borders, ends[-1])

    def _permute_samples(self, start: int) -> NDArray[np.int64]:
        """Return the samples of the window that starts at position `start`."""
        epoch, place = divmod(start, self.num_samples)
        order, borders = self._epoch(epoch)
        number = int(np.searchsorted(borders, place, side="right")) - 1
        shards = order[number * self.shuffle_shards :][: self.shuffle_shards]
        samples = np.concatenate(
            [np.arange(self._firsts[s], self._firsts[s] + self.counts[s]) for s in shards]
        )
        return np.random.default_rng((self.seed, epoch, number, SAMPLES)).permutation(samples)
