"""Order of samples in which each machine reads only its share of the shards.

A shuffle window mixes all samples of its shards, so each rank soon needs all of them. Here an
epoch's shards are dealt to interleave groups, called lanes. The order takes a few samples from each
lane in turn. Ranks take turns, too: each reads the same part of every global batch. If a lane's
turn always falls into that part, only one rank reads the lane's shards. The order itself does not
depend on the number of ranks.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.orders import Epoch, EpochOrder

INTERLEAVE_BLOCK = 8
"""Consecutive samples per lane; changing it changes the sample order."""

SHARDS, SAMPLES, REST = 0x1A5E, 0x1A3B, 0x1AE5
"""Last elements of seeds, which keep random numbers independent, as in orders.py."""


class InterleavedOrder(EpochOrder):
    """Each sample once per epoch, read from the lanes in turn.

    Args:
        counts: number of samples in each shard.
        seed: seed of the permutations.
        shuffle_shards: shards mixed at a time, over all lanes; a multiple of `lanes`.
        lanes: number of lanes.

    Raises:
        ShardError: fewer shards have samples than there are lanes.
    """

    def __init__(self, counts: Sequence[int], seed: int, shuffle_shards: int, lanes: int) -> None:
        assert shuffle_shards % lanes == 0, "all lanes mix equally many shards"
        super().__init__(counts, seed)
        self.lanes = lanes
        self.shuffle_shards = shuffle_shards
        with_samples = int((self.counts > 0).sum())
        if with_samples < lanes:
            raise ShardError(
                f"data.shard_lanes is {lanes}, but only {with_samples} shards of data.train_shards "
                "hold samples, so a lane would have none. Lower data.shard_lanes, or write more "
                "shards."
            )
        round_size = lanes * INTERLEAVE_BLOCK
        mixed_samples = self.num_samples * shuffle_shards / with_samples
        # Positions in which each lane reads about as many shards as it mixes.
        self._window_size = max(1, round(mixed_samples / round_size)) * round_size

    @property
    def name(self) -> str:
        """Name of the order with its settings."""
        return f"exactly_once, shuffled over {self.shuffle_shards} shards in {self.lanes} lanes"

    def _permute(self, epoch: int) -> Epoch:
        lanes = [self._mix(epoch, lane, shards) for lane, shards in enumerate(self._deal(epoch))]
        rounds = min(len(lane) for lane in lanes) // INTERLEAVE_BLOCK
        length = rounds * INTERLEAVE_BLOCK
        blocks = [lane[:length].reshape(rounds, INTERLEAVE_BLOCK) for lane in lanes]
        interleaved = np.stack(blocks, axis=1).ravel()
        # Once a lane is exhausted, what the others have left is shuffled: it is the last window.
        rest = np.concatenate([lane[length:] for lane in lanes])
        random = np.random.default_rng((self.seed, epoch, REST))
        starts = range(0, len(interleaved), self._window_size)
        return Epoch(
            np.concatenate([interleaved, random.permutation(rest)]),
            np.unique([*starts, len(interleaved), self.num_samples]),
        )

    def _deal(self, epoch: int) -> list[list[int]]:
        """Deal the permuted shards, each to the lane with the fewest samples so far."""
        order = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        dealt: list[list[int]] = [[] for _ in range(self.lanes)]
        totals = [(0, lane) for lane in range(self.lanes)]
        for shard in order:
            samples, lane = totals[0]
            dealt[lane].append(int(shard))
            heapq.heapreplace(totals, (samples + int(self.counts[shard]), lane))
        return dealt

    def _mix(self, epoch: int, lane: int, shards: Sequence[int]) -> NDArray[np.int64]:
        """Return a lane's samples, where each group of its shards is shuffled."""
        random = np.random.default_rng((self.seed, epoch, lane, SAMPLES))
        shards_per_group = self.shuffle_shards // self.lanes
        mixed = []
        for first in range(0, len(shards), shards_per_group):
            group = shards[first : first + shards_per_group]
            mixed.append(random.permutation(self.samples_of(group)))
        return np.concatenate(mixed)
