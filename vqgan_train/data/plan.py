"""The order of samples, as a pure function of seed and position.

Epochs follow one another without a seam: position p of the run is place p % N in the permutation of
epoch p // N. A global batch is a run of positions, and a rank's batch its share of them. So each
epoch holds each sample once, all ranks have equal steps, nothing depends on the number of workers,
and a position is all that a resume needs.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """One sample at one time: where its augmentation is seeded from, too."""

    epoch: int
    sample: int


@dataclass(slots=True)
class Plan:
    """Which sample comes when.

    Args:
        num_samples: N, samples in the data.
        seed: chooses the permutations.
    """

    num_samples: int
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), init=False)

    def draws(self, position: int, count: int) -> list[Draw]:
        """List what the `count` positions from `position` on hold."""
        return [self._draw(p) for p in range(position, position + count)]

    def _draw(self, position: int) -> Draw:
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            self._epoch = epoch
        return Draw(epoch, int(self._order[place]))
