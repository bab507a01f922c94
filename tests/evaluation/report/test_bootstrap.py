"""Bootstrap intervals cover what they say, are reproducible, and resample faces by image."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vqgan_train.evaluation.report import bootstrap
from vqgan_train.evaluation.report.bootstrap import summarise
from vqgan_train.evaluation.report.results import Floats, Summary

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.gamma(2, size=(200, 2))


PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"


def summarise_images(values: Floats, *, resamples: int, seed: int = 0) -> list[Summary]:
    return summarise(values, np.arange(len(values)), resamples=resamples, seed=seed)


def test_the_mean_is_the_mean_and_the_interval_that_of_the_book() -> None:
    summaries = summarise_images(VALUES, resamples=4000)
    for column, summary in zip(VALUES.T, summaries, strict=True):
        assert summary.mean == pytest.approx(column.mean(), rel=1e-12)
        resampled = np.random.default_rng(1).choice(column, (4000, len(column)))
        ratios = (resampled.mean(axis=1) - column.mean()) / stats.sem(resampled, axis=1)
        lower, upper = np.percentile(ratios, [2.5, 97.5])
        low, high = column.mean() - np.array([upper, lower]) * stats.sem(column)
        assert summary.low == pytest.approx(low, abs=0.05 * (high - low))
        assert summary.high == pytest.approx(high, abs=0.05 * (high - low))


def coverage(distribution: str, num_images: int, trials: int) -> float:
    """Return the fraction of intervals, one per trial, that contain the true mean."""
    true = {"normal": 0, "lognormal": np.exp(0.5)}[distribution]
    random = np.random.default_rng(0)
    values = getattr(random, distribution)(size=(num_images, trials))
    found = summarise_images(values, resamples=1000)
    return float(np.mean([summary.low <= true <= summary.high for summary in found]))


@pytest.mark.parametrize("distribution", ["normal", "lognormal"])
@pytest.mark.parametrize("num_images", [10, 30])
def test_an_interval_of_95_percent_covers_at_least_90(distribution: str, num_images: int) -> None:
    assert 0.9 <= coverage(distribution, num_images, trials=1000) < 0.97


@pytest.mark.slow
def test_the_coverage_is_that_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+|none) \| (\d+|none) \|", PAGE.read_text(), re.M)
    assert [int(images) for images, *_ in rows] == [2, 3, 5, 10, 30, 100]
    monkeypatch.setattr(bootstrap, "MIN_IMAGES", 2)
    for images, *shown in rows:
        for distribution, percent in zip(("normal", "lognormal"), shown, strict=True):
            measured = coverage(distribution, int(images), trials=20_000)
            assert (f"{100 * measured:.0f}" if measured else "none") == percent
            assert measured >= 0.9 or int(images) < 10


def test_no_interval_is_given_for_fewer_than_ten_images() -> None:
    for num_images in range(1, 12):
        (summary,) = summarise_images(VALUES[:num_images, :1], resamples=20)
        assert summary.has_interval == (num_images >= 10)


def test_one_image_unlike_the_others_has_no_interval() -> None:
    """Most resamples lack it, or have it alone: how far the mean may be off is not known."""
    values = np.full((20, 1), 0.1)
    assert summarise_images(values, resamples=100)[0].low == pytest.approx(0.1, rel=1e-9)
    values[3] = 0.2
    assert not summarise_images(values, resamples=100)[0].has_interval


def test_intervals_do_not_depend_on_the_unit() -> None:
    (one, _), (other, _) = (summarise_images(v, resamples=50) for v in (VALUES, VALUES * 1e-6 + 7))
    assert other.low - 7 == pytest.approx(one.low * 1e-6, rel=1e-6)


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
    (equal,) = summarise_images(np.full((10, 1), 5.0), resamples=20)
    assert (equal.low, equal.high, equal.has_interval) == (5, 5, True)


def test_resamples_without_any_defined_value_have_no_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "MIN_IMAGES", 2)
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
