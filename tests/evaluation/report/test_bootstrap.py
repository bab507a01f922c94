"""Bootstrap intervals agree with scipy, are reproducible, and resample faces by image."""

import numpy as np
import pytest
from scipy import stats

from vqgan_train.evaluation.report import bootstrap
from vqgan_train.evaluation.report.bootstrap import summarise
from vqgan_train.evaluation.report.results import Floats, Summary

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.gamma(2, size=(200, 2))


def summarise_images(values: Floats, *, resamples: int, seed: int = 0) -> list[Summary]:
    return summarise(values, np.arange(len(values)), resamples=resamples, seed=seed)


def test_the_mean_is_the_mean_and_the_interval_scipys() -> None:
    summaries = summarise_images(VALUES, resamples=4000)
    for column, summary in zip(VALUES.T, summaries, strict=True):
        assert summary.mean == pytest.approx(column.mean(), rel=1e-12)
        theirs = stats.bootstrap(
            (column,), np.mean, n_resamples=4000, method="percentile", rng=1
        ).confidence_interval
        width = theirs.high - theirs.low
        assert summary.low == pytest.approx(theirs.low, abs=0.05 * width)
        assert summary.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_the_same_seed_gives_the_same_and_another_one_another() -> None:
    one, again, other = (summarise_images(VALUES, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one[0].mean == other[0].mean
    assert one[0].low != other[0].low


def test_blocks_of_resamples_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = summarise_images(VALUES, resamples=50)
    monkeypatch.setattr(bootstrap, "COUNTS_AT_ONCE", 3 * len(VALUES))
    for one, other in zip(summarise_images(VALUES, resamples=50), whole, strict=True):
        assert one.low == pytest.approx(other.low, rel=1e-12)


def test_what_is_undefined_is_left_out_and_infinities_are_counted() -> None:
    nan, inf = np.nan, np.inf
    columns = np.array([[1, nan, inf, inf, inf], [3, 5, inf, 2, -inf], [5, nan, inf, nan, nan]])
    plain, once, infinite, mixed, both = summarise_images(columns, resamples=20)
    assert (plain.mean, plain.count, plain.num_infinite) == (3, 3, 0)
    assert (once.mean, once.count) == (5, 1)
    assert (infinite.mean, infinite.count, infinite.num_infinite) == (inf, 0, 3)
    assert (mixed.mean, mixed.count, mixed.num_infinite) == (2, 1, 1)
    assert np.isnan(both.mean)
    assert (both.count, both.num_infinite) == (0, 2)


def test_one_image_has_no_interval() -> None:
    one_image = np.zeros(3, dtype=np.int64)
    faces = np.array([[1.0], [2.0], [3.0]])
    of_image = summarise_images(faces[:1], resamples=20)
    of_faces = summarise(faces, one_image, resamples=20)
    defined_once = summarise_images(np.array([[5.0], [np.nan], [np.inf]]), resamples=20)
    for (summary,), mean in ((of_image, 1), (of_faces, 2), (defined_once, 5)):
        assert summary.mean == mean
        assert np.isnan([summary.low, summary.high]).all()
        assert not summary.has_interval
    (two,) = summarise_images(np.array([[5.0], [5.0]]), resamples=20)
    assert (two.low, two.high, two.has_interval) == (5, 5, True)


def test_resamples_without_any_defined_value_have_no_interval() -> None:
    values = np.full((10_000, 1), np.nan)
    values[:2] = 1
    intervals = [summarise_images(values, resamples=2, seed=seed)[0] for seed in range(99)]
    assert {summary.has_interval for summary in intervals} == {True, False}
    (often,) = summarise_images(values, resamples=100)  # some of which have none, too
    assert (often.low, often.high) == (1, 1)


def test_nothing_has_no_mean() -> None:
    (summary,) = summarise_images(np.zeros((0, 1)), resamples=20)
    assert np.isnan([summary.mean, summary.low, summary.high]).all()
    assert summary.count == 0


def test_faces_of_one_image_are_drawn_together() -> None:
    of_images = RANDOM.normal(size=40)
    images = np.repeat(np.arange(40), 5)
    faces = of_images[images][:, None]
    (apart,) = summarise_images(faces, resamples=2000)
    (together,) = summarise(faces, images, resamples=2000)
    (as_images,) = summarise_images(of_images[:, None], resamples=2000)
    assert together.mean == pytest.approx(apart.mean)
    assert together.count == 200
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert together.low == pytest.approx(as_images.low, rel=1e-9)


def test_fifty_thousand_images_take_little_memory_and_time() -> None:
    import tracemalloc

    values = RANDOM.normal(size=(50_000, 5))
    tracemalloc.start()
    summarise_images(values, resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
