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
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.data.shards import ShardError


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
