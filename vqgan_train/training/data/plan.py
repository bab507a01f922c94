"""The order of samples, as a pure function of seed and position.

Epochs follow one another without a seam: position p of the run is place p % N in the permutation of
epoch p // N. A global batch is a run of positions, and a rank's batch its share of them. So each
epoch holds each sample once, all ranks have equal steps, nothing depends on the number of workers,
and a position is all that a resume needs.

Other plans keep all of this but the permutation of everything: windows.py, for shards that are not
all on a disk at once, lanes.py, for machines that are to read a share of them each, and
weighted.py, for sources that are to be seen more or less often.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError


class Draw(NamedTuple):
    """One sample at one time: where its augmentation is seeded from, too."""

    epoch: int
    """Which time; the position itself where a plan has no epochs."""

    sample: int


class Order(ABC):
    """Which sample comes when. Positions fall into windows, each of a few shards or of all."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What makes this order another than that of other plans on the same data and seed."""

    @abstractmethod
    def window(self, position: int) -> range:
        """The positions, this one among them, that are drawn from the same shards."""

    @abstractmethod
    def samples(self, window: range) -> NDArray[np.int64]:
        """(len(window),) numbers of the samples that a window of `window` holds."""

    @abstractmethod
    def time(self, position: int) -> int:
        """What tells two draws of one sample apart."""

    def draws(self, position: int, count: int) -> list[Draw]:
        """List what the `count` positions from `position` on hold."""
        return [self._draw(p) for p in range(position, position + count)]

    def _draw(self, position: int) -> Draw:
        window = self.window(position)
        return Draw(self.time(position), int(self.samples(window)[position - window.start]))


def require_same_order(before: str, plan: Order) -> None:
    """Check that a position of one order is to be gone on from in the same.

    Args:
        before: the name of the order in which the position was reached.
        plan: that in which it is to be used.

    Raises:
        ShardError: they differ.
    """
    if before != plan.name:
        raise ShardError(
            f"The checkpoint was trained on its data in another order ({before}; now it is "
            f"{plan.name}), so its place means nothing. Set data.sampling, data.shuffle_shards, "
            "data.shard_lanes and data.source_weights as they were, or start a run from the "
            "weights: model.init_from=CHECKPOINT."
        )


ALL_ONCE = "exactly_once, shuffled over all shards"
"""Of checkpoints that do not say: they were written when there was no other."""


@dataclass(slots=True)
class Plan(Order):
    """Every sample once an epoch, anywhere in it.

    Args:
        num_samples: N, samples in the data.
        seed: chooses the permutations.
    """

    num_samples: int
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), init=False)

    @property
    def name(self) -> str:
        """The order that all runs had before there were others."""
        return ALL_ONCE

    def window(self, position: int) -> range:
        """An epoch."""
        first = position - position % self.num_samples
        return range(first, first + self.num_samples)

    def samples(self, window: range) -> NDArray[np.int64]:
        """A permutation of all."""
        epoch = self.time(window.start)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            self._epoch = epoch
        return self._order

    def time(self, position: int) -> int:
        """The epoch."""
        return position // self.num_samples


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
