"""Every sample once an epoch, so that each machine needs only its share of the shards.

windows.py mixes all samples of a window, so each rank soon needs all of its shards. Here an epoch's
shards are dealt to lanes, and the order takes a few images from one lane after the other. Ranks
read the order in turns, too: where a lane's turn comes at the same place of every global batch,
its shards are read by one rank only. Nothing of this needs to know how many ranks there are.
"""

import heapq
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.plan import Order

IMAGES_IN_A_ROW = 8
"""Of one lane, before it is the next one's turn. Part of the order: another number is another."""

SHARDS, SAMPLES, REST = 0x1A5E, 0x1A3B, 0x1AE5
"""Keep the random numbers apart, as in windows.py."""


class _Epoch(NamedTuple):
    samples: NDArray[np.int64]
    """All, in their order."""

    num_in_turns: int
    """So many come from lanes in turns; then some lane has come to its end, and the rest follows
    in any order."""


class LanePlan(Order):
    """Every sample once an epoch, from lanes in turns.

    Args:
        counts: samples in each shard.
        seed: chooses the permutations.
        shuffle_shards: shards whose samples are mixed at a time, over all lanes; a multiple of
            `lanes`.
        lanes: how many.

    Raises:
        ShardError: there are fewer shards than lanes.
    """

    def __init__(self, counts: Sequence[int], seed: int, shuffle_shards: int, lanes: int) -> None:
        assert shuffle_shards % lanes == 0, "each lane mixes as many shards as the others"
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.lanes = lanes
        self.shards_at_a_time = shuffle_shards // lanes
        self.num_samples = int(self.counts.sum())
        self._firsts = np.cumsum(self.counts) - self.counts
        self._epoch = lru_cache(maxsize=2)(self._permute)
        with_samples = int((self.counts > 0).sum())
        if with_samples < lanes:
            raise ShardError(
                f"data.shard_lanes is {lanes}, but data.train_shards are {with_samples} shards "
                "with samples: a lane would have none. Lower data.shard_lanes, or write more "
                "shards."
            )
        a_turn = lanes * IMAGES_IN_A_ROW
        mixed = self.num_samples * shuffle_shards / with_samples
        self._window_size = max(1, round(mixed / a_turn)) * a_turn

    @property
    def name(self) -> str:
        """The order depends on the number of lanes."""
        mixed = self.shards_at_a_time * self.lanes
        return f"exactly_once, shuffled over {mixed} shards in {self.lanes} lanes"

    def window(self, position: int) -> range:
        """Positions in which a lane comes through about as many shards as it mixes."""
        epoch, place = divmod(position, self.num_samples)
        in_turns, size = self._epoch(epoch).num_in_turns, self._window_size
        start = place // size * size if place < in_turns else in_turns
        stop = min(start + size, in_turns) if place < in_turns else self.num_samples
        first = epoch * self.num_samples
        return range(first + start, first + stop)

    def samples(self, window: range) -> NDArray[np.int64]:
        """A stretch of the epoch's order."""
        epoch, place = divmod(window.start, self.num_samples)
        return self._epoch(epoch).samples[place : place + len(window)]

    def time(self, position: int) -> int:
        """The epoch."""
        return position // self.num_samples

    def _permute(self, epoch: int) -> _Epoch:
        lanes = [self._mix(epoch, lane, shards) for lane, shards in enumerate(self._deal(epoch))]
        turns = min(len(lane) for lane in lanes) // IMAGES_IN_A_ROW
        length = turns * IMAGES_IN_A_ROW
        stacked = [lane[:length].reshape(turns, IMAGES_IN_A_ROW) for lane in lanes]
        in_turns = np.stack(stacked, axis=1).ravel()
        rest = np.concatenate([lane[length:] for lane in lanes])
        random = np.random.default_rng((self.seed, epoch, REST))
        return _Epoch(np.concatenate([in_turns, random.permutation(rest)]), len(in_turns))

    def _deal(self, epoch: int) -> list[list[int]]:
        """The epoch's shards in order, each to the lane that has the fewest samples so far."""
        order = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        dealt: list[list[int]] = [[] for _ in range(self.lanes)]
        fewest = [(0, lane) for lane in range(self.lanes)]
        for shard in order:
            samples, lane = fewest[0]
            dealt[lane].append(int(shard))
            heapq.heapreplace(fewest, (samples + int(self.counts[shard]), lane))
        return dealt

    def _mix(self, epoch: int, lane: int, shards: Sequence[int]) -> NDArray[np.int64]:
        """A lane's samples: those of a few shards mixed, then those of the next few."""
        random = np.random.default_rng((self.seed, epoch, lane, SAMPLES))
        samples = []
        for first in range(0, len(shards), self.shards_at_a_time):
            some = shards[first : first + self.shards_at_a_time]
            together = [self._firsts[s] + np.arange(self.counts[s]) for s in some]
            samples.append(random.permutation(np.concatenate(together)))
        return np.concatenate(samples)
