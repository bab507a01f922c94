"""Order of samples with which each machine may need only its share of the shards.

A shuffle window mixes all samples of its shards, so each rank soon needs all these shards. Here an
epoch's shards are dealt to groups, called lanes, and the order takes a few samples from each lane
in turn. Each rank reads the same part of every global batch. If a lane's turn always falls into
one rank's part, that rank alone reads the lane's shards; only an epoch's last window mixes lanes.
The order itself does not depend on the number of ranks.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.orders import Epoch, EpochOrder

INTERLEAVE_BLOCK = 8
"""Samples taken from a lane at its turn; another number would change the sample order."""

SHARDS, SAMPLES, REST = 0x1A5E, 0x1A3B, 0x1AE5
"""Last elements of three kinds of seeds, which keep their numbers independent; see orders.py."""


class InterleavedOrder(EpochOrder):
    """Order with each sample once per epoch, taken from the lanes in turn.

    Args:
        counts: number of samples in each shard.
        seed: seed of the permutations.
        shuffle_shards: shards mixed at a time, in all lanes together; a multiple of `lanes`.
        lanes: number of lanes.

    Raises:
        ShardError: there are fewer shards with samples than lanes.
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
                "hold samples, so some lanes would be empty. Lower data.shard_lanes, or write more "
                "shards."
            )
        round_size = lanes * INTERLEAVE_BLOCK
        mixed_samples = self.num_samples * shuffle_shards / with_samples
        # In so many positions, each lane reads about as many shards as it mixes at a time.
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
        # Once a lane has no full block left, what all have left is shuffled: it is the last window.
        rest = np.concatenate([lane[length:] for lane in lanes])
        random = np.random.default_rng((self.seed, epoch, REST))
        starts = range(0, len(interleaved), self._window_size)
        return Epoch(
            np.concatenate([interleaved, random.permutation(rest)]),
            np.unique([*starts, len(interleaved), self.num_samples]),
        )

    def _deal(self, epoch: int) -> list[list[int]]:
        """Permute the shards, and deal each to the lane with the fewest samples so far."""
        order = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        dealt: list[list[int]] = [[] for _ in range(self.lanes)]
        totals = [(0, lane) for lane in range(self.lanes)]
        for shard in order:
            samples, lane = totals[0]
            dealt[lane].append(int(shard))
            heapq.heapreplace(totals, (samples + int(self.counts[shard]), lane))
        return dealt

    def _mix(self, epoch: int, lane: int, shards: Sequence[int]) -> NDArray[np.int64]:
        """Return a lane's samples, shuffled within groups of `shuffle_shards / lanes` shards."""
        random = np.random.default_rng((self.seed, epoch, lane, SAMPLES))
        shards_per_group = self.shuffle_shards // self.lanes
        mixed = []
        for first in range(0, len(shards), shards_per_group):
            group = shards[first : first + shards_per_group]
            mixed.append(random.permutation(self.samples_of(group)))
        return np.concatenate(mixed)
