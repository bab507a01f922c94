"""Orders of training samples, each a pure function of seed and position.

Positions count the samples that all ranks together pass, from 0 on; a run with a parent goes on at
its parent's. A global batch is a range of positions, and each rank reads its share of it. So all
ranks make equally many steps, the order does not depend on the number of workers, and one position
is enough to resume. Most orders have epochs, which follow one another without a gap: with N
samples, position p is number p % N in the permutation of epoch p // N, which has each sample once.

Here are the orders that permute all samples (`FullShuffle`), and the samples of a few shards at a
time (`WindowedShuffle`), so that not all shards need to be on disk at once. interleaved.py
gives each machine a share of the shards; weighted.py draws with replacement, without epochs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError

FULL_SHUFFLE = "exactly_once, shuffled over all shards"
"""Name of the order `FullShuffle`; assumed for old checkpoints, which record no order."""

SHARDS, SAMPLES = 0x5AAD, 0x5A3B
"""Last elements of seeds, which keep the permutations of shards and of samples independent. They
come last because numpy ignores trailing zeros: (seed, epoch) seeds like (seed, epoch, 0)."""


class SampleRef(NamedTuple):
    """Sample number and epoch; with the run's seed, they seed the sample's augmentation."""

    epoch: int
    """Epoch; for sampling with replacement, the position."""

    sample: int
    """Number of the sample among those of all shards."""


class SampleOrder(ABC):
    """Order of samples. Its positions are cut into windows; each reads one set of shards."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the order with its settings; stored in checkpoints and compared on resume."""

    @abstractmethod
    def window(self, position: int) -> range:
        """Return the positions of the window that contains a position."""

    @abstractmethod
    def samples(self, window: range) -> NDArray[np.int64]:
        """Return the sample numbers (len(window),) of a range that the method `window` returned."""

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


class Epoch(NamedTuple):
    """Order of the samples of one epoch, and its windows."""

    samples: NDArray[np.int64]
    """(N,) sample numbers."""

    borders: NDArray[np.int64]
    """(windows + 1,) places at which the windows begin, and N."""


class EpochOrder(SampleOrder):
    """Order in which each epoch holds each sample once. An epoch takes 8 bytes of RAM per sample.

    Args:
        counts: number of samples in each shard.
        seed: seed of the permutations.
    """

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.num_samples = int(self.counts.sum())
        self._firsts = np.cumsum(self.counts) - self.counts
        # Two epochs, because a batch at a border reads from both, and the next window is asked for
        # ahead.
        self._epoch = lru_cache(maxsize=2)(self._permute)

    @abstractmethod
    def _permute(self, epoch: int) -> Epoch:
        """Return the order of an epoch's samples, and its windows."""

    def window(self, position: int) -> range:
        """Return the positions of the window that contains a position, which is never empty."""
        epoch, place = divmod(position, self.num_samples)
        borders = self._epoch(epoch).borders
        number = int(np.searchsorted(borders, place, side="right")) - 1
        first = epoch * self.num_samples
        return range(first + int(borders[number]), first + int(borders[number + 1]))

    def samples(self, window: range) -> NDArray[np.int64]:
        """Return the sample numbers of a window."""
        epoch, place = divmod(window.start, self.num_samples)
        return self._epoch(epoch).samples[place : place + len(window)]

    def epoch_at(self, position: int) -> int:
        """Return the epoch of a position."""
        return position // self.num_samples

    def samples_of(self, shards: Iterable[int]) -> NDArray[np.int64]:
        """Return the numbers of all samples of some shards."""
        return np.concatenate([self._firsts[s] + np.arange(self.counts[s]) for s in shards])


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
        super().__init__([num_samples], seed)

    @property
    def name(self) -> str:
        """Name of the order; it has no settings."""
        return FULL_SHUFFLE

    def _permute(self, epoch: int) -> Epoch:
        samples = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        return Epoch(samples, np.array([0, self.num_samples]))


class WindowedShuffle(EpochOrder):
    """Windowed shuffle: each epoch permutes the shards, then the samples within each window.

    Args:
        counts: number of samples in each shard.
        seed: seed of the permutations.
        shuffle_shards: shards per window; the last window of an epoch may have fewer.
    """

    def __init__(self, counts: Sequence[int], seed: int, shuffle_shards: int) -> None:
        super().__init__(counts, seed)
        self.shuffle_shards = shuffle_shards

    @property
    def name(self) -> str:
        """Name of the order with the size of its windows."""
        return f"exactly_once, shuffled over {self.shuffle_shards} shards"

    def _permute(self, epoch: int) -> Epoch:
        shards = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        windows = [
            np.random.default_rng((self.seed, epoch, number, SAMPLES)).permutation(
                self.samples_of(shards[first : first + self.shuffle_shards])
            )
            for number, first in enumerate(range(0, len(shards), self.shuffle_shards))
        ]
        borders = np.cumsum([0, *(len(window) for window in windows)])
        return Epoch(np.concatenate(windows), borders)
