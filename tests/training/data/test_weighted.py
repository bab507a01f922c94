from itertools import chain

import numpy as np
import pytest
from scipy.stats import chisquare

from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import PlannedBatches
from vqgan_train.training.data.weighted import BLOCK, WeightedSampling

COUNTS = (6, 2, 12, 5, 0, 15)
SOURCES = (2, 1, 3)
"""8, 12 and 20 samples."""

GOLDEN = [10, 20, 14, 5, 34, 31, 23, 35, 10, 31, 28, 32]
GOLDEN_WINDOWS = [23, 23, 11, 8, 23, 12, 25, 20, 33, 34, 24, 27]


def plan(
    weights: tuple[float, ...] | None = (3, 0, 1), *, seed: int = 0, shards: int | None = None
) -> WeightedSampling:
    return WeightedSampling(COUNTS, SOURCES, weights, seed, shards)


@pytest.mark.parametrize("shards", [None, 2, 5], ids=["all", "2", "5"])
@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        (None, (8 / 40, 12 / 40, 20 / 40)),
        ((3, 0, 1), (0.75, 0, 0.25)),
        ((0.1, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_samples_come_as_often_as_their_source_weighs(
    weights: tuple[float, ...] | None, shares: tuple[float, ...], shards: int | None
) -> None:
    """Chi-square over all samples. Draws of a window are dependent: one of each is used."""
    drawn = plan(weights, shards=shards)
    number = 40_000 if shards is None else 10_000
    stride = 1 if shards is None else len(drawn.window(0))
    samples = np.array(
        [drawn.sample_refs(p, 1)[0].sample for p in range(0, number * stride, stride)]
    )
    expected = np.repeat(np.array(shares) / (8, 12, 20), (8, 12, 20)) * number
    seen = np.bincount(samples, minlength=40)
    assert not seen[expected == 0].any()
    assert chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_draws_do_not_depend_on_those_before() -> None:
    samples = np.array([draw.sample for draw in plan(None).sample_refs(0, 80_000)])
    pairs = np.bincount(samples[:-1:2] * 40 + samples[1::2], minlength=1600)
    assert chisquare(pairs).pvalue > 1e-3


def test_a_few_shards_at_a_time() -> None:
    drawn = plan(None, shards=2)
    shard_of = np.searchsorted(np.cumsum(COUNTS), np.arange(40), side="right")
    for number in range(50):
        window = drawn.window(number * len(drawn.window(0)))
        samples = [draw.sample for draw in drawn.sample_refs(window.start, len(window))]
        assert len(set(shard_of[samples])) <= 2
        assert samples == list(drawn.samples(window))
        assert window in (drawn.window(p) for p in (window.start, window.stop - 1))
        assert drawn.window(window.stop) != window


@pytest.mark.parametrize("shards", [None, 2], ids=["all", "2"])
def test_any_position_can_be_asked_for_in_any_order(shards: int | None) -> None:
    whole = plan(shards=shards).sample_refs(0, 2 * BLOCK + 50)
    drawn = plan(shards=shards)
    for position in (BLOCK + 7, 3, BLOCK - 5, 0, 2 * BLOCK - 1):
        assert drawn.sample_refs(position, 20) == whole[position : position + 20]
        assert plan(shards=shards).sample_refs(position, 20) == whole[position : position + 20]


def test_seed_and_weights_choose_the_order() -> None:
    one, again, other = (plan(seed=seed).sample_refs(0, 99) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    names = {plan().name, plan(None).name, plan(shards=2).name, plan((3, 0, 1.1)).name}
    assert len(names) == 4
    assert plan((6, 0, 2)).name == plan().name


def test_a_sample_that_comes_again_is_another_draw() -> None:
    draws = plan().sample_refs(0, 500)
    assert len({draw.sample for draw in draws}) < 30
    assert len(set(draws)) == 500


def test_the_order_is_that_of_earlier_versions() -> None:
    """A checkpoint stores only a position, so a changed order would repeat and skip samples."""
    assert [draw.sample for draw in plan(None, seed=3).sample_refs(BLOCK - 6, 12)] == GOLDEN
    assert [
        draw.sample for draw in plan(None, seed=3, shards=2).sample_refs(7, 12)
    ] == GOLDEN_WINDOWS


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 6), (2, 3), (3, 2), (6, 1)])
@pytest.mark.parametrize("position", [0, 31])
def test_ranks_share_one_order(ranks: int, batch_size: int, position: int) -> None:
    drawn: list[list[list[SampleRef]]] = [
        list(
            PlannedBatches(
                plan(shards=2),
                position=position,
                num_batches=50,
                batch_size=batch_size,
                rank=rank,
                world_size=ranks,
            )
        )
        for rank in range(ranks)
    ]
    order = list(chain.from_iterable(chain.from_iterable(zip(*drawn, strict=True))))
    assert order == plan(shards=2).sample_refs(position, 300)


def test_a_source_with_weight_has_to_have_samples() -> None:
    with pytest.raises(ShardError, match=r"Source 2 .* a weight of 1 in data.source_weights"):
        WeightedSampling((5, 0), (1, 1), (1, 1), 0, None)
    assert WeightedSampling((5, 0), (1, 1), (1, 0), 0, None).sample_refs(0, 1)[0].sample < 5
    assert WeightedSampling((5, 0), (1, 1), None, 0, None).sample_refs(0, 1)[0].sample < 5
