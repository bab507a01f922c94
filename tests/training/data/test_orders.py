from itertools import chain

import pytest

from vqgan_train.training.data.orders import FullShuffle, SampleRef
from vqgan_train.training.data.pipeline import PlannedBatches


def batches(
    plan: FullShuffle,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    position: int = 0,
    count: int,
) -> list[list[SampleRef]]:
    return list(
        PlannedBatches(
            plan,
            position=position,
            num_batches=count,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )
    )


def global_order(
    num_samples: int, *, batch_size: int, world_size: int, count: int
) -> list[SampleRef]:
    """Return what all ranks read, by global batch; each rank has its own order object."""
    ranks = [
        batches(
            FullShuffle(num_samples, seed=5),
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            count=count,
        )
        for rank in range(world_size)
    ]
    return list(chain.from_iterable(chain.from_iterable(zip(*ranks, strict=True))))


def test_every_epoch_holds_every_sample_once() -> None:
    draws = FullShuffle(11, seed=0).sample_refs(0, 44)
    for epoch in range(4):
        samples = [draw.sample for draw in draws[11 * epoch : 11 * epoch + 11]]
        assert sorted(samples) == list(range(11))
        assert {draw.epoch for draw in draws[11 * epoch : 11 * epoch + 11]} == {epoch}


def test_epochs_differ_and_none_is_in_file_order() -> None:
    draws = FullShuffle(50, seed=0).sample_refs(0, 250)
    orders = {tuple(draw.sample for draw in draws[50 * e : 50 * e + 50]) for e in range(5)}
    assert len(orders) == 5
    assert tuple(range(50)) not in orders


def test_the_seed_alone_chooses_the_order() -> None:
    assert FullShuffle(50, seed=1).sample_refs(0, 120) == FullShuffle(50, seed=1).sample_refs(
        0, 120
    )
    assert FullShuffle(50, seed=1).sample_refs(0, 50) != FullShuffle(50, seed=2).sample_refs(0, 50)
    # An epoch of one seed is no epoch of another.
    second_epoch = [draw.sample for draw in FullShuffle(50, seed=1).sample_refs(50, 50)]
    assert second_epoch != [draw.sample for draw in FullShuffle(50, seed=2).sample_refs(0, 50)]


def test_any_position_can_be_asked_for_in_any_order() -> None:
    whole = FullShuffle(7, seed=4).sample_refs(0, 100)
    plan = FullShuffle(7, seed=4)
    for position in (90, 3, 21, 20, 0, 6):
        assert plan.sample_refs(position, 10) == whole[position : position + 10]


def test_the_order_is_that_of_earlier_versions() -> None:
    """A checkpoint stores only a position, so a changed order would repeat and skip samples."""
    assert [tuple(draw) for draw in FullShuffle(7, seed=3).sample_refs(0, 16)] == [
        *((0, sample) for sample in (5, 6, 2, 1, 4, 3, 0)),
        *((1, sample) for sample in (2, 1, 4, 0, 5, 6, 3)),
        *((2, sample) for sample in (4, 0)),
    ]


@pytest.mark.parametrize(
    ("batch_size", "world_size", "count"), [(2, 1, 12), (2, 2, 6), (1, 4, 6), (8, 1, 3), (4, 2, 3)]
)
def test_ranks_share_one_order(batch_size: int, world_size: int, count: int) -> None:
    expected = FullShuffle(10, seed=5).sample_refs(0, 24)
    assert global_order(10, batch_size=batch_size, world_size=world_size, count=count) == expected


def test_batches_go_over_the_end_of_an_epoch_without_dropping() -> None:
    drawn = batches(FullShuffle(5, seed=0), batch_size=3, count=5)
    assert [len(batch) for batch in drawn] == [3] * 5
    assert [draw.epoch for draw in drawn[1]] == [0, 0, 1]
    samples = [draw.sample for batch in drawn for draw in batch]
    assert all(sorted(samples[first : first + 5]) == list(range(5)) for first in (0, 5, 10))


def test_a_batch_may_be_larger_than_the_data() -> None:
    (batch,) = batches(FullShuffle(2, seed=0), batch_size=5, count=1)
    assert [draw.epoch for draw in batch] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("step", [0, 1, 4, 9])
def test_going_on_from_a_position_equals_the_tail(step: int) -> None:
    for rank in range(2):
        whole = batches(FullShuffle(7, seed=1), batch_size=3, rank=rank, world_size=2, count=9)
        tail = batches(
            FullShuffle(7, seed=1),
            batch_size=3,
            rank=rank,
            world_size=2,
            position=step * 6,
            count=9 - step,
        )
        assert tail == whole[step:]


def test_batches_can_be_counted_and_drawn_again() -> None:
    planned = PlannedBatches(
        FullShuffle(7, seed=1), position=2, num_batches=4, batch_size=3, rank=1, world_size=2
    )
    assert len(planned) == 4
    assert list(planned) == list(planned)
