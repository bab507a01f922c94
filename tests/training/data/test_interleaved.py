"""Interleaved order: each sample once for any ranks, and each machine reads its share."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from factories import image_samples, write_shard
from faulty_server import FaultyServer

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.remote.opening import open_to_stream
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.interleaved import InterleavedOrder
from vqgan_train.training.data.orders import SampleOrder, SampleRef, WindowedShuffle
from vqgan_train.training.data.pipeline import PlannedBatches, ShardDataset
from vqgan_train.training.data.prefetch import PrefetchedBatches

UNEVEN = (25, 1, 0, 19, 12, 60, 1, 40)
TOTAL = sum(UNEVEN)
EVEN = (96,) * 64

GOLDEN = [
    41,
    45,
    53,
    55,
    40,
    49,
    39,
    38,
    18,
    15,
    2,
    13,
    8,
    10,
    3,
    12,
    50,
    51,
    42,
    47,
    37,
    48,
    52,
    46,
    0,
    7,
    16,
    1,
    14,
    4,
    11,
    6,
    54,
    30,
    43,
    26,
    20,
    5,
    28,
    19,
    35,
    44,
    22,
    31,
    9,
    23,
    29,
    27,
    33,
    25,
    21,
    34,
    24,
    17,
    32,
    36,
    1,
    16,
    15,
    6,
]


@pytest.mark.parametrize(("shuffle_shards", "lanes"), [(1, 1), (8, 1), (2, 2), (6, 3), (7, 7)])
def test_every_epoch_holds_every_sample_once(shuffle_shards: int, lanes: int) -> None:
    plan = InterleavedOrder(UNEVEN, 0, shuffle_shards, lanes)
    draws = plan.sample_refs(0, 3 * TOTAL)
    for epoch in range(3):
        some = draws[epoch * TOTAL : (epoch + 1) * TOTAL]
        assert sorted(draw.sample for draw in some) == list(range(TOTAL))
        assert {draw.epoch for draw in some} == {epoch}
    orders = [tuple(d.sample for d in draws[e * TOTAL :][:TOTAL]) for e in range(3)]
    assert len(set(orders)) == 3


@pytest.mark.parametrize(("shuffle_shards", "lanes"), [(1, 1), (2, 2), (6, 3)])
def test_windows_are_a_partition_of_positions(shuffle_shards: int, lanes: int) -> None:
    plan = InterleavedOrder(UNEVEN, 3, shuffle_shards, lanes)
    position = 0
    while position < 2 * TOTAL:
        window = plan.window(position)
        assert window.start == position
        assert len(window) > 0
        assert all(plan.window(p) == window for p in window)
        position = window.stop
    assert position == 2 * TOTAL


def test_any_position_can_be_asked_for_in_any_order() -> None:
    whole = InterleavedOrder(UNEVEN, 4, 4, 2).sample_refs(0, 400)
    plan = InterleavedOrder(UNEVEN, 4, 4, 2)
    for position in (350, 3, 153, 152, 151, 0, 16, 304):
        assert plan.sample_refs(position, 20) == whole[position : position + 20]
        assert (
            InterleavedOrder(UNEVEN, 4, 4, 2).sample_refs(position, 20)
            == whole[position : position + 20]
        )


def test_the_order_is_that_of_earlier_versions() -> None:
    assert [
        draw.sample for draw in InterleavedOrder([16, 3, 17, 20], 3, 4, 2).sample_refs(0, 60)
    ] == GOLDEN


def test_a_window_holds_few_shards_and_mixes_them() -> None:
    plan = InterleavedOrder(EVEN, 0, 16, 4)
    first = [draw.sample // 96 for draw in plan.sample_refs(0, len(plan.window(0)))]
    assert len(first) == 16 * 96
    assert len(set(first)) == 16
    assert all(len(set(first[at : at + 32])) > 8 for at in range(0, len(first), 32))


def test_lanes_without_a_shard_are_refused() -> None:
    with pytest.raises(ShardError, match=r"data\.shard_lanes is 8, but only 7 shards"):
        InterleavedOrder(UNEVEN, 0, 8, 8)


def batches_of(
    plan: SampleOrder, rank: int, world_size: int, **share: int
) -> list[list[SampleRef]]:
    settings = {"position": 0, "num_batches": TOTAL // 8 // world_size, "batch_size": 8, **share}
    return list(PlannedBatches(plan, rank=rank, world_size=world_size, **settings))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_order_does_not_depend_on_ranks(world_size: int) -> None:
    plan = InterleavedOrder(UNEVEN, 0, 4, 2)
    ranks = [batches_of(plan, rank, world_size) for rank in range(world_size)]
    together = [draw for step in zip(*ranks, strict=True) for draw in chain.from_iterable(step)]
    assert together == plan.sample_refs(0, len(together))


def test_a_resume_with_other_ranks_neither_repeats_nor_skips() -> None:
    plan = InterleavedOrder(UNEVEN, 0, 4, 2)
    first = [batches_of(plan, rank, 2, num_batches=5) for rank in range(2)]
    then = [batches_of(plan, rank, 4, num_batches=2, position=80) for rank in range(4)]
    drawn = [draw for rank in (*first, *then) for batch in rank for draw in batch]
    assert sorted(drawn) == sorted(plan.sample_refs(0, 80 + 64))
    assert max(Counter(drawn).values()) == 1


def shards_of(plan: SampleOrder, counts: Sequence[int], rank: int, world_size: int) -> set[int]:
    """Return the shards that a rank reads in an epoch."""
    steps = sum(counts) // 8 // world_size
    draws = chain.from_iterable(batches_of(plan, rank, world_size, num_batches=steps))
    ends = np.cumsum(counts)
    return {int(np.searchsorted(ends, draw.sample, side="right")) for draw in draws}


def test_each_rank_reads_its_share_of_shards_and_of_windows_nearly_all() -> None:
    lanes, windows = InterleavedOrder(EVEN, 0, 16, 8), WindowedShuffle(EVEN, 0, 16)
    shares = [shards_of(lanes, EVEN, rank, 8) for rank in range(8)]
    assert [len(share) for share in shares] == [8] * 8
    assert set().union(*shares) == set(range(64))
    assert all(len(shards_of(windows, EVEN, rank, 8)) > 60 for rank in range(8))


def test_what_is_left_when_a_lane_ends_is_little_where_shards_differ() -> None:
    counts = np.random.default_rng(0).integers(80, 100, 70)  # and 70 are not a multiple of 8
    shares = [shards_of(InterleavedOrder(counts, 0, 16, 8), counts, rank, 8) for rank in range(8)]
    assert all(len(share) <= 70 / 8 + 1 + 16 for share in shares)
    assert np.mean([len(share) for share in shares]) < 25


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    folder = tmp_path / "served"
    for number in range(8):
        write_shard(folder / f"{number:03d}.tar", image_samples(16, first=100 * number))
        (folder / f"{number:03d}_stats.json").write_text('{"successes": 16}')
    with FaultyServer(folder) as served:
        yield served


@pytest.mark.parametrize(("lanes", "shards_a_machine"), [(2, 4), (None, 8)])
def test_a_machine_downloads_its_share(
    server: FaultyServer, tmp_path: Path, lanes: int | None, shards_a_machine: int
) -> None:
    names: list[str] = []
    for rank in range(2):
        server.requests.clear()
        store = ShardStore(tmp_path / f"machine{rank}", 10**9, stall_seconds=30, attempts=2)
        shards = open_to_stream([f"{server.url}/{number:03d}.tar" for number in range(8)], store)
        counts = [shard.num_samples for shard in shards]
        plan = (
            WindowedShuffle(counts, 0, 4)
            if lanes is None
            else InterleavedOrder(counts, 0, 4, lanes)
        )
        data = ShardDataset(shards, ImageTransform(16, 16, random_crop=False, random_flip=False), 0)
        share = {"position": 0, "num_batches": 8, "batch_size": 8, "world_size": 2}
        batches = PlannedBatches(plan, rank=rank, **share)
        for draws in PrefetchedBatches(batches, data, lag=1):
            names += [data[draw].name for draw in draws]
        fetched = [name for name in server.requests if name.endswith(".tar")]
        assert len(fetched) == shards_a_machine
        assert {server.requests[name] for name in fetched} == {1}
    assert len(set(names)) == len(names) == 8 * 16
