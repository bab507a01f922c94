from itertools import chain, groupby

import numpy as np
import pytest

from vqgan_train.training.data.orders import FullShuffle, SampleRef, WindowedShuffle
from vqgan_train.training.data.pipeline import PlannedBatches

UNEVEN = (5, 1, 0, 9, 2, 30, 1, 4)
FIRSTS = np.cumsum(UNEVEN) - UNEVEN
TOTAL = sum(UNEVEN)

GOLDEN = [
    *((0, sample) for sample in (2, 6, 4, 5, 0, 3, 1)),
    *((1, sample) for sample in (1, 4, 3, 0, 5, 2, 6)),
    *((2, sample) for sample in (3, 4)),
]


def shard_of(sample: int) -> int:
    return int(np.searchsorted(np.cumsum(UNEVEN), sample, side="right"))


@pytest.mark.parametrize("shuffle_shards", [1, 2, 3, 7, 8, 100])
def test_every_epoch_holds_every_sample_once(shuffle_shards: int) -> None:
    draws = WindowedShuffle(UNEVEN, 0, shuffle_shards).sample_refs(0, 3 * TOTAL)
    for epoch in range(3):
        some = draws[epoch * TOTAL : (epoch + 1) * TOTAL]
        assert sorted(draw.sample for draw in some) == list(range(TOTAL))
        assert {draw.epoch for draw in some} == {epoch}


@pytest.mark.parametrize("shuffle_shards", [1, 2, 3, 7])
def test_a_window_draws_from_its_shards_only(shuffle_shards: int) -> None:
    plan = WindowedShuffle(UNEVEN, 3, shuffle_shards)
    for epoch in range(4):
        seen: list[int] = []
        position = epoch * TOTAL
        while position < (epoch + 1) * TOTAL:
            window = plan.window(position)
            assert window.start == position
            shards = {shard_of(draw.sample) for draw in plan.sample_refs(position, len(window))}
            assert len(shards) <= shuffle_shards
            assert all(plan.window(p) == window for p in window)
            seen += shards
            position = window.stop
        assert position == (epoch + 1) * TOTAL
        assert sorted(seen) == [number for number, count in enumerate(UNEVEN) if count]


def test_samples_of_a_windows_shards_are_mixed() -> None:
    plan = WindowedShuffle([100] * 4, 0, 2)
    shards = [draw.sample // 100 for draw in plan.sample_refs(0, 200)]
    runs = [len(list(run)) for _, run in groupby(shards)]
    assert len(runs) > 70  # of 200 coin tosses about 100 runs
    assert max(runs) < 15


def test_windows_and_epochs_differ() -> None:
    plan = WindowedShuffle([10] * 6, 0, 2)
    first, second = (
        [tuple(draw.sample for draw in plan.sample_refs(60 * epoch + 20 * w, 20)) for w in range(3)]
        for epoch in range(2)
    )
    assert len({*first, *second}) == 6
    order = [tuple(sample % 10 for sample in window) for window in (*first, *second)]
    assert len(set(order)) == 6  # not one permutation again and again
    groups = [{sample // 10 for sample in window} for window in first]
    assert groups != [{sample // 10 for sample in window} for window in second]


def test_any_position_can_be_asked_for_in_any_order() -> None:
    whole = WindowedShuffle(UNEVEN, 4, 3).sample_refs(0, 200)
    plan = WindowedShuffle(UNEVEN, 4, 3)
    for position in (150, 3, 53, 52, 51, 0, 6, 104):
        assert plan.sample_refs(position, 20) == whole[position : position + 20]
        assert (
            WindowedShuffle(UNEVEN, 4, 3).sample_refs(position, 20)
            == whole[position : position + 20]
        )


def test_the_seed_alone_chooses_the_order() -> None:
    one, again, other = (WindowedShuffle(UNEVEN, seed, 3).sample_refs(0, 150) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_the_order_is_that_of_earlier_versions() -> None:
    """A checkpoint stores only a position, so a changed order would repeat and skip samples."""
    assert [
        tuple(draw) for draw in WindowedShuffle([2, 1, 3, 1], 3, 2).sample_refs(0, 16)
    ] == GOLDEN


def test_a_window_of_all_shards_is_another_order_than_no_windows() -> None:
    """Both orders mix all samples, but differ; their names tell them apart in a checkpoint."""
    windows, all_of_them = WindowedShuffle([5, 5], 0, 2), FullShuffle(10, 0)
    assert windows.sample_refs(0, 10) != all_of_them.sample_refs(0, 10)
    assert len({windows.name, all_of_them.name, WindowedShuffle([5, 5], 0, 1).name}) == 3


@pytest.mark.parametrize("counts", [(23,), UNEVEN, (3,) * 40], ids=["one", "uneven", "many"])
@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 4), (2, 4), (3, 5), (8, 1)])
def test_ranks_and_workers_share_one_order(
    counts: tuple[int, ...], ranks: int, batch_size: int
) -> None:
    """Two ranks with four workers each on one shard are included; some loaders hang there."""
    total, workers, epochs = sum(counts), 4, 3
    steps = epochs * total // (ranks * batch_size)
    drawn: list[list[list[SampleRef]]] = []
    for rank in range(ranks):
        batches = list(
            PlannedBatches(
                WindowedShuffle(counts, 7, 3),
                position=0,
                num_batches=steps,
                batch_size=batch_size,
                rank=rank,
                world_size=ranks,
            )
        )
        # As torch's loader does it: batches go round the workers, and come back in order.
        by_worker = [batches[worker::workers] for worker in range(workers)]
        drawn.append([by_worker[n % workers][n // workers] for n in range(steps)])
    assert {len(batches) for batches in drawn} == {steps}
    order = list(chain.from_iterable(chain.from_iterable(zip(*drawn, strict=True))))
    assert order == WindowedShuffle(counts, 7, 3).sample_refs(0, len(order))
    seen = np.bincount([draw.sample for draw in order], minlength=total)
    assert seen.min() >= epochs - 1
    assert seen.max() <= epochs
